"""Compiled loops over rows of numbers, eight at a time: overlaps times kernels, sums of shifted rows.

A row is given by the array and the place where it begins, and is as long as a multiple of `LANES`. The vector
instructions are written out: left to itself the compiler takes as many lanes as there are machine words in a
register, half of what fits, and guards every loop with checks that take longer to compile than all the rest.
Places are unsigned, so that none counts from the end; at place 0 of the memory worked in is a row of zeros.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import numba
from llvmlite import ir
from numba.core import cgutils
from numba.extending import intrinsic

from npk.path_kernels.engines.dense import compiled, inlined, source_of
from npk.path_kernels.engines.pairs.writing import CHANNELS, CONSTANT, FACTOR, LANES, SCALE, WORDS

SOURCE = source_of(__spec__)

unsigned = numba.uint64


def loop_signature(step: Any, result: Any, dtype: Any) -> Any:
    """Of a loop over some pairs.

    It takes the program (steps, factors, numbers, lists), the tables of both sides (words, reals: a row a sample),
    memory to work in, where the result is, out [n1, n2], a row and a range of columns of it.
    """
    real, place = numba.from_dtype(dtype), numba.int64
    program = numba.from_dtype(step)[::1], numba.from_dtype(FACTOR)[::1], real[:, ::1], place[::1]
    tables = (unsigned[:, ::1], real[:, ::1]) * 2
    return numba.void(*program, *tables, real[::1], result, real[:, :], place, place, place)


# ------------------------------------------------------------------------------------ instructions


class _Rows:
    """An array as instructions on vectors of `LANES` of its numbers."""

    def __init__(self, context: Any, builder: Any, kind: Any, array: Any):
        self.builder, self.data = builder, context.make_array(kind)(context, builder, array).data
        self.vector = ir.VectorType(context.get_value_type(kind.dtype), LANES)

    def place(self, at: Any) -> Any:
        return self.builder.bitcast(self.builder.gep(self.data, [at]), self.vector.as_pointer())

    def load(self, at: Any) -> Any:
        value = self.builder.load(self.place(at))
        value.align = 4
        return value

    def store(self, value: Any, at: Any) -> None:
        self.builder.store(value, self.place(at)).align = 4

    def plus_product(self, a: Any, b: Any, c: Any) -> Any:
        """a + b·c, in one instruction where there is one."""
        return self.builder.fadd(a, self.builder.fmul(b, c, flags=("contract",)), flags=("contract",))

    def spread(self, value: Any) -> Any:
        """One number in all lanes."""
        narrow = ir.IntType(32)
        undefined = ir.Constant(ir.VectorType(value.type, LANES), ir.Undefined)
        first = self.builder.insert_element(undefined, value, ir.Constant(narrow, 0))
        return self.builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(narrow, LANES), [0] * LANES))

    def counts(self, at: Any, word: Any) -> Any:
        """Of the bits that words have in common with one word."""
        kind = ir.FunctionType(self.vector, [self.vector])
        count = cgutils.get_or_insert_function(self.builder.module, kind, f"llvm.ctpop.v{LANES}i64")
        return self.builder.call(count, [self.builder.and_(self.load(at), self.spread(word))])

    def from_counts(self, counts: Any) -> Any:
        narrow = self.builder.trunc(counts, ir.VectorType(ir.IntType(32), LANES))
        return self.builder.sitofp(narrow, self.vector)


def _instruction(generate: Callable[..., None]) -> Any:
    """What `generate` writes, as a function of compiled ones; arrays come to it as `_Rows`."""
    generate = inspect.unwrap(generate)

    @functools.wraps(generate)
    def typed(builder: Any, *kinds: Any) -> Any:
        def lowered(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            pairs = zip(kinds, args, strict=True)
            rows = (_Rows(context, builder, k, a) if isinstance(k, numba.types.Array) else a for k, a in pairs)
            generate(builder, *rows)
            return context.get_dummy_value()

        return numba.void(*kinds), lowered

    return intrinsic(typed)


@_instruction
def _one_word(builder: Any, work: Any, m: Any, x: Any, k: Any, table: Any, b: Any, first: Any, scale: Any) -> None:
    """m = x + k · scale · count(first & b)."""
    overlap = builder.fmul(work.from_counts(table.counts(b, first)), work.spread(scale))
    work.store(work.plus_product(work.load(x), work.load(k), overlap), m)


@_instruction
def _two_words(
    builder: Any, work: Any, m: Any, x: Any, k: Any, table: Any, b: Any, step: Any, first: Any, second: Any, scale: Any
) -> None:
    """m = x + k · scale · (count(first & b) + count(second & (b + step)))."""
    total = builder.add(table.counts(b, first), table.counts(builder.add(b, step), second))
    overlap = builder.fmul(work.from_counts(total), work.spread(scale))
    work.store(work.plus_product(work.load(x), work.load(k), overlap), m)


@_instruction
def _channels(builder: Any, work: Any, o: Any, x: Any, values: Any, a: Any, table: Any, b: Any, step: Any) -> None:
    """o = x + Σ_c values[a + c] · table[b + c·step] over `CHANNELS` channels."""
    total = work.load(x)
    for c in range(CHANNELS):
        number = builder.load(builder.gep(values.data, [builder.add(a, a.type(c))]))
        total = work.plus_product(total, work.spread(number), table.load(b))
        b = builder.add(b, step)
    work.store(total, o)


@_instruction
def _times(builder: Any, work: Any, m: Any, x: Any, k: Any, o: Any, scale: Any) -> None:
    """m = x + k · (o · scale)."""
    scaled = builder.fmul(work.load(o), work.spread(scale))
    work.store(work.plus_product(work.load(x), work.load(k), scaled), m)


@_instruction
def _three(builder: Any, work: Any, o: Any, x: Any, y: Any, z: Any) -> None:
    """o = x + y + z."""
    work.store(builder.fadd(builder.fadd(work.load(x), work.load(y)), work.load(z)), o)


@_instruction
def masked(builder: Any, work: Any, o: Any, x: Any, f: Any, y: Any, g: Any, z: Any) -> None:
    """o = x + f·y + g·z."""
    first = work.plus_product(work.load(x), work.load(f), work.load(y))
    work.store(work.plus_product(first, work.load(g), work.load(z)), o)


# -------------------------------------------------------------------------------------------- rows


@inlined
def words_product(
    work: Any, m: Any, k: Any, words: Any, a: Any, along: Any, table: Any, b: Any, across: Any, step: Any, count: Any,
    scale: Any, n: Any, add: Any,
):  # fmt: skip
    """m (+)= k · scale · the overlap of `count` words from a and the rows b, b + step, … of the table.

    From one of the n vectors to the next a moves by `along` and b by `across`. Two words a pass.
    """
    for w in range(0, count, 2):
        x, both = m if add or w > 0 else unsigned(0), w + 1 < count
        word = a + unsigned(w)
        first, second = words[word], words[word + unsigned(1) if both else word]
        for v in range(n):
            i, at = unsigned(v * LANES), b + unsigned(w) * step + unsigned(v) * across
            if along > 0:
                first, second = words[word], words[word + unsigned(1) if both else word]
                word += along
            if both:
                _two_words(work, m + i, x + i, k + i, table, at, step, first, second, scale)
            else:
                _one_word(work, m + i, x + i, k + i, table, at, first, scale)


@compiled
def reals_product(
    work: Any, m: Any, k: Any, o: Any, values: Any, a: Any, along: Any, table: Any, b: Any, across: Any, step: Any,
    count: Any, scale: Any, n: Any, add: Any,
):  # fmt: skip
    """The same with numbers; o is a row to spare."""
    x = unsigned(0)
    for c in range(0, count, CHANNELS):
        for v in range(n):
            i, at = unsigned(v * LANES), b + unsigned(c) * step + unsigned(v) * across
            _channels(work, o + i, x + i, values, a + unsigned(c) + unsigned(v) * along, table, at, step)
        x = o
    x = m if add else unsigned(0)
    for v in range(n):
        i = unsigned(v * LANES)
        _times(work, m + i, x + i, k + i, o + i, scale)


@inlined
def total(work: Any, o: Any, lists: Any, at: Any, count: Any, shift: Any, first: Any, n: Any):
    """Row o, n numbers: row `first` and those of the places in a list, all of these moved by `shift`."""
    zeros = unsigned(0)
    x, t = first, 0
    if first == zeros and count >= 3:
        x, t = unsigned(lists[at]) + shift, 1
    while True:
        y = unsigned(lists[at + t]) + shift if t < count else zeros
        z = unsigned(lists[at + t + 1]) + shift if t + 1 < count else zeros
        for j in range(0, n, LANES):
            i = unsigned(j)
            _three(work, o + i, x + i, y + i, z + i)
        x, t = o, t + 2
        if t >= count:
            return


@inlined
def factors_product(
    s: Any, factors: Any, numbers: Any, lists: Any, one: Any, two: Any, work: Any, m: Any, add: Any, spare_k: Any,
    spare_o: Any, q: Any, moving: Any, other: Any, step: Any, shift: Any, n: Any,
):  # fmt: skip
    """m (+)= Σ over a step's factors of (Σ nodes + constant) · overlap · scale: n vectors.

    The first side's position is q, or q, q + 1, … where it is `moving`. The second side's rows begin at `other`, of
    which one is as long as `step`, nodes at `shift`. A factor's constants fill a row beforehand.
    """
    for f in range(s.factors, s.factors + s.n_factors):
        factor, scale, more = factors[f], numbers[f, SCALE], add or f > s.factors
        k = unsigned(factor.row)
        if factor.n_nodes == 1 and numbers[f, CONSTANT] == 0:
            k = unsigned(lists[factor.nodes]) + shift
        elif factor.n_nodes > 0:
            total(work, spare_k, lists, factor.nodes, factor.n_nodes, shift, k, n * LANES)
            k = spare_k
        a, b, count = unsigned(factor.one + q * factor.count), unsigned(factor.two) + other, factor.count
        along, across = unsigned(count if moving else 0), unsigned(1 if moving else LANES)
        if factor.kind == WORDS:
            words_product(work, m, k, one[0], a, along, two[0], b, across, step, count, scale, n, more)
        else:
            reals_product(work, m, k, spare_o, one[1], a, along, two[1], b, across, step, count, scale, n, more)


@compiled
def fill_constants(factors: Any, numbers: Any, work: Any):
    for f in range(len(factors)):
        for k in range(factors[f].row, factors[f].row + factors[f].length):
            work[unsigned(k)] = numbers[f, CONSTANT]
