"""What the second moment of an output asks for, read off the terms: which of them, in what role, and which together.

Nothing is computed here. A dim of a term is summed or kept, read at one place or at pairs of places; K of a base is
asked for at pairs of places only where a later sum needs them.
"""

import collections
import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from npk.paths import Base, Factor, Index, Layer, Leaf, Source, Term, Window, index_values, ones, support

# What becomes of a dim of a term: read at the same place on both sides and summed ("contract") or kept
# ("same"), or read at pairs of places and kept ("pair") or summed ("sum").
Role = str


class Letters:
    """An einsum letter for every dim of a term and side; shared where both sides read the same place."""

    def __init__(self, roles: Sequence[Role]):
        self.roles = roles

    def both(self, dim: int, role: Role) -> tuple[str, ...]:
        return (f"a{dim}",) if role in ("contract", "same") else (f"a{dim}", f"b{dim}")

    def kept(self, dim: int, role: Role) -> tuple[str, ...]:
        return self.both(dim, role) if role in ("same", "pair") else ()

    def side(self, dims: Sequence[int], roles: Sequence[Role], side: int) -> list[str]:
        return [f"{'b' if side == 2 and roles[d] in ('pair', 'sum') else 'a'}{d}" for d in dims]


def output_roles(term: Term) -> list[Role]:
    return ["same"] * (len(term.sizes) - len(term.summed)) + ["sum"] * len(term.summed)


def input_roles(layer: Layer, term: Term, paired: Sequence[bool]) -> list[Role]:
    """What becomes of the dims of a term that a layer reads."""
    nb, nk = layer.n_batch, layer.n_kept
    contracted = len(term.sizes) - len(term.summed) - nb - nk
    kept = ["same"] * nb + ["pair" if p else "same" for p in paired[nb : nb + nk]]
    return kept + ["contract"] * contracted + ["sum"] * len(term.summed)


def apart_axes(term: Term, roles: Sequence[Role]) -> list[bool]:
    """Which axes of its base a term reads at two places."""
    return [any(roles[d] in ("pair", "sum") for d in index.dims) for index in term.index]


def paired_axes(term: Term, roles: Sequence[Role]) -> tuple[bool, ...]:
    """The axes of a term's base of whose places it reads pairs."""
    return tuple(
        apart and not axis.independent for apart, axis in zip(apart_axes(term, roles), term.base.axes, strict=True)
    )


def places_of(base: Base) -> int:
    """Of how many axes, the first ones, K of a base depends on the place."""
    return base.n_batch + base.n_kept if isinstance(base, Layer) else 0


class Ending(NamedTuple):
    """What a layer does with what it has contracted: windows over kept axes of these lengths, in pairs or not."""

    windows: tuple[Window, ...]
    lengths: tuple[int, ...]
    n_batch: int
    n_out: int
    pairs: tuple[bool, ...]


def ending_of(layer: Layer, paired: tuple[bool, ...]) -> Ending:
    nb = layer.n_batch
    lengths = layer.inputs[0].shape[nb : nb + len(layer.windows)]
    return Ending(layer.windows, lengths, nb, layer.n_out, paired[nb : nb + layer.n_kept])


class Group(NamedTuple):
    """A term, what becomes of its dims, and further bases that are read as its own is, under the same factors."""

    term: Term
    roles: Sequence[Role]
    more: tuple[Base, ...] = ()


def together(parts: Sequence[tuple[Term, Sequence[Role]]]) -> list[Group]:
    """Terms of the same factors as one: layers that are read alike, and what is constant (a layer's own bias)."""
    groups: dict[Any, Group] = {}
    constants: list[tuple[Any, Term, Sequence[Role]]] = []
    for whole, asked in parts:
        term, roles = _simplified(_trimmed(whole, asked), asked)
        # A mask of independence is of all that is read under it, and a constant has none.
        masked = any(
            a.independent and a.size > 1 and apart for a, apart in zip(term.base.axes, apart_axes(term, roles))
        )
        alike = (term.g.name, term.layout, term.summed, tuple(roles), masked)
        if isinstance(term.base, Leaf | Source) and not masked:
            constants.append((alike, term, roles))
            continue
        key = (alike, term.structure if isinstance(term.base, Layer) else term)
        before = groups.get(key)
        groups[key] = Group(term, roles) if before is None else before._replace(more=(*before.more, term.base))
    for alike, term, roles in constants:
        key = next((key for key in groups if key[0] == alike), (alike, term))
        before = groups.get(key)
        groups[key] = Group(term, roles) if before is None else before._replace(more=(*before.more, term.base))
    # What is constant first, so that few kinds of terms are the last of a layer.
    return sorted(groups.values(), key=lambda group: isinstance(group.term.base, Layer))


