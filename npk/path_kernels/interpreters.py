"""Second moments of numbers that are known, on a host: nothing is compiled, or a program for each kind of term.

A network has many terms and few kinds of them: what is equal but for its numbers is computed by one program, so that
a deeper network compiles no more. Small kernels take NumPy, which compiles nothing at all.
"""

import dataclasses
import functools
import math
import operator
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from npk.path_kernels.demands import (
    Ending,
    Group,
    Letters,
    Role,
    ending_of,
    mixing,
    paired_axes,
    places_of,
    size_of_term,
)
from npk.path_kernels.moments import SecondMoments
from npk.paths import Base, Factor, Layer, Numbers, Term, Window, ones

# Multiplications up to which NumPy takes no longer than the call of a compiled program.
_SMALL = 1 << 16


@dataclasses.dataclass
class HostMoments(SecondMoments):
    """Second moments in NumPy."""

    def read(self, term: Term, roles: Sequence[Role], letters: Letters, k: Any, paired: tuple[bool, ...]) -> Any:
        return super().read(term, roles, letters, np.asarray(k), paired)

    def multiplied(self, operands: Sequence[tuple[Any, list[str]]], out: Sequence[str], binary: bool) -> Any:
        return self._product(operands, out)

    def combined(self, operands: Sequence[tuple[Any, list[str]]], out: Sequence[str], factor: int) -> Any:
        result = self._product(operands, out)
        return self.note(result if factor == 1 else result * self.dtype.type(factor))

    def _product(self, operands: Sequence[tuple[Any, list[str]]], out: Sequence[str]) -> Any:
        """The product of arrays by their letters, summed over those that are not in `out`."""
        (first, names), *rest = operands
        for number, (array, own) in enumerate(rest, 1):
            later = {a for _, others in operands[number + 1 :] for a in others}
            kept = [a for a in dict.fromkeys((*names, *own)) if a in out or a in later]
            first, names = _two(first, names, array, own, kept), kept
        first = first.sum(tuple(i for i, a in enumerate(names) if a not in out)) if len(names) > len(out) else first
        names = [a for a in names if a in out]
        return first.transpose([names.index(a) for a in out])

    def windowed(self, total_: Any, axis: int, length: int, window: Window, pairs: bool) -> Any:
        axes = (axis, axis + 1) if pairs else (axis,)
        total_ = np.broadcast_to(total_, [length if i in axes else s for i, s in enumerate(total_.shape)])
        chosen = window.chosen(length)
        out = np.zeros([len(chosen) if i in axes else s for i, s in enumerate(total_.shape)], total_.dtype)
        for tap in range(window.size):
            into, read = _runs(chosen[:, tap])
            out[_at(into, axes)] += total_[_at(read, axes)]
        return out


def _two(one: np.ndarray, names: list[str], two: np.ndarray, others: list[str], out: list[str]) -> np.ndarray:
    """Of two arrays, by one product of matrices where anything is summed."""
    both = [a for a in names if a in others]
    summed = [a for a in both if a not in out]
    same = [a for a in both if a in out]
    own, other = [a for a in names if a not in both], [a for a in others if a not in both]
    left = one.transpose([names.index(a) for a in (*same, *own, *summed)])
    right = two.transpose([others.index(a) for a in (*same, *summed, *other)])
    sizes, (s, n, m) = left.shape, (len(same), len(own), len(summed))
    if m:
        shape = (*sizes[:s], *sizes[s : s + n], *right.shape[s + m :])
        a = left.reshape(*sizes[:s], math.prod(sizes[s : s + n]), math.prod(sizes[s + n :]))
        b = right.reshape(*sizes[:s], math.prod(right.shape[s : s + m]), math.prod(right.shape[s + m :]))
        result = np.matmul(a, b).reshape(shape)
    else:
        right = right.reshape((*sizes[:s], *(1,) * n, *right.shape[s:]))
        result = left.reshape((*left.shape, *(1,) * len(other))) * right
    laid = [*same, *own, *other]
    if set(laid) != set(out):  # summed in one of them alone
        result = result.sum(tuple(i for i, a in enumerate(laid) if a not in out))
        laid = [a for a in laid if a in out]
    return result.transpose([laid.index(a) for a in out])


def _runs(places: np.ndarray) -> tuple[slice, slice]:
    """Where a tap of a window writes, and what it reads there: both at equal steps."""
    at = np.flatnonzero(places >= 0)
    if not len(at):
        return slice(0, 0), slice(0, 0)
    found = places[at]

    def run(values: np.ndarray) -> slice:
        step = int(values[1] - values[0]) if len(values) > 1 else 1
        return slice(int(values[0]), int(values[-1]) + 1, step)

    return run(at), run(found)


def _at(run: slice, axes: tuple[int, ...]) -> tuple[slice, ...]:
    return (slice(None),) * axes[0] + (run,) * len(axes)


# ----------------------------------------------------------------------------------- by kinds of terms


@dataclasses.dataclass(frozen=True, eq=False)
class _Kind:
    """A term but for its numbers, with what becomes of its dims: what a compiled program depends on."""

    name: tuple[Any, ...]
    term: Term
    roles: tuple[Role, ...]
    diagonal: bool
    dtype: Any
    paired: tuple[bool, ...]
    operations: int  # of a pair of samples

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Kind) and self.name == other.name

    def __hash__(self) -> int:
        return hash(self.name)


