"""The size of a tile: as large as pays, as far as the memory that is free now carries it."""

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import jax

from npk.programs import available_memory, program_hash
from npk.tiles.plan import Batch, Device, Leaf, leaves_of

Kernel = Callable[[Any, Any], Any]

# Beyond 2,048 samples a side a tile gains nothing: what it takes to read or prepare samples is spread over enough
# pairs, and buffers of up to 32 MiB are used again by the allocator instead of being returned to the system.
_MOST_SAMPLES = 2048
_MOST_BYTES = 16 << 20
# Of the memory that is free: of an accelerator's, and of the host's, which others use too.
_DEVICE_SHARE, _HOST_SHARE = 1 / 2, 1 / 4
# Copies of a tile on the host: as computed, symmetric or cast, encoded, and its mirror image, encoded.
COPIES = 5
_SMALL, _LARGER = 16, 64  # samples a side at which the compiled kernel's memory is measured


def free_bytes(device: Device) -> float:
    """Memory that may be used on an accelerator."""
    stats = device.memory_stats() or {}
    return _DEVICE_SHARE * (stats.get("bytes_limit", 4 << 30) - stats.get("bytes_in_use", 0))


def program_of(kernel: Kernel, one: Batch, two: Batch, tile: tuple[int, int]) -> str | None:
    """The hash of what a kernel computes of a tile, or None where it cannot be traced."""
    try:
        return program_hash(kernel, one.specs(tile[0]), two.specs(tile[1]))
    except Exception:  # whatever a kernel in plain Python makes of a tracer
        return None


def result_of(kernel: Kernel, one: Batch, two: Batch, dtype: Any, symmetric: bool, device: Device) -> tuple[Leaf, ...]:
    """Names, dtypes and further axes of what a kernel returns.

    It is traced by shapes alone where that tells the same as a call: it can be traced, and its inputs keep their
    dtypes. Else it is called with one sample of each batch.
    """
    found = None
    if all(jax.dtypes.canonicalize_dtype(a.dtype) == a.dtype for a in (*one.leaves, *two.leaves)):
        try:
            found = jax.eval_shape(kernel, one.specs(1), two.specs(1))
        except Exception:  # whatever a kernel in plain Python makes of a tracer; if it is at fault, the call tells
            found = None
    if found is None:
        found = kernel(one.block(0, 1, device), two.block(0, 1, device))
    return leaves_of(found, (1, 1), dtype, symmetric)


def choose_side(
    kernel: Kernel, one: Batch, two: Batch, leaves: Sequence[Leaf], devices: Sequence[Device]
) -> tuple[int, str]:
    """The largest number of samples a side of a tile, and why.

    Memory of a tile of s samples a side is taken as a·s + b·s²: of the inputs, the result and its copies by
    counting, of what the compiled kernel needs in passing by two small measurements.
    """
    bytes_of = [leaf.dtype.itemsize * math.prod(leaf.axes) for leaf in leaves]
    pair = sum(bytes_of)
    inputs = 2.0 * (one.sample_bytes() + two.sample_bytes())  # those of the next tile as well
    measured = _measured(kernel, one, two)
    passing = measured or (0.0, 0.0)
    host = _HOST_SHARE * available_memory() / len(devices)
    if devices[0].platform == "cpu":
        budgets = [(host, inputs + passing[0], COPIES * pair + passing[1])]
    else:
        free = min(free_bytes(device) for device in devices)
        budgets = [(free, inputs + passing[0], 2 * pair + passing[1]), (host, inputs, COPIES * pair)]
    side = int(min(_MOST_SAMPLES, (_MOST_BYTES / max(bytes_of)) ** 0.5, *(_fitting(*b) for b in budgets)))
    side = max(1, side)
    most, linear, square = budgets[0]
    how = "as compiled" if measured else "inputs and results, for the kernel cannot be compiled"
    need = (linear * side + square * side**2) / 2**20
    return side, f"{need:,.0f} MiB a tile ({how}), {most / 2**20:,.0f} MiB to be used by each device"


def _fitting(free: float, linear: float, square: float) -> float:
    """The largest s with linear·s + square·s² ≤ free."""
    return (-linear + (linear**2 + 4 * square * free) ** 0.5) / (2 * square)


def _measured(kernel: Kernel, one: Batch, two: Batch) -> tuple[float, float] | None:
    """(a, b) of the compiled kernel's temporary memory a·s + b·s², or None where it cannot be compiled."""
    sizes = _SMALL, _LARGER
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            small, larger = (_temporary(kernel, one.specs(s), two.specs(s)) for s in sizes)
    except Exception:  # whatever a kernel in plain Python, or a backend without the analysis, raises
        return None
    if small is None or larger is None:
        return None
    square = max(0.0, (larger / sizes[1] - small / sizes[0]) / (sizes[1] - sizes[0]))
    linear = max(0.0, small / sizes[0] - square * sizes[0], larger / sizes[1] - square * sizes[1])
    return linear, square


def _temporary(kernel: Kernel, one: Any, two: Any) -> float | None:
    analysis = jax.jit(kernel).lower(one, two).compile().memory_analysis()
    return None if analysis is None else float(analysis.temp_size_in_bytes)
