"""CPU engine for the path kernel of dense networks under hard gates: an overlap is AND and a bit count.

Gates are 0 or 1, so 64 of them fit a machine word and an overlap of 64 channels is one AND and one
population count: exact, and on CPUs with vector bit counts several times faster than any matrix product.
A block of the kernel stays in the cache while all layers multiply into it.
"""

import concurrent.futures
import dataclasses
import functools
import importlib
import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from npk.programs import cores

_ROWS = 64  # that one task owns


@dataclasses.dataclass(frozen=True, eq=False)
class Words:
    """The gates of one layer: words [n, ceil(width / 64)], and how many gates are on in each row [n]."""

    words: np.ndarray
    counts: np.ndarray


def pack(gates: np.ndarray) -> Words | None:
    """Pack gates [n, width]; None where any of them is neither 0 nor 1."""
    if gates.dtype not in (np.float32, np.float64):
        gates = gates.astype(np.float32)
    words = np.empty((len(gates), -(-gates.shape[1] // 64)), np.uint64)
    counts = np.empty(len(gates), np.int64)
    return Words(words, counts) if _bits().packer(gates.dtype)(np.ascontiguousarray(gates), words, counts) else None


def _bits() -> Any:
    """The compiled loops, of a module that imports Numba."""
    return importlib.import_module("npk.path_kernels.engines.dense.bits")


def multiply_overlaps(
    base: np.ndarray,
    rows: Sequence[Words],
    columns: Sequence[Words],
    scales: Sequence[float],
    shifts: Sequence[float],
    h: np.ndarray,
) -> None:
    """H = base, then H ← (H + shift_l) · scale_l · (G_l G_l'ᵀ) for every layer l.

    Args:
        base: the kernel of the first layer, [n1, n2], float32 or float64, C-contiguous.
        rows: for each layer (at least one) the packed gates of the rows.
        columns: for each layer the packed gates of the columns.
        scales: what each overlap is multiplied by.
        shifts: what is added before (the kernel of a bias).
        h: where H goes, of the shape and dtype of base.
    """
    layers = list(zip(rows, columns, scales, shifts, strict=True))
    for size, run in itertools.groupby(layers, key=lambda layer: layer[0].words.shape[1]):
        one, two, scale, shift = zip(*run, strict=True)
        words = np.stack([g.words for g in one]), np.stack([g.words for g in two]).transpose(0, 2, 1).copy()
        numbers = np.array(scale, h.dtype), np.array(shift, h.dtype)
        task = functools.partial(_bits().multiplier(size, h.dtype), *words, *numbers, base, h)
        starts = range(0, len(h), _ROWS)
        with concurrent.futures.ThreadPoolExecutor(cores()) as pool:
            # Plain threads: OpenMP's would wait for XLA's, which keep the cores busy for a while after a call.
            list(pool.map(lambda start, task=task: task(start, min(start + _ROWS, len(h))), starts))
        base = h


def aligned(shape: tuple[int, int], dtype: Any) -> np.ndarray:
    """Memory that JAX can take over without a copy (64-byte aligned)."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    raw = np.empty(size + 64, np.uint8)
    raw.fill(0)  # pages first touched by a matrix product's threads cost several times as much
    start = -raw.ctypes.data % 64
    return raw[start : start + size].view(dtype).reshape(shape)
