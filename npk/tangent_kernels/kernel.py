"""The neural tangent kernel and its split by what a gradient reaches: values, gates, or both.

∇f = ψ^V + ψ^F: ψ^V holds the gates fixed, ψ^F goes through the gates only. So K = K^V + K^F + K^CROSS
with K^CROSS = ψ^V ψ^Fᵀ + ψ^F ψ^Vᵀ. Layer by layer the kernel is made of products of the layers' inputs
and of the cotangents of their outputs; the split needs one more backward pass and more such products,
no second Jacobian.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from npk.gating import Function, at_lines
from npk.programs import (
    Selection,
    Wanted,
    check_finite,
    check_pair,
    concrete,
    floats_of,
    on_host,
    option_of,
    remembered,
    samples_in,
    shown,
    transformation,
    unsharded,
    wanted,
)
from npk.tangent_kernels.checks import Checks
from npk.tangent_kernels.derivatives import DerivativePlan, plan_of
from npk.tangent_kernels.pieces import diagonal_pieces, kernel_pieces
from npk.tangent_kernels.staged import Staged, staged


@shown()
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class NTKSplit:
    """A tangent kernel and its parts, total = value + feature + cross.

    Attributes:
        value: K^V = ψ^V ψ^Vᵀ, gates held fixed.
        feature: K^F = ψ^F ψ^Fᵀ, through the gates only.
        cross: K^CROSS = ψ^V ψ^Fᵀ + ψ^F ψ^Vᵀ.
        total: the NTK K, their sum.
        blocks: the same four for every leaf that counts, by its path; they add up to the whole.

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
    blocks: dict[str, "NTKSplit"] = dataclasses.field(default_factory=dict)

    @property
    def total(self) -> Array:
        """The NTK K = K^V + K^F + K^CROSS."""
        return self.value + self.feature + self.cross


@dataclasses.dataclass(frozen=True, eq=False)
class _Sums:
    """What a compiled pass returns: the parts of every block, their sums, and whether all numbers are finite."""

    blocks: dict[str, list[Any]]
    whole: list[Any]
    fine: Any

    def split(self) -> NTKSplit:
        """The parts named; what hard gates do not have is zero (one array for all blocks)."""
        zero = jnp.zeros_like(self.whole[0])

        def named(parts: Sequence[Any]) -> NTKSplit:
            return NTKSplit(*parts) if len(parts) == 3 else NTKSplit(parts[0], zero, zero)

        blocks = {name: named(parts) for name, parts in self.blocks.items()}
        return dataclasses.replace(named(self.whole), blocks=blocks)


jax.tree_util.register_dataclass(_Sums)


def _sums(
    plan: DerivativePlan, pieces: Mapping[str, list[Any]], shape: tuple[int, ...], split: bool, *inputs: Any
) -> _Sums:
    zeros = [jnp.zeros(shape, plan.dtype)] * (3 if plan.soft else 1)
    whole = [functools.reduce(jnp.add, column) for column in zip(*pieces.values(), strict=True)] if pieces else zeros
    floats = floats_of(inputs)
    fine = functools.reduce(jnp.logical_and, [jnp.isfinite(v).all() for v in (*floats, *whole)])
    return _Sums({name: pieces.get(name, zeros) for name in plan.blocks.values()} if split else {}, whole, fine)


def _require_finite(found: _Sums, params: PyTree, x1: Any, x2: Any | None = None) -> None:
    """Raise what made a kernel not finite."""
    if not concrete(found.fine) or found.fine:
        return
    check_pair(x1, x2)
    check_finite(params, "params")
    dtype = found.whole[0].dtype
    raise ValueError(f"the tangent kernel leaves the range of {dtype}; scale the parameters or use x64.")


def _shape(plan: DerivativePlan, n: tuple[int, ...], full: bool) -> tuple[int, ...]:
    k = plan.program.outputs[0].shape[-1]
    return (*n, k, k) if full else n


