"""The compiled loop for networks of one grid: convolutions of stride one, then the sum over all positions.

In displacement coordinates (p, δ = p' - p, both around the ring of positions) a convolution adds up
neighbours p at the same δ. So displacements do not mix until the last sum, and eight of them at a time go
through all layers without leaving the cache: a vector holds eight neighbouring column displacements. Where
the padding is zero, what would reach around the ring is masked.
"""

import functools
from typing import Any

from npk.path_kernels.engines.pairs import vectors
from npk.path_kernels.engines.pairs.loops import (
    CONSTANT,
    F_COUNT,
    F_KIND,
    F_LENGTH,
    F_N_NODES,
    F_NODES,
    F_ONE,
    F_ROW,
    F_TWO,
    SCALE,
    WORDS,
)
from npk.path_kernels.engines.pairs.vectors import CHANNELS, LANES, compiled

# A step's integers: its factors, where its node is (-1: the last sum), the shifts of its window's rows and
# columns and whether they go around, where the masks of the columns are.
STEP_FIELDS = (
    "FACTORS", "N_FACTORS", "OUT", "ROWS", "N_ROWS", "WRAP_ROWS", "COLUMNS", "N_COLUMNS", "WRAP_COLUMNS",
    "LEFT", "RIGHT", "MASKS", "CENTRE",
)  # fmt: skip
(
    FACTORS, N_FACTORS, OUT, ROWS, N_ROWS, WRAP_ROWS, COLUMNS, N_COLUMNS, WRAP_COLUMNS,
    LEFT, RIGHT, MASKS, CENTRE,
) = range(len(STEP_FIELDS))  # fmt: skip
# Integers of the whole program: the grid, the length of a row of a table, places in memory.
SHAPE_FIELDS = ("HEIGHT", "WIDTH", "ROUNDED", "TABLE_ROW", "SPARE_K", "SPARE_O", "M", "T", "SUM", "PLACES")
HEIGHT, WIDTH, ROUNDED, TABLE_ROW, SPARE_K, SPARE_O, M, T, SUM, PLACES = range(len(SHAPE_FIELDS))


def _product() -> Any:
    """m (+)= Σ over factors of (Σ nodes + constant) · overlap · scale: a row h of positions, eight displacements."""
    import numba

    unsigned, total = numba.uint64, vectors.rows().total
    one_word, one_word_more = vectors.vector_product(1, False), vectors.vector_product(1, True)
    two_words, two_words_more = vectors.vector_product(2, False), vectors.vector_product(2, True)
    channels, times = vectors.vector_channels(), vectors.vector_times()

    def words_row(
        work: Any,
        m: Any,
        k: Any,
        words: Any,
        a: Any,
        table: Any,
        b: Any,
        step: Any,
        count: Any,
        scale: Any,
        width: Any,
        add: Any,
    ):  # noqa: E501
        stride = unsigned(count)
        for t in range(0, count, 2):
            at, place = a + unsigned(t), b + unsigned(t) * step
            if t + 1 < count:
                for w in range(width):
                    i, j, word = unsigned(w) * unsigned(LANES), unsigned(w), at + unsigned(w) * stride
                    if add or t > 0:
                        two_words_more(
                            work, m + i, k + i, table, place + j, step, words[word], words[word + unsigned(1)], scale
                        )
                    else:
                        two_words(
                            work, m + i, k + i, table, place + j, step, words[word], words[word + unsigned(1)], scale
                        )
            elif add or t > 0:
                for w in range(width):
                    i, j, first = unsigned(w) * unsigned(LANES), unsigned(w), words[at + unsigned(w) * stride]
                    one_word_more(work, m + i, k + i, table, place + j, step, first, first, scale)
            else:
                for w in range(width):
                    i, j, first = unsigned(w) * unsigned(LANES), unsigned(w), words[at + unsigned(w) * stride]
                    one_word(work, m + i, k + i, table, place + j, step, first, first, scale)

    def reals_row(
        work: Any,
        m: Any,
        k: Any,
        o: Any,
        values: Any,
        a: Any,
        table: Any,
        b: Any,
        step: Any,
        count: Any,
        scale: Any,
        width: Any,
        add: Any,
    ):  # noqa: E501
        for w in range(width):
            i, x = unsigned(w) * unsigned(LANES), unsigned(0)
            for c in range(0, count, CHANNELS):
                at = a + unsigned(w * count + c)
                channels(work, o + i, x, values, at, table, b + unsigned(w) + unsigned(c) * step, step)
                x = o + i
        for w in range(width):
            i = unsigned(w) * unsigned(LANES)
            times(work, m + i, m + i if add else unsigned(0), k + i, o + i, scale)

    of_words, of_reals = compiled(words_row, inline=True), compiled(reals_row)

    def product(
        s: Any,
        shape: Any,
        factors: Any,
        numbers: Any,
        lists: Any,
        one: Any,
        two: Any,
        work: Any,
        h: Any,
        other: Any,
        dw: Any,
        m: Any,
        add: Any,
    ):  # noqa: E501
        width, row = shape[WIDTH], shape[WIDTH] * LANES
        step = unsigned(shape[HEIGHT] * shape[TABLE_ROW])
        shift = unsigned(h * row)
        for f in range(s[FACTORS], s[FACTORS] + s[N_FACTORS]):
            more = add or f > s[FACTORS]
            scale, count, nodes = numbers[f, SCALE], factors[f, F_COUNT], factors[f, F_N_NODES]
            k = unsigned(factors[f, F_ROW])
            if nodes == 1 and numbers[f, CONSTANT] == 0:
                k = unsigned(lists[factors[f, F_NODES]]) + shift
            elif nodes > 0:
                spare = unsigned(shape[SPARE_K])
                total(work, spare, lists, factors[f, F_NODES], nodes, shift, k, unsigned(0), row)
                k = spare
            a = unsigned(factors[f, F_ONE] + h * width * count)
            b = unsigned(factors[f, F_TWO] + other * shape[TABLE_ROW] + dw)
            if factors[f, F_KIND] == WORDS:
                of_words(work, m, k, one[0], a, two[0], b, step, count, scale, width, more)
            else:
                o = unsigned(shape[SPARE_O])
                of_reals(work, m, k, o, one[1], a, two[1], b, step, count, scale, width, more)

    return compiled(product, inline=True)


