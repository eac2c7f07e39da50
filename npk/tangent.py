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
from npk._jaxpr import Equation, Program
from npk._tangent_factors import Use, contributions, find_uses, inner, own_inner, squared_norms
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
    """A single-sample program with its uses (layer rules) and other leaves (differentiated as they stand)."""

    program: Program
    uses: list[Use]
    others: list[int]
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
    uses, others = find_uses(program)
    fixed = (False,) if not split else (True, False) if _has_soft_gates(program) else (True,)
    return _Plan(program, uses, others, fixed)


def _has_soft_gates(program: Program) -> bool:
    """Whether anything differentiable flows through a gate."""
    return any(
        (e.activation is not None and e.activation.kind == "soft") or _activations.is_gate_mark(e)
        for e in program.equations
    )


def _forward(
    plan: _Plan, leaves: Sequence[Any], x: Any, others: Sequence[Any], nudges: Sequence[Any], fixed: bool
) -> Any:
    """The outputs [K] for one sample, `nudges` added to the outputs of the uses; and the uses' inputs."""
    place = {use.equation: i for i, use in enumerate(plan.uses)}
    seen: list[Any] = [None] * len(plan.uses)

    def rule(equation: Equation, values: list[Any]) -> list[Any]:
        if equation in place:
            i = place[equation]
            seen[i] = values[0 if plan.uses[i].data_first else 1]
            return [equation.bind(*values)[0] + nudges[i]]
        if equation.activation is not None:
            (q,) = values
            gate = equation.activation.gate(q)
            return [equation.activation.apply(q, jax.lax.stop_gradient(gate) if fixed else gate)]
        if fixed and _activations.is_gate_mark(equation):
            return [jax.lax.stop_gradient(v) for v in equation.bind(*values)]
        return equation.bind(*values)

    values = list(leaves)
    for number, leaf in zip(plan.others, others, strict=True):
        values[number] = leaf
    (out,) = _jaxpr.evaluate(plan.program, [*values, x[None]], rule)
    return out.reshape(-1), seen


def _derivatives(plan: _Plan, leaves: Sequence[Any], x: Any) -> _Derivatives:
    """Inputs, cotangents and gradients of one sample: one forward pass, one backward pass a mode."""
    nudges = [jnp.zeros(u.equation.outputs[0].shape, u.equation.outputs[0].dtype) for u in plan.uses]
    others = [leaves[n] for n in plan.others]
    cotangents, gradients, inputs = [], [], []
    for fixed in plan.fixed:
        run = functools.partial(_forward, plan, leaves, x, fixed=fixed)
        out, pull, inputs = jax.vjp(run, others, nudges, has_aux=True)
        seeds = jnp.eye(out.shape[0], dtype=out.dtype)
        g, b = jax.vmap(pull)(seeds)
        cotangents.append(b)
        gradients.append([a.reshape(a.shape[0], -1) for a in g])
    if plan.soft:  # ψ^F = ∇f - ψ^V
        cotangents[1] = [t - v for t, v in zip(cotangents[1], cotangents[0], strict=True)]
        gradients[1] = [t - v for t, v in zip(gradients[1], gradients[0], strict=True)]
    return _Derivatives(inputs, cotangents, gradients)


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

    for i, use in enumerate(plan.uses):
        left = (one.inputs[i], [mode[i] for mode in one.cotangents])
        if diagonal:
            put(use.leaf, squared_norms(use, *left, wanted, full))
        else:
            right = left if symmetric else (other.inputs[i], [mode[i] for mode in other.cotangents])
            put(use.leaf, contributions(use, left, right, wanted, full))
    for j, leaf in enumerate(plan.others):
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
    """Samples whose derivatives fit the budget."""
    numbers = 0
    for use in plan.uses:
        data = use.equation.inputs[0 if use.data_first else 1]
        weight = math.prod(use.equation.inputs[1 if use.data_first else 0].shape)
        positions = math.prod(use.equation.outputs[0].shape)
        patches = math.prod(data.shape) * (weight // max(1, use.equation.outputs[0].shape[-1]))
        numbers += math.prod(data.shape) + outputs * plan.modes * (2 * positions + weight)
        numbers += min(patches, math.prod(data.shape) * 25)
    numbers += sum(outputs * plan.modes * math.prod(plan.program.params[n].shape) for n in plan.others)
    return max(1, _BLOCK_BYTES // (itemsize * max(1, numbers)))


def _padded(x: Any, size: int) -> Any:
    return jnp.pad(x, [(0, size - x.shape[0])] + [(0, 0)] * (x.ndim - 1), mode="edge")


def _kernel_pieces(plan: _Plan, leaves: Sequence[Any], x1: Any, x2: Any | None, full: bool) -> dict[str, list[Any]]:
    """All leaves' pieces for all pairs, block by block where the derivatives of all samples do not fit."""
    derive = jax.vmap(functools.partial(_derivatives, plan, leaves))
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
        one = jax.vmap(functools.partial(_derivatives, plan, leaves))(sample[None])
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


def _check(f: Function, params: PyTree, x1: Any, x2: Any | None, outputs: str = "trace") -> None:
    if outputs not in ("trace", "full"):
        raise ValueError(f"outputs must be 'trace' (summed over outputs) or 'full' ([N1, N2, K, K]), got {outputs!r}.")
    _checks.check_pair(x1, x2)
    _checks.check_finite(params, "params")
    _checks.check_program(_jaxpr.trace(f, params, x1, _activations.opens_for_gates), x1.shape[0])
    if _checks.concrete(params, x1) and jnp.issubdtype(x1.dtype, jnp.floating):
        _check_independent(f, params, x1)


def _check_independent(f: Function, params: PyTree, x: Any) -> None:
    """Samples must not see each other: a change of one must leave the others' outputs as they are."""
    pair = jnp.concatenate([x[:1], x[-1:]])
    push = jnp.zeros_like(pair).at[0].set(jnp.linspace(0.5, 1.5, pair[0].size, dtype=x.dtype).reshape(pair[0].shape))
    with jax.ensure_compile_time_eval():
        _, change = jax.jvp(lambda t: f(params, t), (pair,), (push,))
        moved = bool(jnp.any(change[1] != 0))
    if moved:
        raise ValueError(
            "the samples of a batch are not independent: changing the first changes the output of the second. A tangent "
            "kernel is of single samples; use evaluation mode (batch norm with running statistics)."
        )


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

    def kernel(params: PyTree, x1: Any, x2: Any | None = None, *, outputs: str = "trace") -> NTKSplit:
        _check(f, params, x1, x2, outputs)
        return compute(params, x1, x2, outputs == "full")

    return kernel


def _diagonal(f: Function, split: bool) -> Callable[..., NTKSplit]:
    @jax.jit
    def compute(params: PyTree, x: Any) -> NTKSplit:
        plan = _plan(f, params, x, split)
        pieces = _diagonal_pieces(plan, jax.tree_util.tree_leaves(params), x)
        return _assembled(plan, pieces, (x.shape[0],), plan.program.outputs[0].dtype)

    def diagonal(params: PyTree, x: Any) -> NTKSplit:
        _check(f, params, x, None)
        return compute(params, x)

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
        >>> split.value.tolist(), split.feature.tolist()
        ([[1.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]])

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
