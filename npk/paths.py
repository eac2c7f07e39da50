"""Paths themselves: features φ, values v, their names and their number.

A coordinate is one product of weights along a way through the network. Paths that share all their weights
(a convolution's, at different positions) form one coordinate, a bundle; its feature is the sum of theirs.
The same walk that gives the path kernel gives the coordinates: a weight layer multiplies the paths that
reach its input by the elements of its weight.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from npk import _checks, _path_rules, _terms
from npk._jaxpr import UnsupportedOperation
from npk._terms import Base, Leaf, Source, Term
from npk._walk import Layer
from npk.gating import Function, gate_shapes, own_gates, per_sample, sample_program

MAX_PATHS = 1 << 22


# ----------------------------------------------------------------------------------- counting


def _free(term: Term, contracted: set[int], same: set[int]) -> list[int]:
    """Independent axes of a term's base that its contracted and weight-batched dims do not determine."""
    pinned = contracted | same
    return [
        i
        for i, (index, axis) in enumerate(zip(term.index, term.base.axes, strict=True))
        if axis.independent and axis.size > 1 and not set(index.dims) <= pinned
    ]


def _input_terms(layer: Layer) -> list[Term]:
    """The inputs of a layer with a convolution's windows written out as contracted axes."""
    terms = []
    for term in layer.inputs:
        for number, window in enumerate(layer.windows):
            axis = layer.n_batch + number
            term = _terms.windows(term, axis, window.chosen(term.shape[axis]))
            first = layer.n_batch + layer.n_kept + number
            order = [a for a in range(len(term.shape)) if a != axis + 1]
            order.insert(first, axis + 1)
            term = _terms.transpose(term, order)
        for axis in range(layer.n_batch + layer.n_kept):
            term = _terms.merge(term, axis)
        terms.append(term)
    return terms


def _roles(layer: Layer, term: Term) -> tuple[set[int], set[int]]:
    """The contracted dims of a term, and those along which the layer's weights differ."""
    kept = layer.n_batch + layer.n_kept
    return set(range(kept, len(term.sizes) - len(term.summed))), set(range(layer.n_batch))


def _count(base: Base, known: dict[Base, int]) -> int:
    """The number of coordinates of one element of a base."""
    if not isinstance(base, Layer):
        return 1
    if base not in known:
        total = 0
        for term in _input_terms(base):
            contracted, same = _roles(base, term)
            free = math.prod(term.base.axes[i].size for i in _free(term, contracted, same))
            total += math.prod(term.sizes[d] for d in contracted) * free * _count(term.base, known)
        known[base] = total
    return known[base]


# ------------------------------------------------------------------------------------ features


@dataclasses.dataclass
class _Features:
    """φ of every base: [n, its axes (1 where constant), coordinates]."""

    known: dict[Base, Any] = dataclasses.field(default_factory=dict)

    def of(self, base: Base) -> Any:
        if not isinstance(base, Layer):
            return jnp.ones((1,) * (2 + len(base.axes)))
        if base not in self.known:
            parts = []
            for term in _input_terms(base):
                contracted, same = _roles(base, term)
                parts.append(self.read(term, contracted, same))
            shape = jnp.broadcast_shapes(*(p.shape[:-1] for p in parts))
            phi = jnp.concatenate([jnp.broadcast_to(p, (*shape, p.shape[-1])) for p in parts], -1)
            phi = phi * jnp.asarray(base.constant, phi.dtype)
            self.known[base] = phi.reshape(*phi.shape[:-1], *(1,) * base.n_out, phi.shape[-1])
        return self.known[base]

    def read(self, term: Term, contracted: set[int], same: set[int]) -> Any:
        """Σ_s g·φ[index]: [n, dims kept, coordinates (contracted, free, the base's own)]."""
        phi, free = self.of(term.base), _free(term, contracted, same)
        rank = len(term.sizes)
        places: list[Any] = [slice(None)]
        masks: list[np.ndarray] = []
        for i, (index, axis) in enumerate(zip(term.index, term.base.axes, strict=True)):
            where = _terms.over(term, index, tuple(range(rank)))
            if i in free:  # enumerate its elements: a new last dim, 1 where the index reads the element
                number = free.index(i)
                shape = [1] * rank + [axis.size if j == number else 1 for j in range(len(free))]
                masks.append(where.reshape(*where.shape, *(1,) * len(free)) == np.arange(axis.size).reshape(shape))
            places.append(where * (phi.shape[1 + i] > 1))
        value = phi[tuple(places)] if term.index else jnp.broadcast_to(phi, (1, *(1,) * rank, phi.shape[-1]))
        value = value.reshape(*value.shape[:-1], *(1,) * len(free), value.shape[-1])
        for mask in masks:
            value = value * mask[None, ..., None]
        g = term.g[0].reshape(*term.g[0].shape, *(1,) * (len(free) + 1))
        value = jnp.broadcast_to(value * g, jnp.broadcast_shapes((value * g).shape, (1, *term.sizes, *(1,) * (len(free) + 1))))
        first_summed = 1 + rank - len(term.summed)
        value = jnp.sum(value, axis=tuple(range(first_summed, 1 + rank)))
        kept = first_summed - len(contracted)
        return value.reshape(*value.shape[:kept], -1)