@dataclasses.dataclass
class CompiledMoments(HostMoments):
    """Second moments in JAX of numbers in NumPy, every kind of term by a program of its own; small ones in NumPy.

    `left` says how often K of each layer will be asked for; `known_before` keeps what depends on shapes alone.
    """

    known_before: dict[Any, Any] = dataclasses.field(default_factory=dict)
    left: dict[Any, int] = dataclasses.field(default_factory=dict)

    def added(self, groups: Sequence[Group]) -> Any:
        return super().added(groups) if self.are_small(groups) else self.sum_of(groups)

    def of_layer(self, layer: Layer, paired: tuple[bool, ...]) -> Any:
        groups = self.groups_of(layer, paired)
        if self.are_small(groups):
            return super().of_layer(layer, paired)
        variance = np.asarray(self.variance(layer), self.dtype)
        return self.sum_of(groups, ending_of(layer, paired), variance)

    def are_small(self, groups: Sequence[Group]) -> bool:
        """Whether NumPy takes them: also all that matrices over places are multiplied into, one by one."""
        if any(mixing(group.term, group.roles).matrices for group in groups):
            return True
        return self.n1 * self.n2 * sum(self.kind(group).operations for group in groups) <= _SMALL

    def sum_of(self, groups: Sequence[Group], ending: Ending | None = None, variance: Any = None) -> Any:
        """What groups of terms add up to, and a layer then makes of it."""
        one, two = self.sides
        total: Any = self.zeros(groups[0]) if len(groups) > 1 else None
        for number, group in enumerate(groups, 1):
            kind = self.kind(group)
            layers = tuple(base for base in (group.term.base, *group.more) if isinstance(base, Layer))
            k = self.of_bases(layers or (group.term.base,), kind.paired)
            constants = np.asarray(len(group.more) + 1 - max(1, len(layers)), self.dtype)
            end = (ending, variance) if number == len(groups) else (None, None)
            total = _with_term(kind, end[0], total, k, constants, one.of(group.term.g), two.of(group.term.g), end[1])
            self.let_go(layers, kind.paired)
        return total

    def summed(self, parts: Sequence[Any]) -> Any:
        return super().summed(parts) if isinstance(parts[0], np.ndarray) else _sum(parts)

    def let_go(self, layers: Sequence[Layer], paired: tuple[bool, ...]) -> None:
        """Of what nothing else asks for: memory that is used again is faster than memory that is not."""
        for key in ((layer, paired) for layer in layers):
            self.left[key] = self.left.get(key, 0) - 1
            if not self.left[key]:
                self.known.pop(key, None)

    def zeros(self, group: Group) -> Any:
        """What a sum of several begins with: one more pass over its numbers, and half as many programs."""
        term, roles, _ = group
        varies = {d for index in term.index[: places_of(term.base)] for d in index.dims}
        varies |= {d for d, size in enumerate(term.g.shape) if size > 1}
        letters = Letters(roles)
        kept = [s if d in varies else 1 for d, s in enumerate(term.sizes) for _ in letters.kept(d, roles[d])]
        shape = (self.n1, self.n2, *kept)
        if (shape, self.dtype) not in self.known_before:
            self.known_before[shape, self.dtype] = jax.device_put(np.zeros(shape, self.dtype))
        return self.known_before[shape, self.dtype]

    def kind(self, group: Group) -> _Kind:
        term, options = group.term, (tuple(group.roles), self.diagonal, self.dtype)
        found = self.known_before.get((term, *options))
        if found is None:
            bare = term.replace(
                base=Base(term.base.axes), g=ones(len(term.sizes))
            )  # a program must not keep the network
            own = paired_axes(term, group.roles), size_of_term(term, group.roles).operations
            found = self.known_before[term, *options] = _Kind((term.structure, *options), bare, *options, *own)
        return found


class _Given(Numbers):
    """Numbers of a single factor, which are at hand."""

    def __init__(self, value: Any, dtype: Any):
        super().__init__(jnp, None, (), {}, dtype)
        self.value = value

    def of(self, factor: Factor) -> Any:
        return self.value


@dataclasses.dataclass
class _Step(SecondMoments):
    """One step of a recursion, given what it reads."""

    k: Any = None

    def of_base(self, base: Base, paired: tuple[bool, ...]) -> Any:
        return self.k


@functools.partial(jax.jit, static_argnums=(0, 1))
def _with_term(
    kind: _Kind, ending: Ending | None, total: Any, k: Any, constants: Any, one: Any, two: Any, variance: Any
) -> Any:
    """A sum and what a term of K, and of constants beside it, adds to it; after the last of a layer, the layer's K."""
    sides = (_Given(one, kind.dtype), _Given(two, kind.dtype))
    step = _Step(0, 0, True, sides, diagonal=kind.diagonal, k=k + constants)
    part = step.of_term(kind.term, kind.roles)
    total = part if total is None else total + part
    return total if ending is None else step.ended(total, ending, variance)


@jax.jit
def _sum(parts: Sequence[Any]) -> Any:
    return functools.reduce(operator.add, parts)