def _columns() -> Any:
    """A row of T: sums of a row of M over the window's columns."""
    import numba

    unsigned, total = numba.uint64, vectors.rows().total
    masked = vectors.vector_masked()

    def columns(s: Any, shape: Any, lists: Any, work: Any, dw: Any, t: Any):
        row, m, zeros = shape[WIDTH] * LANES, shape[M], unsigned(0)
        at, count = s[COLUMNS], s[N_COLUMNS]
        if s[WRAP_COLUMNS]:
            for j in range(s[LEFT] * LANES):
                work[unsigned(m - s[LEFT] * LANES + j)] = work[unsigned(m - s[LEFT] * LANES + row + j)]
            for j in range(s[RIGHT] * LANES):
                work[unsigned(m + row + j)] = work[unsigned(m + j)]
            total(work, t, lists, at, count, zeros, zeros, zeros, row)
            return
        x = unsigned(m) if s[CENTRE] else zeros
        mask = unsigned(s[MASKS] + dw * shape[WIDTH])
        distance = unsigned(shape[ROUNDED] * shape[WIDTH])
        for tap in range(0, max(count, 1), 2):
            y = unsigned(lists[at + tap]) if tap < count else zeros
            z = unsigned(lists[at + tap + 1]) if tap + 1 < count else zeros
            first = mask + unsigned(tap) * distance
            second = first + distance if tap + 1 < count else zeros
            for j in range(0, row, LANES):
                i = unsigned(j)
                masked(work, t + i, x + i, (first if tap < count else zeros) + i, y + i, second + i, z + i)
            x = t

    return compiled(columns, inline=True)


def _layer() -> Any:
    """One convolution at eight displacements: T from all rows of M, then the node from T."""
    import numba

    unsigned, total = numba.uint64, vectors.rows().total
    product, columns = _product(), _columns()

    def layer(
        s: Any, shape: Any, factors: Any, numbers: Any, lists: Any, one: Any, two: Any, work: Any, dh: Any, dw: Any
    ):
        height, row, zeros = shape[HEIGHT], shape[WIDTH] * LANES, unsigned(0)
        if s[OUT] < 0:
            for h in range(height):
                other = (h + dh) % height
                product(s, shape, factors, numbers, lists, one, two, work, h, other, dw, unsigned(shape[SUM]), True)
            return
        if not s[WRAP_COLUMNS]:
            for j in range(s[LEFT] * LANES):
                work[unsigned(shape[M] - 1 - j)] = 0
            for j in range(s[RIGHT] * LANES):
                work[unsigned(shape[M] + row + j)] = 0
        for h in range(height):
            other = (h + dh) % height
            product(s, shape, factors, numbers, lists, one, two, work, h, other, dw, unsigned(shape[M]), False)
            columns(s, shape, lists, work, dw, unsigned(shape[T] + h * row))
        for h in range(height):
            other, count = (h + dh) % height, 0
            for tap in range(s[N_ROWS]):
                shift = lists[s[ROWS] + tap]
                inside = 0 <= h + shift < height and 0 <= other + shift < height
                if inside or s[WRAP_ROWS]:
                    lists[shape[PLACES] + count] = shape[T] + (h + shift) % height * row
                    count += 1
            total(work, unsigned(s[OUT] + h * row), lists, shape[PLACES], count, zeros, zeros, zeros, row)

    return compiled(layer)


@functools.cache
def rings() -> Any:
    """The loop over some pairs, as `loops.pairs`, with the integers `shape` in place of where the result is."""
    import numba

    unsigned, wide = numba.uint64, numba.float64
    layer = _layer()

    def run(steps: Any, factors: Any, numbers: Any, lists: Any, words1: Any, reals1: Any, words2: Any, reals2: Any,
            work: Any, shape: Any, out: Any, i: Any, start: Any, stop: Any):  # fmt: skip
        for f in range(len(factors)):
            for k in range(factors[f, F_ROW], factors[f, F_ROW] + factors[f, F_LENGTH]):
                work[unsigned(k)] = numbers[f, CONSTANT]
        one, width = (words1[i], reals1[i]), shape[WIDTH]
        for j in range(start, stop):
            two = (words2[j], reals2[j])
            result = wide(0)
            for dh in range(shape[HEIGHT]):
                for dw in range(0, width, LANES):
                    for k in range(width * LANES):
                        work[unsigned(shape[SUM] + k)] = 0
                    for n in range(len(steps)):
                        layer(steps[n], shape, factors, numbers, lists, one, two, work, dh, dw)
                    for lane in range(min(LANES, width - dw)):
                        for w in range(width):
                            result += work[unsigned(shape[SUM] + w * LANES + lane)]
            out[i, j] = result

    return compiled(run, outermost=True)
