"""What parameters, inputs and f must be for a tangent kernel to mean something."""

from typing import Any

from jaxtyping import PyTree

from npk.gating import Function
from npk.programs import (
    Once,
    check_arrays,
    check_finite,
    check_independent,
    check_pair,
    check_program,
    concrete,
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
        check_independent(self.f, params, x)
