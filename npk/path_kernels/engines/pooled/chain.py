"""Convolutions, global pooling, dense layers: a chain that the fused GPU kernel computes, read off the walk."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from npk.paths import Layer, Leaf, Source, Term, output_terms, over
from npk.programs import Program, UnsupportedOperation


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


def gap_chain(program: Program, gate_shapes: Sequence[tuple[int, ...]], normalize: bool) -> GapChain | None:
    """The chain of a single-sample program under hard gates, or None where the network is not one.

    The program is walked once with random numbers for parameters, input and gates. A factor in the walk's
    result is then a gate, and nothing but that gate, if it equals it; and what is found holds for all values.
    """
    (x,) = program.x
    if len(x.shape) != 4 or min(x.shape[1:3]) < 2:
        return None
    random = np.random.default_rng(0)
    leaves = [jnp.asarray(random.uniform(1, 2, v.shape), v.dtype) for v in program.params]
    inputs = random.uniform(1, 2, (1, *x.shape)).astype(np.float32)
    gates = [random.uniform(1, 2, (1, *shape)).astype(np.float32) for shape in gate_shapes]
    try:
        state = output_terms(program, leaves, (inputs,), [(g,) for g in gates], binary=True, dtype=jnp.float32)
        return _Reading(inputs[0, 0], [g[0] for g in gates], normalize).chain(state)
    except (UnsupportedOperation, _NotAChain):
        return None  # the general path says what was met


class _NotAChain(Exception):
    """The network has another form."""


def _require(condition: Any) -> None:
    if not condition:
        raise _NotAChain


@dataclasses.dataclass(frozen=True)
class _Reading:
    """Reads a walk's result from the output to the input. `inputs` and `gates` are the random numbers walked with."""

    inputs: np.ndarray
    gates: list[np.ndarray]
    normalize: bool

    def chain(self, state: Sequence[Term]) -> GapChain:
        term, biases = _parts(state)
        for one in (term, *biases):
            _require(one.g[0].size == 1 and float(one.g[0].reshape(())) == 1)
        dense, last, pooled = self.dense(term, float(len(biases)))
        convolutions, paddings = self.convolutions(*last)
        met = sorted([c.gate for c in convolutions] + [d.gate for d in dense if d.gate is not None])
        _require(len(set(paddings)) == 1 and met == list(range(len(self.gates))))
        height, width, channels = self.inputs.shape
        return GapChain((height, width, channels), paddings[0], tuple(convolutions), pooled, tuple(dense))

    def variance(self, layer: Layer) -> float:
        return 1 / layer.fan_in if self.normalize else float(layer.constant) ** 2

    def gate(self, numbers: np.ndarray) -> int:
        """The activation whose gates these are."""
        found = [i for i, g in enumerate(self.gates) if np.array_equal(g.reshape(-1), numbers.reshape(-1))]
        _require(len(found) == 1)
        return found[0]

    def dense(self, term: Term, shift: float) -> tuple[list[Dense], tuple[Term, int, float], float]:
        """The dense layers, first to last; the last convolution with its gate and shift; what a position counts."""
        found: list[Dense] = []
        while True:
            layer = term.base
            _require(isinstance(layer, Layer) and not layer.n_batch and not layer.windows)
            assert isinstance(layer, Layer)
            _require(math.prod(a.size for a in layer.axes if not a.independent) == 1)
            term, biases = _parts(layer.inputs)
            if term.summed:
                found.append(Dense(self.variance(layer), shift, None))
                gate, pooled = self.pooling(term, biases)
                return found[::-1], (term, gate, float(len(biases))), pooled
            number = self.gate(np.asarray(term.g[0]))
            _require(term.binary and all(_alike(b, term) for b in biases))
            found.append(Dense(self.variance(layer), shift, number))
            shift = float(len(biases))

    def pooling(self, term: Term, biases: Sequence[Term]) -> tuple[int, float]:
        """The activation that is pooled, and the factor of each position: 1 or 1 / positions."""
        height, width, _ = self.inputs.shape
        channels = term.shape[-1]
        _require(term.summed == (height, width) and term.shape == (1, channels))
        full = np.broadcast_to(np.asarray(term.g[0], np.float64), (1, *term.sizes))
        g = np.moveaxis(full.reshape(channels, height, width), 0, -1)
        channel, row, column = np.ix_(*map(np.arange, (channels, height, width)))
        _require(_reads(term, (channels, height, width), (row, column, channel)))
        for factor in (1.0, 1 / (height * width)):
            for number, gate in enumerate(self.gates):
                if gate.size == g.size and np.allclose(g, gate.reshape(g.shape) * factor, rtol=1e-6, atol=0):
                    sums = g.sum((0, 1))
                    _require(all(_is_pooled_bias(b, sums) for b in biases))
                    return number, factor
        raise _NotAChain

    def convolutions(self, term: Term, gate: int, shift: float) -> tuple[list[Convolution], list[bool]]:
        """The convolutions, first to last, and whether each wraps around."""
        found, paddings = [], []
        while True:
            layer = term.base
            _require(isinstance(layer, Layer) and len(layer.windows) == 2 and layer.n_batch == 1)
            assert isinstance(layer, Layer)
            _require(layer.axes[0].size == 1 and layer.n_kept == 3)
            found.append(Convolution(_window(layer), self.variance(layer), shift, gate))
            term, biases = _parts(layer.inputs)
            _require(not term.summed and all(_alike(b, term) for b in biases))
            is_input = isinstance(term.base, Source)
            candidates = (
                [self.inputs] if is_input else [g[0] if g.ndim == 4 else np.zeros((0, 0, 0)) for g in self.gates]
            )
            matches = [(i, p) for i, p in enumerate(_padding(layer, term, c) for c in candidates) if p is not None]
            _require(len(matches) == 1)
            if found[-1].window != (1, 1):
                paddings.append(matches[0][1])
            if is_input:
                _require(not biases)
                return found[::-1], paddings or [True]
            _require(term.binary)
            gate, shift = matches[0][0], float(len(biases))


