"""Paths themselves: features φ, values v, their names and their number.

A coordinate is one product of weights along a way through the network. Paths that share all their weights
(a convolution's, at different positions) form one coordinate, a bundle; its feature is the sum of theirs.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from npk.gating import Function, at_lines, of_output, own_gates
from npk.paths import coordinates
from npk.paths.ends import OWN_FEATURES, alike
from npk.paths.form import Form, form_of
from npk.paths.terms import Base, Source, Term
from npk.programs import (
    Chosen,
    Selection,
    UnsupportedOperation,
    check_arrays,
    check_batch,
    check_finite,
    floats_of,
    option_of,
    remembered,
    resized,
    samples_in,
    transformation,
    tried,
    working_dtype,
)

#: More coordinates than this `npf` and `npv` do not list.
MAX_PATHS = 1 << 22


def _listed(f: Function, fixed: Chosen, params: PyTree, x: Any) -> Form:
    """The form of f, all of whose outputs have the same paths."""
    found = form_of(f, params, x, fixed)
    if any(not alike(t) or (isinstance(t.base, Source) and t.shape[-1] > 1) for t in found.state):
        raise UnsupportedOperation(OWN_FEATURES)
    return found


def _dtype_of(params: PyTree, x: Any) -> Any:
    """Of features: of integers that of the parameters."""
    return working_dtype(*(floats_of(x) or jax.tree_util.tree_leaves(params)))


def _count_of(state: Sequence[Term]) -> int:
    known: dict[Base, int] = {}
    total = 0
    for term in state:
        free = coordinates.free_axes(term, set(), coordinates.output_dims(term))
        total += coordinates.count_coordinates(term.base, known) * math.prod(term.base.axes[i].size for i in free)
    return total


def _check_count(count: int) -> None:
    if count > MAX_PATHS:
        raise ValueError(
            f"f has {count} path coordinates, more than the {MAX_PATHS} that are written out; use path_kernel, which "
            "never lists them."
        )


@transformation()
def npf(
    f: Function, *, fixed: Selection = None, gate_at: Sequence[str] = (), output: Any = None
) -> Callable[[PyTree, Any], Float[Array, "n p"]]:
    """Transform f into its neural path features φ: f(x) = ⟨φ_x, v⟩.

    The feature of a path is the input at its start times the gates (and fixed factors: batch norm, pooling
    weights) on its way; the feature of a path that starts at a bias is the product of its gates. Paths that
    share all weights form one coordinate (a bundle), whose feature is the sum of theirs.

    Args:
        f: a function of (params, x), x: [N, ...] → [N, K], of any architecture `path_kernel` covers.
        fixed: as of `path_kernel`: the parameters that are fixed numbers; they are a part of φ.
        gate_at: as of `gates`: source lines whose values are gates.
        output: as of `path_kernel`: which outputs, where f returns others than [N, K].

    Returns:
        A function (params, x) → φ [N, P] in the dtype of x (of half precision float32), in the order of
        `path_names(f)`. Nothing is normalised: `npf(f)(p, x) @ npv(f)(p) == f(p, x)`.

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
    return remembered(_npf, of_output(at_lines(f, gate_at), output), option_of(fixed, "fixed"))


def _npf(f: Function, fixed: Chosen) -> Callable[..., Any]:
    """`npf`, made once."""

    @jax.jit
    def features(params: PyTree, x: Any) -> Any:
        found = _listed(f, fixed, params, x)
        gates = found.gates(own_gates(f, params, x), samples_in(x))
        algebra = coordinates.Features(found.numbers(jnp, params, x, gates, _dtype_of(params, x)))
        parts = []
        for term in found.state:
            value = algebra.read(term, set(), coordinates.output_dims(term))
            parts.append(value.reshape(value.shape[0], term.shape[-1], -1)[:, 0])
        return jnp.concatenate([jnp.broadcast_to(p, (samples_in(x), p.shape[1])) for p in parts], 1)

    def npf_of_f(params: PyTree, x: Any) -> Float[Array, "n p"]:
        check_batch(x)
        check_finite(params, "params")
        _check_count(_count_of(_listed(f, fixed, params, x).state))
        return features(params, x)

    return npf_of_f


def _sample(f: Function, params: PyTree, x: Any | None) -> Any:
    check_arrays(params, "params")
    if x is not None:
        check_batch(x, finite=False)
        return x
    dtype = working_dtype(*jax.tree_util.tree_leaves(params))
    return jax.ShapeDtypeStruct((1, *_sample_shape(f, params, dtype)), dtype)


