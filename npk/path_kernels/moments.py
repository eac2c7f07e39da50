"""The second moment of a program's output under random weights: three operations, read off the terms.

For independent zero-mean weights the covariance of a value between two inputs needs only the covariance
K of its bases: gates multiply it, a weight layer contracts it over what the layer reads (an overlap) and,
for a convolution, adds it up over equal offsets; a sum adds the terms. Pairs of positions are computed
only where a later sum asks for them.
"""

import collections
import dataclasses
import functools
import math
import operator
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from npk.paths import OWN_FEATURES, Base, Index, Layer, Leaf, Numbers, Source, Term, Window, index_values
from npk.programs import UnsupportedOperation, is_traced

_map = jax.tree_util.tree_map

# What becomes of a dim of a term: read at the same place on both sides and summed ("contract") or kept
# ("same"), or read at pairs of places and kept ("pair") or summed ("sum").
Role = str


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


@dataclasses.dataclass
class SecondMoments:
    """Second moments of bases for one pair of input batches, each computed once for each demand.

    `normalize` gives weights the variance 1/fan-in, otherwise 1; it may be traced, so that one program serves both.
    `binary` says that all gates are 0 or 1: their products are exact in half precision, summed in single.
    `sides` are the numbers of the rows' and of the columns' factors; with `diagonal` each sample is paired with itself
    alone, n2 = 1. `largest` records the number of elements a pair of samples needs at most, from which the caller
    chooses its blocks, `met` the largest number of every intermediate result, where that is asked for.
    """

    n1: int
    n2: int
    normalize: Any
    sides: tuple[Numbers, Numbers]
    binary: bool = False
    diagonal: bool = False
    largest: int = 1
    known: dict[tuple[Any, tuple[bool, ...]], Any] = dataclasses.field(default_factory=dict)
    met: list[Any] | None = None

    @property
    def dtype(self) -> Any:
        return self.sides[0].dtype

    @property
    def xp(self) -> Any:
        """NumPy or JAX's, as the numbers are."""
        return self.sides[0].xp

    def note(self, result: Any) -> Any:
        if self.met is not None:
            self.met.append(self.xp.max(result))
        return result

    def of_base(self, base: Base, paired: tuple[bool, ...]) -> Any:
        """K of a base: [n1, n2, then for every axis (a, a') if paired, else (a)]; any size may be 1."""
        key = (base, paired)
        if key not in self.known:
            self.known[key] = self.of_layer(base, paired) if isinstance(base, Layer) else self.of_root(base, paired)
        return self.known[key]

    def of_root(self, base: Base, paired: tuple[bool, ...]) -> Any:
        """K of a base that is no layer: the number one, or a bias of variance one."""
        return self.xp.ones([1, 1] + [1 for p in paired for _ in range(1 + p)], self.dtype)

    def variance(self, layer: Layer) -> Any:
        """Of the weights of a layer."""
        one, own = 1 / layer.fan_in, self.xp.square(self.sides[0].of(layer.constant)[0])
        return jnp.where(self.normalize, one, own) if is_traced(self.normalize) else one if self.normalize else own

    def of_layer(self, layer: Layer, paired: tuple[bool, ...]) -> Any:
        """Contract what the layer reads, add up equal offsets, weigh by the weights' variance."""
        total = self.added([(term, input_roles(layer, term, paired)) for term in layer.inputs])
        return self.ended(total, ending_of(layer, paired), self.variance(layer))

    def ended(self, total: Any, ending: Ending, variance: Any) -> Any:
        """What a layer makes of what it has contracted."""
        axis = 2 + ending.n_batch
        for window, length, pairs in zip(ending.windows, ending.lengths, ending.pairs):
            if window != Window(1, 1, 1, 0, 0, 1):
                total = self.windowed(total, axis, length, window, pairs)
            axis += 1 + pairs
        total = self.weighed(total, variance)
        return _map(lambda a: a.reshape(*a.shape, *(1,) * ending.n_out), total)

    def of_bases(self, bases: tuple[Base, ...], paired: tuple[bool, ...]) -> Any:
        """K of the sum of some bases, the first of which says how it is laid out: a base of its own."""
        if len(bases) == 1:
            return self.of_base(bases[0], paired)
        if (bases, paired) not in self.known:
            k, last = self.of_bases(bases[:-1], paired), bases[-1]
            constant = not isinstance(last, Layer)
            more = self.of_base(last, (False,) * len(last.axes) if constant else paired)
            rank = jax.tree_util.tree_leaves(k)[0].ndim
            more = _map(lambda a: a.reshape((1,) * rank), more) if constant else more
            self.known[bases, paired] = self.summed([k, more])
        return self.known[bases, paired]

    def of_term(self, term: Term, roles: Sequence[Role], more: tuple[Base, ...] = ()) -> Any:
        """Σ g·g'·K over summed and contracted dims: [n1, n2, kept dims in order ("pair": two axes)].

        K is that of the term's base and of all in `more`, which are read as it is.
        """
        letters = Letters(roles)
        k, k_letters, masks = self.gathered(term, roles, letters, more)
        kept = [a for d, r in enumerate(roles) for a in letters.kept(d, r)]
        outside = set(kept) | set(k_letters) | {a for _, m in masks for a in m}
        overlap, o_letters, read = self.overlap(term, roles, letters, outside)
        # A letter in no operand: the summand is constant along it.
        absent = [(a, d) for d, r in enumerate(roles) if r in ("contract", "sum") for a in letters.both(d, r)]
        factor = math.prod(term.sizes[d] for a, d in absent if a not in read | outside)
        out_letters = [a for a in ("N", "M", *kept) if a in (*o_letters, *k_letters, *(a for _, m in masks for a in m))]
        result = self.combined([(overlap, o_letters), (k, k_letters), *masks], out_letters, factor)
        full = ["N", "M", *kept]
        fresh = tuple(i for i, a in enumerate(full) if a not in out_letters)
        return _map(lambda a: self.xp.expand_dims(a, fresh), result)

    # -- arithmetic: what an algebra of other numbers does in its own way ----------------------------

    def added(self, parts: Sequence[tuple[Term, Sequence[Role]]]) -> Any:
        """The sum of the moments of terms of different bases, of which any size may be 1."""
        return self.summed([self.of_term(*part) for part in together(parts)])

    def summed(self, parts: Sequence[Any]) -> Any:
        """The sum of independent parts, of which any size may be 1."""
        return functools.reduce(operator.add, parts)

    def windowed(self, total_: Any, axis: int, length: int, window: Window, pairs: bool) -> Any:
        """The sum over equal offsets of a window."""
        return (_over_pairs if pairs else _over_places)(total_, axis, length, window)

    def weighed(self, total_: Any, variance: Any) -> Any:
        """Times the variance of a layer's weights."""
        return self.note(total_ * self.xp.asarray(variance, self.dtype))

    def combined(self, operands: Sequence[tuple[Any, list[str]]], out: Sequence[str], factor: int) -> Any:
        """The product of overlap, K and masks, summed over the letters that are not in `out`, times a number."""
        result = _einsum(operands, out, self.dtype)
        if factor != 1:
            result = result * self.xp.asarray(factor, self.dtype)
        return self.note(result)

    def multiplied(self, operands: Sequence[tuple[Any, list[str]]], out: Sequence[str], binary: bool) -> Any:
        """The overlap of the factors of both sides."""
        return _einsum(operands, out, self.dtype, jnp.bfloat16 if binary and self.dtype == jnp.float32 else None)

    def read(self, term: Term, roles: Sequence[Role], letters: "Letters", k: Any, paired: tuple[bool, ...]) -> Any:
        """K through the index of a term, with its letters."""
        return _read(term, roles, letters, k, paired)

    # -- what a term reads ---------------------------------------------------------------------------

    def gathered(
        self, term: Term, roles: Sequence[Role], letters: "Letters", more: tuple[Base, ...] = ()
    ) -> tuple[Any, list[str], list]:
        """K of the term's bases read through its index, with its letters, and the masks of independence."""
        paired = paired_axes(term, roles)
        k = self.of_bases((term.base, *more), paired)
        masks = []
        for index, axis, is_apart in zip(term.index, term.base.axes, _apart(term, roles), strict=True):
            if axis.independent and is_apart and axis.size > 1:
                masks.append(self.independence(term, roles, letters, index))
        return *self.read(term, roles, letters, k, paired), masks

    def independence(
        self, term: Term, roles: Sequence[Role], letters: "Letters", index: Index
    ) -> tuple[Any, list[str]]:
        """1 where both sides read the same element of an independent axis, else 0."""
        one, two = letters.side(index.dims, roles, 1), letters.side(index.dims, roles, 2)
        names = list(dict.fromkeys((*one, *two)))
        values = index_values(term, index)
        sizes = {a: s for side in (one, two) for a, s in zip(side, values.shape, strict=True)}
        left, right = _lay(values, one, names), _lay(values, two, names)
        equal = np.broadcast_to(left == right, [sizes[a] for a in names])
        return self.xp.asarray(equal, self.dtype), names

    def overlap(
        self, term: Term, roles: Sequence[Role], letters: "Letters", outside: set[str]
    ) -> tuple[Any, list[str], set[str]]:
        """Σ g1·g2 over the dims that nothing else depends on: one matrix product (and the letters it read)."""
        dims = range(len(roles))
        operands = []
        for side, numbers, batch in zip((1, 2), self.sides, ("N", "N" if self.diagonal else "M"), strict=True):
            operands.append(_squeeze(numbers.of(term.g), [batch, *letters.side(dims, roles, side)]))
        present = [a for _, names in operands for a in names]
        out = [a for a in dict.fromkeys(present) if a in ("N", "M") or a in outside]
        result = self.multiplied(operands, out, self.binary and term.binary)
        shape = jax.tree_util.tree_leaves(result)[0].shape
        per_pair = math.prod(s for a, s in zip(out, shape, strict=True) if a not in ("N", "M"))
        self.largest = max(self.largest, per_pair)
        return result, out, set(present)


