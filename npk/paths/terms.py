"""The normal form of everything positionwise: a selection of a base, times known numbers, summed.

Between two weight layers a network only gates, moves, scales and sums values. Whatever it does, each
value is then a sum of *terms*

    v[i] = Σ_s g[i, s] · r[index(i, s)]

of a *base* r (the input, a bias, or the output of a weight layer, whose weights are random) with known
factors g (gates, the input, batch-norm scales) and an index that says which element of the base is read.
Selections (slice, pad, transpose, reshape, max-pooling windows) change the index, sums (mean, average
pooling) only mark a dimension of i as summed, gates multiply g. So the second moment of any value follows
from that of its bases, and nothing is approximated.
"""

import dataclasses
import functools
import hashlib
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from npk.paths.factors import Factor, constant, ones


@dataclasses.dataclass(frozen=True)
class Axis:
    """An axis of a base; along an independent one, different elements are uncorrelated."""

    size: int
    independent: bool


@dataclasses.dataclass(frozen=True, eq=False)
class Base:
    """A random field. `axes` are its axes; subclasses say where it comes from."""

    axes: tuple[Axis, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Source(Base):
    """The number one: what the input and other known values are multiples of. All of a program's share it."""


@dataclasses.dataclass(frozen=True, eq=False)
class Leaf(Base):
    """A leaf of the parameters, its elements independent; added to a value it is a bias."""

    number: int
    name: str


@dataclasses.dataclass(frozen=True, eq=False)
class Index:
    """The element of one base axis as a function of some dims of the term; `values=None` is the identity."""

    dims: tuple[int, ...]
    values: np.ndarray | None = None

    def same(self, other: "Index") -> bool:
        return self.dims == other.dims and (
            self.values is other.values
            or (self.values is not None and other.values is not None and np.array_equal(self.values, other.values))
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Term:
    """v[i] = Σ_s g[i, s] · base[index(i, s)].

    `layout` lists for each axis of the value the sizes of the dims it is made of (none for an axis of
    size one), `summed` the sizes of s. Dims are numbered through layout, then summed. `g` has the dims of the
    term, of which any may be 1: constant. `binary` says that g is 0 or 1 where all gates are.
    """

    base: Base
    index: tuple[Index, ...]
    g: Factor
    layout: tuple[tuple[int, ...], ...]
    summed: tuple[int, ...] = ()
    binary: bool = True

    @property
    def sizes(self) -> tuple[int, ...]:
        return (*(s for axis in self.layout for s in axis), *self.summed)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(math.prod(axis) for axis in self.layout)

    @functools.cached_property
    def structure(self) -> bytes:
        """A digest of all but the base and the numbers: what two terms of one kind have in common."""
        indices = [(i.dims, None if i.values is None else (i.values.shape, i.values.tobytes())) for i in self.index]
        own = (indices, self.base.axes, self.layout, self.summed, self.g.shape)
        return hashlib.blake2b(repr(own).encode(), digest_size=16).digest()

    def dims(self, axis: int) -> range:
        """The dims of an axis of the value."""
        start = sum(len(a) for a in self.layout[:axis])
        return range(start, start + len(self.layout[axis]))

    def replace(self, **changes: Any) -> "Term":
        return dataclasses.replace(self, **changes)


def whole(base: Base, shape: Sequence[int]) -> Term:
    """The base itself, as a value of its own shape."""
    layout = tuple((s,) if s > 1 else () for s in shape)
    numbers = np.cumsum([0, *(len(a) for a in layout)])
    index = tuple(Index((int(numbers[i]),)) if s > 1 else Index((), np.zeros((), int)) for i, s in enumerate(shape))
    return Term(base, index if base.axes else (), ones(sum(len(a) for a in layout)), layout)


def index_values(term: Term, index: Index) -> np.ndarray:
    """An index written out, an array over its dims."""
    return np.arange(term.sizes[index.dims[0]]) if index.values is None else index.values


def over(term: Term, index: Index, dims: tuple[int, ...]) -> np.ndarray:
    """The index as an array over a larger set of dims (ascending)."""
    shape = [term.sizes[d] if d in index.dims else 1 for d in dims]
    return np.broadcast_to(index_values(term, index).reshape(shape), [term.sizes[d] for d in dims])


# --------------------------------------------------------------------------------- moving dims about


def renumbered(index: Index, number: dict[int, int]) -> Index:
    dims = tuple(number[d] for d in index.dims)
    if index.values is None:
        return Index(dims)
    order = np.argsort(dims)
    return Index(tuple(dims[i] for i in order), np.transpose(index.values, order))


def transpose(term: Term, order: Sequence[int]) -> Term:
    """Reorder the axes of the value."""
    old = [d for axis in order for d in term.dims(axis)]
    kept = len(old)
    old += range(kept, kept + len(term.summed))
    number = {d: i for i, d in enumerate(old)}
    return term.replace(
        index=tuple(renumbered(i, number) for i in term.index),
        g=term.g.transpose(old),
        layout=tuple(term.layout[a] for a in order),
    )


def regroup(term: Term, start: int, stop: int, sizes: Sequence[int], layout: Any, summed: Any) -> Term:
    """Replace the dims start..stop by dims of `sizes`, equal in number of elements, row-major."""
    touched = tuple(range(start, stop))
    shift = len(sizes) - len(touched)
    new = tuple(range(start, start + len(sizes)))

    def move(index: Index) -> Index:
        if not set(touched) & set(index.dims):
            return renumbered(index, {d: d if d < start else d + shift for d in index.dims})
        dims = tuple(sorted({*index.dims, *touched}))
        values = over(term, index, dims)
        shape: list[int] = []
        for d in dims:
            shape += list(sizes) if d == start else [] if d in touched else [term.sizes[d]]
        moved = [d for d in dims if d < start] + list(new) + [d + shift for d in dims if d >= stop]
        return Index(tuple(moved), values.reshape(shape))

    before, inner, after = term.g.shape[:start], term.g.shape[start:stop], term.g.shape[stop:]
    if all(s == 1 for s in inner):
        g = term.g.reshape((*before, *(1 for _ in sizes), *after))
    else:
        g = term.g.broadcast((*before, *term.sizes[start:stop], *after)).reshape((*before, *sizes, *after))
    return term.replace(index=tuple(move(i) for i in term.index), g=g, layout=layout, summed=summed)


def merge(term: Term, axis: int) -> Term:
    """Make one axis of the value consist of exactly one dim."""
    dims = term.dims(axis)
    if len(dims) == 1:
        return term
    layout = (*term.layout[:axis], (term.shape[axis],), *term.layout[axis + 1 :])
    return regroup(term, dims.start, dims.stop, (term.shape[axis],), layout, term.summed)


def _cuts(sizes: Sequence[int]) -> list[int]:
    """Products of the sizes from the right: where each dim begins, counted in elements."""
    return [int(c) for c in np.cumprod([1, *reversed(sizes)])]


def reshape(term: Term, shape: Sequence[int]) -> Term:
    """Row-major reshape; dims that fall between the old and new boundaries are kept apart."""
    flat = [s for axis in term.layout for s in axis]
    new_cuts = _cuts([s for s in shape if s > 1])
    union = sorted({*_cuts(flat), *new_cuts})
    if any(b % a for a, b in zip(union, union[1:], strict=False)):
        union = sorted(set(new_cuts))  # boundaries that cross: give up the old ones
    fine = [b // a for a, b in zip(union, union[1:], strict=False)][::-1]
    layout, rest = [], list(fine)
    for size in shape:
        axis: list[int] = []
        while math.prod(axis) < size:
            axis.append(rest.pop(0))
        layout.append(tuple(axis))
    # Split or merge run by run, so that a dim that does not change keeps its plain index.
    done, todo = [], list(fine)
    for dim, size in enumerate(flat):
        run: list[int] = []
        while todo and math.prod(run) < size:
            run.append(todo.pop(0))
        if math.prod(run) != size:
            return regroup(term, 0, len(flat), fine, tuple(layout), term.summed)
        done.append((dim, run))
    term = term.replace(layout=tuple((s,) for s in flat))
    for dim, run in reversed(done):
        if len(run) != 1:
            dims = (*term.layout[:dim], *((s,) for s in run), *term.layout[dim + 1 :])
            term = regroup(term, dim, dim + 1, run, dims, term.summed)
    return term.replace(layout=tuple(layout))


def broadcast(term: Term, shape: Sequence[int], dimensions: Sequence[int]) -> Term:
    """`lax.broadcast_in_dim`: new axes, and axes of size one, repeat the value."""
    term = reshape(term, term.shape)  # no dims of size one
    layout: list[tuple[int, ...]] = []
    fresh: list[int] = []
    position = 0
    for axis, size in enumerate(shape):
        old = dimensions.index(axis) if axis in dimensions else None
        if old is not None and term.shape[old] == size:
            layout.append(term.layout[old])
            position += len(term.layout[old])
        else:
            layout.append((size,) if size > 1 else ())
            fresh += [position] if size > 1 else []
            position += 1 if size > 1 else 0
    kept = [d for d in range(position + len(term.summed)) if d not in fresh]
    number = dict(enumerate(kept))
    sizes = iter(term.g.shape)
    return term.replace(
        index=tuple(renumbered(i, number) for i in term.index),
        g=term.g.reshape([next(sizes) if d in number.values() else 1 for d in range(position + len(term.summed))]),
        layout=tuple(layout),
    )


def take(term: Term, axis: int, chosen: np.ndarray) -> Term:
    """Select along one axis: element o reads element chosen[o], or nothing where chosen is negative."""
    term = merge(term, axis)
    dim, old = term.dims(axis).start, term.shape[axis]
    chosen = np.asarray(chosen, int)
    safe, present = np.maximum(chosen, 0), chosen >= 0

    def move(index: Index) -> Index:
        if dim not in index.dims:
            return index
        return Index(index.dims, np.take(index_values(term, index), safe, axis=index.dims.index(dim)))

    index, g = tuple(move(i) for i in term.index), term.g
    if not present.all() or g.shape[dim] != 1:
        g = g.broadcast((*g.shape[:dim], old, *g.shape[dim + 1 :])).take(dim, chosen)
    layout = (*term.layout[:axis], (len(chosen),), *term.layout[axis + 1 :])
    term = term.replace(index=index, g=g, layout=layout)
    if len(chosen) == 1:  # an axis of size one has no dim
        return reshape(term, term.shape)
    return term


def select_elements(term: Term, chosen: np.ndarray) -> Term:
    """Any selection at all: output element e reads input element chosen[e] (flat), nothing if negative."""
    flat = take(reshape(term, (math.prod(term.shape),)), 0, chosen.reshape(-1))
    return reshape(flat, chosen.shape)


def windows(term: Term, axis: int, chosen: np.ndarray) -> Term:
    """Replace an axis by two: position o and place k in its window, reading chosen[o, k]."""
    count, size = chosen.shape
    term = take(term, axis, chosen.reshape(-1))
    return reshape(term, (*term.shape[:axis], count, size, *term.shape[axis + 1 :]))


def scale(term: Term, factor: Factor, binary: bool = False) -> Term:
    """Multiply by known numbers, of the shape of the value, where any size may be 1, or a scalar."""
    if not factor.shape:
        factor = factor.reshape((1,) * len(term.sizes))
    else:
        constant = [s == 1 and t > 1 for s, t in zip(factor.shape, term.shape, strict=True)]
        sizes = [1 if one else s for one, axis in zip(constant, term.layout, strict=True) for s in axis]
        factor = factor.reshape((*sizes, *(1 for _ in term.summed)))
    return term.replace(g=term.g.times(factor), binary=term.binary and (binary or factor.is_one))


def factor_of(term: Term) -> Factor:
    """The numbers of a known value, of its shape, where any size may be 1."""
    spread, shape = list(term.g.shape), []
    for axis in range(len(term.layout)):
        dims = list(term.dims(axis))
        if any(term.g.shape[d] > 1 for d in dims):
            spread = [term.sizes[d] if d in dims else s for d, s in enumerate(spread)]
        shape.append(math.prod(spread[d] for d in dims))
    return term.g.broadcast(spread).reshape(shape)


def sum_axes(term: Term, axes: Sequence[int]) -> Term:
    """Sum over axes of the value (they disappear)."""
    kept = [a for a in range(len(term.layout)) if a not in axes]
    term = transpose(term, (*kept, *axes))
    first = sum(len(term.layout[a]) for a in range(len(kept)))
    fresh = tuple(s for axis in term.layout[len(kept) :] for s in axis)
    term = term.replace(layout=term.layout[: len(kept)], summed=(*fresh, *term.summed))
    read = {d for index in term.index for d in index.dims}
    for dim in reversed(range(first, first + len(fresh))):
        if dim not in read:  # every summand reads the same element: only the factors add up
            term = _sum_factor(term, dim)
    return term


def _sum_factor(term: Term, dim: int) -> Term:
    g = term.g.sum(dim)
    if term.g.shape[dim] == 1:
        g = g.times(constant(np.full((1,) * len(g.shape), term.sizes[dim])))
    offset = dim - (len(term.sizes) - len(term.summed))
    number = {d: d if d < dim else d - 1 for d in range(len(term.sizes)) if d != dim}
    return term.replace(
        index=tuple(renumbered(i, number) for i in term.index),
        g=g,
        summed=(*term.summed[:offset], *term.summed[offset + 1 :]),
        binary=False,
    )
