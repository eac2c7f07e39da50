"""Known factors by name: what the numbers of a term are made of, long before there are any.

A factor is an expression over gates, the input, constants and fixed numbers of parameters. Whoever wants numbers asks
`Numbers`, in NumPy or in JAX; whoever wants to know which gate, selected how, a factor is compares names.
"""

import dataclasses
import functools
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from npk.programs import is_traced

Shape = tuple[int, ...]

# Numbers of a constant that is made of others at once.
_MOST = 1 << 22


@dataclasses.dataclass(frozen=True, eq=False)
class Factor:
    """Numbers [n, *shape] of every sample, n = 1 where they are alike; a size of 1 may stand for a longer dim.

    `op` makes it of `args`, or says what it is: "input" and "gate" (number `how`), "encoded" (an `Encoding` of x),
    "constant" (`how` itself) or "fixed" (the value `how` of the program, made of parameters). Two factors of one
    `name` are one expression.
    """

    op: str
    args: tuple["Factor", ...]
    how: Any
    shape: Shape
    name: bytes = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        own = (self.op, self.shape, *_said(self.how), *(a.name for a in self.args))
        object.__setattr__(self, "name", hashlib.blake2b(repr(own).encode(), digest_size=16).digest())

    @property
    def is_one(self) -> bool:
        """Whether it is the number one."""
        return self.op == "constant" and not is_traced(self.how) and self.how.size == 1 and bool((self.how == 1).all())

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    # -- what terms do to them ---------------------------------------------------------------------

    def reshape(self, shape: Sequence[int]) -> "Factor":
        shape = tuple(shape)
        if shape == self.shape:
            return self
        if self.op == "constant":
            return constant(self.how.reshape(shape))
        made_of = self.args[0] if self.op == "reshape" else self
        return made_of if made_of.shape == shape else Factor("reshape", (made_of,), None, shape)

    def transpose(self, order: Sequence[int]) -> "Factor":
        order, shape = tuple(order), tuple(self.shape[d] for d in order)
        moved = [d for d in order if self.shape[d] > 1]
        if moved == sorted(moved):  # those of size one may stand anywhere
            return self.reshape(shape)
        return Factor("transpose", (self,), order, shape)

    def broadcast(self, shape: Sequence[int]) -> "Factor":
        shape = tuple(shape)
        return self if shape == self.shape else Factor("broadcast", (self,), None, shape)

    def take(self, axis: int, chosen: np.ndarray) -> "Factor":
        """Elements of an axis by number, 0 for those below zero."""
        if np.array_equal(chosen, np.arange(self.shape[axis])):
            return self
        shape = (*self.shape[:axis], len(chosen), *self.shape[axis + 1 :])
        return Factor("take", (self,), (axis, np.asarray(chosen)), shape)

    def times(self, other: "Factor") -> "Factor":
        """The product, by broadcasting; ranks are equal."""
        shape = np.broadcast_shapes(self.shape, other.shape)
        for one, two in ((self, other), (other, self)):
            if one.is_one and two.shape == shape:
                return two
        return Factor("times", (self, other), None, shape)

    def plus(self, other: "Factor") -> "Factor":
        """The sum, by broadcasting; factors of both are taken out of it."""
        common, rest = [], list(other.parts)
        own = []
        for part in self.parts:
            at = next((i for i, p in enumerate(rest) if p.name == part.name), None)
            if at is None:
                own.append(part)
            else:
                common.append(rest.pop(at))
        if not common:
            return _summed_up("plus", (self, other), None, np.broadcast_shapes(self.shape, other.shape))
        one = ones(len(self.shape))
        left, right = (functools.reduce(Factor.times, parts, one) for parts in (own, rest))
        total = left.plus(right) if own or rest else constant(np.full(one.shape, 2, np.float32))
        return functools.reduce(Factor.times, common).times(total)

    def inverse(self) -> "Factor":
        if self.op == "constant" and not is_traced(self.how):
            with np.errstate(divide="ignore"):
                return constant(1 / self.how.astype(np.float64))
        return Factor("inverse", (self,), None, self.shape)

    def over(self, number: "Factor") -> "Factor":
        """Divided by a number; what a number of zero has made zero is left to it."""
        if number.is_one:
            return self
        return Factor("over", (self, number.reshape((1,) * len(self.shape))), None, self.shape)

    def sum(self, axis: int) -> "Factor":
        """The sum along an axis, which goes; factors that are the same along it are taken out of it."""
        rest = (*self.shape[:axis], *self.shape[axis + 1 :])
        apart = [p for p in self.parts if p.shape[axis] == 1]
        if apart and len(apart) < len(self.parts):
            within = functools.reduce(Factor.times, [p for p in self.parts if p.shape[axis] > 1]).sum(axis)
            return functools.reduce(Factor.times, [_without(p, axis) for p in apart]).times(within)
        return _summed_up("sum", (self,), axis, rest)

    def norm(self, axis: int) -> "Factor":
        """The root of the sum of squares along an axis, which stays with size one; of numbers alike for all samples."""
        shape = (*self.shape[:axis], 1, *self.shape[axis + 1 :])
        return _summed_up("norm", (self,), axis, shape)

    @functools.cached_property
    def is_alike(self) -> bool:
        """Whether all samples have the same numbers: no gate and no input is in it."""
        return all(leaf.op in ("constant", "fixed") for leaf in self.leaves().values())

    @functools.cached_property
    def constant_numbers(self) -> np.ndarray | None:
        """The numbers of what is made of known constants alone."""
        if any(leaf.op != "constant" or is_traced(leaf.how) for leaf in self.leaves().values()):
            return None
        return Numbers(np, None, (), {}, np.dtype(float)).of(self)[0]

    @functools.cached_property
    def parts(self) -> list["Factor"]:
        """What it is the product of, each of its rank, as far as that is seen."""
        if self.op == "times":
            return [part for arg in self.args for part in arg.parts]
        parts = self.args[0].parts if self.op in ("take", "transpose", "reshape") else []
        if len(parts) < 2:
            return [self]
        if self.op == "transpose":
            return [part.transpose(self.how) for part in parts]
        if self.op == "take":
            axis, chosen = self.how
            if self.args[0].shape[axis] == 1:  # what is padded is zero, and none of the parts would know
                return [self]
            return [part if part.shape[axis] == 1 else part.take(axis, chosen) for part in parts]
        before, after = ([d for d, s in enumerate(f.shape) if s > 1] for f in (self.args[0], self))
        if [self.args[0].shape[d] for d in before] != [self.shape[d] for d in after]:
            return [self]
        to = dict(zip(after, before, strict=True))
        return [part.reshape([part.shape[to[d]] if d in to else 1 for d in range(len(self.shape))]) for part in parts]

    def leaves(self) -> dict[bytes, "Factor"]:
        """What it is made of in the end."""
        found: dict[bytes, Factor] = {}
        seen: set[bytes] = set()
        todo: list[Factor] = [self]
        while todo:
            factor = todo.pop()
            if factor.name not in seen:
                seen.add(factor.name)
                todo += factor.args
                found |= {} if factor.args else {factor.name: factor}
        return found