def _apart(term: Term, roles: Sequence[Role]) -> list[bool]:
    """Which axes of its base a term reads at two places."""
    return [any(roles[d] in ("pair", "sum") for d in index.dims) for index in term.index]


class Group(NamedTuple):
    """A term, what becomes of its dims, and further bases that are read as its own is, under the same factors."""

    term: Term
    roles: Sequence[Role]
    more: tuple[Base, ...] = ()


def together(parts: Sequence[tuple[Term, Sequence[Role]]]) -> list[Group]:
    """Terms of the same factors as one: layers that are read alike, and what is constant (a layer's own bias)."""
    groups: dict[Any, Group] = {}
    constants: list[tuple[Any, Term, Sequence[Role]]] = []
    for term, roles in parts:
        alike = (term.g.name, term.layout, term.summed, tuple(roles))
        masked = any(a.independent and a.size > 1 and apart for a, apart in zip(term.base.axes, _apart(term, roles)))
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
    return list(groups.values())


def paired_axes(term: Term, roles: Sequence[Role]) -> tuple[bool, ...]:
    """The axes of a term's base of whose places it reads pairs."""
    return tuple(
        apart and not axis.independent for apart, axis in zip(_apart(term, roles), term.base.axes, strict=True)
    )


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


def _squeeze(array: Any, names: Sequence[str]) -> tuple[Any, list[str]]:
    """Leave out axes of size one: the array is constant along them."""
    kept = [i for i, s in enumerate(array.shape) if s > 1]
    return array.reshape([array.shape[i] for i in kept]), [names[i] for i in kept]


