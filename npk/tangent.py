"""The neural tangent kernel and its split by what a gradient reaches: values, gates, or both.

∇f = ψ^V + ψ^F: ψ^V holds the gates fixed, ψ^F goes through the gates only. So K = K^V + K^F + K^CROSS
with K^CROSS = ψ^V ψ^Fᵀ + ψ^F ψ^Vᵀ. Layer by layer the kernel is made of products of the layers' inputs
and of the cotangents of their outputs; the split needs one more backward pass and more such products,
no second Jacobian.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from npk import _activations, _checks, _jaxpr
from npk._jaxpr import Equation, Program, Var
from npk._tangent_factors import (
    Uses,
    by_pairs,
    contributions,
    find_uses,
    inner,
    own_inner,
    sizes_of,
    squared_norms,
)
from npk.gating import Function

# What one block of samples may hold of layer inputs, cotangents and gradients.
_BLOCK_BYTES = 1 << 29


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class NTKSplit:
    """A tangent kernel and its parts, total = value + feature + cross.

    Attributes:
        value: K^V = ψ^V ψ^Vᵀ, gates held fixed.
        feature: K^F = ψ^F ψ^Fᵀ, through the gates only.
        cross: K^CROSS = ψ^V ψ^Fᵀ + ψ^F ψ^Vᵀ.
        total: the NTK K.
        blocks: the same four for every parameter leaf, by its path; they add up to the whole.

    Each is [N1, N2] (summed over outputs), [N1, N2, K, K], or of a diagonal [N].

    Example:
        >>> import jax.numpy as jnp, npk
        >>> split = npk.split_ntk(lambda w, x: npk.soft_relu(x @ w))(jnp.ones((1, 1)), jnp.ones((2, 1)))
        >>> bool(jnp.allclose(split.value + split.feature + split.cross, split.total))
        True

    Source: Lakshminarayanan & Singh 2020, section 4.
    """

    value: Array
    feature: Array
    cross: Array
    total: Array
    blocks: dict[str, "NTKSplit"] = dataclasses.field(default_factory=dict)


# ------------------------------------------------------------------------- one sample's derivatives


@dataclasses.dataclass(frozen=True, eq=False)
class _Derivatives:
    """Everything a kernel is made of, for a block of samples.

    `inputs[i]` is A of use i, [n, *shape]; `cotangents[m][i]` is B in mode m, [n, K, *shape];
    `gradients[m][j]` are per-sample gradients of leaf j, [n, K, size]. Modes: value, then feature.
    """

    inputs: list[Any]
    cotangents: list[list[Any]]
    gradients: list[list[Any]]


jax.tree_util.register_dataclass(_Derivatives, ["inputs", "cotangents", "gradients"], [])


@dataclasses.dataclass(frozen=True, eq=False)
class _Plan:
    """A single-sample program, how it reads its parameters, and the backward passes wanted of it."""

    program: Program
    uses: Uses
    fixed: tuple[bool, ...]  # for each backward pass, whether gates are held fixed

    @property
    def modes(self) -> int:
        return len(self.fixed)

    @property
    def soft(self) -> bool:
        """Whether anything flows through the gates, so that value and feature part are two passes."""
        return self.modes == 2


def _plan(f: Function, params: PyTree, x: Any, split: bool) -> _Plan:
    sample = jax.ShapeDtypeStruct((1, *x.shape[1:]), x.dtype)
    program = _jaxpr.trace(f, params, sample, _activations.opens_for_gates)
    if split:
        program = _activations.with_activations(program)
    _checks.check_program(program, 1)
    fixed = (False,) if not split else (True, False) if _has_soft_gates(program) else (True,)
    return _Plan(program, find_uses(program), fixed)


def _has_soft_gates(program: Program) -> bool:
    """Whether any gate changes smoothly with the parameters."""
    smooth = program.reached_from(program.params, _passes_derivative)

    def is_soft(equation: Equation) -> bool:
        kind = equation.activation.kind
        return kind == "soft" or (kind == "given" and equation.inputs[1] in smooth)

    return any(e.activation is not None and is_soft(e) for e in program.equations)


def _passes_derivative(equation: Equation) -> bool:
    return equation.name != "stop_gradient" and any(_is_float(v) for v in equation.outputs)


def _forward(plan: _Plan, leaves: Sequence[Any], x: Any, nudges: Mapping[int, list[Any]], fixed: bool) -> Any:
    """The outputs [K] for one sample, `nudges` added to what reads parameters; and what was read there."""
    places = {e.equation: i for i, e in enumerate((*plan.uses.products, *plan.uses.reads))}
    seen: dict[int, list[Any]] = {}

    def rule(equation: Equation, values: list[Any]) -> list[Any]:
        if equation.activation is None:
            outputs = equation.bind(*values)
        else:
            gate = equation.activation.gate(*values)
            outputs = [equation.activation.apply(values[0], jax.lax.stop_gradient(gate) if fixed else gate)]
        if equation not in places:
            return outputs
        i = places[equation]
        seen[i] = values
        return [o + nudge if _is_float(o) else o for o, nudge in zip(outputs, nudges[i], strict=True)]

    (out,) = _jaxpr.evaluate(plan.program, [*leaves, x[None]], rule)
    kept = {i: _data_of(plan, i, values) for i, values in seen.items()}
    return out.reshape(-1), kept


def _is_float(value: Any) -> bool:
    return jnp.issubdtype(value.dtype, jnp.floating)


def _data_of(plan: _Plan, i: int, values: Sequence[Any]) -> list[Any]:
    """What equation i read that depends on x."""
    if i < len(plan.uses.products):
        return [values[0 if plan.uses.products[i].data_first else 1]]
    made = plan.uses.reads[i - len(plan.uses.products)].made
    return [v for j, v in enumerate(values) if j not in made]


def _derivatives(plan: _Plan, leaves: Sequence[Any], x: Any) -> _Derivatives:
    """Inputs, cotangents and gradients of a block of samples: one forward pass, one backward pass a mode."""
    equations = [e.equation for e in (*plan.uses.products, *plan.uses.reads)]
    n, n_products = x.shape[0], len(plan.uses.products)
    nudges = {
        i: [jnp.zeros((n, *v.shape), v.dtype if _is_float(v) else jnp.float32) for v in e.outputs]
        for i, e in enumerate(equations)
    }
    cotangents, gradients, inputs = [], [], []
    for fixed in plan.fixed:
        run = jax.vmap(functools.partial(_forward, plan, leaves, fixed=fixed))
        out, pull, seen = jax.vjp(lambda v, run=run: run(x, v), nudges, has_aux=True)
        k = out.shape[1]
        seeds = jnp.broadcast_to(jnp.eye(k, dtype=out.dtype)[:, None], (k, n, k))
        (b,) = jax.vmap(pull)(seeds)  # [K, n, ...]: all samples in one backward pass an output
        inputs = [seen[i][0] for i in range(n_products)]
        cotangents.append([jnp.swapaxes(b[i][0], 0, 1) for i in range(n_products)])
        gradients.append(_leaf_gradients(plan, leaves, seen, b) if plan.uses.reads else [])
    if plan.soft:  # ψ^F = ∇f - ψ^V
        cotangents[1] = [t - v for t, v in zip(cotangents[1], cotangents[0], strict=True)]
        gradients[1] = [t - v for t, v in zip(gradients[1], gradients[0], strict=True)]
    return _Derivatives(inputs, cotangents, gradients)


def _derive_apart(plan: _Plan, leaves: Sequence[Any], x: Any) -> _Derivatives:
    """`_derivatives`, kept from being fused into the products that read them (which XLA does at their expense)."""
    return jax.lax.optimization_barrier(_derivatives(plan, leaves, x))


def _leaf_gradients(
    plan: _Plan, leaves: Sequence[Any], seen: Mapping[int, list[Any]], b: Mapping[int, Any]
) -> list[Any]:
    """Gradients [n, K, size] of the leaves that are read in other ways than products, all reads summed."""
    reads, first = plan.uses.reads, len(plan.uses.products)
    read_data = {i: seen[first + i] for i in range(len(reads))}
    read_cotangents = {i: b[first + i] for i in range(len(reads))}
    wanted = [leaves[number] for number in plan.uses.leaves]

    def outputs(chosen: Sequence[Any], data: Mapping[int, list[Any]]) -> list[Any]:
        """What the reads return for given leaves, the data they read taken as given."""
        values = list(leaves)
        for number, leaf in zip(plan.uses.leaves, chosen, strict=True):
            values[number] = leaf
        made = _parameter_values(plan.program, values)
        results = []
        for i, read in enumerate(reads):
            rest = iter(data[i])
            inputs = [_value_of(a, made) if j in read.made else next(rest) for j, a in enumerate(read.equation.inputs)]
            results.append([o for o in read.equation.bind(*inputs) if _is_float(o)])
        return results

    def pull_one(data: Any, cotangent: Any) -> Any:
        _, pull = jax.vjp(lambda chosen: outputs(chosen, data), wanted)
        floats = [
            [c for c, v in zip(cotangent[i], read.equation.outputs, strict=True) if _is_float(v)]
            for i, read in enumerate(reads)
        ]
        return [g.reshape(-1) for g in pull(floats)[0]]

    over_outputs = jax.vmap(pull_one, in_axes=(None, 0))
    return jax.vmap(over_outputs, in_axes=(0, 1))(read_data, read_cotangents)


def _parameter_values(program: Program, leaves: Sequence[Any]) -> dict[Var, Any]:
    """The values of a program that are made of parameters alone."""
    data = program.reached_from(program.x)
    made = dict(zip(program.params, leaves, strict=True))
    for equation in program.equations:
        if not any(isinstance(a, Var) and a in data for a in equation.inputs):
            made.update(
                zip(equation.outputs, equation.bind(*(_value_of(a, made) for a in equation.inputs)), strict=True)
            )
    return made


def _value_of(atom: Any, made: Mapping[Var, Any]) -> Any:
    return made[atom] if isinstance(atom, Var) else atom.value


# ------------------------------------------------------------------------------------ blocks of pairs


def _pieces(
    plan: _Plan, one: _Derivatives, two: _Derivatives | None, full: bool, diagonal: bool
) -> dict[str, list[Any]]:
    """For each leaf [K^V] or [K^V, K^F, K^CROSS]."""
    wanted = [(0, 0), (1, 1), (0, 1)] if plan.soft else [(0, 0)]
    symmetric = two is None
    if plan.soft and not symmetric and not diagonal:
        wanted.append((1, 0))
    other = one if two is None else two
    pieces: dict[str, list[Any]] = {}

    def put(leaf: int, parts: list[Any]) -> None:
        if plan.soft:
            value, feature, mixed = parts[:3]
            parts = [value, feature, mixed + (parts[3] if len(parts) == 4 else _mirrored(mixed, full, diagonal))]
        name = plan.program.param_paths[leaf]
        pieces[name] = [a + b for a, b in zip(pieces[name], parts, strict=True)] if name in pieces else parts

    for i, use in enumerate(plan.uses.products):
        left = (one.inputs[i], [mode[i] for mode in one.cotangents])
        if diagonal:
            put(use.leaf, squared_norms(use, *left, wanted, full))
        else:
            right = left if symmetric else (other.inputs[i], [mode[i] for mode in other.cotangents])
            put(use.leaf, contributions(use, left, right, wanted, full))
    for j, leaf in enumerate(plan.uses.leaves):
        left_g, right_g = [m[j] for m in one.gradients], [m[j] for m in other.gradients]
        product = own_inner if diagonal else inner
        put(leaf, [product(left_g[a], right_g[b], full) for a, b in wanted])
    return pieces


def _mirrored(mixed: Any, full: bool, diagonal: bool) -> Any:
    """ψ^F ψ^Vᵀ from ψ^V ψ^Fᵀ of the same samples."""
    if diagonal:
        return jnp.swapaxes(mixed, -1, -2) if full else mixed
    return jnp.transpose(mixed, (1, 0, 3, 2)) if full else mixed.T


def _block_size(plan: _Plan, outputs: int, itemsize: int) -> int:
    """Samples whose derivatives fit the budget: what all uses keep, and the most that one needs in passing."""
    kept, passing = 0, 0
    cotangents = outputs * plan.modes
    for use in plan.uses.products:
        groups, positions, fan_in, fan_out = sizes = sizes_of(use)
        kept += math.prod(use.equation.inputs[0 if use.data_first else 1].shape)
        kept += 2 * cotangents * groups * positions * fan_out
        gradients = 0 if by_pairs(sizes, 64, 64, outputs, plan.modes) else cotangents * groups * fan_in * fan_out
        passing = max(passing, groups * positions * fan_in + gradients)
    kept += sum(cotangents * math.prod(v.shape) for r in plan.uses.reads for v in r.equation.outputs)
    kept += sum(cotangents * math.prod(plan.program.params[n].shape) for n in plan.uses.leaves)
    return max(1, _BLOCK_BYTES // (itemsize * max(1, kept + 2 * passing)))


def _padded(x: Any, size: int) -> Any:
    return jnp.pad(x, [(0, size - x.shape[0])] + [(0, 0)] * (x.ndim - 1), mode="edge")


def _kernel_pieces(plan: _Plan, leaves: Sequence[Any], x1: Any, x2: Any | None, full: bool) -> dict[str, list[Any]]:
    """All leaves' pieces for all pairs, block by block where the derivatives of all samples do not fit."""
    derive = functools.partial(_derive_apart, plan, leaves)
    outputs = plan.program.outputs[0].shape[-1]
    size = _block_size(plan, outputs, plan.program.outputs[0].dtype.itemsize)
    other = x1 if x2 is None else x2
    n1, n2 = x1.shape[0], other.shape[0]
    if max(n1, n2) <= size:
        return _pieces(plan, derive(x1), None if x2 is None else derive(x2), full, False)
    rows, columns = -(-n1 // size), -(-n2 // size)
    left = _padded(x1, rows * size).reshape(rows, size, *x1.shape[1:])
    right = _padded(other, columns * size).reshape(columns, size, *other.shape[1:])

    def row(a: Any) -> Any:
        one = derive(a)
        return jax.lax.map(lambda b: _pieces(plan, one, derive(b), full, False), right)

    blocks = jax.lax.map(row, left)  # [rows, columns, size, size, ...]

    def assembled(t: Any) -> Any:
        t = jnp.swapaxes(t, 1, 2)
        return t.reshape(rows * size, columns * size, *t.shape[4:])[:n1, :n2]

    return jax.tree_util.tree_map(assembled, blocks)


def _diagonal_pieces(plan: _Plan, leaves: Sequence[Any], x: Any, full: bool = False) -> dict[str, list[Any]]:
    """All leaves' pieces for every sample with itself, without the kernel."""

    def single(sample: Any) -> Any:
        one = _derivatives(plan, leaves, sample[None])
        return jax.tree_util.tree_map(lambda t: t[0], _pieces(plan, one, None, full, True))

    size = _block_size(plan, plan.program.outputs[0].shape[-1], plan.program.outputs[0].dtype.itemsize)
    return jax.lax.map(single, x, batch_size=min(size, x.shape[0]))


def _assembled(plan: _Plan, pieces: Mapping[str, list[Any]], shape: tuple[int, ...], dtype: Any) -> NTKSplit:
    zero = jnp.zeros(shape, dtype)

    def split(parts: Sequence[Any]) -> NTKSplit:
        value, feature, cross = parts if plan.soft else (parts[0], zero, zero)
        return NTKSplit(value, feature, cross, value + feature + cross if plan.soft else value)

    blocks = {name: split(pieces.get(name, [zero] * (3 if plan.soft else 1))) for name in plan.program.param_paths}
    whole = (
        [functools.reduce(jnp.add, column) for column in zip(*pieces.values(), strict=True)] if pieces else [zero] * 3
    )
    total = split(whole)
    return dataclasses.replace(total, blocks=blocks)


# -------------------------------------------------------------------------------------------- checks


class _Checks:
    """What every call is checked for; what depends on shapes alone is checked once for each."""

    def __init__(self, f: Function):
        self.f = f
        self.seen: set[Any] = set()

    def __call__(self, params: PyTree, x1: Any, x2: Any | None, outputs: str = "trace") -> None:
        if outputs not in ("trace", "full"):
            raise ValueError(
                f"outputs must be 'trace' (summed over outputs) or 'full' ([N1, N2, K, K]), got {outputs!r}."
            )
        _checks.check_pair(x1, x2)
        leaves, tree = jax.tree_util.tree_flatten((params, x1))
        key = (tree, tuple((jnp.shape(a), jnp.result_type(a)) for a in leaves))
        if key in self.seen:
            return
        _checks.check_finite(params, "params")
        _checks.check_program(_jaxpr.trace(self.f, params, x1, _activations.opens_for_gates), x1.shape[0])
        if _checks.concrete(params, x1) and jnp.issubdtype(x1.dtype, jnp.floating):
            _check_independent(self.f, params, x1)
            self.seen.add(key)


def _check_independent(f: Function, params: PyTree, x: Any) -> None:
    """Samples must not see each other: a change of one must leave the others' outputs as they are."""
    pair = jnp.concatenate([x[:1], x[-1:]])
    push = jnp.zeros_like(pair).at[0].set(jnp.linspace(0.5, 1.5, pair[0].size, dtype=x.dtype).reshape(pair[0].shape))
    with jax.ensure_compile_time_eval():
        _, change = jax.jvp(lambda t: f(params, t), (pair,), (push,))
        moved = bool(jnp.any(change[1] != 0))
    if moved:
        raise ValueError(
            "the samples of a batch are not independent: changing the first changes the output of the second. A "
            "tangent kernel is of single samples; use evaluation mode (batch norm with running statistics)."
        )


def _finite(split: NTKSplit, params: PyTree) -> NTKSplit:
    """The kernel, if its numbers are finite; else the reason (a look at N² numbers, not at all parameters)."""
    if _checks.concrete(split.total) and not _checks.known_true(jnp.isfinite, split.total):
        _checks.check_finite(params, "params")
        raise ValueError(
            f"the tangent kernel leaves the range of {split.total.dtype}; scale the parameters or use x64."
        )
    return split


def _shape(plan: _Plan, n: tuple[int, ...], full: bool) -> tuple[int, ...]:
    k = plan.program.outputs[0].shape[-1]
    return (*n, k, k) if full else n


# -------------------------------------------------------------------------------------------- public


def _kernel(f: Function, split: bool) -> Callable[..., NTKSplit]:
    @functools.partial(jax.jit, static_argnames=("full",))
    def compute(params: PyTree, x1: Any, x2: Any | None, full: bool) -> NTKSplit:
        plan = _plan(f, params, x1, split)
        pieces = _kernel_pieces(plan, jax.tree_util.tree_leaves(params), x1, x2, full)
        shape = _shape(plan, (x1.shape[0], x1.shape[0] if x2 is None else x2.shape[0]), full)
        return _assembled(plan, pieces, shape, plan.program.outputs[0].dtype)

    check = _Checks(f)

    def kernel(params: PyTree, x1: Any, x2: Any | None = None, *, outputs: str = "trace") -> NTKSplit:
        check(params, x1, x2, outputs)
        return _finite(compute(params, x1, x2, outputs == "full"), params)

    return kernel


def _diagonal(f: Function, split: bool) -> Callable[..., NTKSplit]:
    @jax.jit
    def compute(params: PyTree, x: Any) -> NTKSplit:
        plan = _plan(f, params, x, split)
        pieces = _diagonal_pieces(plan, jax.tree_util.tree_leaves(params), x)
        return _assembled(plan, pieces, (x.shape[0],), plan.program.outputs[0].dtype)

    check = _Checks(f)

    def diagonal(params: PyTree, x: Any) -> NTKSplit:
        check(params, x, None)
        return _finite(compute(params, x), params)

    return diagonal


def ntk(f: Function) -> Callable[..., Float[Array, "n1 n2 *k"]]:
    """Transform f into its neural tangent kernel K(s, s') = Σ_θ ∂f(s)/∂θ · ∂f(s')/∂θ.

    Exact for any differentiable f: dense and convolution layers by products of their inputs and
    cotangents, every other parameter (shared, embedded, part of a function) by per-sample gradients in
    which all its uses are summed before the product. The Jacobian is never held whole. The derivative of a
    ReLU spelled `jnp.maximum(q, 0)` at q = 0 is what JAX says it is; `split_ntk` takes the gate's 0 there.

    Apply it to logits: outputs that sum to one (softmax) have a kernel that, summed over all pairs of
    outputs, is identically zero. All float leaves of `params` count; close over what should not.

    Args:
        f: a function of (params, x), x: [N, ...] → [N, K]; x may be integers that index (embeddings).

    Returns:
        A function (params, x1, x2=None, *, outputs="trace") → K, [N1, N2] summed (not averaged) over
        outputs, or [N1, N2, K, K] for outputs="full", in the dtype of f's output. x2=None means x1.

    Raises:
        ValueError: inputs are empty, not finite or do not match; f draws random numbers, mixes samples or
            does not return [N, K]; outputs is neither "trace" nor "full".

    Example:
        >>> import jax.numpy as jnp, npk
        >>> npk.ntk(lambda w, x: x @ w)(jnp.ones((2, 1)), jnp.array([[1.0, 2.0]])).tolist()
        [[5.0]]

    Source: Jacot et al. 2018; Lakshminarayanan & Singh 2020, section 4.
    """
    kernel = _kernel(f, split=False)

    def ntk_of_f(params: PyTree, x1: Any, x2: Any | None = None, *, outputs: str = "trace") -> Float[Array, "n1 n2 *k"]:
        return kernel(params, x1, x2, outputs=outputs).total

    return ntk_of_f


def split_ntk(f: Function) -> Callable[..., NTKSplit]:
    """Transform f into its tangent kernel split by the gates: K = K^V + K^F + K^CROSS.

    ψ^V differentiates with every gate held fixed, ψ^F is the rest, through the gates. Hard gates are
    piecewise constant, so K^F and K^CROSS are exactly zero; soft gates (`soft_relu`, silu, gelu) carry
    both. In a deep gated network, `gated(g)(p["value"], x, gates(g)(p["feature"], x))`, the gates given to
    `gated` count as gates: K^V is of Θ^V, K^F of Θ^F, and K^CROSS is zero.

    Args:
        f: a function of (params, x), x: [N, ...] → [N, K], returning logits.

    Returns:
        A function (params, x1, x2=None, *, outputs="trace") → `NTKSplit` of [N1, N2] (summed over outputs)
        or, for outputs="full", [N1, N2, K, K]; its `blocks` hold the same for each parameter leaf.

    Raises:
        ValueError: as `ntk`.
        UnsupportedOperation: an activation inside `cond` or `while`, whose gate cannot be held fixed.

    Example:
        >>> import jax, jax.numpy as jnp, npk
        >>> split = npk.split_ntk(lambda w, x: jax.nn.relu(x @ w))(jnp.ones((1, 1)), jnp.array([[1.0], [-1.0]]))
        >>> split.value.astype(int).tolist(), bool((split.feature == 0).all())
        ([[1, 0], [0, 0]], True)

    Source: Lakshminarayanan & Singh 2020, section 4 (ψ^V, ψ^F; proposition 4.1).
    """
    return _kernel(f, split=True)


def ntk_diagonal(f: Function) -> Callable[[PyTree, Any], Float[Array, "n"]]:
    """Transform f into the diagonal K(s, s) of its tangent kernel, without the kernel.

    Args:
        f: a function of (params, x), x: [N, ...] → [N, K].

    Returns:
        A function (params, x) → [N], squared norms of per-sample gradients, summed over outputs.

    Raises:
        ValueError: as `ntk`.

    Example:
        >>> import jax.numpy as jnp, npk
        >>> npk.ntk_diagonal(lambda w, x: x @ w)(jnp.ones((2, 1)), jnp.array([[1.0, 2.0]])).tolist()
        [5.0]

    Source: Jacot et al. 2018.
    """
    diagonal = _diagonal(f, split=False)

    def ntk_diagonal_of_f(params: PyTree, x: Any) -> Float[Array, "n"]:
        return diagonal(params, x).total

    return ntk_diagonal_of_f


def ntk_trace(f: Function) -> Callable[[PyTree, Any], Float[Array, ""]]:
    """Transform f into the trace Σ_s K(s, s) of its tangent kernel, without the kernel.

    Args:
        f: a function of (params, x), x: [N, ...] → [N, K].

    Returns:
        A function (params, x) → a scalar.

    Raises:
        ValueError: as `ntk`.

    Example:
        >>> import jax.numpy as jnp, npk
        >>> float(npk.ntk_trace(lambda w, x: x @ w)(jnp.ones((2, 1)), jnp.array([[1.0, 2.0], [0.0, 1.0]])))
        6.0

    Source: Jacot et al. 2018.
    """
    diagonal = ntk_diagonal(f)

    def ntk_trace_of_f(params: PyTree, x: Any) -> Float[Array, ""]:
        return jnp.sum(diagonal(params, x))

    return ntk_trace_of_f


def split_ntk_diagonal(f: Function) -> Callable[[PyTree, Any], NTKSplit]:
    """Transform f into the diagonal of its split tangent kernel, without the kernel.

    Args:
        f: a function of (params, x), x: [N, ...] → [N, K].

    Returns:
        A function (params, x) → `NTKSplit` of [N] arrays, blocks included.

    Raises:
        ValueError: as `ntk`.
        UnsupportedOperation: as `split_ntk`.

    Example:
        >>> import jax, jax.numpy as jnp, npk
        >>> f = lambda w, x: jax.nn.relu(x @ w)
        >>> npk.split_ntk_diagonal(f)(jnp.ones((1, 1)), jnp.array([[2.0]])).value.tolist()
        [4.0]

    Source: Lakshminarayanan & Singh 2020, section 4.
    """
    return _diagonal(f, split=True)