def _said(how: Any) -> tuple[Any, ...]:
    """What tells one way from another."""
    if isinstance(how, tuple):
        return tuple(s for part in how for s in _said(part))
    if isinstance(how, np.ndarray):
        return (how.shape, str(how.dtype), hashlib.blake2b(how.tobytes(), digest_size=16).digest())
    if isinstance(how, int | np.integer):
        return (int(how),)
    return (how,) if how is None else (id(how),)


def _summed_up(op: str, args: tuple[Factor, ...], how: Any, shape: Shape) -> Factor:
    """A sum as an expression, or as its numbers where they are constants."""
    factor = Factor(op, args, how, shape)
    known = factor.constant_numbers if factor.size <= _MOST else None
    return factor if known is None else constant(known)


def _without(factor: Factor, axis: int) -> Factor:
    """Without an axis of size one."""
    return factor.reshape((*factor.shape[:axis], *factor.shape[axis + 1 :]))


def constant(value: Any) -> Factor:
    """Numbers [*shape] that are the same for all samples."""
    value = value if is_traced(value) else np.asarray(value)
    return Factor("constant", (), value, tuple(value.shape))


def ones(rank: int) -> Factor:
    """The number one."""
    return constant(np.ones((1,) * rank, np.float32))


def join(factors: Sequence[Factor], axis: int) -> Factor:
    """Laid end to end along an axis; other sizes may be 1."""
    shape = list(np.broadcast_shapes(*((*f.shape[:axis], *f.shape[axis + 1 :]) for f in factors)))
    shape.insert(axis, sum(f.shape[axis] for f in factors))
    return Factor("join", tuple(factors), axis, tuple(shape))


