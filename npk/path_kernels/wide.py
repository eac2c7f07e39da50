"""Numbers m · 2^e with an exponent of their own, and second moments in them: products that leave every dtype's range.

A mantissa is 0 or of size 1/2 to 1, its exponent an integer. Products add exponents; sums bring their summands to the
largest exponent first, so that what is lost is what any floating sum loses.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from npk.path_kernels.demands import Role
from npk.path_kernels.moments import SecondMoments
from npk.paths import Layer, Term, Window

# The exponent of zero: below every other, and some of them add up to an int32.
_NONE = -(1 << 24)

# Numbers of a dtype in bands of so many powers of two: products of two bands stay normal, and five hold them all.
_BAND, _BANDS = {"float32": 60, "float64": 500}, 5


class Wide(NamedTuple):
    """m · 2^e, element by element; zero has an exponent below every other."""

    mantissa: Any
    exponent: Any


def _power(e: Any, dtype: Any) -> Any:
    """2^e exactly, for integers e ≤ 0; 0 where that is no normal number."""
    info = jnp.finfo(dtype)
    bits = (jnp.maximum(e, info.minexp).astype(_integer(dtype)) + (info.maxexp - 1)) << info.nmant
    return jnp.where(e < info.minexp, jnp.zeros((), dtype), jax.lax.bitcast_convert_type(bits, dtype))


def _integer(dtype: Any) -> Any:
    return jnp.int32 if jnp.finfo(dtype).bits == 32 else jnp.int64


def wide(value: Any, exponent: Any = 0) -> Wide:
    """value · 2^exponent, of mantissas from 1/2 to 1. (`jnp.frexp` takes longer to compile, and keeps subnormals.)"""
    info = jnp.finfo(value.dtype)
    bits = jax.lax.bitcast_convert_type(value, _integer(value.dtype))
    field = (bits >> info.nmant) & (2**info.nexp - 1)
    own = field - (info.maxexp - 2)
    mantissa = jax.lax.bitcast_convert_type(bits - (own << info.nmant), value.dtype)
    zero, number = field == 0, field < 2**info.nexp - 1
    mantissa = jnp.where(zero, jnp.zeros_like(value), jnp.where(number, mantissa, value))
    return Wide(mantissa, jnp.where(zero, _NONE, own.astype(jnp.int32) + exponent))


def plain(value: Any) -> Wide:
    """A number of moderate size as it is."""
    return Wide(value, jnp.where(value == 0, _NONE, jnp.zeros((), jnp.int32)))


def _at(w: Wide, exponent: Any) -> Any:
    """The mantissas at an exponent that is not smaller than their own."""
    return w.mantissa * _power(w.exponent - exponent, w.mantissa.dtype)


def times(one: Wide, two: Wide) -> Wide:
    """The product, by broadcasting; mantissas are multiplied as they are, of several numbers at the most."""
    return Wide(one.mantissa * two.mantissa, one.exponent + two.exponent)


def add(one: Wide, two: Wide) -> Wide:
    """The sum, by broadcasting."""
    exponent = jnp.maximum(one.exponent, two.exponent)
    return wide(_at(one, exponent) + _at(two, exponent), exponent)


def total(w: Wide, axes: tuple[int, ...]) -> Wide:
    """The sum over axes."""
    if not axes:
        return w
    exponent = jnp.max(w.exponent, axis=axes, keepdims=True)
    return wide(jnp.sum(_at(w, exponent), axis=axes), jnp.squeeze(exponent, axes))


def logarithm(w: Wide) -> Any:
    """log|m · 2^e|."""
    return jnp.log(jnp.abs(w.mantissa)) + w.exponent.astype(w.mantissa.dtype) * math.log(2)


@dataclasses.dataclass
class WideMoments(SecondMoments):
    """Second moments in wide numbers; `normalize` is known."""

    def of_root(self, base: Any, paired: tuple[bool, ...]) -> Wide:
        return plain(super().of_root(base, paired))

    def summed(self, parts: Sequence[Wide]) -> Wide:
        return functools.reduce(add, parts)

    def windowed(self, total_: Wide, axis: int, length: int, window: Window, pairs: bool) -> Wide:
        """All summands of a window side by side, along a further axis, and then their sum."""
        chosen = window.chosen(length)
        axes = (axis, axis + 1) if pairs else (axis,)
        picks = (chosen[:, None], chosen[None]) if pairs else (chosen,)
        inside = functools.reduce(np.logical_and, (p >= 0 for p in picks))
        rest = total_.mantissa.ndim - axes[-1] - 1
        inside = inside.reshape((1,) * axis + inside.shape + (1,) * rest)

        def laid(a: Any, outside: Any) -> Any:
            a = jnp.broadcast_to(a, [length if i in axes else s for i, s in enumerate(a.shape)])
            a = a[(slice(None),) * axis + tuple(np.maximum(p, 0) for p in picks)]
            return jnp.where(inside, a, jnp.asarray(outside, a.dtype))

        side_by_side = Wide(laid(total_.mantissa, 0), laid(total_.exponent, _NONE))
        self.largest = max(self.largest, math.prod(side_by_side.mantissa.shape[2:]))
        return total(side_by_side, (axes[-1] + 1,))

    def variance(self, layer: Layer) -> Any:
        """A constant that multiplies weights may be of any size: not its square, but itself."""
        return 1 / layer.fan_in if self.normalize else self.sides[0].of(layer.constant)[0]

    def weighed(self, total_: Wide, variance: Any) -> Wide:
        if self.normalize:
            share, exponent = math.frexp(variance)
            return wide(total_.mantissa * share, total_.exponent + exponent)
        own = wide(jnp.asarray(variance, self.dtype).reshape((1,) * total_.mantissa.ndim))
        return wide(*times(times(total_, own), own))

    def combined(self, operands: Sequence[tuple[Any, list[str]]], out: Sequence[str], factor: int) -> Wide:
        """Every product of elements, and then their sums: an exponent each, which no product of matrices has."""
        summed = dict.fromkeys(a for _, names in operands for a in names if a not in out)
        names = [*out, *summed]
        share, exponent = math.frexp(factor)
        found = Wide(jnp.full((1,) * len(names), share, self.dtype), jnp.int32(exponent))
        for operand, own in operands:
            value = operand if isinstance(operand, Wide) else plain(operand)
            found = times(found, Wide(*(_laid(a, own, names) for a in value)))
        self.largest = max(self.largest, math.prod(found.mantissa.shape[2:]))
        return total(found, tuple(range(len(out), len(names))))

    def multiplied(self, operands: Sequence[tuple[Any, list[str]]], out: Sequence[str], binary: bool) -> Wide:
        """Sums of products by products of matrices: of 0 and 1 at once, of other numbers band by band."""
        if binary:
            return plain(super().multiplied(operands, out, binary))
        (one, one_names), (two, two_names) = operands
        rows = [_rows(a.astype(self.dtype), names, out) for a, names in operands]
        width = _BAND[jnp.dtype(self.dtype).name]

        def part(i: Any, j: Any) -> Wide:
            bands = [_band(m, r, n, width) for (m, r, _), n in zip(rows, (i, j), strict=True)]
            product = super(WideMoments, self).multiplied([(bands[0], one_names), (bands[1], two_names)], out, False)
            return wide(product, -width * (i + j))

        def lower(upper: Wide) -> Wide:
            further = np.indices((_BANDS, _BANDS), np.int32).reshape(2, -1).T[1:]
            return jax.lax.scan(lambda w, ij: (add(w, part(ij[0], ij[1])), None), upper, further)[0]

        upper = part(0, 0)
        wanted = functools.reduce(jnp.logical_or, (jnp.any((m != 0) & (r <= -width)) for m, r, _ in rows))
        product = jax.lax.cond(wanted, lower, lambda w: w, upper)
        scales = [
            _laid(top, [a for a in names if a in out], out)
            for (_, _, top), names in zip(rows, (one_names, two_names), strict=True)
        ]
        return Wide(product.mantissa, product.exponent + scales[0] + scales[1])

    def read(self, term: Term, roles: Sequence[Role], letters: Any, k: Wide, paired: tuple[bool, ...]) -> Any:
        mantissa, names = super().read(term, roles, letters, k.mantissa, paired)
        exponent, _ = super().read(term, roles, letters, k.exponent, paired)
        return Wide(mantissa, exponent), names


def _laid(array: Any, names: Sequence[str], order: Sequence[str]) -> Any:
    """The axes of an array in another order, with axes of size one for those it has not."""
    moved = jnp.transpose(array, sorted(range(len(names)), key=lambda i: order.index(names[i])))
    return jnp.expand_dims(moved, tuple(i for i, a in enumerate(order) if a not in names))


def _rows(array: Any, names: Sequence[str], out: Sequence[str]) -> tuple[Any, Any, Any]:
    """Mantissas, exponents below the largest of what is summed with them, and that largest."""
    axes = tuple(i for i, a in enumerate(names) if a not in out)
    found = Wide(*jnp.frexp(array))
    found = found._replace(exponent=jnp.where(found.mantissa == 0, _NONE, found.exponent))
    top = jnp.max(found.exponent, axis=axes, keepdims=True) if axes else found.exponent
    return found.mantissa, found.exponent - top, jnp.squeeze(top, axes)


def _band(mantissa: Any, below: Any, number: Any, width: int) -> Any:
    """The numbers whose exponents lie in one band, brought to its upper end; 0 in place of others."""
    inside = (below <= -width * number) & (below > -width * (number + 1))
    scaled = mantissa * _power(jnp.minimum(below + width * number, 0), mantissa.dtype)
    return jnp.where(inside, scaled, jnp.zeros((), mantissa.dtype))