def _parts(terms: Sequence[Term]) -> tuple[Term, list[Term]]:
    """The one term that comes from a layer or the input, and the biases added to it."""
    others = [t for t in terms if not isinstance(t.base, Leaf)]
    biases = [t for t in terms if isinstance(t.base, Leaf)]
    _require(len(others) == 1 and not any(b.summed for b in biases))
    return others[0], biases


def _window(layer: Layer) -> tuple[int, int]:
    for w in layer.windows:
        plain = w.stride == w.dilation == w.spread == 1 and w.size % 2 == 1
        _require(plain and w.low == w.high and w.low in (0, w.size // 2))
    return layer.windows[0].size, layer.windows[1].size


def _reads(term: Term, shape: Sequence[int], places: Sequence[np.ndarray], seen: Any = True) -> bool:
    """Whether a term reads a layer's [group, row, column, batch, channel] at these (row, column, channel)."""
    row, column, channel = places
    found = [over(term, index, tuple(range(len(term.sizes)))).reshape(shape) for index in term.index]
    expected = (0, row, column, 0, channel)
    same = [((f == e) | ~np.asarray(seen)).all() for f, e in zip(found, expected)]
    return len(found) in (0, len(expected)) and all(same)  # the input itself is a factor, and reads nothing


def _padding(layer: Layer, term: Term, numbers: np.ndarray) -> bool | None:
    """How `numbers` [height, width, channels] are read: True wrapped around, False with zeros outside, None neither."""
    height, width, channels = numbers.shape
    margins = [w.size // 2 - w.low for w in layer.windows]
    shape = (height + 2 * margins[0], width + 2 * margins[1], channels)
    if term.shape != (1, *shape[:2], 1, channels):
        return None
    g = np.broadcast_to(np.asarray(term.g[0]), (1, *term.sizes)).reshape(shape)
    rows, columns, every = np.ix_(*(np.arange(-m, s - m) for m, s in zip((*margins, 0), shape)))
    places = (rows % height, columns % width, every)
    inside = np.broadcast_to((rows >= 0) & (rows < height) & (columns >= 0) & (columns < width), shape)
    zeros_read = any(w.low for w in layer.windows)
    for circular in (False,) if zeros_read else (True, False):
        seen = inside | circular
        if np.array_equal(g, np.where(seen, numbers[places], 0)) and _reads(term, shape, places, seen):
            return circular
    return None


def _own_channels(bias: Term) -> bool:
    """Whether a bias has an element of its own for each channel, the same one everywhere."""
    own = {d for index in bias.index if index.values is None for d in index.dims}
    return {d for d in own if bias.sizes[d] > 1} == {d for d in bias.dims(len(bias.shape) - 1) if bias.sizes[d] > 1}


def _alike(bias: Term, term: Term) -> bool:
    """Whether a bias meets the same gates as the layer it is added to."""
    g, other = (np.asarray(t.g[0]).reshape(-1) for t in (bias, term))
    return _own_channels(bias) and bias.shape == term.shape and np.array_equal(g, other)


def _is_pooled_bias(bias: Term, sums: np.ndarray) -> bool:
    """Whether a bias reaches pooling through the gates summed over positions."""
    g = np.asarray(bias.g[0], np.float64).reshape(-1)
    return _own_channels(bias) and g.size == sums.size and np.allclose(g, sums, rtol=1e-5, atol=0)