# ------------------------------------------------------------------------------------------- numbers


class Numbers:
    """The numbers of factors for one batch, each found once.

    Args:
        xp: `numpy` or `jax.numpy`.
        x: the batch, its leaves [n, *shape of a factor "input"].
        gates: for each activation [n, *shape for one sample].
        fixed: the numbers of what is made of parameters (`Form.fixed`).
        dtype: of the numbers.
    """

    def __init__(self, xp: Any, x: Any, gates: Sequence[Any], fixed: Mapping[Any, Any], dtype: Any):
        self.xp, self.gates, self.fixed, self.dtype = xp, gates, fixed, dtype
        self.x = jax.tree_util.tree_leaves(x)
        self.known: dict[bytes, Any] = {}

    def of(self, factor: Factor) -> Any:
        """[n, *shape], n = 1 where the numbers are the same for all samples."""
        todo = [factor]
        while todo:  # no recursion: a product of gates is as deep as the network
            one = todo[-1]
            missing = [a for a in one.args if a.name not in self.known]
            if one.name in self.known or not missing:
                todo.pop()
                if one.name not in self.known:
                    self.known[one.name] = self._made(one)
            todo += missing
        return self.known[factor.name]

    def _made(self, factor: Factor) -> Any:
        if factor.args:
            return _MAKING[factor.op](self.xp, factor, *(self.known[a.name] for a in factor.args))
        if factor.op == "encoded":
            found = factor.how.numbers(self.xp, self.x, self.dtype)
            return found.reshape(len(found), *factor.shape)
        if factor.op in ("input", "gate"):
            values = (self.x if factor.op == "input" else self.gates)[factor.how]
            return self.xp.asarray(values, self.dtype).reshape(len(values), *factor.shape)
        values = factor.how if factor.op == "constant" else self.fixed[factor.how]
        return self.xp.asarray(values, self.dtype).reshape(1, *factor.shape)


def _take(xp: Any, factor: Factor, a: Any) -> Any:
    axis, chosen = factor.how
    taken = xp.take(a, np.maximum(chosen, 0), axis=1 + axis)
    if (chosen >= 0).all():
        return taken
    mask = (chosen >= 0).reshape(-1, *(1,) * (a.ndim - 2 - axis))
    return xp.where(mask, taken, xp.zeros((), a.dtype))


def _over(xp: Any, factor: Factor, a: Any, b: Any) -> Any:
    one = xp.ones((), a.dtype)
    return xp.where(b == 0, one, a / xp.where(b == 0, one, b))


def _norm(xp: Any, factor: Factor, a: Any) -> Any:
    total = xp.sum(xp.square(a), axis=1 + factor.how, keepdims=True)
    zero = total == 0  # where a root has no derivative, and a sum of squares has the derivative zero
    return xp.where(zero, xp.zeros((), a.dtype), xp.sqrt(xp.where(zero, xp.ones((), a.dtype), total)))


def _join(xp: Any, factor: Factor, *parts: Any) -> Any:
    n = max(len(p) for p in parts)
    shapes = [[s if d == factor.how else t for d, (s, t) in enumerate(zip(p.shape[1:], factor.shape))] for p in parts]
    return xp.concatenate([xp.broadcast_to(p, (n, *s)) for p, s in zip(parts, shapes, strict=True)], 1 + factor.how)


_MAKING: dict[str, Callable[..., Any]] = {
    "reshape": lambda xp, factor, a: a.reshape(len(a), *factor.shape),
    "transpose": lambda xp, factor, a: xp.transpose(a, (0, *(1 + d for d in factor.how))),
    "broadcast": lambda xp, factor, a: xp.broadcast_to(a, (len(a), *factor.shape)),
    "take": _take,
    "times": lambda xp, factor, a, b: a * b,
    "plus": lambda xp, factor, a, b: a + b,
    "inverse": lambda xp, factor, a: 1 / a,
    "over": _over,
    "sum": lambda xp, factor, a: xp.sum(a, axis=1 + factor.how),
    "norm": _norm,
    "join": _join,
}