def _sample_shape(f: Function, params: PyTree, dtype: Any) -> tuple[int, ...]:
    """Find the shape of one sample by trying: a vector, or a square image, that fits the parameters."""
    sizes = sorted({s for leaf in jax.tree_util.tree_leaves(params) for s in np.shape(leaf)})
    vectors = [(s,) for s in sizes if _fits(f, params, (s,), dtype)]
    if len(vectors) == 1:
        return vectors[0]
    for side in range(64, 0, -1) if not vectors else ():
        images = [(side, side, c) for c in sizes if _fits(f, params, (side, side, c), dtype)]
        if len(images) == 1:
            return images[0]
    raise ValueError(
        "the shape of f's input cannot be told from its parameters"
        + (f" (vectors of {', '.join(str(v[0]) for v in vectors)} features all fit)" if vectors else "")
        + "; pass a sample batch: npv(f)(params, x)."
    )


def _fits(f: Function, params: PyTree, shape: tuple[int, ...], dtype: Any) -> bool:
    return len(getattr(tried(f, params, (1, *shape), dtype), "shape", ())) == 2


@transformation()
def npv(
    f: Function, *, fixed: Selection = None, gate_at: Sequence[str] = (), output: Any = None
) -> Callable[..., Float[Array, "p k"]]:
    """Transform f into its neural path values v: the product of the weights along every path.

    Args:
        f: a function of (params, x), x: [N, ...] → [N, K].
        fixed: as of `npf`.
        gate_at: as of `npf`.
        output: as of `npf`.

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
    return remembered(_npv, of_output(at_lines(f, gate_at), output), option_of(fixed, "fixed"))


def _npv(f: Function, fixed: Chosen) -> Callable[..., Any]:
    """`npv`, made once."""

    @jax.jit
    def values(params: PyTree, x: Any) -> Any:
        found = _listed(f, fixed, params, x)
        return coordinates.numbers(jax.tree_util.tree_leaves(params)).of_output(found.state)

    def npv_of_f(params: PyTree, x: Any | None = None) -> Float[Array, "p k"]:
        check_finite(params, "params")
        sample = _sample(f, params, x)
        _check_count(_count_of(_listed(f, fixed, params, sample).state))
        return values(params, jax.tree_util.tree_map(lambda a: np.zeros(a.shape, a.dtype), resized(sample, 1)))

    return npv_of_f


@transformation("params")
def path_names(
    f: Function, *, fixed: Selection = None, gate_at: Sequence[str] = (), output: Any = None
) -> Callable[..., list[str]]:
    """Transform f into the names of its path coordinates, the order of `npf(f)` and `npv(f)`.

    Args:
        f: a function of (params, x), x: [N, ...] → [N, K].
        fixed: as of `npf`.
        gate_at: as of `npf`.
        output: as of `npf`.

    Returns:
        A function (params, x=None) → P names: the weights from input to output joined by " -> ", each as
        the path of its leaf and its index there, the index of the output unit as ":" (that of the first where paths
        would have one name).

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
    declared, f = option_of(fixed, "fixed"), of_output(at_lines(f, gate_at), output)

    def path_names_of_f(params: PyTree, x: Any | None = None) -> list[str]:
        return _names(_listed(f, declared, params, _sample(f, params, x)).state)

    return path_names_of_f


def _names(state: Sequence[Term]) -> list[str]:
    """The names of the paths to the first output, its index hidden where that leaves them apart."""
    _check_count(_count_of(state))
    hidden, shown = (coordinates.labels().of_output(state, hide)[:, 0].tolist() for hide in (True, False))
    return hidden if len(set(hidden)) == len(hidden) else shown


@transformation("params")
def count_paths(
    f: Function, *, fixed: Selection = None, gate_at: Sequence[str] = (), output: Any = None
) -> Callable[..., int]:
    """Transform f into the number of its path coordinates (bundles), however many there are.

    Args:
        f: a function of (params, x), x: [N, ...] → [N, K].
        fixed: as of `npf`.
        gate_at: as of `npf`.
        output: as of `npf`.

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
    declared, f = option_of(fixed, "fixed"), of_output(at_lines(f, gate_at), output)

    def count_paths_of_f(params: PyTree, x: Any | None = None) -> int:
        return _count_of(_listed(f, declared, params, _sample(f, params, x)).state)

    return count_paths_of_f
