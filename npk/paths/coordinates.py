"""Path coordinates, layer by layer: how many, their features, their products of weights, their names.

A weight layer multiplies the paths that reach its input by the elements of its weight. The coordinates of
a layer are therefore (what it contracts) × (coordinates of what it reads), and of a sum those of its
terms side by side. Features carry the gates, products the weights; both enumerate coordinates in one order.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from npk.paths.factors import Numbers
from npk.paths.layers import Layer
from npk.paths.terms import Base, Leaf, Term, merge, over, transpose, windows
from npk.programs import working_dtype

# ----------------------------------------------------------------------------------- counting


def free_axes(term: Term, contracted: set[int], same: set[int]) -> list[int]:
    """Independent axes of a term's base that its contracted and weight-batched dims do not determine."""
    pinned = contracted | same
    return [
        i
        for i, (index, axis) in enumerate(zip(term.index, term.base.axes, strict=True))
        if axis.independent and axis.size > 1 and not set(index.dims) <= pinned
    ]


def _input_terms(layer: Layer) -> list[Term]:
    """The inputs of a layer with a convolution's windows written out as contracted axes."""
    terms = []
    for term in layer.inputs:
        for number, window in enumerate(layer.windows):
            axis = layer.n_batch + number
            term = windows(term, axis, window.chosen(term.shape[axis]))
            first = layer.n_batch + layer.n_kept + number
            order = [a for a in range(len(term.shape)) if a != axis + 1]
            order.insert(first, axis + 1)
            term = transpose(term, order)
        for axis in range(layer.n_batch + layer.n_kept):
            term = merge(term, axis)
        terms.append(term)
    return terms


def _roles(layer: Layer, term: Term) -> tuple[set[int], set[int]]:
    """The contracted dims of a term, and those along which the layer's weights differ."""
    kept = layer.n_batch + layer.n_kept
    return set(range(kept, len(term.sizes) - len(term.summed))), set(range(layer.n_batch))


def count_coordinates(base: Base, known: dict[Base, int]) -> int:
    """The number of coordinates of one element of a base."""
    if not isinstance(base, Layer):
        return 1
    if base not in known:
        total = 0
        for term in _input_terms(base):
            contracted, same = _roles(base, term)
            free = math.prod(term.base.axes[i].size for i in free_axes(term, contracted, same))
            total += math.prod(term.sizes[d] for d in contracted) * free * count_coordinates(term.base, known)
        known[base] = total
    return known[base]


# ------------------------------------------------------------------------------------ features


@dataclasses.dataclass
class Features:
    """φ of every base: [n, its axes (1 where constant), coordinates]."""

    numbers: Numbers
    known: dict[Base, Any] = dataclasses.field(default_factory=dict)

    def of(self, base: Base) -> Any:
        if not isinstance(base, Layer):
            return jnp.ones((1,) * (2 + len(base.axes)), self.numbers.dtype)
        if base not in self.known:
            parts = []
            for term in _input_terms(base):
                contracted, same = _roles(base, term)
                parts.append(self.read(term, contracted, same))
            shape = jnp.broadcast_shapes(*(p.shape[:-1] for p in parts))
            phi = jnp.concatenate([jnp.broadcast_to(p, (*shape, p.shape[-1])) for p in parts], -1)
            phi = phi * self.numbers.of(base.constant)[0]
            self.known[base] = phi.reshape(*phi.shape[:-1], *(1,) * base.n_out, phi.shape[-1])
        return self.known[base]

    def read(self, term: Term, contracted: set[int], same: set[int]) -> Any:
        """Σ_s g·φ[index]: [n, dims kept, coordinates (contracted, free, the base's own)]."""
        phi, free = self.of(term.base), free_axes(term, contracted, same)
        rank = len(term.sizes)
        places: list[Any] = [slice(None)]
        masks: list[np.ndarray] = []
        for i, (index, axis) in enumerate(zip(term.index, term.base.axes, strict=True)):
            where = over(term, index, tuple(range(rank)))
            if i in free:  # enumerate its elements: a new last dim, 1 where the index reads the element
                number = free.index(i)
                shape = [1] * rank + [axis.size if j == number else 1 for j in range(len(free))]
                masks.append(where.reshape(*where.shape, *(1,) * len(free)) == np.arange(axis.size).reshape(shape))
            places.append(where * (phi.shape[1 + i] > 1))
        value = phi[tuple(places)] if term.index else jnp.broadcast_to(phi, (1, *(1,) * rank, phi.shape[-1]))
        value = value.reshape(*value.shape[:-1], *(1,) * len(free), value.shape[-1])
        for mask in masks:
            value = value * jnp.asarray(mask[None, ..., None], value.dtype)
        g = self.numbers.of(term.g)
        g = g.reshape(*g.shape, *(1,) * (len(free) + 1))
        value = jnp.broadcast_to(
            value * g, jnp.broadcast_shapes((value * g).shape, (1, *term.sizes, *(1,) * (len(free) + 1)))
        )
        first_summed = 1 + rank - len(term.summed)
        value = jnp.sum(value, axis=tuple(range(first_summed, 1 + rank)))
        kept = first_summed - len(contracted)
        return value.reshape(*value.shape[:kept], -1)


# ----------------------------------------------------------------- values and names: one recursion