def _stages_of(f: Function, split: bool, wrt: Selection, wants: Wanted | None) -> Callable[[PyTree, Any], Any]:
    """(params, x) → how kernels of such shapes are computed stage by stage; None for one program."""

    def find(params: PyTree, x: Any) -> Staged | None:
        on_cpu = jax.default_backend() == "cpu"
        return staged(plan_of(f, params, x, split, wants or Wanted(), wrt)) if on_cpu else None

    return find


def _serve(stages: Staged | None, params: PyTree, *xs: Any) -> bool:
    """Whether stages compute a kernel of these numbers."""
    return (
        stages is not None and max(samples_in(x) for x in xs if x is not None) <= stages.most and on_host(params, *xs)
    )


# -------------------------------------------------------------------------------------------- public


def _kernel(f: Function, split: bool, wrt: Selection, wants: Wanted | None = None) -> Callable[..., Any]:
    """(params, x1, x2, outputs) → the split, or the kernel alone."""

    @functools.partial(jax.jit, static_argnames=("full",))
    def compute(params: PyTree, x1: Any, x2: Any | None, full: bool) -> _Sums:
        plan = plan_of(f, params, x1, split, wants or Wanted(), wrt)
        pieces = kernel_pieces(plan, jax.tree_util.tree_leaves(params), x1, x2, full)
        shape = _shape(plan, (samples_in(x1), samples_in(x1 if x2 is None else x2)), full)
        return _sums(plan, pieces, shape, split, x1, x2)

    check = Checks(f, wrt, _stages_of(f, split, wrt, wants))

    def staged_sums(stages: Staged, params: PyTree, x1: Any, x2: Any | None, full: bool) -> _Sums:
        pieces = stages.pieces(jax.tree_util.tree_leaves(params), x1, x2, full)
        shape = _shape(stages.plan, (samples_in(x1), samples_in(x1 if x2 is None else x2)), full)
        return _sums(stages.plan, pieces, shape, split, x1, x2)

    def kernel(params: PyTree, x1: Any, x2: Any | None = None, *, outputs: str = "trace") -> Any:
        params, x1, x2 = unsharded((params, x1, x2))
        stages = check(params, x1, x2, outputs)
        run = functools.partial(staged_sums, stages) if _serve(stages, params, x1, x2) else compute
        found = run(params, x1, x2, outputs == "full")
        _require_finite(found, params, x1, x2)
        return found.split() if split else found.whole[0]

    return kernel


def _diagonal(f: Function, split: bool, wrt: Selection, wants: Wanted | None = None) -> Callable[[PyTree, Any], Any]:
    """(params, x) → the diagonal of the split, or of the kernel alone."""

    @jax.jit
    def compute(params: PyTree, x: Any) -> _Sums:
        plan = plan_of(f, params, x, split, wants or Wanted(), wrt)
        pieces = diagonal_pieces(plan, jax.tree_util.tree_leaves(params), x)
        return _sums(plan, pieces, (samples_in(x),), split, x)

    check = Checks(f, wrt, _stages_of(f, split, wrt, wants))

    def staged_sums(stages: Staged, params: PyTree, x: Any) -> _Sums:
        pieces = stages.pieces(jax.tree_util.tree_leaves(params), x, None, False, diagonal=True)
        return _sums(stages.plan, pieces, (samples_in(x),), split, x)

    def diagonal(params: PyTree, x: Any) -> Any:
        params, x = unsharded((params, x))
        stages = check(params, x, None)
        found = staged_sums(stages, params, x) if _serve(stages, params, x) else compute(params, x)
        _require_finite(found, params, x)
        return found.split() if split else found.whole[0]

    return diagonal


