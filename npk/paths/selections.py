"""Which elements of what a known factor holds: what is seen of its numbers before there are any.

Every element of a factor is a product of elements of its leaves (a gate's, the input's, a fixed number). Two elements
are one number for all inputs where these are the same; so engines see how a network was written without knowing it.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from npk.paths.factors import Factor, constant
from npk.programs import is_traced


class Part(NamedTuple):
    """A factor of a product: element `where` (flat) of `leaf` at each place, zero where that is -1."""

    leaf: Factor
    where: np.ndarray


def parts_of(factor: Factor) -> tuple[Part, ...]:
    """The product that a factor is, each part of the factor's shape, in the order of the leaves' names.

    What is no selection of a leaf (a sum, an inverse) is a leaf itself, its equal elements told by what they are made
    of; a number counts as none where it is one.
    """
    known: dict[bytes, tuple[Part, ...]] = {}
    todo = [factor]
    while todo:  # no recursion: a product of gates is as deep as the network
        one = todo[-1]
        missing = [a for a in one.args if a.name not in known]
        if not missing:
            todo.pop()
            known[one.name] = _parts(one, [known[a.name] for a in one.args])
        todo += missing
    return known[factor.name]


def labels(factor: Factor) -> tuple[tuple[bytes, ...], np.ndarray]:
    """The names of the leaves, and which elements of them are held, from 1 on: [leaves, *shape], 0 where it is zero."""
    parts = parts_of(factor)
    if not parts:
        return (), np.ones((1, *factor.shape), int)
    where = np.stack([np.broadcast_to(p.where, factor.shape) for p in parts])
    return tuple(p.leaf.name for p in parts), np.where((where >= 0).all(0), where + 1, 0)


def support(factor: Factor, dim: int) -> np.ndarray:
    """Along a dim, where a factor may be other than zero: what a part of a concatenation is not is known to be zero."""
    known: dict[tuple[bytes, int], np.ndarray] = {}
    todo = [(factor, dim)]
    while todo:  # once for each factor, and by no recursion: a residual network reads its sums again and again
        one, at = todo[-1]
        below = _along(one, at)
        missing = [(a, d) for a, d in below if (a.name, d) not in known]
        if not missing:
            todo.pop()
            known[one.name, at] = _support(one, at, [known[a.name, d] for a, d in below])
        todo += missing
    return known[factor.name, dim]


def _along(factor: Factor, dim: int) -> list[tuple[Factor, int]]:
    """The factors, and their dims, whose zeros along a dim are a factor's own; none where nothing is known of it."""
    before: int | None = dim
    if factor.op == "transpose":
        before = factor.how[dim]
    elif factor.op == "sum":
        before = dim + (dim >= factor.how)
    elif factor.op == "reshape":
        before = _same_dim(factor, dim)
    elif factor.op in ("inverse", "over"):
        before = None
    return [] if before is None else [(a, before) for a in factor.args]


def _support(factor: Factor, dim: int, below: Sequence[np.ndarray]) -> np.ndarray:
    if factor.op == "constant" and not is_traced(factor.how):
        return (factor.how != 0).any(tuple(d for d in range(len(factor.shape)) if d != dim))
    if not below:
        return np.ones(factor.shape[dim], bool)
    if factor.op == "take" and factor.how[0] == dim:
        chosen = factor.how[1]
        return (chosen >= 0) & below[0][np.maximum(chosen, 0)]
    if factor.op == "join" and factor.how == dim:
        return np.concatenate(below)
    found = [np.broadcast_to(one, factor.shape[dim]) for one in below]
    return np.all(found, 0) if factor.op == "times" else np.any(found, 0)


def _same_dim(factor: Factor, dim: int) -> int | None:
    """The dim before a reshape that is this one after it, if any is."""
    after, before = factor.shape, factor.args[0].shape
    for place, size in enumerate(before):
        if size == after[dim] > 1 and math.prod(before[:place]) == math.prod(after[:dim]):
            return place
    return None