# ----------------------------------------------------------------- values and names: one recursion


@dataclasses.dataclass
class _Products:
    """The product of weights of every coordinate of a base: [coordinates, its independent axes].

    With `leaf` returning numbers and `times` multiplying this is v; with labels and joining, the names.
    `leaf(base, hidden)` may hide the index along some axes of the leaf.
    """

    leaf: Callable[[Leaf, set[int]], Any]
    times: Callable[[Any, Any], Any]
    one: Any
    join: Callable[[Sequence[Any]], Any]
    known: dict[Base, Any] = dataclasses.field(default_factory=dict)

    def of(self, base: Base) -> Any:
        if isinstance(base, Leaf):
            return self.leaf(base, set())[None]
        if not isinstance(base, Layer):
            return self.one
        if base not in self.known:
            self.known[base] = self.of_layer(base)
        return self.known[base]

    def of_layer(self, layer: Layer, hide: bool = False) -> Any:
        """Every path that reaches the layer, times every element of its weight: [coordinates, batch.., out..]."""
        weight = self.weight(layer, hide)
        n_batch, out = layer.n_batch, weight.shape[layer.n_batch + 1 :]
        weight = weight.reshape(*weight.shape[: n_batch + 1], 1, *out)
        parts = []
        for term in _input_terms(layer):
            contracted, same = _roles(layer, term)
            read = self.read(term, self.of(term.base), contracted, same)  # [batch.., contracted, the rest]
            product = self.times(read.reshape(*read.shape, *(1,) * len(out)), weight)
            xp = np if isinstance(product, np.ndarray) else jnp
            product = xp.moveaxis(product, (n_batch, n_batch + 1), (0, 1))
            parts.append(product.reshape(-1, *product.shape[2:]))
        return self.join(parts)

    def read(self, term: Term, own: Any, contracted: set[int], same: set[int]) -> Any:
        """The products of a term's base through its index: [same.., contracted, (free, the base's own)]."""
        free = _free(term, contracted, same)
        pinned = tuple(sorted(contracted | same))
        sizes = [term.sizes[d] for d in pinned]
        free_sizes = [term.base.axes[i].size for i in free]
        places: list[Any] = []
        for i, (index, axis) in enumerate(zip(term.index, term.base.axes, strict=True)):
            if not axis.independent:
                continue
            if i in free:
                where = np.arange(axis.size).reshape([1] * len(sizes) + [-1 if j == i else 1 for j in free])
            else:
                where = np.zeros(sizes, int) if axis.size == 1 else _terms.over(term, index, pinned)
                where = where.reshape(*sizes, *(1,) * len(free))
            places.append(where)
        xp = np if isinstance(own, np.ndarray) else jnp
        read = own[(slice(None), *places)] if places else own.reshape(-1, *(1,) * (len(sizes) + len(free)))
        read = xp.moveaxis(xp.broadcast_to(read, (own.shape[0], *sizes, *free_sizes)), 0, -1)
        n_same = len(same)
        return read.reshape(*sizes[:n_same], math.prod(sizes[n_same:]), -1)

    def weight(self, layer: Layer, hide: bool) -> Any:
        """The elements of a layer's weight, [batch.., contracted, out..], its outputs' indices hidden on request."""
        term = layer.weight
        dims = tuple(range(len(term.sizes)))
        first_out = len(term.shape) - layer.n_out
        out = {d for axis in range(first_out, len(term.shape)) for d in term.dims(axis)}
        out |= {d for axis in range(layer.n_batch) for d in term.dims(axis)}
        hidden = {i for i, index in enumerate(term.index) if out & set(index.dims)} if hide else set()
        places = tuple(_terms.over(term, i, dims).reshape(-1) for i in term.index)
        elements = self.leaf(layer.leaf, hidden)
        array = elements[places] if places else elements.reshape(-1)
        return array.reshape(*term.shape[: layer.n_batch], -1, *term.shape[first_out:])

    def of_output(self, state: Sequence[Term], hide: bool = False) -> Any:
        """[P, K]: the products of every coordinate of the output."""
        parts = []
        for term in state:
            same = _output_dims(term)
            if not hide:
                own = self.of(term.base)
            elif isinstance(term.base, Layer):
                own = self.of_layer(term.base, hide)
            elif isinstance(term.base, Leaf):
                hidden = {i for i, index in enumerate(term.index) if set(index.dims) & same}
                own = self.leaf(term.base, hidden)[None]
            else:
                own = self.one
            read = self.read(term, own, set(), same)
            parts.append(read.reshape(term.shape[-1], -1).T)
        return self.join(parts)


