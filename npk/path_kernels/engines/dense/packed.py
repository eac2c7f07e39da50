"""CPU engine for the path kernel of dense networks under hard gates: an overlap is AND and a bit count.

Gates are 0 or 1, so 64 of them fit a machine word and an overlap of 64 channels is one AND and one
population count: exact, and on CPUs with vector bit counts several times faster than any matrix product.
A block of the kernel stays in the cache while all layers multiply into it.
"""

import concurrent.futures
import dataclasses
import functools
import inspect
import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from npk.programs import cores

_ROWS, _COLUMNS = 64, 1024  # rows one task owns; columns whose words stay in the cache for them


def available() -> bool:
    """Whether Numba can be imported."""
    try:
        import numba  # noqa: F401
    except ImportError:
        return False
    return True


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
    return Words(words, counts) if _packer()(np.ascontiguousarray(gates), words, counts) else None


@functools.cache
def _packer() -> Any:
    import numba

    def pack_rows(gates: Any, words: Any, counts: Any) -> bool:
        n, width = gates.shape
        wrong = 0
        for i in range(n):
            on = 0
            for w in range(words.shape[1]):
                word = numba.uint64(0)
                for j in range(64 * w, min(64 * w + 64, width)):
                    gate = gates[i, j]
                    wrong += not (gate == 0 or gate == 1)  # NaN is neither
                    on += gate == 1
                    word |= numba.uint64(gate == 1) << numba.uint64(j - 64 * w)
                words[i, w] = word
            counts[i] = on
        return wrong == 0

    # Numba compiles the functions themselves, not what a type checker may have wrapped around them.
    return numba.njit(boundscheck=False, nogil=True)(inspect.unwrap(pack_rows))


@functools.lru_cache(maxsize=32)
def _multiplier(words: int, single: bool) -> Any:
    """A compiled loop for one number of words, so that the bit counts of a pair are unrolled."""
    import numba
    from llvmlite import ir
    from numba.extending import intrinsic

    real = numba.float32 if single else numba.float64

    def bit_count(typing_context: Any, word: Any) -> Any:  # Numba has no population count of its own
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.call(builder.module.declare_intrinsic("llvm.ctpop", [ir.IntType(64)]), args)

        return numba.types.uint64(numba.types.uint64), generate

    def multiply_row(a: Any, b: Any, scale: Any, shift: Any, base: Any, h: Any) -> None:
        for j in range(h.shape[0]):
            count: Any = numba.int64(0)
            for w in range(words):
                count += numba.int64(count_bits(a[w] & b[w, j]))
            h[j] = (base[j] + shift) * (real(count) * scale)

    def multiply(one: Any, two: Any, scales: Any, shifts: Any, base: Any, h: Any, start: int, stop: int) -> None:
        n2 = h.shape[1]
        for left in range(0, n2, _COLUMNS):
            right = min(left + _COLUMNS, n2)
            for i in range(start, stop):
                row(one[0, i], two[0, :, left:right], scales[0], shifts[0], base[i, left:right], h[i, left:right])
            for layer in range(1, one.shape[0]):
                for i in range(start, stop):
                    part = h[i, left:right]
                    row(one[layer, i], two[layer, :, left:right], scales[layer], shifts[layer], part, part)

    count_bits: Any = intrinsic(inspect.unwrap(bit_count))
    row: Any = numba.njit(boundscheck=False, nogil=True)(inspect.unwrap(multiply_row))
    return numba.njit(boundscheck=False, nogil=True)(inspect.unwrap(multiply))


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
        words = np.stack([g.words for g in one]), np.stack([g.words.T for g in two])
        numbers = np.array(scale, h.dtype), np.array(shift, h.dtype)
        task = functools.partial(_multiplier(size, h.dtype == np.float32), *words, *numbers, base, h)
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
