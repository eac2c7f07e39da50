"""The compiled loop over pairs of samples: each runs the steps of a program on position pairs in the cache.

A step multiplies kernels by overlaps, row by row, and filters them: rows are first summed over the window's
columns, then over its rows. What is where is decided beforehand (`program`) and read from lists of
integers, so that one compilation serves all networks.
"""

import functools
from typing import Any

from npk.path_kernels.engines.pairs.vectors import Rows, compiled, rows

# The kinds of steps, of factors and of events.
PRODUCT, FILTER, POOL = range(3)
WORDS, REALS = range(2)
EMIT, COMPUTE = range(2)

# What a step's row of integers holds.
STEP_FIELDS = (
    "KIND", "FACTORS", "N_FACTORS", "OUT", "OUT_LENGTH", "OUT_PITCH", "OUT_HEIGHT", "OUT_WIDTH", "ADD",
    "IN_LENGTH", "IN_PITCH", "IN_HEIGHT", "IN_WIDTH", "ROW_STRIDE", "COLUMN_STRIDE", "DIRECT",
    "VERTICAL", "N_VERTICAL", "HORIZONTAL", "N_HORIZONTAL", "WRAP_ROWS", "WRAP_COLUMNS",
    "TOP", "BOTTOM", "LEFT", "RIGHT", "M", "M_LENGTH", "N_M", "FRONT", "T", "T_LENGTH", "T_SLOT", "N_T",
    "SPARE_K", "SPARE_O", "SPARE_D", "TABLE", "TABLE_WIDTH", "PLACES",
)  # fmt: skip
(
    KIND, FACTORS, N_FACTORS, OUT, OUT_LENGTH, OUT_PITCH, OUT_HEIGHT, OUT_WIDTH, ADD,
    IN_LENGTH, IN_PITCH, IN_HEIGHT, IN_WIDTH, ROW_STRIDE, COLUMN_STRIDE, DIRECT,
    VERTICAL, N_VERTICAL, HORIZONTAL, N_HORIZONTAL, WRAP_ROWS, WRAP_COLUMNS,
    TOP, BOTTOM, LEFT, RIGHT, M, M_LENGTH, N_M, FRONT, T, T_LENGTH, T_SLOT, N_T,
    SPARE_K, SPARE_O, SPARE_D, TABLE, TABLE_WIDTH, PLACES,
) = range(len(STEP_FIELDS))  # fmt: skip
# A factor's integers: kind, place in the first side's table, in the second's, words or channels, nodes.
F_KIND, F_ONE, F_TWO, F_COUNT, F_NODES, F_N_NODES, F_ROW, F_LENGTH = range(8)
CONSTANT, SCALE = range(2)


def _masked_product(row: Rows) -> Any:
    """m (+)= Σ over a step's factors of (Σ nodes + constant) · overlap · scale, for one position q of the rows.

    A factor's constants fill a row before the step begins (`F_ROW`).
    """
    import numba

    unsigned = numba.uint64
    product, product_real, total = row.product, row.product_real, row.total

    def masked_product(
        s: Any, factors: Any, numbers: Any, lists: Any, one: Any, two: Any, work: Any, q: Any, m: Any, add: Any
    ):  # noqa: E501
        length, zeros = s[IN_LENGTH], unsigned(0)
        shift = unsigned(q * length)
        for f in range(s[FACTORS], s[FACTORS] + s[N_FACTORS]):
            more = add or f > s[FACTORS]
            scale, count, nodes = numbers[f, SCALE], factors[f, F_COUNT], factors[f, F_N_NODES]
            k = unsigned(factors[f, F_ROW])
            if nodes == 1 and numbers[f, CONSTANT] == 0:
                k = unsigned(lists[factors[f, F_NODES]]) + shift
            elif nodes > 0:
                total(work, unsigned(s[SPARE_K]), lists, factors[f, F_NODES], nodes, shift, k, zeros, length)
                k = unsigned(s[SPARE_K])
            a, b = unsigned(factors[f, F_ONE] + q * count), unsigned(factors[f, F_TWO])
            if factors[f, F_KIND] == WORDS:
                product(work, m, k, one[0], a, two[0], b, unsigned(length), count, scale, length, more)
            else:
                o = unsigned(s[SPARE_O])
                product_real(work, m, k, o, zeros, one[1], a, two[1], b, unsigned(length), count, scale, length, more)

    return compiled(masked_product)