def _trimmed(term: Term, roles: Sequence[Role]) -> Term:
    """A term without the summands of which it is known that they are zero: of a concatenation its own part alone."""
    for d, role in enumerate(roles):
        if role in ("contract", "sum") and term.g.shape[d] > 1 and not (held := support(term.g, d)).all():
            kept = np.flatnonzero(held)
            if len(kept):
                term = _restricted(term, d, kept)
    return term


def _simplified(term: Term, roles: Sequence[Role]) -> tuple[Term, list[Role]]:
    """A term with fewer dims that count, and the same moment.

    Two elements of an independent axis go together only where they are one: a sum over it is of equal places. And where
    the factors along a contracted dim are alike for all samples, they meet as squares, which are summed beforehand.
    """
    found = list(roles)
    for index, axis in zip(term.index, term.base.axes, strict=True):
        sums = [d for d in index.dims if found[d] == "sum"]
        shared = all(found[d] in ("sum", "contract", "same") for d in index.dims)
        if axis.independent and len(sums) == 1 and shared and _tells_apart(term, index, sums[0]):
            found[sums[0]] = "contract"
    places = {d for index in term.index[: places_of(term.base)] for d in index.dims}
    for dim, role in enumerate(found):
        parts = [p for p in term.g.parts if p.shape[dim] > 1]
        if role != "contract" or dim in places or not parts or not all(p.is_alike for p in parts):
            continue
        product = functools.reduce(Factor.times, parts)
        apart = any(found[d] not in ("contract", "same") for d, size in enumerate(product.shape) if size > 1)
        known = product.constant_numbers
        if apart or (known is not None and (known == np.round(known)).all()):  # counts stay whole numbers
            continue
        rest = [p for p in term.g.parts if p.shape[dim] == 1]
        term = _restricted(term.replace(g=ones(len(found))), dim, np.zeros(1, int))
        term = term.replace(g=functools.reduce(Factor.times, rest, product.norm(dim)))
    return term, found


def _tells_apart(term: Term, index: Index, dim: int) -> bool:
    """Whether an index along a dim, the others held, reads an element once."""
    if index.values is None:
        return True
    lines = np.sort(np.moveaxis(index.values, index.dims.index(dim), 0).reshape(term.sizes[dim], -1), 0)
    return bool((np.diff(lines, axis=0) > 0).all())


def _restricted(term: Term, dim: int, kept: np.ndarray) -> Term:
    """Some elements along a dim."""
    sizes = [len(kept) if d == dim else s for d, s in enumerate(term.sizes)]
    dims = iter(sizes)
    layout = tuple(tuple(next(dims) for _ in axis) for axis in term.layout)

    def restricted(index: Index) -> Index:
        if dim not in index.dims:
            return index
        return Index(index.dims, np.take(index_values(term, index), kept, index.dims.index(dim)))

    index = tuple(restricted(i) for i in term.index)
    return term.replace(index=index, g=term.g.take(dim, kept), layout=layout, summed=tuple(dims))


class Demands(NamedTuple):
    """What is asked for on the way to an output: its terms, and of every layer, inputs first, what it reads."""

    output: list[Group]
    layers: dict[tuple[Layer, tuple[bool, ...]], list[Group]]


def demands_of(state: Sequence[Term]) -> Demands:
    """The layers whose K is asked for, their axes paired or not, each after those that it reads."""
    read: dict[tuple[Layer, tuple[bool, ...]], list[Group]] = {}
    found: dict[tuple[Layer, tuple[bool, ...]], list[Group]] = {}
    output = together([(term, output_roles(term)) for term in state])
    todo = list(_asked(output))
    while todo:  # no recursion: networks may be deep
        layer, paired = todo[-1]
        if todo[-1] not in read:
            read[layer, paired] = groups_of(layer, paired)
        missing = [key for key in _asked(read[layer, paired]) if key not in found]
        if not missing:
            found.setdefault(todo[-1], read[todo.pop()])
        todo += missing
    return Demands(output, found)


