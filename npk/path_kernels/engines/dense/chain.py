"""Dense networks: a chain of overlaps, each one number a pair of samples, for the packed engine."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from npk.path_kernels.engines.dense import packed
from npk.paths import Layer, Leaf, Source, Term, output_terms
from npk.programs import Program, UnsupportedOperation

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


def dense_chain(program: Program, gate_shapes: Sequence[tuple[int, ...]], normalize: bool) -> DenseChain | None:
    """The chain of a single-sample program under hard gates, or None where the network is not one.

    The program is walked once with random numbers for parameters, input and gates. A factor in the walk's
    result is then a gate, and nothing but that gate, if it equals it; and what is found holds for all values.
    """
    random = np.random.default_rng(0)
    (x,) = program.x
    leaves = [jnp.asarray(random.uniform(1, 2, v.shape), v.dtype) for v in program.params]
    inputs = random.uniform(1, 2, (1, *x.shape)).astype(np.float32)
    gates = [random.uniform(1, 2, (1, *shape)).astype(np.float32) for shape in gate_shapes]
    try:
        state = output_terms(program, leaves, (inputs,), [(g,) for g in gates], binary=True, dtype=jnp.float32)
    except UnsupportedOperation:
        return None  # the general path says what was met
    return _read(state, inputs, gates, normalize)


def _read(state: Sequence[Term], inputs: np.ndarray, gates: Sequence[np.ndarray], normalize: bool) -> DenseChain | None:
    numbers, scales, shifts = [], [], []
    terms, last = list(state), None
    while True:
        biases = [t for t in terms if isinstance(t.base, Leaf)]
        others = [t for t in terms if not isinstance(t.base, Leaf)]
        if len(others) != 1 or others[0].summed or any(t.summed or not _alike(t, others[0]) for t in biases):
            return None
        (term,) = others
        if isinstance(term.base, Source):
            every_gate = sorted(numbers) == list(range(len(gates)))
            if biases or last is None or not numbers or not every_gate or not _equal(term.g[0], inputs):
                return None
            return DenseChain(scales.pop(), tuple(numbers[::-1]), tuple(scales[::-1]), tuple(shifts[::-1]), last)
        if last is None:
            if term.g[0].size != 1 or float(term.g[0].reshape(())) != 1:
                return None
            last = float(len(biases))
        else:
            found = [i for i, gate in enumerate(gates) if _equal(term.g[0], gate)]
            if len(found) != 1 or not term.binary or term.g[0].shape[1:] != term.sizes:
                return None
            numbers += found
            shifts.append(float(len(biases)))
        layer = term.base
        free = math.prod(a.size for a in layer.axes if not a.independent)
        if not isinstance(layer, Layer) or layer.n_batch or free > 1:
            return None
        scales.append(1 / layer.fan_in if normalize else float(layer.constant) ** 2)
        terms = list(layer.inputs)


def _equal(g: Any, probe: np.ndarray) -> bool:
    return np.array_equal(np.asarray(g).reshape(-1), probe.reshape(-1))


def _alike(bias: Term, term: Term) -> bool:
    """Whether a bias meets the same gates as the layer it is added to, each unit its own."""
    own = {d for index in bias.index if index.values is None for d in index.dims}
    each = own == {d for d, size in enumerate(bias.sizes) if size > 1}
    return each and bias.g[0].shape == term.g[0].shape and _equal(bias.g[0], np.asarray(term.g[0]))


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