def _parts(factor: Factor, args: Sequence[tuple[Part, ...]]) -> tuple[Part, ...]:
    if not args:
        return _leaf(factor)
    if factor.op == "times":
        product = [Part(p.leaf, np.broadcast_to(p.where, factor.shape)) for own in args for p in own]
        return tuple(sorted(product, key=lambda part: part.leaf.name))
    if factor.op in ("reshape", "transpose", "broadcast", "take"):
        parts = args[0] or (_NOTHING,) if factor.op == "take" and (factor.how[1] < 0).any() else args[0]
        return tuple(Part(p.leaf, _moved(factor, p.where)) for p in parts)
    shapes = [a.shape for a in factor.args]
    if factor.op == "join":
        return _joined(factor, [own or (_NOTHING,) for own in args], shapes)
    laid = [[np.broadcast_to(p.where, s) for p in own or (_NOTHING,)] for own, s in zip(args, shapes, strict=True)]
    if factor.op == "sum":  # the summands side by side
        laid = [list(rows) for rows in zip(*(np.moveaxis(where, factor.how, 0) for where in laid[0]), strict=True)]
    summands = [np.stack([np.broadcast_to(where, factor.shape) for where in rows]) for rows in laid]
    leaf, where = _told_apart(factor, np.concatenate(summands))
    zero = np.all([(rows < 0).any(0) for rows in summands], 0) & (factor.op in ("plus", "sum"))
    return (Part(leaf, np.where(zero, -1, where)),)


def _joined(factor: Factor, args: Sequence[tuple[Part, ...]], shapes: Sequence[Sequence[int]]) -> tuple[Part, ...]:
    """Selections of the same leaves, and zeros, laid end to end are one of these; others a leaf of its own."""
    axis = factor.how
    shapes = [[*factor.shape[:axis], shape[axis], *factor.shape[axis + 1 :]] for shape in shapes]
    columns = [np.stack([np.broadcast_to(p.where, s) for p in own]) for own, s in zip(args, shapes, strict=True)]
    zeros = [(c < 0).any(0) for c in columns]
    known = {tuple(p.leaf.name for p in own): own for own, zero in zip(args, zeros, strict=True) if not zero.all()}
    if len(known) == 1:
        (leaves,) = known.values()
        laid = [np.full((len(leaves), *s), -1) if z.all() else c for c, z, s in zip(columns, zeros, shapes)]
        return tuple(Part(p.leaf, where) for p, where in zip(leaves, np.concatenate(laid, 1 + axis), strict=True))
    deep = 1 + max(map(len, columns))
    laid = [np.concatenate([c, np.full((deep - len(c), *c.shape[1:]), -2 - i)]) for i, c in enumerate(columns)]
    leaf, where = _told_apart(factor, np.concatenate(laid, 1 + axis))
    return (Part(leaf, np.where(np.concatenate(zeros, axis), -1, where)),)


def _leaf(factor: Factor) -> tuple[Part, ...]:
    if factor.is_one:
        return ()
    if factor.op != "constant" or is_traced(factor.how):
        return (Part(factor, np.arange(factor.size).reshape(factor.shape)),)
    _, first, which = np.unique(factor.how, return_index=True, return_inverse=True)
    return (Part(factor, np.where(factor.how == 0, -1, first[which.reshape(factor.shape)])),)


def _moved(factor: Factor, where: np.ndarray) -> np.ndarray:
    how: Any = factor.how
    (shape,) = (a.shape for a in factor.args)
    where = np.broadcast_to(where, shape)
    if factor.op == "transpose":
        return where.transpose(how)
    if factor.op == "take":
        axis, chosen = how
        taken = np.take(where, np.maximum(chosen, 0), axis)
        return np.where((chosen >= 0).reshape(-1, *(1,) * (len(shape) - axis - 1)), taken, -1)
    return where.reshape(factor.shape) if factor.op == "reshape" else np.broadcast_to(where, factor.shape)


def _told_apart(factor: Factor, rows: np.ndarray) -> Part:
    """A leaf of its own, whose elements are one number where all rows are alike."""
    _, first, which = np.unique(rows.reshape(len(rows), -1), axis=1, return_index=True, return_inverse=True)
    return Part(factor, first[which.reshape(-1)].reshape(factor.shape))


_NOTHING = Part(constant(np.ones(())), np.zeros((), int))