def _lay(values: np.ndarray, names: Sequence[str], order: Sequence[str]) -> np.ndarray:
    """Transpose and expand so that the axes follow `order`."""
    ranked = sorted(range(len(names)), key=lambda i: order.index(names[i]))
    moved = np.transpose(values, ranked)
    return np.expand_dims(moved, tuple(i for i, a in enumerate(order) if a not in names))


def _einsum(operands: Sequence[tuple[Any, list[str]]], out: Sequence[str], dtype: Any, exact: Any = None) -> Any:
    symbol: dict[str, str] = {}
    for _, names in operands:
        for name in names:
            symbol.setdefault(
                name, chr(ord("a") + len(symbol)) if len(symbol) < 26 else chr(ord("A") + len(symbol) - 26)
            )
    spec = ",".join("".join(symbol[a] for a in names) for _, names in operands)
    arrays = [a for a, _ in operands]
    if exact is not None:
        arrays = [a.astype(exact) for a in arrays]
    product = jnp.einsum(
        f"{spec}->{''.join(symbol[a] for a in out)}",
        *arrays,
        precision=None if exact is not None else jax.lax.Precision.HIGHEST,
        preferred_element_type=dtype,
    )
    return product.astype(dtype)


def _read(
    term: Term, roles: Sequence[Role], letters: Letters, k: Any, paired: tuple[bool, ...]
) -> tuple[Any, list[str]]:
    """K[index(i), index'(j)] with its letters, axes along which K is constant left out."""
    names: list[list[str]] = [["N"], ["M"]]
    picks: list[tuple[int, np.ndarray | None, list[str]]] = []  # axis of k, values, letters
    axis = 2
    for index, pairs in zip(term.index, paired, strict=True):
        values = None if index.values is None else index.values
        for side in (1, 2) if pairs else (1,):
            picks.append((axis, values, letters.side(index.dims, roles, side)))
            axis += 1
    live = [p for p in picks if k.shape[p[0]] > 1]
    k = k.reshape([k.shape[0], k.shape[1], *(k.shape[p[0]] for p in live)])
    used = [a for _, _, side in live for a in side]
    if len(set(used)) == len(used):
        for i, (_, values, _) in reversed(list(enumerate(live))):
            if values is not None:
                k = k.take(values, axis=2 + i)
        names += [side for _, _, side in live]
    else:  # several axes are read through one dim: read all of them together
        order = list(dict.fromkeys(used))
        laid = [
            _lay(np.arange(k.shape[2 + i]) if values is None else values, side, order)
            for i, (_, values, side) in enumerate(live)
        ]
        k = k[(slice(None), slice(None), *laid)]
        names += [order]
    return _squeeze(k, [a for group in names for a in group])