def _output_dims(term: Term) -> set[int]:
    return set(range(len(term.sizes) - len(term.summed)))


def _common(parts: Sequence[Any]) -> tuple[int, ...]:
    return np.broadcast_shapes(*(p.shape[1:] for p in parts))


def _values(leaves: Sequence[Any]) -> _Products:
    dtype = functools.reduce(jnp.promote_types, (jnp.result_type(leaf) for leaf in leaves), jnp.float32)
    return _Products(
        leaf=lambda leaf, hidden: jnp.asarray(leaves[leaf.number], dtype),
        times=lambda a, b: a * b,
        one=jnp.ones((1,), dtype),
        join=lambda parts: jnp.concatenate([jnp.broadcast_to(p, (p.shape[0], *_common(parts))) for p in parts]),
    )


def _labels() -> _Products:
    def leaf(base: Leaf, hidden: set[int]) -> np.ndarray:
        shape = tuple(a.size for a in base.axes)
        labels = np.empty(shape, object)
        for place in np.ndindex(*shape):
            labels[place] = f"{base.name}[{','.join(':' if i in hidden else str(p) for i, p in enumerate(place))}]"
        return labels

    def times(a: Any, b: Any) -> Any:
        return np.frompyfunc(lambda x, y: f"{x} -> {y}" if x else y, 2, 1)(a, b)

    def join(parts: Sequence[Any]) -> Any:
        return np.concatenate([np.broadcast_to(p, (p.shape[0], *_common(parts))) for p in parts])

    return _Products(leaf, times, np.array([""], object), join)


# -------------------------------------------------------------------------------------- public


def _output_state(f: Function, params: PyTree, x: Any, gates: Sequence[Any] | None) -> list[Term]:
    """The terms of f's output for its own gates; for gates=None ones stand for x and the gates."""
    program = sample_program(f, params, x)
    shapes = gate_shapes(program)
    if gates is None:
        x = jnp.ones((1, *x.shape[1:]), x.dtype)
        laid = [(jnp.ones((1, *s.shape), s.dtype),) for s in shapes]
    else:
        laid = [(per_sample(g, s.shape, x.shape[0]),) for g, s in zip(gates, shapes, strict=True)]
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    leaves = jax.tree_util.tree_leaves(params)
    state = _path_rules.walk(program, leaves, (x[:, None],), laid, binary=False, dtype=dtype)
    for term in state:
        _check_alike(term)
    return state