@transformation()
def ntk(f: Function, *, wrt: Selection = None) -> Callable[..., Float[Array, "n1 n2 *k"]]:
    """Transform f into its neural tangent kernel K(s, s') = Σ_θ ∂f(s)/∂θ · ∂f(s')/∂θ.

    Exact for any differentiable f: dense and convolution layers by products of their inputs and
    cotangents, every other parameter (shared, embedded, part of a function) by per-sample gradients in
    which all its uses are summed before the product. The Jacobian is never held whole. The derivative of a
    ReLU spelled `jnp.maximum(q, 0)` at q = 0 is what JAX says it is; `split_ntk` takes the gate's 0 there.

    Apply it to logits: outputs that sum to one (softmax) have a kernel that, summed over all pairs of
    outputs, is identically zero. All float leaves of `params` count but the statistics that a framework marks
    (`batch_stats` of Flax, `nnx.BatchStat`, the state of Equinox), which are held constant; `wrt` chooses others.

    Args:
        f: a function of (params, x), x: [N, ...] → [N, K]; x may be integers that index (embeddings).
        wrt: the leaves that count as parameters, in place of all but statistics: a name (keys joined by "/"; what lies
            below it is meant too), a glob, several of them, or a predicate on names (`lambda path: True`: all).

    Returns:
        A function (params, x1, x2=None, *, outputs="trace") → K, [N1, N2] summed (not averaged) over
        outputs, or [N1, N2, K, K] for outputs="full", in the dtype of f's output (of half precision, accumulated in
        and returned as float32). x2=None means x1.

    Raises:
        ValueError: inputs are empty, not finite or do not match; f draws random numbers, mixes samples or
            does not return [N, K]; outputs is neither "trace" nor "full"; a name of wrt matches no leaf, or nothing
            is left to differentiate by.

    Example:
        >>> import jax.numpy as jnp, npk
        >>> f = lambda p, x: x @ p["w"] + p["b"]
        >>> p, x = {"w": jnp.ones((2, 1)), "b": jnp.ones((1, 1))}, jnp.array([[1.0, 2.0]])
        >>> npk.ntk(f)(p, x).tolist(), npk.ntk(f, wrt="w")(p, x).tolist()
        ([[6.0]], [[5.0]])

    Source: Jacot et al. 2018; Lakshminarayanan & Singh 2020, section 4.
    """
    return remembered(_ntk, f, option_of(wrt, "wrt"))


def _ntk(f: Function, wrt: Selection) -> Callable[..., Float[Array, "n1 n2 *k"]]:
    """`ntk`, made once."""
    kernel = _kernel(f, False, wrt)

    def ntk_of_f(params: PyTree, x1: Any, x2: Any | None = None, *, outputs: str = "trace") -> Float[Array, "n1 n2 *k"]:
        return kernel(params, x1, x2, outputs=outputs)

    return ntk_of_f


@transformation()
def split_ntk(
    f: Function,
    *,
    allow: Sequence[str] = (),
    wrt: Selection = None,
    kinds: Sequence[str] | None = None,
    gate_at: Sequence[str] = (),
) -> Callable[..., NTKSplit]:
    """Transform f into its tangent kernel split by the gates: K = K^V + K^F + K^CROSS.

    ψ^V differentiates with every gate held fixed, ψ^F is the rest, through the gates. Hard gates are
    piecewise constant, so K^F and K^CROSS are exactly zero; soft gates (`soft_relu`, silu, gelu) carry
    both, as do the gates of a transformer: K^V is of the weights that values go through, K^F of what moves attention,
    norms and slopes. In a deep gated network, `gated(g)(p["value"], x, gates(g)(p["feature"], x))`, the gates given to
    `gated` count as gates: K^V is of Θ^V, K^F of Θ^F, and K^CROSS is zero.

    Args:
        f: a function of (params, x), x: [N, ...] → [N, K], returning logits.
        allow: as of `gates`: what is nonlinear and no gate and may count to the value part.
        wrt: as of `ntk`.
        kinds: of gates that are held fixed, as of `gates`; what goes through others counts to the value part.
        gate_at: as of `gates`.

    Returns:
        A function (params, x1, x2=None, *, outputs="trace") → `NTKSplit` of [N1, N2] (summed over outputs)
        or, for outputs="full", [N1, N2, K, K]; its `blocks` hold the same for each leaf that counts. Dtype as of
        `ntk`.

    Raises:
        ValueError: as `ntk`.
        UnsupportedOperation: an activation inside `cond` or `while`, whose gate cannot be held fixed; a nonlinear
            operation that is no gate and not allowed.

    Example:
        >>> import jax, jax.numpy as jnp, npk
        >>> split = npk.split_ntk(lambda w, x: jax.nn.relu(x @ w))(jnp.ones((1, 1)), jnp.array([[1.0], [-1.0]]))
        >>> split.value.astype(int).tolist(), bool((split.feature == 0).all())
        ([[1, 0], [0, 0]], True)

    Source: Lakshminarayanan & Singh 2020, section 4 (ψ^V, ψ^F; proposition 4.1).
    """
    return remembered(_kernel, at_lines(f, gate_at), True, option_of(wrt, "wrt"), wanted(allow, kinds))


