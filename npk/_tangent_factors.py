"""Where parameters enter a program, and how each use contributes to a tangent kernel.

A weight that is used once, in a product, has the gradient Σ_t A_t ⊗ B_t: A its layer's inputs, B the
cotangents of its outputs, t the positions that share it. Its part of the kernel follows from products of
A's and of B's and the Jacobian is never formed. All other parameters (shared weights, biases, factors,
embeddings, functions of parameters) are differentiated as they stand, one sample's gradient at a time.
"""

import dataclasses
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from npk._jaxpr import Const, Equation, Program, Var

# Floating-point operations per second differ by how the work is shaped: measured on a 2-core AVX-512
# machine, products over position pairs (many small outputs) run at about half the rate of the batched
# products that form per-sample gradients, whose result must also be written and read once (about 16
# operations' time a number).
_PAIR_COST, _NUMBER_COST = 2.0, 16.0


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


@dataclasses.dataclass(frozen=True, eq=False)
class Read:
    """Any other equation of data with values made of parameters.

    `made` are their places among its inputs, `leaves` the numbers of the parameters.
    """

    equation: Equation
    made: tuple[int, ...]
    leaves: frozenset[int]


@dataclasses.dataclass(frozen=True, eq=False)
class Uses:
    """How a program reads its parameters: by layer rules, and in other ways that need leaf gradients."""

    products: list[Use]
    reads: list[Read]
    leaves: list[int]  # the leaves that `reads` depend on


def find_uses(program: Program) -> Uses:
    """Split the equations that read parameters into products with a rule and all others."""
    data = program.reached_from(program.x)
    origin = _selections(program, data)
    made_of = _ingredients(program, data)
    readers = program.consumers()
    rules: dict[int, list[tuple[Use, np.ndarray]]] = {}
    reads: list[Read] = []
    for equation in program.equations:
        inputs = equation.inputs
        made = tuple(i for i, a in enumerate(inputs) if isinstance(a, Var) and a not in data and made_of.get(a))
        if not made or len(made) == len(inputs) or not any(isinstance(a, Var) and a in data for a in inputs):
            continue
        atom = inputs[made[0]]
        use = _as_use(equation, origin.get(atom), data) if len(made) == 1 and isinstance(atom, Var) else None
        if use is None or len(readers[atom]) > 1:  # type: ignore[index]
            ingredients = frozenset().union(*(made_of[inputs[i]] for i in made))  # type: ignore[index]
            reads.append(Read(equation, made, ingredients))
        else:
            rules.setdefault(use.leaf, []).append((use, origin[atom][1]))  # type: ignore[index]
    shared = {n for read in reads for n in read.leaves}
    products = []
    for leaf, found in rules.items():
        elements = np.concatenate([e for _, e in found])
        if leaf in shared or _repeats(elements):
            shared.add(leaf)
            reads += [Read(use.equation, (1 if use.data_first else 0,), frozenset((leaf,))) for use, _ in found]
        else:
            products += [use for use, _ in found]
    order = {e: i for i, e in enumerate(program.equations)}
    uses_of = Counter(n for read in reads for n in read.leaves)
    for at, use in enumerate(products):
        added = _as_bias(use, readers, origin)
        if added is not None and uses_of[added[1]] == 1 and added[1] not in rules:
            products[at] = dataclasses.replace(use, bias=added[1])
            reads = [r for r in reads if r.equation is not added[0]]
            shared.discard(added[1])
    leaves = [n for n in sorted(shared) if jnp.issubdtype(program.params[n].dtype, jnp.floating)]
    return Uses(
        sorted(products, key=lambda u: order[u.equation]), sorted(reads, key=lambda r: order[r.equation]), leaves
    )


def _as_use(equation: Equation, origin: Any, data: set[Var]) -> Use | None:
    if origin is None or equation.name not in ("dot_general", "conv_general_dilated"):
        return None
    first = equation.inputs[0] in data
    if equation.name == "conv_general_dilated" and (not first or equation.params["batch_group_count"] != 1):
        return None
    return Use(equation, origin[0], origin[2], first)