@dataclasses.dataclass
class Products:
    """The product of weights of every coordinate of a base: [coordinates, its independent axes].

    With `leaf` returning numbers and `times` multiplying this is v; with labels and joining, the names.
    `leaf(base, hidden)` may hide the index along some axes of the leaf.
    """

    leaf: Callable[[Leaf, set[int]], Any]
    times: Callable[[Any, Any], Any]
    one: Any
    join: Callable[[Sequence[Any]], Any]
    known: dict[Base, Any] = dataclasses.field(default_factory=dict)

    def of(self, base: Base) -> Any:
        if isinstance(base, Leaf):
            return self.leaf(base, set())[None]
        if not isinstance(base, Layer):
            return self.one
        if base not in self.known:
            self.known[base] = self.of_layer(base)
        return self.known[base]

    def of_layer(self, layer: Layer, hide: bool = False) -> Any:
        """Every path that reaches the layer, times every element of its weight: [coordinates, batch.., out..]."""
        weight = self.weight(layer, hide)
        n_batch, out = layer.n_batch, weight.shape[layer.n_batch + 1 :]
        weight = weight.reshape(*weight.shape[: n_batch + 1], 1, *out)
        parts = []
        for term in _input_terms(layer):
            contracted, same = _roles(layer, term)
            read = self.read(term, self.of(term.base), contracted, same)  # [batch.., contracted, the rest]
            product = self.times(read.reshape(*read.shape, *(1,) * len(out)), weight)
            xp = np if isinstance(product, np.ndarray) else jnp
            product = xp.moveaxis(product, (n_batch, n_batch + 1), (0, 1))
            parts.append(product.reshape(-1, *product.shape[2:]))
        return self.join(parts)

    def read(self, term: Term, own: Any, contracted: set[int], same: set[int]) -> Any:
        """The products of a term's base through its index: [same.., contracted, (free, the base's own)]."""
        free = free_axes(term, contracted, same)
        pinned = tuple(sorted(contracted | same))
        sizes = [term.sizes[d] for d in pinned]
        free_sizes = [term.base.axes[i].size for i in free]
        places: list[Any] = []
        for i, (index, axis) in enumerate(zip(term.index, term.base.axes, strict=True)):
            if not axis.independent:
                continue
            if i in free:
                where = np.arange(axis.size).reshape([1] * len(sizes) + [-1 if j == i else 1 for j in free])
            else:
                where = np.zeros(sizes, int) if axis.size == 1 else over(term, index, pinned)
                where = where.reshape((*sizes, *(1,) * len(free)))
            places.append(where)
        xp: Any = np if isinstance(own, np.ndarray) else jnp
        read = own[(slice(None), *places)] if places else own.reshape(-1, *(1,) * (len(sizes) + len(free)))
        read = xp.moveaxis(xp.broadcast_to(read, (own.shape[0], *sizes, *free_sizes)), 0, -1)
        n_same = len(same)
        return read.reshape((*sizes[:n_same], math.prod(sizes[n_same:]), -1))

    def weight(self, layer: Layer, hide: bool) -> Any:
        """The elements of a layer's weight, [batch.., contracted, out..], its outputs' indices hidden on request."""
        term = layer.weight
        dims = tuple(range(len(term.sizes)))
        first_out = len(term.shape) - layer.n_out
        out = {d for axis in range(first_out, len(term.shape)) for d in term.dims(axis)}
        out |= {d for axis in range(layer.n_batch) for d in term.dims(axis)}
        hidden = _hidden(term, out) if hide else set()
        places = tuple(over(term, i, dims).reshape(-1) for i in term.index)
        elements = self.leaf(layer.leaf, hidden)
        array = elements[places] if places else elements.reshape(-1)
        return array.reshape(*term.shape[: layer.n_batch], -1, *term.shape[first_out:])

    def of_output(self, state: Sequence[Term], hide: bool = False) -> Any:
        """[P, K]: the products of every coordinate of the output."""
        parts = []
        for term in state:
            same = output_dims(term)
            if not hide:
                own = self.of(term.base)
            elif isinstance(term.base, Layer):
                own = self.of_layer(term.base, hide)
            elif isinstance(term.base, Leaf):
                own = self.leaf(term.base, _hidden(term, same))[None]
            else:
                own = self.one
            read = self.read(term, own, set(), same)
            parts.append(read.reshape(term.shape[-1], -1).T)
        return self.join(parts)


def _hidden(term: Term, out: set[int]) -> set[int]:
    """The axes of a leaf that number the output units; of a single unit, the last axis of size one."""
    hidden = {i for i, index in enumerate(term.index) if out & set(index.dims)}
    ones = [i for i, axis in enumerate(term.base.axes) if axis.size == 1]
    return hidden or set(ones[-1:])


def output_dims(term: Term) -> set[int]:
    return set(range(len(term.sizes) - len(term.summed)))


def _common(parts: Sequence[Any]) -> tuple[int, ...]:
    return np.broadcast_shapes(*(p.shape[1:] for p in parts))


def numbers(leaves: Sequence[Any]) -> Products:
    dtype = working_dtype(*leaves)
    return Products(
        leaf=lambda leaf, hidden: jnp.asarray(leaves[leaf.number], dtype),
        times=lambda a, b: a * b,
        one=jnp.ones((1,), dtype),
        join=lambda parts: jnp.concatenate([jnp.broadcast_to(p, (p.shape[0], *_common(parts))) for p in parts]),
    )


def labels() -> Products:
    def leaf(base: Leaf, hidden: set[int]) -> np.ndarray:
        shape = tuple(a.size for a in base.axes)
        labels = np.empty(shape, object)
        for place in np.ndindex(*shape):
            labels[place] = f"{base.name}[{','.join(':' if i in hidden else str(p) for i, p in enumerate(place))}]"
        return labels

    def times(a: Any, b: Any) -> Any:
        return np.frompyfunc(lambda x, y: f"{x} -> {y}" if x else y, 2, 1)(a, b)

    def join(parts: Sequence[Any]) -> Any:
        return np.concatenate([np.broadcast_to(p, (p.shape[0], *_common(parts))) for p in parts])

    return Products(leaf, times, np.array([""], object), join)
