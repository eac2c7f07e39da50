"""The second moment of a program's output under random weights: three operations, read off the terms.

For independent zero-mean weights the covariance of a value between two inputs needs only the covariance
K of its bases: gates multiply it, a weight layer contracts it over what the layer reads (an overlap) and,
for a convolution, adds it up over equal offsets; a sum adds the terms. Pairs of positions are computed
only where a later sum asks for them.
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
    Demands,
    Ending,
    Group,
    Letters,
    Role,
    apart_axes,
    demands_of,
    ending_of,
    groups_of,
    mixing,
    paired_axes,
)
from npk.paths import OWN_FEATURES, Base, Factor, Index, Layer, Numbers, Term, Window, index_values
from npk.programs import UnsupportedOperation, is_traced

_map = jax.tree_util.tree_map


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
    demands: Demands | None = None

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
        total = self.added(self.groups_of(layer, paired))
        return self.ended(total, ending_of(layer, paired), self.variance(layer))

    def groups_of(self, layer: Layer, paired: tuple[bool, ...]) -> Sequence[Group]:
        """What a layer reads."""
        known = self.demands.layers.get((layer, paired)) if self.demands else None
        return groups_of(layer, paired) if known is None else known

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
        # Of those that a layer reads all but the last are what the layer before it has read.
        start = next((n for n in range(len(bases), 1, -1) if (bases[:n], paired) in self.known), 1)
        k = self.of_base(bases[0], paired) if start == 1 else self.known[bases[:start], paired]
        for n, last in enumerate(bases[start:], start + 1):
            constant = not isinstance(last, Layer)
            more = self.of_base(last, (False,) * len(last.axes) if constant else paired)
            rank = jax.tree_util.tree_leaves(k)[0].ndim
            more = _map(lambda a, rank=rank: a.reshape((1,) * rank), more) if constant else more
            k = self.known[bases[:n], paired] = self.summed([k, more])
        return k

    def of_term(self, term: Term, roles: Sequence[Role], more: tuple[Base, ...] = ()) -> Any:
        """Σ g·g'·K over summed and contracted dims: [n1, n2, kept dims in order ("pair": two axes)].

        K is that of the term's base and of all in `more`, which are read as it is.
        """
        letters = Letters(roles)
        k, k_letters, masks = self.gathered(term, roles, letters, more)
        kept = [a for d, r in enumerate(roles) for a in letters.kept(d, r)]
        within, matrices = mixing(term, roles)
        masks += [operand for matrix in matrices for operand in self.of_sides(matrix, roles, letters)]
        outside = set(kept) | set(k_letters) | {a for _, m in masks for a in m}
        overlap, o_letters, read = self.overlap(term, within, roles, letters, outside)
        # A letter in no operand: the summand is constant along it.
        absent = [(a, d) for d, r in enumerate(roles) if r in ("contract", "sum") for a in letters.both(d, r)]
        factor = math.prod(term.sizes[d] for a, d in absent if a not in read | outside)
        out_letters = [a for a in ("N", "M", *kept) if a in (*o_letters, *k_letters, *(a for _, m in masks for a in m))]
        result = self.combined([(overlap, o_letters), (k, k_letters), *masks], out_letters, factor)
        full = ["N", "M", *kept]
        fresh = tuple(i for i, a in enumerate(full) if a not in out_letters)
        return _map(lambda a: self.xp.expand_dims(a, fresh), result)

    # -- arithmetic: what an algebra of other numbers does in its own way ----------------------------

    def added(self, groups: Sequence[Group]) -> Any:
        """The sum of the moments of terms of different bases, of which any size may be 1."""
        return self.summed([self.of_term(*group) for group in groups])

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
        for index, axis, is_apart in zip(term.index, term.base.axes, apart_axes(term, roles), strict=True):
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

    def of_sides(
        self, factor: Factor, roles: Sequence[Role], letters: "Letters"
    ) -> tuple[tuple[Any, list[str]], tuple[Any, list[str]]]:
        """The numbers of a factor on either side, with their letters."""
        dims, batches = range(len(roles)), ("N", "N" if self.diagonal else "M")
        one, two = (
            _squeeze(numbers.of(factor), [batch, *letters.side(dims, roles, side)])
            for side, numbers, batch in zip((1, 2), self.sides, batches, strict=True)
        )
        return one, two

    def overlap(
        self, term: Term, within: Factor, roles: Sequence[Role], letters: "Letters", outside: set[str]
    ) -> tuple[Any, list[str], set[str]]:
        """Σ g1·g2 over the dims that nothing else depends on: one matrix product (and the letters it read)."""
        operands = self.of_sides(within, roles, letters)
        present = [a for _, names in operands for a in names]
        out = [a for a in dict.fromkeys(present) if a in ("N", "M") or a in outside]
        result = self.multiplied(operands, out, self.binary and term.binary)
        shape = jax.tree_util.tree_leaves(result)[0].shape
        per_pair = math.prod(s for a, s in zip(out, shape, strict=True) if a not in ("N", "M"))
        self.largest = max(self.largest, per_pair)
        return result, out, set(present)


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


def output_moment(state: Sequence[Term], moments: SecondMoments) -> Any:
    """The second moment of one output unit, [n1, n2]; of outputs at several places [n1, n2, places]."""
    demands = moments.demands = moments.demands or demands_of(state)
    for layer, paired in demands.layers:  # so that no recursion is as deep as the network
        moments.of_base(layer, paired)
    found = moments.added(demands.output)
    places = state[0].shape[1:-1]
    kept = jax.tree_util.tree_leaves(found)[0].shape[2:]
    if math.prod(kept[len(places) :]) != 1:
        raise UnsupportedOperation(OWN_FEATURES)
    whole = (moments.n1, moments.n2, *places)
    return _map(lambda a: moments.xp.broadcast_to(moments.xp.asarray(a).reshape(a.shape[: len(whole)]), whole), found)