def _edges() -> tuple[Any, Any, Any]:
    """What is around rows of M, and above and below rows of T: zeros, or what is at the other end."""
    import numba

    unsigned = numba.uint64

    def clear(s: Any, work: Any):
        for slot in range(s[N_M]):
            at = s[M] + slot * s[M_LENGTH]
            for j in range(at, at + s[FRONT]):
                work[unsigned(j)] = 0
            for j in range(at + s[FRONT] + s[IN_LENGTH], at + s[M_LENGTH]):
                work[unsigned(j)] = 0
        for t in range(s[N_T] * s[OUT_WIDTH]):
            at = s[T] + t * s[T_LENGTH]
            for j in range(at, at + s[TOP] * s[IN_PITCH]):
                work[unsigned(j)] = 0
            for j in range(at + (s[TOP] + s[IN_HEIGHT]) * s[IN_PITCH], at + s[T_LENGTH]):
                work[unsigned(j)] = 0

    def wrap_columns(s: Any, work: Any, m: Any):
        width, pitch = unsigned(s[IN_WIDTH]), unsigned(s[IN_PITCH])
        height, left, right = s[IN_HEIGHT], s[LEFT], s[RIGHT]
        for t in range(1, left + 1):
            start = unsigned(m - t)
            for row in range(height):
                work[start + unsigned(row) * pitch] = work[start + width + unsigned(row) * pitch]
        for t in range(right):
            start = unsigned(m + t)
            for row in range(height):
                work[start + width + unsigned(row) * pitch] = work[start + unsigned(row) * pitch]

    def close_rows(s: Any, work: Any, t: Any):
        rows, above, below = s[IN_HEIGHT] * s[IN_PITCH], s[TOP] * s[IN_PITCH], s[BOTTOM] * s[IN_PITCH]
        if s[WRAP_ROWS]:
            for j in range(above):
                work[unsigned(t - above + j)] = work[unsigned(t - above + rows + j)]
            for j in range(below):
                work[unsigned(t + rows + j)] = work[unsigned(t + j)]
        else:  # the last of the row's lanes may reach beyond it
            for j in range(t + rows, t + s[IN_LENGTH]):
                work[unsigned(j)] = 0

    return compiled(clear), compiled(wrap_columns), compiled(close_rows)


def _filter(row: Rows, masked_product: Any) -> Any:
    """Products of one row of positions at a time, summed over the window's columns; then over its rows."""
    import numba

    unsigned, total = numba.uint64, row.total
    clear, wrap_columns, close_rows = _edges()

    def one_row(s: Any, factors: Any, numbers: Any, lists: Any, one: Any, two: Any, work: Any, h: Any, t: Any):
        at, zeros = s[HORIZONTAL], unsigned(0)
        for _ in range(s[N_HORIZONTAL]):
            kind, index, third = lists[at], lists[at + 1], lists[at + 2]
            at += 3
            if kind == COMPUTE:
                q = h * s[IN_WIDTH] + index
                masked_product(s, factors, numbers, lists, one, two, work, q, unsigned(third), False)
                if s[WRAP_COLUMNS]:
                    wrap_columns(s, work, third)
            else:
                o = t + index * s[T_LENGTH] + s[TOP] * s[IN_PITCH]
                total(work, unsigned(o), lists, at, third, zeros, zeros, zeros, s[IN_LENGTH])
                close_rows(s, work, o)
                at += third

    def scatter(s: Any, work: Any, o: Any):
        for i in range(s[OUT_HEIGHT]):
            start = s[SPARE_D] + i * s[ROW_STRIDE] * s[IN_PITCH]
            for j in range(s[OUT_WIDTH]):
                value = work[unsigned(start + j * s[COLUMN_STRIDE])]
                place = unsigned(o + i * s[OUT_PITCH] + j)
                work[place] = work[place] + value if s[ADD] else value

    def emit(s: Any, lists: Any, work: Any, index: Any, at: Any, count: Any):
        n, zeros = ((s[OUT_HEIGHT] - 1) * s[ROW_STRIDE] + 1) * s[IN_PITCH], unsigned(0)
        for column in range(s[OUT_WIDTH]):
            o = s[OUT] + (index * s[OUT_WIDTH] + column) * s[OUT_LENGTH]
            shift = unsigned(column * s[T_LENGTH])
            first = unsigned(o) if s[DIRECT] and s[ADD] else zeros
            to = o if s[DIRECT] else s[SPARE_D]
            total(work, unsigned(to), lists, at, count, shift, first, zeros, n)
            if not s[DIRECT]:
                scattered(s, work, o)

    row_of, scattered, emitted = compiled(one_row), compiled(scatter), compiled(emit)

    def run_filter(s: Any, factors: Any, numbers: Any, lists: Any, one: Any, two: Any, work: Any):
        clear(s, work)
        at = s[VERTICAL]
        for _ in range(s[N_VERTICAL]):
            kind, index, third = lists[at], lists[at + 1], lists[at + 2]
            at += 3
            if kind == COMPUTE:
                row_of(s, factors, numbers, lists, one, two, work, index, third)
            else:
                emitted(s, lists, work, index, at, third)
                at += third

    return compiled(run_filter)