def groups_of(layer: Layer, paired: tuple[bool, ...]) -> list[Group]:
    """What a layer reads."""
    return together([(term, input_roles(layer, term, paired)) for term in layer.inputs])


def _asked(groups: Sequence[Group]) -> Iterator[tuple[Layer, tuple[bool, ...]]]:
    for group in groups:
        paired = paired_axes(group.term, group.roles)
        yield from ((base, paired) for base in (group.term.base, *group.more) if isinstance(base, Layer))


def uses(demands: Demands) -> dict[tuple[Layer, tuple[bool, ...]], int]:
    """How often K of each layer is asked for."""
    return collections.Counter(key for groups in (demands.output, *demands.layers.values()) for key in _asked(groups))


class Mixing(NamedTuple):
    """The factor of a term in two: what meets the channels that are contracted, and matrices over places alone."""

    within: Factor
    matrices: list[Factor]


def mixing(term: Term, roles: Sequence[Role]) -> Mixing:
    """Matrices are multiplied after the overlap, from either side: Σ A[p, q] K[q, q'] A'[p', q'], never p·q·p'·q'."""
    if not any(role == "sum" and size > 1 for role, size in zip(roles, term.g.shape, strict=True)):
        return Mixing(term.g, [])

    def is_matrix(part: Factor) -> bool:
        apart = {role for role, size in zip(roles, part.shape, strict=True) if size > 1}
        return "sum" in apart and not apart.isdisjoint(("pair", "same"))

    parts = term.g.parts
    matrices = [part for part in parts if is_matrix(part)]
    if not matrices:
        return Mixing(term.g, [])
    return Mixing(functools.reduce(Factor.times, [p for p in parts if not is_matrix(p)], ones(len(roles))), matrices)


class Size(NamedTuple):
    """What a pair of samples takes: the most numbers at a time, multiplications (about); and numbers of factors."""

    elements: int
    operations: int
    factors: int
    terms: int = 1
    mixes: bool = False  # whether patterns or other matrices over places are among the factors


def size_of(demands: Demands) -> Size:
    """What the second moment of an output takes, read off the terms."""
    groups = [group for own in (demands.output, *demands.layers.values()) for group in own]
    sizes = [size_of_term(group.term, group.roles) for group in groups]
    operations, factors, terms = (sum(s[i] for s in sizes) for i in (1, 2, 3))
    return Size(max(s.elements for s in sizes), operations, factors, terms, any(s.mixes for s in sizes))


def size_of_term(term: Term, roles: Sequence[Role]) -> Size:
    """What a term takes, with the windows that its base was summed over."""
    letters, (within, matrices) = Letters(roles), mixing(term, roles)
    sizes = {a: term.sizes[d] for d, r in enumerate(roles) for a in letters.both(d, r)}
    kept = {a for d, r in enumerate(roles) for a in letters.kept(d, r)}
    read = set(kept) if not matrices else set()
    for number, (index, axis, apart) in enumerate(zip(term.index, term.base.axes, apart_axes(term, roles))):
        if axis.size > 1 and (number < places_of(term.base) or (axis.independent and apart)):
            read |= {a for d in index.dims for a in letters.both(d, roles[d])}
    known = {a for d, s in enumerate(within.shape) for a in letters.both(d, roles[d]) if s > 1}
    sides = [
        {a for d, s in enumerate(m.shape) if s > 1 for a in letters.side([d], roles, side)}
        for m in matrices
        for side in (1, 2)
    ]

    def product(names: set[str]) -> int:
        return math.prod(sizes[a] for a in names)

    outside = read | {a for a in known if a in kept or any(a in own for own in sides)}
    elements, operations = product(outside), product(known | read)
    for number, own in enumerate(sides):
        operations += product(outside | own)
        later = set().union(*sides[number + 1 :])
        outside = {a for a in outside | own if a in kept or a in later}
        elements = max(elements, product(outside))
    taps = max((w.size for w in term.base.windows), default=1) if isinstance(term.base, Layer) else 1
    return Size(elements, operations + 2 * taps * elements, term.g.size, mixes=bool(matrices))
