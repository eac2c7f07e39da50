"""The compiled loop for networks of one grid: convolutions of stride one, then the sum over all positions.

In displacement coordinates (p, δ = p' - p, both around the ring of positions) a convolution adds up
neighbours p at the same δ. So displacements do not mix until the last sum, and eight of them at a time go
through all layers without leaving the cache: a vector holds eight neighbouring column displacements. Where
the padding is zero, what would reach around the ring is masked.
"""

import functools
from typing import Any

import numba

from npk.path_kernels.engines.dense import compiled, inlined, kept, source_of
from npk.path_kernels.engines.pairs import vectors
from npk.path_kernels.engines.pairs.ring_program import SHAPE, STEP
from npk.path_kernels.engines.pairs.vectors import LANES, factors_product, fill_constants, masked, total, unsigned

SOURCE = source_of(__spec__)


@functools.cache
def pairs(dtype: Any) -> Any:
    """The loop over some pairs, as that of `loops`, with the integers `shape` in place of where the result is."""
    return kept(_pairs, vectors.loop_signature(STEP, numba.from_dtype(SHAPE), dtype), vectors)


@inlined
def columns(s: Any, shape: Any, lists: Any, work: Any, dw: Any, t: Any):
    """A row of T: sums of a row of M over the window's columns."""
    row, m, zeros = shape.width * LANES, shape.m, unsigned(0)
    at, count = s.columns, s.n_columns
    if s.wrap_columns:
        for j in range(s.left * LANES):
            work[unsigned(m - s.left * LANES + j)] = work[unsigned(m - s.left * LANES + row + j)]
        for j in range(s.right * LANES):
            work[unsigned(m + row + j)] = work[unsigned(m + j)]
        total(work, t, lists, at, count, zeros, zeros, row)
        return
    x = unsigned(m) if s.centre else zeros
    mask = unsigned(s.masks + dw * shape.width)
    distance = unsigned(shape.rounded * shape.width)
    for tap in range(0, max(count, 1), 2):
        y = unsigned(lists[at + tap]) if tap < count else zeros
        z = unsigned(lists[at + tap + 1]) if tap + 1 < count else zeros
        first = mask + unsigned(tap) * distance
        second = first + distance if tap + 1 < count else zeros
        for j in range(0, row, LANES):
            i = unsigned(j)
            masked(work, t + i, x + i, (first if tap < count else zeros) + i, y + i, second + i, z + i)
        x = t


@compiled
def layer(s: Any, shape: Any, factors: Any, numbers: Any, lists: Any, one: Any, two: Any, work: Any, dh: Any, dw: Any):
    """One convolution at eight displacements: T from all rows of M, then the node from T."""
    height, width, row, zeros = shape.height, shape.width, shape.width * LANES, unsigned(0)
    spare_k, spare_o, step = unsigned(shape.spare_k), unsigned(shape.spare_o), unsigned(height * shape.table_row)
    last = s.out < 0
    if not (last or s.wrap_columns):
        for j in range(s.left * LANES):
            work[unsigned(shape.m - 1 - j)] = 0
        for j in range(s.right * LANES):
            work[unsigned(shape.m + row + j)] = 0
    for h in range(height):
        m, shift = unsigned(shape.sum if last else shape.m), unsigned(h * row)
        other = unsigned((h + dh) % height * shape.table_row + dw)
        factors_product(
            s, factors, numbers, lists, one, two, work, m, last, spare_k, spare_o, h * width, True, other, step, shift,
            width,
        )  # fmt: skip
        if not last:
            columns(s, shape, lists, work, dw, unsigned(shape.t + h * row))
    if last:
        return
    for h in range(height):
        across, count = (h + dh) % height, 0
        for tap in range(s.n_rows):
            to = lists[s.rows + tap]
            inside = 0 <= h + to < height and 0 <= across + to < height
            if inside or s.wrap_rows:
                lists[shape.places + count] = shape.t + (h + to) % height * row
                count += 1
        total(work, unsigned(s.out + h * row), lists, shape.places, count, zeros, zeros, row)


def _pairs(
    steps: Any, factors: Any, numbers: Any, lists: Any, words1: Any, reals1: Any, words2: Any, reals2: Any, work: Any,
    shape: Any, out: Any, i: Any, start: Any, stop: Any,
):  # fmt: skip
    one, width = (words1[i], reals1[i]), shape.width
    fill_constants(factors, numbers, work)
    for j in range(start, stop):
        two = (words2[j], reals2[j])
        result = numba.float64(0)
        for dh in range(shape.height):
            for dw in range(0, width, LANES):
                for k in range(width * LANES):
                    work[unsigned(shape.sum + k)] = 0
                for n in range(len(steps)):
                    layer(steps[n], shape, factors, numbers, lists, one, two, work, dh, dw)
                for lane in range(min(LANES, width - dw)):
                    for w in range(width):
                        result += work[unsigned(shape.sum + w * LANES + lane)]
        out[i, j] = result
