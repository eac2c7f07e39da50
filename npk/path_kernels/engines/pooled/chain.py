"""Convolutions, global pooling, dense layers: a chain that the fused GPU kernel computes, read off the walk."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from npk.path_kernels.engines import UNKNOWN, covering, require
from npk.paths import Factor, Form, Layer, Leaf, Source, Term, over, parts_of
from npk.programs import is_traced

_BIAS = "a bias under other gates than its layer, or shared by channels"
_GATES = "between two layers more, or other, than one gate a unit"
_PART = "pooling that is not over all positions of the image: strides, or pooling of a part"
_POOLED = "pooling of other values than gated ones, each counted alike"


@dataclasses.dataclass(frozen=True)
class Convolution:
    """K ← scale · (sum of K ⊙ overlap over equal offsets of the window) + shift, gated by activation `gate`."""

    window: tuple[int, int]
    scale: float
    shift: float
    gate: int


@dataclasses.dataclass(frozen=True)
class Dense:
    """h ← scale · h · overlap of activation `gate` + shift; the first layer, which pooling feeds, has no gate."""

    scale: float
    shift: float
    gate: int | None


@dataclasses.dataclass(frozen=True)
class GapChain:
    """H of stride-1 convolutions that keep the size of images [height, width, channels], pooled over all positions.

    `pooled` is what each position counts in pooling (1 / positions for a mean); `circular` says whether the
    convolutions wrap around, else they see zeros outside.
    """

    image: tuple[int, int, int]
    circular: bool
    convolutions: tuple[Convolution, ...]
    pooled: float
    dense: tuple[Dense, ...]


@covering
def covers(form: Form, normalize: bool) -> GapChain:
    """The chain of a network under hard gates, or why it is none."""
    require(len(form.program.x) == 1, "several inputs")
    (x,) = form.program.x
    require(len(x.shape) == 4 and min(x.shape[1:3]) > 1, "no images [height, width, channels]")
    return _Reading(x.shape[1:], form.gate_shapes, normalize).chain(form.state)


@dataclasses.dataclass(frozen=True)
class _Reading:
    """Reads the terms from the output to the input: of images [height, width, channels] and gates of these shapes."""

    image: tuple[int, ...]
    gates: Sequence[tuple[int, ...]]
    normalize: bool

    def chain(self, state: Sequence[Term]) -> GapChain:
        term, biases = _parts(state)
        for one in (term, *biases):
            require(one.g.is_one, "the output is gated or scaled")
        dense, last, pooled = self.dense(term, float(len(biases)))
        convolutions, paddings = self.convolutions(*last)
        met = sorted([c.gate for c in convolutions] + [d.gate for d in dense if d.gate is not None])
        require(len(set(paddings)) == 1, "convolutions of which some wrap around and some do not")
        require(met == list(range(len(self.gates))), "gates that are used twice or not at all")
        height, width, channels = self.image
        return GapChain((height, width, channels), paddings[0], tuple(convolutions), pooled, tuple(dense))

    def variance(self, layer: Layer) -> float:
        require(self.normalize or layer.number is not None, UNKNOWN)
        return 1 / layer.fan_in if self.normalize else float(layer.number or 0) ** 2

    def dense(self, term: Term, shift: float) -> tuple[list[Dense], tuple[Term, int, float], float]:
        """The dense layers, first to last; the last convolution with its gate and shift; what a position counts."""
        found: list[Dense] = []
        while True:
            layer = term.base
            require(
                isinstance(layer, Layer) and not layer.n_batch and not layer.windows,
                "no global pooling before dense layers",
            )
            assert isinstance(layer, Layer)
            require(
                math.prod(a.size for a in layer.axes if not a.independent) == 1, "a dense layer of several positions"
            )
            term, biases = _parts(layer.inputs)
            if term.summed:
                found.append(Dense(self.variance(layer), shift, None))
                gate, pooled = self.pooling(term, biases)
                return found[::-1], (term, gate, float(len(biases))), pooled
            _, gate = _core(term.g)
            plain = gate.op == "gate" and term.binary and all(_alike(b, term) for b in biases)
            require(plain, _GATES)
            found.append(Dense(self.variance(layer), shift, gate.how))
            shift = float(len(biases))

    def pooling(self, term: Term, biases: Sequence[Term]) -> tuple[int, float]:
        """The activation that is pooled, and the factor of each position: 1 or 1 / positions."""
        height, width, _ = self.image
        channels = term.shape[-1]
        require(
            term.summed == (height, width) and term.shape == (1, channels),
            _PART,
        )
        number, gate = _core(term.g)
        mean = 1 / (height * width)
        whole = gate.op == "gate" and (number == 1 or math.isclose(number, mean, rel_tol=1e-6))
        require(whole and self.gates[gate.how] == (1, height, width, channels), _POOLED)
        held = np.moveaxis(_held(term, gate).reshape(channels, height, width), 0, -1)
        require(np.array_equal(held, np.arange(held.size).reshape(held.shape)), _POOLED)
        channel, row, column = np.ix_(*map(np.arange, (channels, height, width)))
        require(_reads(term, (channels, height, width), (row, column, channel)), _POOLED)
        alike = all(_own_channels(b) and _core(b.g) == (number, gate) and b.g.size == channels for b in biases)
        require(alike, _BIAS)
        return gate.how, number

    def convolutions(self, term: Term, gate: int, shift: float) -> tuple[list[Convolution], list[bool]]:
        """The convolutions, first to last, and whether each wraps around."""
        found, paddings = [], []
        while True:
            layer = term.base
            require(
                isinstance(layer, Layer) and len(layer.windows) == 2 and layer.n_batch == 1,
                "a layer that is no convolution",
            )
            assert isinstance(layer, Layer)
            require(layer.axes[0].size == 1 and layer.n_kept == 3, "a convolution with groups")
            found.append(Convolution(_window(layer), self.variance(layer), shift, gate))
            term, biases = _parts(layer.inputs)
            require(not term.summed, "pooling between convolutions")
            require(all(_alike(b, term) for b in biases), _BIAS)
            is_input = isinstance(term.base, Source)
            leaf = _leaf(term.g)
            shape = self.image if is_input else self.gates[leaf.how][1:] if leaf.op == "gate" else ()
            require(len(shape) == 3 and leaf.op == ("input" if is_input else "gate"), _GATES)
            wrapped = _padding(layer, term, leaf, shape)
            require(wrapped is not None, "a convolution that reads other places than its own neighbours")
            if found[-1].window != (1, 1):
                paddings.append(bool(wrapped))
            if is_input:
                require(not biases, "a shifted input")
                return found[::-1], paddings or [True]
            require(term.binary, "gates other than 0 and 1")
            gate, shift = leaf.how, float(len(biases))


def _parts(terms: Sequence[Term]) -> tuple[Term, list[Term]]:
    """The one term that comes from a layer or the input, and the biases added to it."""
    others = [t for t in terms if not isinstance(t.base, Leaf)]
    biases = [t for t in terms if isinstance(t.base, Leaf)]
    require(len(others) == 1, "a layer reads a sum of several values")
    require(not any(b.summed for b in biases), _BIAS)
    return others[0], biases


def _window(layer: Layer) -> tuple[int, int]:
    for w in layer.windows:
        plain = w.stride == w.dilation == w.spread == 1 and w.size % 2 == 1
        require(
            plain and w.low == w.high and w.low in (0, w.size // 2),
            "a convolution with stride, dilation or an even size",
        )
    return layer.windows[0].size, layer.windows[1].size


def _reads(term: Term, shape: Sequence[int], places: Sequence[np.ndarray], seen: Any = True) -> bool:
    """Whether a term reads a layer's [group, row, column, batch, channel] at these (row, column, channel)."""
    row, column, channel = places
    found = [over(term, index, tuple(range(len(term.sizes)))).reshape(shape) for index in term.index]
    expected = (0, row, column, 0, channel)
    same = [((f == e) | ~np.asarray(seen)).all() for f, e in zip(found, expected)]
    return len(found) in (0, len(expected)) and all(same)  # the input itself is a factor, and reads nothing


