"""What parameters, inputs and f must be for a tangent kernel to mean something."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from npk.gating import Function
from npk.programs import (
    Once,
    check_arrays,
    check_finite,
    check_pair,
    check_program,
    concrete,
    evaluate,
    opens_for_gates,
    trace,
)


class Checks:
    """What every call is checked for; what depends on shapes alone is checked once for each."""

    def __init__(self, f: Function):
        self.f = f
        self.once = Once()

    def __call__(self, params: PyTree, x1: Any, x2: Any | None, outputs: str = "trace") -> None:
        if outputs not in ("trace", "full"):
            raise ValueError(
                f"outputs must be 'trace' (summed over outputs) or 'full' ([N1, N2, K, K]), got {outputs!r}."
            )
        check_arrays(params, "params")
        check_pair(x1, x2, finite=False)
        if concrete(params, x1):
            self.once((params, x1), "checked", lambda: self.check(params, x1))
        else:
            self.check(params, x1)

    def check(self, params: PyTree, x: Any) -> None:
        """What is checked once for all params and inputs of the same shapes, where their numbers are known."""
        check_finite(params, "params")
        check_program(trace(self.f, params, x, opens_for_gates), x.shape[0])
        if concrete(params, x) and jnp.issubdtype(x.dtype, jnp.floating):
            _check_independent(self.f, params, x)


def _check_independent(f: Function, params: PyTree, x: Any) -> None:
    """Samples must not see each other: a change of one must leave the others' outputs as they are."""
    pair = jnp.concatenate([x[:1], x[-1:]])
    push = jnp.zeros_like(pair).at[0].set(jnp.linspace(0.5, 1.5, pair[0].size, dtype=pair.dtype).reshape(pair[0].shape))

    def changed(params: PyTree, moved: tuple[Any, Any]) -> Any:
        at, along = moved
        return jax.jvp(lambda t: f(params, t), (at,), (along,))[1][1]

    # Traced before anything is computed: evaluated as it is, a Flax model draws all its initial parameters anew.
    program = trace(changed, params, (pair, push), lambda eqn: False)
    with jax.ensure_compile_time_eval():
        (change,) = jax.jit(lambda *values: evaluate(program, values))(*jax.tree_util.tree_leaves((params, pair, push)))
        moved = bool(jnp.any(change != 0))
    if moved:
        raise ValueError(
            "the samples of a batch are not independent: changing the first changes the output of the second. A "
            "tangent kernel is of single samples; use evaluation mode (batch norm with running statistics)."
        )
