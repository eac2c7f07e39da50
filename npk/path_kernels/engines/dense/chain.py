"""Dense networks: a chain of overlaps, each one number a pair of samples, for the packed engine."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from npk.path_kernels.engines import UNKNOWN, covering, require
from npk.path_kernels.engines.dense import packed
from npk.paths import Factor, Form, Layer, Leaf, Source, Term

# A panel's Gram matrix stays near the cache, in memory that the next one takes over.
_PANEL_ELEMENTS = 1 << 20


@dataclasses.dataclass(frozen=True)
class DenseChain:
    """H of a dense network: h = first·Σ, then h ← (h + shift)·scale·(G Gᵀ) a layer, then h + last.

    `gates` says for each layer which activation of the network gates it.
    """

    first: float
    gates: tuple[int, ...]
    scales: tuple[float, ...]
    shifts: tuple[float, ...]
    last: float


@dataclasses.dataclass(frozen=True, eq=False)
class DenseSide:
    """One batch as the engine takes it: inputs [n, d] and the packed gates of every layer of the chain."""

    x: np.ndarray
    gates: tuple[packed.Words, ...]


@covering
def covers(form: Form, normalize: bool) -> DenseChain:
    """The chain of a network under hard gates, or why it is none."""
    require(len(form.program.x) == 1, "several inputs")
    numbers, scales, shifts = [], [], []
    terms, last = list(form.state), None
    while True:
        biases = [t for t in terms if isinstance(t.base, Leaf)]
        others = [t for t in terms if not isinstance(t.base, Leaf)]
        require(len(others) == 1, "a layer reads a sum of several values")
        (term,) = others
        layer = term.base
        free = math.prod(a.size for a in layer.axes if not a.independent) if isinstance(layer, Layer) else 1
        require(free == 1 and not getattr(layer, "n_batch", 0), "a layer of several positions")
        require(not any(t.summed for t in terms), "values are summed over places")
        require(all(_alike(t, term) for t in biases), "a bias under other gates than its layer, or shared by units")
        read = _whole(term.g)
        if isinstance(term.base, Source):
            require(read.op == "input" and not biases and last is not None, "an input that is gated or shifted")
            every_gate = numbers and sorted(numbers) == list(range(len(form.gate_shapes)))
            require(every_gate, "a layer without gates, or gates that are used twice or not at all")
            assert last is not None
            return DenseChain(scales.pop(), tuple(numbers[::-1]), tuple(scales[::-1]), tuple(shifts[::-1]), last)
        if last is None:
            require(term.g.is_one, "the output is gated or scaled")
            last = float(len(biases))
        else:
            require(
                read.op == "gate" and term.g.shape == term.sizes,
                "between two layers more, or other, than one gate a unit",
            )
            numbers.append(read.how)
            shifts.append(float(len(biases)))
        assert isinstance(layer, Layer)
        scale = 1 / layer.fan_in if normalize else layer.number
        require(scale is not None, UNKNOWN)
        assert scale is not None
        scales.append(scale if normalize else scale**2)
        terms = list(layer.inputs)


def _whole(factor: Factor) -> Factor:
    """What a factor is, its elements in the order they have there."""
    return factor.args[0] if factor.op == "reshape" else factor


def _alike(bias: Term, term: Term) -> bool:
    """Whether a bias meets the same gates as the layer it is added to, each unit its own."""
    own = {d for index in bias.index if index.values is None for d in index.dims}
    each = own == {d for d, size in enumerate(bias.sizes) if size > 1}
    return each and bias.g.name == term.g.name


def side(chain: DenseChain, x: Any, gates: Sequence[Any], dtype: Any) -> DenseSide | None:
    """Lay out a batch for the engine; None where the gates are not all 0 or 1."""
    laid = []
    for number in chain.gates:
        words = packed.pack(np.asarray(gates[number]).reshape(len(x), -1))
        if words is None:
            return None
        laid.append(words)
    return DenseSide(np.ascontiguousarray(np.asarray(x, dtype).reshape(len(x), -1)), tuple(laid))


def largest(chain: DenseChain, batch: DenseSide) -> float:
    """The largest number met for any sample with itself, |x| for x; no number met for a pair exceeds it."""
    h = chain.first * np.sum(np.square(batch.x, dtype=np.float64), 1)
    peak = h.max()
    for gates, scale, shift in zip(batch.gates, chain.scales, chain.shifts, strict=True):
        h = (h + shift) * (gates.counts * scale)
        peak = max(peak, (h + shift).max(), h.max())
    return float(max(peak, h.max() + chain.last))


@jax.jit
def _products(x1: Any, x2: Any) -> Any:
    return jnp.matmul(x1, x2.T, precision=jax.lax.Precision.HIGHEST)


def kernel(chain: DenseChain, one: DenseSide, two: DenseSide) -> Any:
    """H [n1, n2] of a dense chain, a panel of rows at a time."""
    real = one.x.dtype.type
    x1 = one.x * real(chain.first)
    h = packed.aligned((len(x1), len(two.x)), x1.dtype)
    panels = -(-h.size // _PANEL_ELEMENTS)
    for rows in np.array_split(np.arange(len(x1)), panels):
        panel = slice(rows[0], rows[-1] + 1)
        base = np.asarray(_products(x1[panel], two.x))
        gates = [packed.Words(g.words[panel], g.counts[panel]) for g in one.gates]
        packed.multiply_overlaps(base, gates, two.gates, chain.scales, chain.shifts, h[panel])
    if chain.last:
        h += real(chain.last)
    return jax.device_put(h, may_alias=True)