def _as_bias(use: Use, readers: dict[Var, list[Equation]], origin: dict) -> tuple[Equation, int] | None:
    """The equation that adds a leaf, each element once, to a dense layer's product and alone reads it."""
    (out,) = use.equation.outputs
    following = readers.get(out, [])
    if len(following) != 1 or following[0].name not in ("add", "add_any") or sizes_of(use)[:2] != (1, 1):
        return None
    (equation,) = following
    others = [a for a in equation.inputs if a is not out]
    if len(others) != 1 or not isinstance(others[0], Var) or others[0] not in origin:
        return None
    leaf, elements, constant = origin[others[0]]
    whole = others[0].shape == out.shape and elements.size == math.prod(out.shape) and not _repeats(elements)
    return (equation, leaf) if whole and constant == 1 else None


def _repeats(elements: np.ndarray) -> bool:
    """Whether a number comes twice; by counting, since sorting the millions of a wide layer takes seconds."""
    return bool(np.bincount(elements.reshape(-1)).max(initial=0) > 1)


_REARRANGING = frozenset(
    ("reshape", "transpose", "squeeze", "expand_dims", "rev", "slice", "copy", "copy_p", "broadcast_in_dim")
)


def _selections(program: Program, data: set[Var]) -> dict[Var, tuple[int, np.ndarray, float]]:
    """The values that are a rearrangement of a part of one leaf, times a number: (leaf, its elements, number)."""
    numbered = {
        v: (n, np.arange(math.prod(v.shape)).reshape(v.shape), 1.0)
        for n, v in enumerate(program.params)
        if jnp.issubdtype(v.dtype, jnp.floating)
    }
    found = dict(numbered)
    for equation in program.equations:
        known = [a for a in equation.inputs if isinstance(a, Var) and a in found]
        if len(known) != 1 or any(isinstance(a, Var) and a not in found for a in equation.inputs):
            continue
        leaf, elements, number = found[known[0]]
        out = equation.outputs[0]
        spread = equation.name == "broadcast_in_dim" and math.prod(out.shape) != math.prod(known[0].shape)
        if equation.name in _REARRANGING and len(equation.inputs) == 1 and not spread:
            with jax.ensure_compile_time_eval():
                moved = np.asarray(equation.bind(jnp.asarray(elements))[0])
            found[out] = (leaf, moved, number)
        elif equation.name == "convert_element_type" and jnp.issubdtype(out.dtype, jnp.floating):
            found[out] = (leaf, elements, number)
        elif equation.name in ("mul", "div") and out.shape == known[0].shape:
            factor = [a for a in equation.inputs if isinstance(a, Const) and np.size(a.value) == 1]
            if factor and not (equation.name == "div" and equation.inputs[0] is not known[0]):
                value = float(np.asarray(factor[0].value).reshape(()))
                found[out] = (leaf, elements, number * value if equation.name == "mul" else number / value)
    return {v: (n, e.reshape(-1), c) for v, (n, e, c) in found.items() if v not in data}


def _ingredients(program: Program, data: set[Var]) -> dict[Var, set[int]]:
    """For each value made of parameters alone, the leaves it is made of."""
    made: dict[Var, set[int]] = {v: {n} for n, v in enumerate(program.params)}
    for equation in program.equations:
        inputs = [a for a in equation.inputs if isinstance(a, Var)]
        if not any(a in data for a in inputs):
            leaves = set().union(*(made.get(a, set()) for a in inputs)) if inputs else set()
            made.update(dict.fromkeys(equation.outputs, leaves))
    return made


# -------------------------------------------------------------------------------- A and B as matrices


def inputs_of(use: Use, a: Any) -> list[Any]:
    """A: the inputs of a use for every sample [n, *shape], as arrays [n, groups, positions, inputs].

    A convolution has one array for each place in its kernel, so that no patches are ever stacked.
    """
    if use.equation.name == "dot_general":
        contract, batch, free = _dot_axes(use)[0]
        shape = a.shape[1:]
        moved = jnp.transpose(a, (0, *(1 + d for d in (*batch, *free, *contract))))
        return [moved.reshape(a.shape[0], *(math.prod(shape[d] for d in group) for group in (batch, free, contract)))]
    return _shifted(use.equation, a)