def _check_alike(term: Term) -> None:
    """All output units must have one set of features."""
    if term.shape[-1] == 1:
        return
    dims = _output_dims(term)
    own = any(g.shape[1 + d] > 1 for g in term.g for d in dims)
    own |= any(
        dims & set(index.dims) and not axis.independent for index, axis in zip(term.index, term.base.axes, strict=True)
    )
    if own or isinstance(term.base, Source):
        raise UnsupportedOperation(
            "the output units of f have different path features (a gate, a factor or the input itself acts on them one "
            "by one). Let f end in a weight layer, or select one output: lambda p, x: f(p, x)[:, k:k+1]."
        )


def _count_of(state: Sequence[Term]) -> int:
    known: dict[Base, int] = {}
    total = 0
    for term in state:
        free = _free(term, set(), _output_dims(term))
        total += _count(term.base, known) * math.prod(term.base.axes[i].size for i in free)
    return total


def _check_count(state: Sequence[Term]) -> None:
    count = _count_of(state)
    if count > MAX_PATHS:
        raise ValueError(
            f"f has {count} path coordinates, more than the {MAX_PATHS} that are written out; use path_kernel, which never "
            "lists them."
        )


def npf(f: Function) -> Callable[[PyTree, Any], Float[Array, "n p"]]:
    """Transform f into its neural path features φ: f(x) = ⟨φ_x, v⟩.

    The feature of a path is the input at its start times the gates (and fixed factors: batch norm, pooling
    weights) on its way; the feature of a path that starts at a bias is the product of its gates. Paths that
    share all weights form one coordinate (a bundle), whose feature is the sum of theirs.

    Args:
        f: a function of (params, x), x: [N, ...] → [N, K], of any architecture `path_kernel` covers.

    Returns:
        A function (params, x) → φ [N, P] in the dtype of x, in the order of `path_names(f)`. Nothing is
        normalised: `npf(f)(p, x) @ npv(f)(p) == f(p, x)`.

    Raises:
        ValueError: x as for `gates`; more than 2^22 coordinates (the message states their number).
        UnsupportedOperation: operations outside the path rules, or a weight used twice.

    Example:
        >>> import jax, jax.numpy as jnp, npk
        >>> f = lambda p, x: jax.nn.relu(x @ p["w"]) @ p["v"]
        >>> p = {"w": jnp.array([[1.0, -1.0]]), "v": jnp.ones((2, 1))}
        >>> npk.npf(f)(p, jnp.array([[2.0], [-1.0]])).tolist()
        [[2.0, 0.0], [-0.0, -1.0]]

    Source: Lakshminarayanan & Singh 2020, definition 2.1 (NPF).
    """

    @jax.jit
    def features(params: PyTree, x: Any) -> Any:
        state = _output_state(f, params, x, own_gates(f, params, x))
        algebra = _Features()
        parts = []
        for term in state:
            value = algebra.read(term, set(), _output_dims(term))
            parts.append(value.reshape(value.shape[0], term.shape[-1], -1)[:, 0])
        return jnp.concatenate([jnp.broadcast_to(p, (x.shape[0], p.shape[1])) for p in parts], 1)

    def npf_of_f(params: PyTree, x: Any) -> Float[Array, "n p"]:
        _checks.check_batch(x, floating=True)
        _checks.check_finite(params, "params")
        _check_count(_skeleton(f, params, x))
        return features(params, x)

    return npf_of_f


def _skeleton(f: Function, params: PyTree, x: Any | None) -> list[Term]:
    """The terms of the output with ones for numbers: all that counts, names and values need."""
    sample = jax.ShapeDtypeStruct((1, *_sample_shape(f, params)), jnp.float32) if x is None else x
    return _output_state(f, params, sample, None)


def _sample_shape(f: Function, params: PyTree) -> tuple[int, ...]:
    """Find the shape of one sample by trying: a vector, or a square image, that fits the parameters."""
    sizes = sorted({s for leaf in jax.tree_util.tree_leaves(params) for s in np.shape(leaf)})
    vectors = [(s,) for s in sizes if _fits(f, params, (s,))]
    if len(vectors) == 1:
        return vectors[0]
    for side in range(64, 0, -1) if not vectors else ():
        images = [(side, side, c) for c in sizes if _fits(f, params, (side, side, c))]
        if len(images) == 1:
            return images[0]
    raise ValueError(
        "the shape of f's input cannot be told from its parameters"
        + (f" (vectors of {', '.join(str(v[0]) for v in vectors)} features all fit)" if vectors else "")
        + "; pass a sample batch: npv(f)(params, x)."
    )


