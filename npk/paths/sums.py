"""Sums of terms: values added, and values laid end to end.

Terms of one base are correlated, so they are joined into one; terms of different bases stand side by side.
"""

import functools
import math
from collections.abc import Sequence

import numpy as np

from npk.paths.factors import Factor, constant, join
from npk.paths.terms import Base, Index, Term, merge, over, regroup, renumbered, reshape, take

# Coefficients of a map of one value's elements to those of another that are written out.
_MAP = 1 << 22


def add(states: Sequence[Sequence[Term]]) -> list[Term]:
    """The sum of values: terms of one base are joined (they are correlated), others stand side by side."""
    total: list[Term] = []
    for term in (t for state in states for t in state):
        twin = next((i for i, t in enumerate(total) if t.base is term.base), None)
        if twin is None:
            total.append(term)
        else:
            total[twin] = _join(total[twin], term)
    return total


def _plain(term: Term) -> Term:
    """Axes of size one have no dims, also where pieces laid end to end have left one."""
    return reshape(term, term.shape) if any(1 in axis for axis in term.layout) else term


def _join(a: Term, b: Term) -> Term:
    for one, two in ((a, b), (b, a)):
        if (mapped := _as_map(one, two)) is not None:
            return two.replace(g=mapped.plus(two.g), binary=False)
    same_dims = a.layout == b.layout and a.summed == b.summed
    if same_dims and all(i.same(j) for i, j in zip(a.index, b.index, strict=True)):
        return a.replace(g=a.g.plus(b.g), binary=False)
    return _stack(a, b)


def _as_map(a: Term, b: Term) -> Factor | None:
    """What a's factor is, read through the index of b: a reads at its own place what b sums over all places.

    So a value without its mean (x - 1/C Σ x) is a map of constant coefficients, δ - 1/C.
    """
    fresh = len(b.summed) - len(a.summed)
    if a.layout != b.layout or fresh < 1 or b.summed[fresh:] != a.summed:
        return None
    first = len(a.sizes) - len(a.summed)
    read, other = ({d for i in t.index for d in i.dims if d < first} for t in (a, b))
    own = sorted(read - other)
    if [a.sizes[d] for d in own] != list(b.summed[:fresh]) or math.prod(b.summed[:fresh]) ** 2 > _MAP:
        return None
    number = {d: d if d < first else d + fresh for d in range(len(a.sizes))}
    number |= {d: first + i for i, d in enumerate(own)}
    if not all(renumbered(i, number).same(j) for i, j in zip(a.index, b.index, strict=True)):
        return None
    order = list(range(len(b.sizes)))
    for i, d in enumerate(own):  # at the place that is read, which is the same
        order[d], order[first + i] = order[first + i], order[d]
    order_of = range(len(b.sizes))
    g = functools.reduce(Factor.times, [p.reshape(_wider(p, first, fresh)).transpose(order) for p in a.g.parts])
    for i, d in enumerate(own):
        size = a.sizes[d]
        eye = np.eye(size).reshape([size if n in (d, first + i) else 1 for n in order_of])
        g = g.times(constant(eye))
    return g


def _wider(factor: Factor, first: int, fresh: int) -> list[int]:
    """With dims of size one put in."""
    return [*factor.shape[:first], *(1,) * fresh, *factor.shape[first:]]


def _one_summed(term: Term) -> Term:
    start = len(term.sizes) - len(term.summed)
    for axis in range(len(term.layout)):
        if len(term.layout[axis]) > 1:
            return _one_summed(merge(term, axis))
    return regroup(term, start, len(term.sizes), (math.prod(term.summed),), term.layout, (math.prod(term.summed),))


def _stack(a: Term, b: Term) -> Term:
    """Σ_s over the summands of both: the sums of a and b laid end to end."""
    a, b = _one_summed(a), _one_summed(b)
    dim = len(a.sizes) - 1
    index = tuple(_end_to_end(a, b, i, j, dim) for i, j in zip(a.index, b.index, strict=True))

    g = join([t.g.broadcast((*t.g.shape[:-1], t.sizes[dim])) for t in (a, b)], dim)
    return a.replace(index=index, g=g, summed=(a.sizes[dim] + b.sizes[dim],), binary=a.binary and b.binary)


def _end_to_end(a: Term, b: Term, i: Index, j: Index, dim: int) -> Index:
    if dim not in i.dims and i.same(j):
        return i
    dims = tuple(sorted({*i.dims, *j.dims, dim}))
    return Index(dims, np.concatenate([over(a, i, dims), over(b, j, dims)], axis=dims.index(dim)))


def concatenate(states: Sequence[Sequence[Term]], axis: int) -> list[Term]:
    """Lay values end to end along an axis; pieces of one base become one selection of it."""
    sizes = [state[0].shape[axis] if state else 0 for state in states]
    starts = np.cumsum([0, *sizes])
    pieces: dict[Base, list[tuple[int, Term]]] = {}
    for k, state in enumerate(states):
        for term in state:
            pieces.setdefault(term.base, []).append((k, merge(term, axis)))
    total: list[Term] = []
    for parts in pieces.values():
        if _joinable([t for _, t in parts], axis) and len({k for k, _ in parts}) == len(parts):
            total.append(_plain(_laid_out(dict(parts), sizes, axis)))
            continue
        padded = []
        for k, term in parts:
            chosen = np.full(starts[-1], -1)
            chosen[starts[k] : starts[k + 1]] = np.arange(sizes[k])
            padded.append([take(term, axis, chosen)])
        total += add(padded)
    return total


def _joinable(parts: list[Term], axis: int) -> bool:
    first = parts[0]
    same = [
        (*t.layout[:axis], *t.layout[axis + 1 :]) == (*first.layout[:axis], *first.layout[axis + 1 :]) for t in parts
    ]
    return all(same) and all(t.summed == first.summed for t in parts) and len(parts) > 1


def _laid_out(parts: dict[int, Term], sizes: Sequence[int], axis: int) -> Term:
    first = next(iter(parts.values()))
    dim = first.dims(axis).start
    index = tuple(_laid_index(parts, sizes, dim, i) for i in range(len(first.index)))

    def laid(k: int, size: int) -> Factor:
        if k in parts:
            g = parts[k].g
            return g.broadcast((*g.shape[:dim], size, *g.shape[dim + 1 :]))
        return constant(np.zeros([size if d == dim else 1 for d in range(len(first.sizes))]))

    layout = (*first.layout[:axis], (sum(sizes),), *first.layout[axis + 1 :])
    g = join([laid(k, size) for k, size in enumerate(sizes)], dim)
    return first.replace(index=index, g=g, layout=layout, binary=all(t.binary for t in parts.values()))


def _laid_index(parts: dict[int, Term], sizes: Sequence[int], dim: int, i: int) -> Index:
    own = [t.index[i] for t in parts.values()]
    if dim not in own[0].dims and all(own[0].same(index) for index in own):
        return own[0]
    dims = tuple(sorted({d for index in own for d in index.dims} | {dim}))
    first = next(iter(parts.values()))

    def values(k: int) -> np.ndarray:
        if k in parts:
            return over(parts[k], parts[k].index[i], dims)
        return np.zeros([sizes[k] if d == dim else first.sizes[d] for d in dims], int)

    return Index(dims, np.concatenate([values(k) for k in range(len(sizes))], axis=dims.index(dim)))
