"""Which form of the path kernel computes it: each engine is asked in turn, and says why not."""

import dataclasses
from typing import Any

import jax
from jaxtyping import PyTree

from npk.path_kernels import host
from npk.path_kernels.engines import dense, pairs, pooled
from npk.path_kernels.network import Network
from npk.paths import Form
from npk.programs import on_host, shown

# Pairs of samples from which the packed engine repays its compilation (about a second).
_PACKED_PAIRS = 1 << 20

# Nanoseconds that the engine for position pairs has to save to repay its compilation (some four seconds).
_PAIR_SAVING = 4e9
_FEW = "so few pairs of samples do not repay its compilation"


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


def worth_packing(many: int) -> bool:
    """Whether so many pairs of samples repay the compilation of the packed engine."""
    return many >= _PACKED_PAIRS


def worth_pairing(many: int, positions: list[int] | tuple[int, ...]) -> bool:
    """Whether so many pairs of samples repay the compilation of the loop over pairs of these positions."""
    return many * pairs.saving(positions) >= _PAIR_SAVING


def here(form: Form, *values: Any) -> bool:
    """Whether numbers are in the memory of this host, and JAX would compute with them here."""
    return jax.default_backend() == "cpu" and on_host(*values) and not form.traced


def _rules(network: Network, params: PyTree, x: Any, many: int) -> str:
    """How the plain rules compute a kernel."""
    (_, size), form = network.demands(params, (x[:, None], ())), network.form(params, x)
    how = "compiled as a whole"
    if here(form, params, x) and host.repays(size, many):
        how = "by NumPy" if host.is_small(size, many) else "by a program for each kind of term"
    return f"covers every network that the path rules cover; computed {how}"


def engines(
    network: Network, params: PyTree, x: Any, many: int, *, normalize: bool, binary: bool
) -> tuple[Engine, ...]:
    """What each engine says of the kernel of `many` pairs of samples such as those of x, in the order of asking.

    Args:
        network: of f.
        params: of f.
        x: a batch.
        many: pairs of samples.
        normalize: as of `path_kernel`.
        binary: whether all gates are 0 or 1.

    Returns:
        The engines, of which one runs.
    """
    reasons = {
        "packed": _not_packed(network, params, x, many, normalize, binary),
        "fused": _not_fused(network, params, x, normalize, binary),
        "pairs": _not_paired(network, params, x, many, normalize),
        "rules": None,
    }
    chosen = next(name for name, why in reasons.items() if why is None)
    said = {"rules": _rules(network, params, x, many)}
    return tuple(
        Engine(name, name == chosen, why or said.get(name, "covers the network, and is faster"))
        for name, why in reasons.items()
    )


def _not_packed(network: Network, params: PyTree, x: Any, many: int, normalize: bool, binary: bool) -> str | None:
    if not dense.available():
        return "Numba is not installed"
    if not on_host(params, x):
        return "the numbers are traced, or not on this CPU"
    if not binary:
        return "gates other than 0 and 1"
    if not worth_packing(many):
        return f"fewer than {_PACKED_PAIRS:,} pairs of samples do not repay its compilation"
    if network.chain(params, x, normalize) is None:
        return "the network is no chain of dense layers, each with one gate"
    return None


def _not_fused(network: Network, params: PyTree, x: Any, normalize: bool, binary: bool) -> str | None:
    if not pooled.usable(params, x):
        return "the numbers are traced, or not on one GPU"
    if not binary:
        return "gates other than 0 and 1"
    if network.gap_chain(params, x[:, None], normalize) is None:
        return "the network is no chain of convolutions that ends in global pooling"
    return None


def _not_paired(network: Network, params: PyTree, x: Any, many: int, normalize: bool) -> str | None:
    if not dense.available():
        return "Numba is not installed"
    if not on_host(params, x):
        return "the numbers are traced, or not on this CPU"
    if not network.positions(params, x):
        return "no convolutions"
    if not worth_pairing(many, network.positions(params, x)):
        return _FEW
    plan = network.plan(params, x, normalize)
    if network.form(params, x).traced:
        return "f closes over numbers that are being traced"
    if plan is None:
        return "convolutions with groups, values that are flattened, or another form that it does not cover"
    if not worth_pairing(many, plan.positions):
        return _FEW
    return None
