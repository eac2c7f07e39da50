"""Compiled loops over rows of numbers, eight at a time: overlaps times kernels, sums of shifted rows.

A row is given by the array and the place where it begins, and is as long as a multiple of `LANES`. The vector
instructions are written out: left to itself the compiler takes as many lanes as there are machine words in a
register, half of what fits, and guards every loop with checks that take longer to compile than all the rest.
Places are unsigned, so that none counts from the end.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any

LANES = 8
CHANNELS = 4  # real numbers are multiplied so many channels at a time


def compiled(function: Callable[..., Any], *, outermost: bool = False, inline: bool = False) -> Any:
    """The function by Numba, and not what a type checker may have wrapped around it."""
    import numba

    options: dict[str, Any] = {"boundscheck": False, "nogil": True, "error_model": "numpy", "_nrt": False}
    if not outermost:
        options |= {"no_cpython_wrapper": True, "no_cfunc_wrapper": True, "forceinline": inline}
    return numba.njit(**options)(inspect.unwrap(function))


class _Vectors:
    """Writes instructions on vectors of `LANES` numbers that lie in arrays."""

    def __init__(self, context: Any, builder: Any, signature: Any):
        from llvmlite import ir

        self.ir, self.context, self.builder, self.kinds = ir, context, builder, signature.args
        self.real = context.get_value_type(signature.args[0].dtype)

    def of(self, element: Any) -> Any:
        return self.ir.VectorType(element, LANES)

    def place(self, number: int, array: Any, at: Any) -> Any:
        """Where argument `number`, an array, has its element `at`."""
        kind = self.kinds[number]
        data = self.context.make_array(kind)(self.context, self.builder, array).data
        element = self.context.get_value_type(kind.dtype)
        return self.builder.bitcast(self.builder.gep(data, [at]), self.of(element).as_pointer())

    def load(self, number: int, array: Any, at: Any) -> Any:
        value = self.builder.load(self.place(number, array, at))
        value.align = 4
        return value

    def store(self, value: Any, array: Any, at: Any) -> Any:
        self.builder.store(value, self.place(0, array, at)).align = 4
        return self.context.get_dummy_value()

    def spread(self, value: Any) -> Any:
        """One number in all lanes."""
        ir, narrow = self.ir, self.ir.IntType(32)
        undefined = ir.Constant(self.of(value.type), ir.Undefined)
        first = self.builder.insert_element(undefined, value, ir.Constant(narrow, 0))
        return self.builder.shuffle_vector(first, undefined, ir.Constant(self.of(narrow), [0] * LANES))

    def plus_product(self, a: Any, b: Any, c: Any) -> Any:
        """a + b·c, in one instruction where there is one."""
        return self.builder.fadd(a, self.builder.fmul(b, c, flags=("contract",)), flags=("contract",))

    def counts(self, bits: Any) -> Any:
        from numba.core import cgutils

        kind = self.of(self.ir.IntType(64))
        count = cgutils.get_or_insert_function(
            self.builder.module, self.ir.FunctionType(kind, [kind]), f"llvm.ctpop.v{LANES}i64"
        )
        return self.builder.call(count, [bits])

    def as_real(self, integers: Any) -> Any:
        narrow = self.builder.trunc(integers, self.of(self.ir.IntType(32)))
        return self.builder.sitofp(narrow, self.of(self.real))


def vector_product(words: int, add: bool) -> Any:
    """m (+)= k · scale · count(a & b), a being one word or two."""
    from numba.core import types
    from numba.extending import intrinsic

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        work, m, k, table, b, step, first, second, scale = args
        v = _Vectors(context, builder, signature)
        total = v.counts(builder.and_(v.load(3, table, b), v.spread(first)))
        if words == 2:
            total = builder.add(total, v.counts(builder.and_(v.load(3, table, builder.add(b, step)), v.spread(second))))
        overlap = builder.fmul(v.as_real(total), v.spread(scale))
        if add:
            value = v.plus_product(v.load(0, work, m), v.load(0, work, k), overlap)
        else:
            value = builder.fmul(v.load(0, work, k), overlap)
        return v.store(value, work, m)

    def typed(
        typing: Any, work: Any, m: Any, k: Any, table: Any, b: Any, step: Any, first: Any, second: Any, scale: Any
    ) -> Any:
        return types.void(work, m, k, table, b, step, first, second, scale), generate

    return intrinsic(inspect.unwrap(typed))


def vector_three() -> Any:
    """o = x + y + z."""
    from numba.core import types
    from numba.extending import intrinsic

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        work, o, *places = args
        v = _Vectors(context, builder, signature)
        x, y, z = (v.load(0, work, place) for place in places)
        return v.store(builder.fadd(builder.fadd(x, y), z), work, o)

    def typed(typing: Any, work: Any, o: Any, x: Any, y: Any, z: Any) -> Any:
        return types.void(work, o, x, y, z), generate

    return intrinsic(inspect.unwrap(typed))


def vector_channels() -> Any:
    """o = x + Σ_c values[a + c] · table[b + c·step] over `CHANNELS` channels."""
    from numba.core import types
    from numba.extending import intrinsic

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        work, o, x, values, a, table, b, step = args
        v = _Vectors(context, builder, signature)
        total = v.load(0, work, x)
        data = context.make_array(signature.args[3])(context, builder, values).data
        for c in range(CHANNELS):
            number = builder.load(builder.gep(data, [builder.add(a, a.type(c))]))
            total = v.plus_product(total, v.spread(number), v.load(5, table, b))
            b = builder.add(b, step)
        return v.store(total, work, o)

    def typed(typing: Any, work: Any, o: Any, x: Any, values: Any, a: Any, table: Any, b: Any, step: Any) -> Any:
        return types.void(work, o, x, values, a, table, b, step), generate

    return intrinsic(inspect.unwrap(typed))


def vector_times() -> Any:
    """m = x + k · (o · scale)."""
    from numba.core import types
    from numba.extending import intrinsic

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        work, m, x, k, o, scale = args
        v = _Vectors(context, builder, signature)
        scaled = builder.fmul(v.load(0, work, o), v.spread(scale))
        return v.store(v.plus_product(v.load(0, work, x), v.load(0, work, k), scaled), work, m)

    def typed(typing: Any, work: Any, m: Any, x: Any, k: Any, o: Any, scale: Any) -> Any:
        return types.void(work, m, x, k, o, scale), generate

    return intrinsic(inspect.unwrap(typed))


def vector_masked() -> Any:
    """o = x + f·y + g·z."""
    from numba.core import types
    from numba.extending import intrinsic

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        work, o, *places = args
        v = _Vectors(context, builder, signature)
        x, f, y, g, z = (v.load(0, work, place) for place in places)
        return v.store(v.plus_product(v.plus_product(x, f, y), g, z), work, o)

    def typed(typing: Any, work: Any, o: Any, x: Any, f: Any, y: Any, g: Any, z: Any) -> Any:
        return types.void(work, o, x, f, y, g, z), generate

    return intrinsic(inspect.unwrap(typed))


# -------------------------------------------------------------------------------------------- rows


@dataclasses.dataclass(frozen=True)
class Rows:
    """Functions on rows, compiled on first use.

    product(work, m, k, words, a, table, b, step, count, scale, n, add): m (+)= k · scale · the overlap of the
    `count` words from a and the rows b, b + step, … of the table. product_real likewise with numbers, and with
    two more places before `words`: a row to spare, and a row of zeros. total(work, o, lists, at, count, shift,
    first, zeros, n): row `first` and those of the places in a list, all of these moved by `shift`.
    """

    product: Any
    product_real: Any
    total: Any


def _product() -> Any:
    """Two words a pass."""
    import numba

    unsigned = numba.uint64
    one, one_more = vector_product(1, False), vector_product(1, True)
    two, two_more = vector_product(2, False), vector_product(2, True)

    def product(
        work: Any, m: Any, k: Any, words: Any, a: Any, table: Any, b: Any, step: Any, count: Any, scale: Any, n: Any,
        add: Any,
    ):  # fmt: skip
        for w in range(0, count, 2):
            first, at = words[a + unsigned(w)], b + unsigned(w) * step
            if w + 1 < count:
                second = words[a + unsigned(w + 1)]
                if add or w > 0:
                    for j in range(0, n, LANES):
                        i = unsigned(j)
                        two_more(work, m + i, k + i, table, at + i, step, first, second, scale)
                else:
                    for j in range(0, n, LANES):
                        i = unsigned(j)
                        two(work, m + i, k + i, table, at + i, step, first, second, scale)
            elif add or w > 0:
                for j in range(0, n, LANES):
                    i = unsigned(j)
                    one_more(work, m + i, k + i, table, at + i, step, first, first, scale)
            else:
                for j in range(0, n, LANES):
                    i = unsigned(j)
                    one(work, m + i, k + i, table, at + i, step, first, first, scale)

    return compiled(product, inline=True)


def _product_real() -> Any:
    import numba

    unsigned = numba.uint64
    channels, times = vector_channels(), vector_times()

    def product_real(
        work: Any, m: Any, k: Any, o: Any, zeros: Any, values: Any, a: Any, table: Any, b: Any, step: Any, count: Any,
        scale: Any, n: Any, add: Any,
    ):  # fmt: skip
        x = zeros
        for c in range(0, count, CHANNELS):
            at, row = a + unsigned(c), b + unsigned(c) * step
            for j in range(0, n, LANES):
                i = unsigned(j)
                channels(work, o + i, x + i, values, at, table, row + i, step)
            x = o
        x = m if add else zeros
        for j in range(0, n, LANES):
            i = unsigned(j)
            times(work, m + i, x + i, k + i, o + i, scale)

    return compiled(product_real)


def _total() -> Any:
    """Two rows of the list a pass (three where `first` is zeros and nothing else)."""
    import numba

    unsigned = numba.uint64
    three = vector_three()

    def total(work: Any, o: Any, lists: Any, at: Any, count: Any, shift: Any, first: Any, zeros: Any, n: Any):
        x, t = first, 0
        if first == zeros and count >= 3:
            x, t = unsigned(lists[at]) + shift, 1
        while True:
            y = unsigned(lists[at + t]) + shift if t < count else zeros
            z = unsigned(lists[at + t + 1]) + shift if t + 1 < count else zeros
            for j in range(0, n, LANES):
                i = unsigned(j)
                three(work, o + i, x + i, y + i, z + i)
            x, t = o, t + 2
            if t >= count:
                return

    return compiled(total, inline=True)


@functools.cache
def rows() -> Rows:
    """The functions, for float32 and float64."""
    return Rows(_product(), _product_real(), _total())