def _pool(masked_product: Any) -> Any:
    """Sums over groups of positions, on both sides; -1 in the table is no position."""
    import numba

    unsigned, wide = numba.uint64, numba.float64

    def run_pool(s: Any, factors: Any, numbers: Any, lists: Any, one: Any, two: Any, work: Any):
        u, width, groups = s[SPARE_D], s[TABLE_WIDTH], s[OUT_HEIGHT] * s[OUT_WIDTH]
        for i in range(groups):
            for j in range(u, u + s[IN_LENGTH]):
                work[unsigned(j)] = 0
            for t in range(width):
                q = lists[s[TABLE] + i * width + t]
                if q >= 0:
                    masked_product(s, factors, numbers, lists, one, two, work, q, unsigned(u), True)
            for g in range(groups):
                total = wide(0)
                for t in range(width):
                    place = lists[s[PLACES] + g * width + t]
                    if place >= 0:
                        total += work[unsigned(u + place)]
                o = s[OUT] + i * s[OUT_LENGTH] + (g // s[OUT_WIDTH]) * s[OUT_PITCH] + g % s[OUT_WIDTH]
                work[unsigned(o)] = work[unsigned(o)] + total if s[ADD] else total

    return compiled(run_pool)


@functools.cache
def pairs() -> Any:
    """The loop over some pairs, for float32 and float64.

    It takes the program (steps, factors, numbers, lists), the tables of both sides (words, reals: a row a
    sample), memory to work in, where in it the result is, out [n1, n2], a row and a range of columns of it.
    """
    import numba

    unsigned = numba.uint64
    row = rows()
    masked_product = _masked_product(row)
    run_filter, run_pool = _filter(row, masked_product), _pool(masked_product)

    def run(steps: Any, factors: Any, numbers: Any, lists: Any, words1: Any, reals1: Any, words2: Any, reals2: Any,
            work: Any, result: Any, out: Any, i: Any, start: Any, stop: Any):  # fmt: skip
        one = (words1[i], reals1[i])
        for f in range(len(factors)):
            for k in range(factors[f, F_ROW], factors[f, F_ROW] + factors[f, F_LENGTH]):
                work[unsigned(k)] = numbers[f, CONSTANT]
        for j in range(start, stop):
            two = (words2[j], reals2[j])
            for n in range(len(steps)):
                s = steps[n]
                if s[KIND] == FILTER:
                    run_filter(s, factors, numbers, lists, one, two, work)
                elif s[KIND] == POOL:
                    run_pool(s, factors, numbers, lists, one, two, work)
                else:
                    for q in range(s[IN_HEIGHT] * s[IN_WIDTH]):
                        m = unsigned(s[OUT] + q * s[OUT_LENGTH])
                        masked_product(s, factors, numbers, lists, one, two, work, q, m, s[ADD] == 1)
            out[i, j] = work[result]

    return compiled(run, outermost=True)