def _over_places(k: Any, axis: int, length: int, window: Window) -> Any:
    """Σ_δ K[o·s + δ] along a spatial axis, padded as the layer pads it."""

    def along(value: Any, other: Any) -> list[Any]:
        return [value if i == axis else other for i in range(k.ndim)]

    k = jnp.broadcast_to(k, [length if i == axis else s for i, s in enumerate(k.shape)])
    return jax.lax.reduce_window(
        k,
        np.zeros((), k.dtype),
        jax.lax.add,
        along(window.size, 1),
        along(window.stride, 1),
        along((window.low, window.high), (0, 0)),
        along(window.spread, 1),
        along(window.dilation, 1),
    )


def _over_pairs(k: Any, axis: int, length: int, window: Window) -> Any:
    """Σ_δ K[o·s + δ, o'·s + δ] along the two axes of a spatial axis, padded as the layer pads it.

    They are laid out as one, along which equal offsets lie at equal distances: the summands are then contiguous,
    which XLA for CPU computes three times as fast as squares cut from the two axes, and compiles in seconds (squares
    of squares, layer after layer, took it minutes).
    """
    axes = (axis, axis + 1)
    k = jnp.broadcast_to(k, [length if i in axes else s for i, s in enumerate(k.shape)])
    config = [(window.low, window.high, window.spread - 1) if i in axes else (0, 0, 0) for i in range(k.ndim)]
    k = jax.lax.pad(k, jnp.zeros((), k.dtype), config)
    side, step = k.shape[axis], window.dilation * (k.shape[axis] + 1)
    flat = k.reshape(*k.shape[:axis], side * side, *k.shape[axis + 2 :])
    rest = (window.size - 1) * step
    stop = side * side - rest
    total = sum(jax.lax.slice_in_dim(flat, start, start + stop, axis=axis) for start in range(0, rest + 1, step))
    # What a window would read beyond the last place belongs to no output and is cut off again.
    total = jax.lax.pad(total, jnp.zeros((), k.dtype), [(0, rest * (i == axis), 0) for i in range(flat.ndim)])
    cut = slice(0, (window.count(length) - 1) * window.stride + 1, window.stride)
    return total.reshape(k.shape)[tuple(cut if i in axes else slice(None) for i in range(k.ndim))]