def _padding(layer: Layer, term: Term, leaf: Factor, image: Sequence[int]) -> bool | None:
    """How a leaf [height, width, channels] is read: True wrapped around, False with zeros outside, None neither."""
    height, width, channels = image
    margins = [w.size // 2 - w.low for w in layer.windows]
    shape = (height + 2 * margins[0], width + 2 * margins[1], channels)
    if term.shape != (1, *shape[:2], 1, channels):
        return None
    held = _held(term, leaf).reshape(shape)
    rows, columns, every = np.ix_(*(np.arange(-m, s - m) for m, s in zip((*margins, 0), shape)))
    places = (rows % height, columns % width, every)
    elements = np.arange(math.prod(image)).reshape(image)[places]
    inside = np.broadcast_to((rows >= 0) & (rows < height) & (columns >= 0) & (columns < width), shape)
    zeros_read = any(w.low for w in layer.windows)
    for circular in (False,) if zeros_read else (True, False):
        seen = inside | circular
        if np.array_equal(held, np.where(seen, elements, -1)) and _reads(term, shape, places, seen):
            return circular
    return None


def _own_channels(bias: Term) -> bool:
    """Whether a bias has an element of its own for each channel, the same one everywhere."""
    own = {d for index in bias.index if index.values is None for d in index.dims}
    return {d for d in own if bias.sizes[d] > 1} == {d for d in bias.dims(len(bias.shape) - 1) if bias.sizes[d] > 1}


def _alike(bias: Term, term: Term) -> bool:
    """Whether a bias meets the same gates as the layer it is added to."""
    return _own_channels(bias) and bias.shape == term.shape and bias.g.name == term.g.name


# ------------------------------------------------------------------------------------------ known factors


def _core(factor: Factor) -> tuple[float, Factor]:
    """A factor as a number times what it selects all of, or sums, in whatever layout."""
    number = 1.0
    while factor.args:
        if factor.op == "times":
            constants = [a for a in factor.args if a.op == "constant" and a.size == 1 and not is_traced(a.how)]
            others = [a for a in factor.args if a not in constants]
            require(len(others) == 1, _GATES)
            number *= float(constants[0].how.reshape(()))
            (factor,) = others
        else:
            require(factor.op in ("reshape", "transpose", "sum"), _GATES)
            (factor,) = factor.args
    return number, factor


def _leaf(factor: Factor) -> Factor:
    """The one leaf that a factor is a selection of."""
    parts = parts_of(factor)
    require(len(parts) == 1, _GATES)
    return parts[0].leaf


def _held(term: Term, leaf: Factor) -> np.ndarray:
    """Which elements of a leaf the factor of a term holds, at all its dims; -1 where it is zero."""
    (where,) = (part.where for part in parts_of(term.g) if part.leaf.name == leaf.name)
    return np.broadcast_to(where, term.sizes)
