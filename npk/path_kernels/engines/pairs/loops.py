"""The compiled loop over pairs of samples: each runs the steps of a program on position pairs in the cache.

A step multiplies kernels by overlaps, row by row, and filters them: rows are first summed over the window's
columns, then over its rows. What is where is decided beforehand (`program`) and read from lists of
integers, so that one compilation serves all networks.
"""

import functools
from typing import Any

import numba

from npk.path_kernels.engines.dense import compiled, kept, source_of
from npk.path_kernels.engines.pairs import vectors
from npk.path_kernels.engines.pairs.program import COMPUTE, FILTER, POOL, STEP
from npk.path_kernels.engines.pairs.vectors import LANES, factors_product, fill_constants, total, unsigned

SOURCE = source_of(__spec__)


@functools.cache
def pairs(dtype: Any) -> Any:
    """The loop over some pairs, for float32 or float64."""
    return kept(_pairs, vectors.loop_signature(STEP, numba.int64, dtype), vectors)


@compiled
def masked_product(
    s: Any, factors: Any, numbers: Any, lists: Any, one: Any, two: Any, work: Any, q: Any, m: Any, add: Any
):
    """m (+)= Σ over a step's factors of (Σ nodes + constant) · overlap · scale, for one position q of the rows."""
    length, spare_k, spare_o = unsigned(s.in_length), unsigned(s.spare_k), unsigned(s.spare_o)
    shift, n, none = unsigned(q) * length, s.in_length // LANES, unsigned(0)
    factors_product(
        s, factors, numbers, lists, one, two, work, m, add, spare_k, spare_o, q, False, none, length, shift, n
    )


@compiled
def clear(s: Any, work: Any):
    """What is around rows of M, and above and below rows of T: zeros."""
    for slot in range(s.n_m):
        at = s.m + slot * s.m_length
        for j in range(at, at + s.front):
            work[unsigned(j)] = 0
        for j in range(at + s.front + s.in_length, at + s.m_length):
            work[unsigned(j)] = 0
    for t in range(s.n_t * s.out_width):
        at = s.t + t * s.t_length
        for j in range(at, at + s.top * s.in_pitch):
            work[unsigned(j)] = 0
        for j in range(at + (s.top + s.in_height) * s.in_pitch, at + s.t_length):
            work[unsigned(j)] = 0


@compiled
def wrap_columns(s: Any, work: Any, m: Any):
    """Around a row of M: what is at the other end."""
    width, pitch = unsigned(s.in_width), unsigned(s.in_pitch)
    height, left, right = s.in_height, s.left, s.right
    for t in range(1, left + 1):
        start = unsigned(m - t)
        for row in range(height):
            work[start + unsigned(row) * pitch] = work[start + width + unsigned(row) * pitch]
    for t in range(right):
        start = unsigned(m + t)
        for row in range(height):
            work[start + width + unsigned(row) * pitch] = work[start + unsigned(row) * pitch]


@compiled
def close_rows(s: Any, work: Any, t: Any):
    """Above and below a row of T: what is at the other end, or zeros after it."""
    rows, above, below = s.in_height * s.in_pitch, s.top * s.in_pitch, s.bottom * s.in_pitch
    if s.wrap_rows:
        for j in range(above):
            work[unsigned(t - above + j)] = work[unsigned(t - above + rows + j)]
        for j in range(below):
            work[unsigned(t + rows + j)] = work[unsigned(t + j)]
    else:  # the last of the row's lanes may reach beyond it
        for j in range(t + rows, t + s.in_length):
            work[unsigned(j)] = 0


