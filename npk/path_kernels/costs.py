"""What a path kernel will take, before it is computed: timed on a few samples, counted where it is sure to be long."""

import dataclasses
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from npk.programs import cores, samples_in, shown, some_of

# Nanoseconds of one core for a position pair of one layer (hard gates, up to 64 channels), in the compiled loop.
_PAIR = 1.4
_LONG = 10.0  # seconds from which a call says what it will take
_TIMED = 0.2  # seconds of a part that tells enough of the whole
_FACTOR = 2.0  # how far off the whole may be


@shown()
@dataclasses.dataclass(frozen=True)
class Cost:
    """What a call is expected to take.

    Attributes:
        seconds: of the call, once compiled.
        low: half of it, unless all samples were timed.
        high: twice of it, likewise.
        memory: bytes of the kernel and of the gates that it is computed of.
        timed: samples a side that were timed.

    Example:
        >>> import jax.numpy as jnp, npk
        >>> f = lambda p, x: jnp.maximum(x @ p["w"], 0) @ p["v"]
        >>> p = {"w": jnp.ones((2, 3)), "v": jnp.ones((3, 1))}
        >>> cost = npk.path_kernel(f).estimate(p, jnp.ones((4, 2)))
        >>> cost.low <= cost.seconds <= cost.high, cost.timed
        (True, 4)
    """

    seconds: float
    low: float
    high: float
    memory: int
    timed: int


def timed(kernel: Callable[[Any, Any | None], Any], x1: Any, x2: Any | None, gate_bytes: int) -> Cost:
    """The cost of a kernel of two batches, from ever larger parts of them.

    Args:
        kernel: (x1, x2 or None) → [N1, N2], by the means that serve the whole.
        x1: the first batch.
        x2: the second batch, None for the first.
        gate_bytes: of the gates of one sample.

    Returns:
        The cost.
    """
    n1, n2 = samples_in(x1), samples_in(x1 if x2 is None else x2)
    found: list[tuple[int, float]] = []  # pairs, seconds
    size, most = 4, max(n1, n2)
    while True:
        part = (some_of(x1, slice(size)), some_of(x2, slice(size)))
        jax.block_until_ready(kernel(*part))  # compiled
        start = time.perf_counter()
        h = jax.block_until_ready(kernel(*part))
        found.append((h.size, time.perf_counter() - start))
        if size >= most or found[-1][1] > _TIMED:
            break
        size = min(4 * size, most)
    memory = n1 * n2 * h.dtype.itemsize + (n1 + (0 if x2 is None else n2)) * gate_bytes
    if size >= most:
        return Cost(found[-1][1], found[-1][1], found[-1][1], memory, most)
    (p, s), (q, t) = ((0, 0.0), *found)[-2:]
    seconds = t + max(t - s, 0.0) / (q - p) * (n1 * n2 - q)
    return Cost(seconds, seconds / _FACTOR, seconds * _FACTOR, memory, size)


def tell_if_long(pairs: int, positions: Sequence[int]) -> None:
    """One line of the logger "npk" before a call over position pairs that takes long."""
    seconds = 1e-9 * _PAIR * pairs * float(np.square(np.asarray(positions, float)).sum()) / cores()
    if seconds > _LONG:
        logging.getLogger("npk").warning(
            "the path kernel of %s pairs of samples will take about %s on %d cores; path_kernel(f).estimate(…) times "
            "it, npk.tiles computes it in pieces that are kept.",
            f"{pairs:,}",
            _duration(seconds),
            cores(),
        )


def _duration(seconds: float) -> str:
    for unit, size in (("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.0f} {unit}"
    return f"{seconds:.0f} seconds"
