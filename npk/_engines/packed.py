"""CPU engine for the path kernel of dense networks under hard gates: an overlap is AND and a bit count.

Gates are 0 or 1, so 64 of them fit a machine word and an overlap of 64 channels is one AND and one
population count: exact, and on CPUs with vector bit counts several times faster than any matrix product.
A block of the kernel stays in the cache while all layers multiply into it.
"""

import functools
import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np

_ROWS, _COLUMNS = 64, 1024  # rows one task owns; columns whose words stay in the cache for them


def available() -> bool:
    """Whether Numba can be imported."""
    try:
        import numba  # noqa: F401
    except ImportError:
        return False
    return True


def pack(gates: np.ndarray) -> np.ndarray:
    """Gates [n, width] of 0 and 1 as words [n, ceil(width / 64)]."""
    bits = np.packbits(np.asarray(gates, bool), axis=-1, bitorder="little")
    return np.pad(bits, [(0, 0), (0, -bits.shape[1] % 8)]).view(np.uint64)


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

    def multiply_row(a: Any, b: Any, scale: Any, shift: Any, h: Any) -> None:
        for j in range(h.shape[0]):
            count: Any = numba.int64(0)
            for w in range(words):
                count += numba.int64(count_bits(a[w] & b[w, j]))
            h[j] = (h[j] + shift) * (real(count) * scale)

    def multiply(one: Any, two: Any, scale: Any, shift: Any, h: Any) -> None:
        n1, n2 = h.shape
        for block in numba.prange((n1 + _ROWS - 1) // _ROWS):
            for left in range(0, n2, _COLUMNS):
                right = min(left + _COLUMNS, n2)
                for i in range(block * _ROWS, min(n1, block * _ROWS + _ROWS)):
                    row(one[i], two[:, left:right], scale, shift, h[i, left:right])

    # Numba compiles the functions themselves, not what a type checker may have wrapped around them.
    count_bits: Any = intrinsic(inspect.unwrap(bit_count))
    row: Any = numba.njit(boundscheck=False, nogil=True)(inspect.unwrap(multiply_row))
    return numba.njit(parallel=True, boundscheck=False, nogil=True)(inspect.unwrap(multiply))


def multiply_overlaps(
    h: np.ndarray,
    gates1: Sequence[np.ndarray],
    gates2: Sequence[np.ndarray],
    scales: Sequence[float],
    shifts: Sequence[float],
) -> np.ndarray:
    """H ← (h + shift_l) · scale_l · (G_l G_l'ᵀ) for every layer l, in place.

    Args:
        h: the kernel of the first layer, [n1, n2], float32 or float64, C-contiguous and writable.
        gates1: for each layer the gates of the rows, [n1, width], 0 or 1.
        gates2: for each layer the gates of the columns, [n2, width].
        scales: what each overlap is multiplied by.
        shifts: what is added before (the kernel of a bias).

    Returns:
        h.
    """
    real = h.dtype.type
    for one, two, scale, shift in zip(gates1, gates2, scales, shifts, strict=True):
        rows, columns = pack(one), np.ascontiguousarray(pack(two).T)
        _multiplier(rows.shape[1], h.dtype == np.float32)(rows, columns, real(scale), real(shift), h)
    return h
