"""The compiled loops of the packed engine."""

import functools
import inspect
from typing import Any

import numba
from llvmlite import ir
from numba.extending import intrinsic

from npk.path_kernels.engines.dense.compiling import kept, source_of

SOURCE = source_of(__spec__)

_COLUMNS = 1024  # whose words stay in the cache for all rows of a task
_place = numba.uint64  # none counts from the end: with signed places the loops are not vectorized


@functools.cache
def packer(dtype: Any) -> Any:
    """(gates [n, width], words, counts) → whether all of them are 0 or 1; they are written to words and counts."""
    gates = numba.types.Array(numba.from_dtype(dtype), 2, "C", readonly=True)
    return kept(_pack, numba.boolean(gates, numba.uint64[:, ::1], numba.int64[::1]))


def _pack(gates: Any, words: Any, counts: Any) -> bool:
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


def _count_bits(typing_context: Any, word: Any) -> Any:  # Numba has no population count of its own
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.call(builder.module.declare_intrinsic("llvm.ctpop", [ir.IntType(64)]), args)

    return numba.uint64(numba.uint64), generate


_count: Any = intrinsic(inspect.unwrap(_count_bits))


@functools.lru_cache(maxsize=32)
def multiplier(n_words: int, dtype: Any) -> Any:
    """The loop over rows start to stop for one number of words, so that the bit counts of a pair are unrolled."""
    real = numba.from_dtype(dtype)

    def multiply(one: Any, two: Any, scales: Any, shifts: Any, base: Any, h: Any, start: int, stop: int) -> None:
        for left in range(0, h.shape[1], _COLUMNS):
            right = min(left + _COLUMNS, h.shape[1])
            for layer in range(one.shape[0]):
                before, b, scale, shift = base if layer == 0 else h, two[layer], scales[layer], shifts[layer]
                for i in range(_place(start), _place(stop)):
                    a = one[layer, i]
                    for j in range(_place(left), _place(right)):
                        count: Any = numba.int64(0)
                        for w in range(n_words):
                            count += numba.int64(_count(a[_place(w)] & b[_place(w), j]))
                        h[i, j] = (before[i, j] + shift) * (real(count) * scale)

    given = numba.types.Array(real, 2, "C", readonly=True)
    words, numbers, row = numba.uint64[:, :, ::1], real[::1], numba.int64
    return kept(multiply, numba.void(words, words, numbers, numbers, given, real[:, ::1], row, row))
