"""Which form of the path kernel computes it: each engine is asked in turn, and says why not."""

import dataclasses
from typing import Any

import jax
from jaxtyping import PyTree

from npk.path_kernels import host
from npk.path_kernels.engines import dense, pairs, pooled
from npk.path_kernels.network import Network
from npk.path_kernels.thresholds import Thresholds
from npk.paths import Form
from npk.programs import alone, on_host, shown

_SOFT = "gates other than 0 and 1"
_NUMBA = "Numba is not installed"
_ELSEWHERE = "the numbers are traced, or not on this CPU"


@shown()
@dataclasses.dataclass(frozen=True)
class Engine:
    """One form of the path kernel: whether it computes one of given shapes, and why or why not.

    Attributes:
        name: "packed" (dense networks by bit counts), "fused" (pooled convolutions, on a GPU), "pairs" (position
            pairs in a compiled loop) or "rules" (the path rules as they stand, which cover the most).
        runs: whether it is the one.
        why: in words.

    Example:
        >>> import jax.numpy as jnp, npk
        >>> f = lambda p, x: jnp.maximum(x @ p["w"], 0) @ p["v"]
        >>> p = {"w": jnp.ones((2, 3)), "v": jnp.ones((3, 1))}
        >>> [engine.name for engine in npk.path_kernel(f).engines(p, jnp.ones((4, 2))) if engine.runs]
        ['rules']
    """

    name: str
    runs: bool
    why: str


def here(form: Form, *values: Any) -> bool:
    """Whether numbers are in the memory of this host, and JAX would compute with them here."""
    return jax.default_backend() == "cpu" and on_host(*values) and not form.traced


@dataclasses.dataclass(frozen=True)
class Choice:
    """Asks the engines for the kernel of `many` pairs of samples of f: each gives its plan of f, or says why not.

    `binary` says whether all gates are 0 or 1, None where that is not known yet.
    """

    network: Network
    thresholds: Thresholds
    params: PyTree
    many: int
    normalize: bool

    def packed(self, x: Any, binary: bool | None, *given: Any) -> dense.DenseChain | str:
        """Of inputs x [n, ...]; `given` are further numbers of the call."""
        if not dense.available():
            return _NUMBA
        if not on_host(self.params, x, given):
            return _ELSEWHERE
        if binary is False:
            return _SOFT
        if self.many < self.thresholds.packed_pairs:
            return f"fewer than {self.thresholds.packed_pairs:,} pairs of samples do not repay its compilation"
        return self.network.plan(dense.covers, self.params, x, self.normalize)

    def fused(self, x: Any, binary: bool, *given: Any) -> pooled.GapChain | str:
        """Likewise."""
        if not pooled.usable(self.params, x, given):
            return "the numbers are traced, or not on one GPU"
        return self.network.plan(pooled.covers, self.params, x, self.normalize) if binary else _SOFT

    def paired(self, x: Any, *given: Any) -> pairs.PairPlan | str:
        """Likewise; of any gates."""
        if not dense.available():
            return _NUMBA
        if not on_host(self.params, x, given):
            return _ELSEWHERE
        positions = self.network.positions(self.params, x)
        plan: pairs.PairPlan | str = "no convolutions"
        if positions and not (few := self.too_few(positions)):
            plan = self.network.plan(pairs.covers, self.params, x, self.normalize)
        elif positions:
            return few
        return plan if isinstance(plan, str) else self.too_few(plan.positions) or plan

    def too_few(self, positions: list[int]) -> str:
        """Why so many pairs of samples do not repay the loop over pairs of these positions."""
        saved, least = 1e-9 * self.many * pairs.saving(positions), self.thresholds.paired_seconds
        return "" if saved >= least else f"it would save {max(saved, 0):.2g} s, less than {least:g} s"

    def engines(self, x: Any, binary: bool) -> tuple[Engine, ...]:
        """What each engine says, in the order of asking; one of them runs."""
        plans = {"packed": self.packed(x, binary), "fused": self.fused(x, binary), "pairs": self.paired(x)}
        said = {name: plan if isinstance(plan, str) else None for name, plan in plans.items()}
        chosen = next((name for name, why in said.items() if why is None), "rules")
        found = [Engine(name, name == chosen, why or "covers the network") for name, why in said.items()]
        return (*found, Engine("rules", chosen == "rules", self.rules(x)))

    def rules(self, x: Any) -> str:
        """How the plain rules compute a kernel."""
        (_, size), form = self.network.demands(self.params, (alone(x), ())), self.network.form(self.params, x)
        how = "compiled as one program"
        if here(form, self.params, x) and host.repays(size, self.many, self.thresholds):
            small = host.is_small(size, self.many, self.thresholds)
            how = "computed by NumPy" if small else "computed by a program for each kind of term"
        return f"covers every network that the path rules cover; {how}"