@transformation()
def ntk_diagonal(f: Function, *, wrt: Selection = None) -> Callable[[PyTree, Any], Float[Array, "n"]]:
    """Transform f into the diagonal K(s, s) of its tangent kernel, without the kernel.

    Args:
        f: a function of (params, x), x: [N, ...] → [N, K].
        wrt: as of `ntk`.

    Returns:
        A function (params, x) → [N], squared norms of per-sample gradients, summed over outputs; dtype as of `ntk`.

    Raises:
        ValueError: as `ntk`.

    Example:
        >>> import jax.numpy as jnp, npk
        >>> npk.ntk_diagonal(lambda w, x: x @ w)(jnp.ones((2, 1)), jnp.array([[1.0, 2.0]])).tolist()
        [5.0]

    Source: Jacot et al. 2018.
    """
    return remembered(_ntk_diagonal, f, option_of(wrt, "wrt"))


def _ntk_diagonal(f: Function, wrt: Selection) -> Callable[[PyTree, Any], Float[Array, "n"]]:
    """`ntk_diagonal`, made once."""
    diagonal = _diagonal(f, False, wrt)

    def ntk_diagonal_of_f(params: PyTree, x: Any) -> Float[Array, "n"]:
        return diagonal(params, x)

    return ntk_diagonal_of_f


@transformation()
def ntk_trace(f: Function, *, wrt: Selection = None) -> Callable[[PyTree, Any], Float[Array, ""]]:
    """Transform f into the trace Σ_s K(s, s) of its tangent kernel, without the kernel.

    Args:
        f: a function of (params, x), x: [N, ...] → [N, K].
        wrt: as of `ntk`.

    Returns:
        A function (params, x) → a scalar; dtype as of `ntk`.

    Raises:
        ValueError: as `ntk`.

    Example:
        >>> import jax.numpy as jnp, npk
        >>> float(npk.ntk_trace(lambda w, x: x @ w)(jnp.ones((2, 1)), jnp.array([[1.0, 2.0], [0.0, 1.0]])))
        6.0

    Source: Jacot et al. 2018.
    """
    return remembered(_ntk_trace, f, option_of(wrt, "wrt"))


def _ntk_trace(f: Function, wrt: Selection) -> Callable[[PyTree, Any], Float[Array, ""]]:
    """`ntk_trace`, made once."""
    diagonal = ntk_diagonal(f, wrt=wrt)

    def ntk_trace_of_f(params: PyTree, x: Any) -> Float[Array, ""]:
        return jnp.sum(diagonal(params, x))

    return ntk_trace_of_f


@transformation()
def split_ntk_diagonal(
    f: Function,
    *,
    allow: Sequence[str] = (),
    wrt: Selection = None,
    kinds: Sequence[str] | None = None,
    gate_at: Sequence[str] = (),
) -> Callable[[PyTree, Any], NTKSplit]:
    """Transform f into the diagonal of its split tangent kernel, without the kernel.

    Args:
        f: a function of (params, x), x: [N, ...] → [N, K].
        allow: as of `split_ntk`.
        kinds: as of `split_ntk`.
        gate_at: as of `split_ntk`.
        wrt: as of `ntk`.

    Returns:
        A function (params, x) → `NTKSplit` of [N] arrays, blocks included; dtype as of `ntk`.

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
    return remembered(_diagonal, at_lines(f, gate_at), True, option_of(wrt, "wrt"), wanted(allow, kinds))