def cotangents_of(use: Use, b: Any) -> Any:
    """B: the cotangents of a use's outputs [n, K, *shape] as [n, K, groups, positions, outputs]."""
    n, k, *shape = b.shape
    if use.equation.name == "dot_general":
        (_, batch, free), (_, _, out) = _dot_axes(use)
        n_b, n_f, n_o = len(batch), len(free), len(out)
        first, second = (n_f, n_o) if use.data_first else (n_o, n_f)
        places = [list(range(n_b)), list(range(n_b, n_b + first)), list(range(n_b + first, n_b + first + second))]
        groups = places if use.data_first else [places[0], places[2], places[1]]
    else:
        numbers, g = use.equation.params["dimension_numbers"], use.equation.params["feature_group_count"]
        batch, feature, *spatial = numbers.out_spec
        b = jnp.moveaxis(b, 2 + feature, 2)
        rest = [d for d in (batch, *spatial)]
        rest = [d + 1 if d < feature else d for d in rest]
        b = jnp.transpose(b, (0, 1, 2, *(2 + d for d in rest)))
        channels = shape[feature]
        b = b.reshape(n, k, g, channels // g, -1)
        return jnp.swapaxes(b, 3, 4)
    moved = jnp.transpose(b, (0, 1, *(2 + d for group in groups for d in group)))
    return moved.reshape(n, k, *(math.prod(shape[d] for d in group) for group in groups))


def _dot_axes(use: Use) -> tuple[Any, Any]:
    """(contracted, batch, free) axes of the data and of the weight."""
    (lhs_c, rhs_c), (lhs_b, rhs_b) = use.equation.params["dimension_numbers"]
    lhs, rhs = use.equation.inputs
    sides = []
    for atom, contract, batch in ((lhs, lhs_c, lhs_b), (rhs, rhs_c, rhs_b)):
        free = [d for d in range(len(atom.shape)) if d not in (*contract, *batch)]
        sides.append((tuple(contract), tuple(batch), tuple(free)))
    return (sides[0], sides[1]) if use.data_first else (sides[1], sides[0])


def _shifted(equation: Equation, a: Any) -> list[Any]:
    """What each output position reads at every place of a kernel: [n, groups, positions, channels] each."""
    p = equation.params
    batch, feature, *spatial = p["dimension_numbers"].lhs_spec
    kernel = [equation.inputs[1].shape[d] for d in p["dimension_numbers"].rhs_spec[2:]]
    out = [equation.outputs[0].shape[d] for d in p["dimension_numbers"].out_spec[2:]]
    a = jnp.transpose(a, (0, *(1 + d for d in (batch, *spatial, feature))))  # [n, batch, spatial.., channels]
    config = [(0, 0, 0)] * 2 + [(lo, hi, s - 1) for (lo, hi), s in zip(p["padding"], p["lhs_dilation"])] + [(0, 0, 0)]
    a = jax.lax.pad(a, jnp.zeros((), a.dtype), config)
    groups = p["feature_group_count"]
    taken = []
    for offset in np.ndindex(*kernel):
        start = [o * d for o, d in zip(offset, p["rhs_dilation"])]
        cut = [slice(s, s + (n - 1) * t + 1, t) for s, n, t in zip(start, out, p["window_strides"])]
        piece = a[(slice(None), slice(None), *cut)]
        taken.append(jnp.moveaxis(piece.reshape(a.shape[0], -1, groups, a.shape[-1] // groups), 2, 1))
    return taken


def sizes_of(use: Use) -> tuple[int, int, int, int]:
    """(groups, positions, inputs, outputs) of a use's weight."""
    data, out = use.equation.inputs[0 if use.data_first else 1], use.equation.outputs[0]
    a = jax.eval_shape(lambda v: inputs_of(use, v), jax.ShapeDtypeStruct((1, *data.shape), data.dtype))
    fan_in = sum(piece.shape[3] for piece in a)
    b = jax.eval_shape(lambda v: cotangents_of(use, v), jax.ShapeDtypeStruct((1, 1, *out.shape), out.dtype))
    return a[0].shape[1], a[0].shape[2], fan_in, b.shape[4]


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


def gradients(a: Sequence[Any], b: Any) -> list[Any]:
    """Σ_t A_t ⊗ B_t for every sample and output, [n, K, numbers], for each array of A."""
    spec, highest = "ngti,nkgto->nkgio", jax.lax.Precision.HIGHEST
    parts = [jnp.einsum(spec, piece, b, precision=highest) for piece in a]
    return [g.reshape(*g.shape[:2], -1) for g in parts]


def inner(x: Any, y: Any, full: bool) -> Any:
    """Inner products of [n, K, p] and [m, K, p]: summed over outputs, or [n, m, K, K]."""
    (n, k, _), (m, j, _) = x.shape, y.shape
    if full:
        return jnp.transpose(_rows(x.reshape(n * k, -1), y.reshape(m * j, -1)).reshape(n, k, m, j), (0, 2, 1, 3))
    return _rows(x.reshape(n, -1), y.reshape(m, -1))


def _rows(x: Any, y: Any) -> Any:
    """One plain matrix product x yᵀ: several contracted axes would leave the fast path of XLA on CPU."""
    return jnp.matmul(x, y.T, precision=jax.lax.Precision.HIGHEST)


def paired(a1: Sequence[Any], b1: Any, a2: Sequence[Any], b2: Any, full: bool) -> Any:
    """Σ_{t,t'} (A_t·A'_t')(B_t·B'_t')."""
    highest = jax.lax.Precision.HIGHEST
    aa = sum(jnp.einsum("ngti,mgsi->nmgts", x, y, precision=highest) for x, y in zip(a1, a2, strict=True))
    spec = "nkgto,mlgso->nmgtskl" if full else "nkgto,mkgso->nmgts"
    bb = jnp.einsum(spec, b1, b2, precision=highest)
    return jnp.einsum("nmgts,nmgtskl->nmkl", aa, bb) if full else jnp.einsum("nmgts,nmgts->nm", aa, bb)


Factors = tuple[Any, Sequence[Any]]


def contributions(
    use: Use, one: Factors, two: Factors, wanted: Sequence[tuple[int, int]], full: bool
) -> dict[int, list[Any]]:
    """For each leaf of a use, its part of the kernel for each wanted pair of cotangents (left, right).

    `one` and `two` hold A and a list of B's, as the program has them, for the rows and the columns.
    """
    a1 = inputs_of(use, one[0])
    a2 = a1 if two is one else inputs_of(use, two[0])
    left = [cotangents_of(use, b) for b in one[1]]
    right = left if two is one else [cotangents_of(use, b) for b in two[1]]
    square = use.constant**2
    if _is_dense(left[0]):
        aa: Any = square * sum(_rows(x[:, 0, 0], y[:, 0, 0]) for x, y in zip(a1, a2, strict=True))
        bb = [inner(left[i][:, :, 0, 0], right[j][:, :, 0, 0], full) for i, j in wanted]
        return _dense_parts(use, aa[..., None, None] if full else aa, bb)
    if by_pairs(sizes_of(use), one[0].shape[0], two[0].shape[0], left[0].shape[1], len(left)):
        return {use.leaf: [square * paired(a1, left[i], a2, right[j], full) for i, j in wanted]}
    g1 = [gradients(a1, b) for b in left]
    g2 = g1 if two is one else [gradients(a2, b) for b in right]
    parts = [square * sum(inner(x, y, full) for x, y in zip(g1[i], g2[j], strict=True)) for i, j in wanted]
    return {use.leaf: parts}


def _is_dense(b: Any) -> bool:
    """Whether B [n, K, groups, positions, outputs] is of one position: no two weights are shared."""
    return b.shape[2] == b.shape[3] == 1


def _dense_parts(use: Use, aa: Any, bb: Sequence[Any]) -> dict[int, list[Any]]:
    parts = {use.leaf: [aa * product for product in bb]}
    return parts if use.bias is None else {**parts, use.bias: list(bb)}


def squared_norms(
    use: Use, a: Any, bs: Sequence[Any], wanted: Sequence[tuple[int, int]], full: bool
) -> dict[int, list[Any]]:
    """The diagonal of `contributions`: [n], or [n, K, K]."""
    pieces, bs = inputs_of(use, a), [cotangents_of(use, b) for b in bs]
    if _is_dense(bs[0]):
        norm: Any = use.constant**2 * sum(jnp.sum(piece * piece, (1, 2, 3)) for piece in pieces)
        flat = [b[:, :, 0, 0] for b in bs]
        products = [own_inner(flat[i], flat[j], full) for i, j in wanted]
        return _dense_parts(use, norm[:, None, None] if full else norm, products)
    g = [gradients(pieces, b) for b in bs]
    square = use.constant**2
    parts = [square * sum(own_inner(x, y, full) for x, y in zip(g[i], g[j], strict=True)) for i, j in wanted]
    return {use.leaf: parts}


def own_inner(x: Any, y: Any, full: bool) -> Any:
    """Inner products of every sample with itself: [n], or [n, K, K]."""
    spec = "nkp,nlp->nkl" if full else "nkp,nkp->n"
    return jnp.einsum(spec, x, y, precision=jax.lax.Precision.HIGHEST)