@compiled
def one_row(s: Any, factors: Any, numbers: Any, lists: Any, one: Any, two: Any, work: Any, h: Any, t: Any):
    """A row of positions: its products, summed over the window's columns."""
    at, zeros = s.horizontal, unsigned(0)
    for _ in range(s.n_horizontal):
        kind, index, third = lists[at], lists[at + 1], lists[at + 2]
        at += 3
        if kind == COMPUTE:
            q = h * s.in_width + index
            masked_product(s, factors, numbers, lists, one, two, work, q, unsigned(third), False)
            if s.wrap_columns:
                wrap_columns(s, work, third)
        else:
            o = t + index * s.t_length + s.top * s.in_pitch
            total(work, unsigned(o), lists, at, third, zeros, zeros, s.in_length)
            close_rows(s, work, o)
            at += third


@compiled
def scatter(s: Any, work: Any, o: Any):
    """The node's numbers among those of the strides."""
    for i in range(s.out_height):
        start = s.spare_d + i * s.row_stride * s.in_pitch
        for j in range(s.out_width):
            value = work[unsigned(start + j * s.column_stride)]
            place = unsigned(o + i * s.out_pitch + j)
            work[place] = work[place] + value if s.add else value


@compiled
def emit(s: Any, lists: Any, work: Any, index: Any, at: Any, count: Any):
    """An output's row, summed over the window's rows."""
    n, zeros = ((s.out_height - 1) * s.row_stride + 1) * s.in_pitch, unsigned(0)
    for column in range(s.out_width):
        o = s.out + (index * s.out_width + column) * s.out_length
        shift = unsigned(column * s.t_length)
        first = unsigned(o) if s.direct and s.add else zeros
        to = o if s.direct else s.spare_d
        total(work, unsigned(to), lists, at, count, shift, first, n)
        if not s.direct:
            scatter(s, work, o)


@compiled
def run_filter(s: Any, factors: Any, numbers: Any, lists: Any, one: Any, two: Any, work: Any):
    """Products of one row of positions at a time, summed over the window's columns; then over its rows."""
    clear(s, work)
    at = s.vertical
    for _ in range(s.n_vertical):
        kind, index, third = lists[at], lists[at + 1], lists[at + 2]
        at += 3
        if kind == COMPUTE:
            one_row(s, factors, numbers, lists, one, two, work, index, third)
        else:
            emit(s, lists, work, index, at, third)
            at += third


@compiled
def run_pool(s: Any, factors: Any, numbers: Any, lists: Any, one: Any, two: Any, work: Any):
    """Sums over groups of positions, on both sides; -1 in the table is no position."""
    u, width, groups = s.spare_d, s.table_width, s.out_height * s.out_width
    for i in range(groups):
        for j in range(u, u + s.in_length):
            work[unsigned(j)] = 0
        for t in range(width):
            q = lists[s.table + i * width + t]
            if q >= 0:
                masked_product(s, factors, numbers, lists, one, two, work, q, unsigned(u), True)
        for g in range(groups):
            sums = numba.float64(0)
            for t in range(width):
                place = lists[s.places + g * width + t]
                if place >= 0:
                    sums += work[unsigned(u + place)]
            o = s.out + i * s.out_length + (g // s.out_width) * s.out_pitch + g % s.out_width
            work[unsigned(o)] = work[unsigned(o)] + sums if s.add else sums


def _pairs(
    steps: Any, factors: Any, numbers: Any, lists: Any, words1: Any, reals1: Any, words2: Any, reals2: Any, work: Any,
    result: Any, out: Any, i: Any, start: Any, stop: Any,
):  # fmt: skip
    one = (words1[i], reals1[i])
    fill_constants(factors, numbers, work)
    for j in range(start, stop):
        two = (words2[j], reals2[j])
        for n in range(len(steps)):
            s = steps[n]
            if s.kind == FILTER:
                run_filter(s, factors, numbers, lists, one, two, work)
            elif s.kind == POOL:
                run_pool(s, factors, numbers, lists, one, two, work)
            else:
                for q in range(s.in_height * s.in_width):
                    m = unsigned(s.out + q * s.out_length)
                    masked_product(s, factors, numbers, lists, one, two, work, q, m, s.add == 1)
        out[i, j] = work[result]
