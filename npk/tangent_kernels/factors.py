"""How each use of a parameter contributes to a tangent kernel.

A weight that is used once, in a product, has the gradient Σ_t A_t ⊗ B_t: A its layer's inputs, B the
cotangents of its outputs, t the positions that share it. Its part of the kernel follows from products of
A's and of B's and the Jacobian is never formed. All other parameters (shared weights, biases, factors,
embeddings, functions of parameters) are differentiated as they stand, one sample's gradient at a time.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from npk.programs import Equation

# Floating-point operations per second differ by how the work is shaped: measured on a 2-core AVX-512
# machine, products over position pairs (many small outputs) run at about half the rate of the batched
# products that form per-sample gradients, whose result must also be written and read once (about 16
# operations' time a number).
_PAIR_COST, _NUMBER_COST = 2.0, 16.0
# Inputs of a step over the places of a kernel: enough rows for a fast matrix product.
_TOGETHER = 64


@dataclasses.dataclass(frozen=True, eq=False)
class Use:
    """A product of data with a weight: `equation` reads leaf number `leaf`, times `constant`, once.

    `bias` is the leaf that is added to nothing but the product of a dense layer: its gradient is B itself.
    """

    equation: Equation
    leaf: int
    constant: float
    data_first: bool
    bias: int | None = None


# -------------------------------------------------------------------------------- A and B as matrices


def inputs_of(use: Use, a: Any) -> Any:
    """A: the inputs of a use for every sample [n, *shape], laid out for `at_places`: channels before positions."""
    if use.equation.name == "dot_general":
        contract, batch, free = _dot_axes(use)[0]
        shape = a.shape[1:]
        moved = jnp.transpose(a, (0, *(1 + d for d in (*batch, *contract, *free))))
        return moved.reshape(a.shape[0], *(math.prod(shape[d] for d in group) for group in (batch, contract, free)))
    p = use.equation.params
    batch, feature, *spatial = p["dimension_numbers"].lhs_spec
    a = jnp.transpose(a, (0, *(1 + d for d in (feature, batch, *spatial))))
    config = [(lo, hi, s - 1) for (lo, hi), s in zip(p["padding"], p["lhs_dilation"])]
    return jax.lax.pad(a, jnp.zeros((), a.dtype), [(0, 0, 0)] * 3 + config)


def places_of(use: Use) -> np.ndarray:
    """Where a kernel reads, relative to the first position: [steps, places a step, spatial axes].

    Few channels leave room for several places in one step, which then reads the cotangents once for all of them.
    A dense layer has one place.
    """
    if use.equation.name == "dot_general":
        return np.zeros((1, 1, 0), int)
    p = use.equation.params
    weight, numbers = use.equation.inputs[1].shape, p["dimension_numbers"].rhs_spec
    kernel, channels = [weight[d] for d in numbers[2:]], weight[numbers[1]]
    places = np.asarray(list(np.ndindex(*kernel)), int).reshape(-1, len(kernel)) * np.asarray(p["rhs_dilation"], int)
    together = max(
        m for m in range(1, len(places) + 1) if len(places) % m == 0 and (m == 1 or m * channels <= _TOGETHER)
    )
    return places.reshape(-1, together, len(kernel))


def at_places(use: Use, a: Any, places: Any) -> Any:
    """What each output position reads at some places of a kernel, of `inputs_of`: [n, groups, inputs, positions]."""
    if use.equation.name == "dot_general":
        return a
    p = use.equation.params
    out = [use.equation.outputs[0].shape[d] for d in p["dimension_numbers"].out_spec[2:]]
    reach = [(n - 1) * stride + 1 for n, stride in zip(out, p["window_strides"])]
    strides = tuple(slice(None, None, stride) for stride in p["window_strides"])
    groups = p["feature_group_count"]

    def at(place: Any) -> Any:
        piece = jax.lax.dynamic_slice(a, [0, 0, 0, *place], [*a.shape[:3], *reach])[(..., *strides)]
        return piece.reshape(a.shape[0], groups, a.shape[1] // groups, -1)

    return jnp.concatenate([at(place) for place in places], axis=2)


def over_places(use: Use, term: Callable[[Any], Any]) -> Any:
    """Σ term(places) over the steps of a kernel: a loop, so that the arrays of one step at a time are held."""
    places = places_of(use)
    if len(places) == 1:
        return term(places[0])
    empty = jax.tree_util.tree_map(lambda t: jnp.zeros(t.shape, t.dtype), jax.eval_shape(term, places[0]))
    return jax.lax.scan(lambda total, at: (jax.tree_util.tree_map(jnp.add, total, term(at)), None), empty, places)[0]


def cotangents_of(use: Use, b: Any) -> Any:
    """B: the cotangents of a use's outputs [K, n, *shape] as [n, groups, positions, K, outputs]."""
    k, n, *shape = b.shape
    if use.equation.name == "dot_general":
        (_, batch, free), (_, _, out) = _dot_axes(use)
        n_b, n_f, n_o = len(batch), len(free), len(out)
        first, second = (n_f, n_o) if use.data_first else (n_o, n_f)
        places = [list(range(n_b)), list(range(n_b, n_b + first)), list(range(n_b + first, n_b + first + second))]
        groups, positions, channels = places if use.data_first else [places[0], places[2], places[1]]
    else:
        batch, feature, *spatial = use.equation.params["dimension_numbers"].out_spec
        count = use.equation.params["feature_group_count"]
        shape[feature : feature + 1] = [count, shape[feature] // count]
        groups, positions, channels = [feature], [d + (d > feature) for d in (batch, *spatial)], [feature + 1]
    order = (1, *(2 + d for d in (*groups, *positions)), 0, *(2 + d for d in channels))
    sizes = [math.prod(shape[d] for d in axes) for axes in (groups, positions, channels)]
    return jnp.transpose(b.reshape(k, n, *shape), order).reshape(n, *sizes[:2], k, sizes[2])


def _dot_axes(use: Use) -> tuple[Any, Any]:
    """(contracted, batch, free) axes of the data and of the weight."""
    (lhs_c, rhs_c), (lhs_b, rhs_b) = use.equation.params["dimension_numbers"]
    lhs, rhs = use.equation.inputs
    sides = []
    for atom, contract, batch in ((lhs, lhs_c, lhs_b), (rhs, rhs_c, rhs_b)):
        free = [d for d in range(len(atom.shape)) if d not in (*contract, *batch)]
        sides.append((tuple(contract), tuple(batch), tuple(free)))
    return (sides[0], sides[1]) if use.data_first else (sides[1], sides[0])


def sizes_of(use: Use) -> tuple[int, int, int, int]:
    """(groups, positions, inputs, outputs) of a use's weight."""
    data, out = use.equation.inputs[0 if use.data_first else 1], use.equation.outputs[0]
    places = places_of(use)

    def first(v: Any) -> Any:
        return at_places(use, inputs_of(use, v), places[0])

    a = jax.eval_shape(first, jax.ShapeDtypeStruct((1, *data.shape), data.dtype))
    b = jax.eval_shape(lambda v: cotangents_of(use, v), jax.ShapeDtypeStruct((1, 1, *out.shape), out.dtype))
    return a.shape[1], a.shape[3], len(places) * a.shape[2], b.shape[4]


# --------------------------------------------------------------------------------- contributions


def by_pairs(sizes: tuple[int, int, int, int], n1: int, n2: int, outputs: int, kinds: int) -> bool:
    """Whether products over pairs of positions cost less than per-sample gradients."""
    groups, positions, fan_in, fan_out = sizes
    if positions == 1 and groups == 1:
        return True
    pairs = n1 * n2 * groups * positions**2 * (fan_in + kinds * outputs * fan_out) * _PAIR_COST
    size = groups * fan_in * fan_out * outputs * kinds
    gradients = (n1 + n2) * size * (positions + _NUMBER_COST) + n1 * n2 * size
    return pairs < gradients


def gradients(a: Any, b: Any, full: bool) -> Any:
    """Σ_t A_t ⊗ B_t for every sample: [n, groups, inputs, positions] and B give [n, K, p], or [n, 1, K p] in any order.

    The latter is for sums over outputs, which need no output by itself.
    """
    (n, groups, positions, k, fan_out), fan_in = b.shape, a.shape[2]
    # One batched product of matrices in plain order: any other leaves the fast path of XLA on CPU inside a loop.
    b = b.reshape(n * groups, positions, k * fan_out)
    g = jnp.matmul(a.reshape(n * groups, fan_in, positions), b, precision=jax.lax.Precision.HIGHEST)
    if full:
        g = jnp.moveaxis(g.reshape(n, groups * fan_in, k, fan_out), 2, 1)
    return g.reshape(n, k if full else 1, -1)


def inner(x: Any, y: Any, full: bool) -> Any:
    """Inner products of [n, K, p] and [m, K, p]: summed over outputs, or [n, m, K, K]."""
    (n, k, _), (m, j, _) = x.shape, y.shape
    if full:
        return jnp.transpose(_rows(x.reshape(n * k, -1), y.reshape(m * j, -1)).reshape(n, k, m, j), (0, 2, 1, 3))
    return _rows(x.reshape(n, -1), y.reshape(m, -1))


def _rows(x: Any, y: Any) -> Any:
    """One plain matrix product x yᵀ: several contracted axes would leave the fast path of XLA on CPU."""
    return jnp.matmul(x, y.T, precision=jax.lax.Precision.HIGHEST)


def paired(use: Use, a1: Any, b1: Any, a2: Any, b2: Any, full: bool) -> Any:
    """Σ_{t,t'} (A_t·A'_t')(B_t·B'_t')."""
    highest = jax.lax.Precision.HIGHEST

    def products(places: Any) -> Any:
        one, two = at_places(use, a1, places), at_places(use, a2, places)
        return jnp.einsum("ngit,mgis->nmgts", one, two, precision=highest)

    aa = over_places(use, products)
    spec = "ngtko,mgslo->nmgtskl" if full else "ngtko,mgsko->nmgts"
    bb = jnp.einsum(spec, b1, b2, precision=highest)
    return jnp.einsum("nmgts,nmgtskl->nmkl", aa, bb) if full else jnp.einsum("nmgts,nmgts->nm", aa, bb)


Factors = tuple[Any, Sequence[Any]]


def contributions(
    use: Use, one: Factors, two: Factors, wanted: Sequence[tuple[int, int]], full: bool
) -> dict[int, list[Any]]:
    """For each leaf of a use, its part of the kernel for each wanted pair of cotangents (left, right).

    `one` and `two` hold A and a list of B's, as the program has them, for the rows and the columns.
    """
    same = two is one
    a1 = inputs_of(use, one[0])
    a2 = a1 if same else inputs_of(use, two[0])
    left = [cotangents_of(use, b) for b in one[1]]
    right = left if same else [cotangents_of(use, b) for b in two[1]]
    square = use.constant**2
    if _is_dense(left[0]):
        rows = over_places(
            use, lambda at: _rows(at_places(use, a1, at)[:, 0, :, 0], at_places(use, a2, at)[:, 0, :, 0])
        )
        aa = square * rows
        bb = [inner(left[i][:, 0, 0], right[j][:, 0, 0], full) for i, j in wanted]
        return _dense_parts(use, aa[..., None, None] if full else aa, bb)
    if by_pairs(sizes_of(use), one[0].shape[0], two[0].shape[0], left[0].shape[3], len(left)):
        return {use.leaf: [square * paired(use, a1, left[i], a2, right[j], full) for i, j in wanted]}

    def products(places: Any) -> list[Any]:
        g1 = [gradients(at_places(use, a1, places), b, full) for b in left]
        g2 = g1 if same else [gradients(at_places(use, a2, places), b, full) for b in right]
        return [inner(g1[i], g2[j], full) for i, j in wanted]

    return {use.leaf: [square * part for part in over_places(use, products)]}


def _is_dense(b: Any) -> bool:
    """Whether B [n, groups, positions, K, outputs] is of one position: no two weights are shared."""
    return b.shape[1] == b.shape[2] == 1


def _dense_parts(use: Use, aa: Any, bb: Sequence[Any]) -> dict[int, list[Any]]:
    parts = {use.leaf: [aa * product for product in bb]}
    return parts if use.bias is None else {**parts, use.bias: list(bb)}


def squared_norms(
    use: Use, a: Any, bs: Sequence[Any], wanted: Sequence[tuple[int, int]], full: bool
) -> dict[int, list[Any]]:
    """The diagonal of `contributions`: [n], or [n, K, K]."""
    a, bs = inputs_of(use, a), [cotangents_of(use, b) for b in bs]
    square = use.constant**2
    if _is_dense(bs[0]):
        norm = square * over_places(use, lambda places: jnp.sum(jnp.square(at_places(use, a, places)), (1, 2, 3)))
        flat = [b[:, 0, 0] for b in bs]
        products = [own_inner(flat[i], flat[j], full) for i, j in wanted]
        return _dense_parts(use, norm[:, None, None] if full else norm, products)

    def norms(places: Any) -> list[Any]:
        g = [gradients(at_places(use, a, places), b, full) for b in bs]
        return [own_inner(g[i], g[j], full) for i, j in wanted]

    return {use.leaf: [square * part for part in over_places(use, norms)]}


def own_inner(x: Any, y: Any, full: bool) -> Any:
    """Inner products of every sample with itself: [n], or [n, K, K]."""
    spec = "nkp,nlp->nkl" if full else "nkp,nkp->n"
    return jnp.einsum(spec, x, y, precision=jax.lax.Precision.HIGHEST)
