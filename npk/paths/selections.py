"""Which elements of what a known factor holds: what is seen of its numbers before there are any.

Every element of a factor is a product of elements of its leaves (a gate's, the input's, a fixed number). Two elements
are one number for all inputs where these are the same; so engines see how a network was written without knowing it.
"""

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
        shapes = [[s if d == factor.how else t for d, (s, t) in enumerate(zip(s, factor.shape))] for s in shapes]
        names = [tuple(p.leaf for p in own) for own in args]
        columns = [
            np.stack([np.broadcast_to(p.where, s) for p in own] or [np.zeros(s, int)]) for own, s in zip(args, shapes)
        ]
        zero = [bool((c < 0).any(0).all()) for c in columns]
        kinds = {tuple(leaf.name for leaf in leaves) for leaves, none in zip(names, zero) if not none}
        if len(kinds) == 1 and () not in kinds:  # selections of the same leaves, and zeros
            leaves = next(leaves for leaves, none in zip(names, zero) if not none)
            laid = [np.full((len(leaves), *s), -1) if none else c for c, none, s in zip(columns, zero, shapes)]
            return tuple(Part(f, w) for f, w in zip(leaves, np.concatenate(laid, 1 + factor.how), strict=True))
        deep = max(len(c) for c in columns)
        laid = [np.concatenate([c, np.full((deep + 1 - len(c), *c.shape[1:]), -2 - i)]) for i, c in enumerate(columns)]
        return (_told_apart(factor, np.concatenate(laid, 1 + factor.how)),)
    rows = [np.broadcast_to(p.where, s) for own, s in zip(args, shapes, strict=True) for p in own]
    if factor.op == "sum":
        rows = [row for r in rows for row in np.moveaxis(r, factor.how, 0)]
    whole = np.zeros((1, *factor.shape), int)
    return (_told_apart(factor, np.stack([np.broadcast_to(r, factor.shape) for r in rows]) if rows else whole),)


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