def _fits(f: Function, params: PyTree, shape: tuple[int, ...]) -> bool:
    try:
        out = jax.eval_shape(f, params, jax.ShapeDtypeStruct((1, *shape), jnp.float32))
    except Exception:  # whatever a model raises for a shape that is not its own
        return False
    return len(getattr(out, "shape", ())) == 2


def npv(f: Function) -> Callable[..., Float[Array, "p k"]]:
    """Transform f into its neural path values v: the product of the weights along every path.

    Args:
        f: a function of (params, x), x: [N, ...] → [N, K].

    Returns:
        A function (params, x=None) → v [P, K] in the dtype of the parameters, in the order of
        `path_names(f)`. Of x only the shape is used; without it the input's shape is found by trying
        vectors and square images that fit the parameters. It can be jitted and differentiated.

    Raises:
        ValueError: more than 2^22 coordinates; the input's shape cannot be told and x is not given.
        UnsupportedOperation: operations outside the path rules, or a weight used twice.

    Example:
        >>> import jax, jax.numpy as jnp, npk
        >>> f = lambda p, x: jax.nn.relu(x @ p["w"]) @ p["v"]
        >>> p = {"w": jnp.array([[2.0, 3.0]]), "v": jnp.array([[1.0], [10.0]])}
        >>> npk.npv(f)(p).tolist()
        [[2.0], [30.0]]

    Source: Lakshminarayanan & Singh 2020, definition 2.2 (NPV).
    """

    def npv_of_f(params: PyTree, x: Any | None = None) -> Float[Array, "p k"]:
        _checks.check_finite(params, "params")
        state = _skeleton(f, params, x)
        _check_count(state)
        return _values(jax.tree_util.tree_leaves(params)).of_output(state)

    return npv_of_f


def path_names(f: Function) -> Callable[..., list[str]]:
    """Transform f into the names of its path coordinates, the order of `npf(f)` and `npv(f)`.

    Args:
        f: a function of (params, x), x: [N, ...] → [N, K].

    Returns:
        A function (params, x=None) → P names: the weights from input to output joined by " -> ", each as
        the path of its leaf and its index there, the index of the output unit as ":".

    Raises:
        ValueError: as `npv`.
        UnsupportedOperation: as `npv`.

    Example:
        >>> import jax, jax.numpy as jnp, npk
        >>> f = lambda p, x: jax.nn.relu(x @ p["w"]) @ p["v"]
        >>> npk.path_names(f)({"w": jnp.ones((1, 2)), "v": jnp.ones((2, 3))})
        ['w[0,0] -> v[0,:]', 'w[0,1] -> v[1,:]']

    Source: Lakshminarayanan & Singh 2020, section 2 (paths).
    """

    def path_names_of_f(params: PyTree, x: Any | None = None) -> list[str]:
        state = _skeleton(f, params, x)
        _check_count(state)
        return _labels().of_output(state, hide=True)[:, 0].tolist()

    return path_names_of_f


def count_paths(f: Function) -> Callable[..., int]:
    """Transform f into the number of its path coordinates (bundles), however many there are.

    Args:
        f: a function of (params, x), x: [N, ...] → [N, K].

    Returns:
        A function (params, x=None) → P, an exact Python integer.

    Raises:
        ValueError: the input's shape cannot be told and x is not given.
        UnsupportedOperation: as `npv`.

    Example:
        >>> import jax, jax.numpy as jnp, npk
        >>> f = lambda p, x: jax.nn.relu(x @ p["w"]) @ p["v"]
        >>> npk.count_paths(f)({"w": jnp.ones((784, 100)), "v": jnp.ones((100, 10))})
        78400

    Source: Lakshminarayanan & Singh 2020, section 2 (number of paths).
    """

    def count_paths_of_f(params: PyTree, x: Any | None = None) -> int:
        return _count_of(_skeleton(f, params, x))

    return count_paths_of_f