def _output_roles(term: Term) -> list[Role]:
    return ["same"] * (len(term.sizes) - len(term.summed)) + ["sum"] * len(term.summed)


def input_roles(layer: Layer, term: Term, paired: Sequence[bool]) -> list[Role]:
    """What becomes of the dims of a term that a layer reads."""
    nb, nk = layer.n_batch, layer.n_kept
    contracted = len(term.sizes) - len(term.summed) - nb - nk
    kept = ["same"] * nb + ["pair" if p else "same" for p in paired[nb : nb + nk]]
    return kept + ["contract"] * contracted + ["sum"] * len(term.summed)


def output_moment(state: Sequence[Term], moments: SecondMoments) -> Any:
    """The second moment of one output unit, [n1, n2]."""
    found = moments.added([(term, _output_roles(term)) for term in state])
    if math.prod(jax.tree_util.tree_leaves(found)[0].shape[2:]) != 1:
        raise UnsupportedOperation(OWN_FEATURES)
    whole = (moments.n1, moments.n2)
    return _map(lambda a: moments.xp.broadcast_to(moments.xp.asarray(a).reshape(a.shape[:2]), whole), found)


def uses(state: Sequence[Term]) -> dict[tuple[Base, tuple[bool, ...]], int]:
    """How often K of each layer is asked for on the way to an output, its axes paired or not."""
    asked = ((base, paired_axes(g.term, g.roles)) for g in _demanded(state) for base in (g.term.base, *g.more))
    return collections.Counter((base, paired) for base, paired in asked if isinstance(base, Layer))


class Size(NamedTuple):
    """What a pair of samples takes: the most numbers at a time, multiplications (about); and numbers of factors."""

    elements: int
    operations: int
    factors: int
    terms: int = 1


def size_of(state: Sequence[Term]) -> Size:
    """What the second moment of an output takes, read off the terms."""
    sizes = [size_of_term(group.term, group.roles) for group in _demanded(state)]
    most, *sums = max(s.elements for s in sizes), *(sum(s[i] for s in sizes) for i in (1, 2, 3))
    return Size(most, *sums)


def size_of_term(term: Term, roles: Sequence[Role]) -> Size:
    """What a term takes, with the windows that its base was summed over."""
    letters = Letters(roles)
    kept = {a: term.sizes[d] for d, r in enumerate(roles) for a in letters.kept(d, r)}
    for number, (index, axis, apart) in enumerate(zip(term.index, term.base.axes, _apart(term, roles))):
        if axis.size > 1 and (number < places_of(term.base) or (axis.independent and apart)):
            kept |= {a: term.sizes[d] for d in index.dims for a in letters.both(d, roles[d])}
    known = {a: s for d, s in enumerate(term.g.shape) for a in letters.both(d, roles[d]) if s > 1}
    taps = max((w.size for w in term.base.windows), default=1) if isinstance(term.base, Layer) else 1
    elements = math.prod(kept.values())
    return Size(elements, math.prod((known | kept).values()) + 2 * taps * elements, term.g.size)


def places_of(base: Base) -> int:
    """Of how many axes, the first ones, K of a base depends on the place."""
    return base.n_batch + base.n_kept if isinstance(base, Layer) else 0


def _demanded(state: Sequence[Term]) -> Iterator[Group]:
    """All terms that are read on the way to an output, with what becomes of their dims."""
    todo = together([(term, _output_roles(term)) for term in state])
    seen: set[tuple[Base, tuple[bool, ...]]] = set()
    while todo:
        group = todo.pop()
        yield group
        paired = paired_axes(group.term, group.roles)
        for base in (group.term.base, *group.more):
            if isinstance(base, Layer) and (base, paired) not in seen:
                seen.add((base, paired))
                todo += together([(below, input_roles(base, below, paired)) for below in base.inputs])
