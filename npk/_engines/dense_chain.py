"""Dense networks: a chain of overlaps, each one number a pair of samples, for the packed engine."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from npk._engines import packed
from npk._terms import Leaf, Source, Term
from npk._walk import Layer


@dataclasses.dataclass(frozen=True)
class DenseChain:
    """H of a dense network: h = variance·Σ, then h ← (h + bias)·variance·(G Gᵀ) a layer, then h + bias."""

    inputs: tuple[Any, Any]
    first: float
    gates: tuple[tuple[Any, Any], ...]
    scales: tuple[float, ...]
    shifts: tuple[float, ...]
    last: float


def dense_chain(state: Sequence[Term], normalize: bool) -> DenseChain | None:
    """Read the terms of an output as a dense chain, or None where the network is not one."""
    gates, scales, shifts = [], [], []
    terms, last = list(state), None
    while True:
        biases = [t for t in terms if isinstance(t.base, Leaf)]
        (term, *more) = [t for t in terms if t not in biases] or [None]
        if term is None or more or term.summed or any(t.summed or not _alike(t, term) for t in biases):
            return None
        shift = float(len(biases))
        if last is None:
            if any(g.size != 1 or not bool((g == 1).all()) for g in term.g):
                return None
            last = shift
        elif not isinstance(term.base, Layer):
            return (
                None
                if biases or not isinstance(term.base, Source)
                else DenseChain(
                    tuple(term.g), scales.pop(), tuple(gates[::-1]), tuple(scales[::-1]), tuple(shifts[::-1]), last
                )
            )
        else:
            if not term.binary or any(g.shape[1:] != term.sizes for g in term.g):
                return None
            gates.append(tuple(term.g))
            shifts.append(shift)
        layer = term.base
        if (
            not isinstance(layer, Layer)
            or layer.n_batch
            or math.prod(a.size for a in layer.axes if not a.independent) > 1
        ):
            return None
        scales.append(1 / layer.fan_in if normalize else float(layer.constant) ** 2)
        terms = list(layer.inputs)


def _alike(bias: Term, term: Term) -> bool:
    """Whether a bias meets the same gates as the layer it is added to, each unit its own."""
    own = {d for index in bias.index if index.values is None for d in index.dims}
    return own == {d for d, size in enumerate(bias.sizes) if size > 1} and all(
        g.shape == h.shape and (g is h or bool((g == h).all())) for g, h in zip(bias.g, term.g, strict=True)
    )


def kernel_of(chain: DenseChain, dtype: Any) -> Any:
    """H of a dense chain by packed gates."""
    x1, x2 = (np.asarray(g, dtype).reshape(g.shape[0], -1) for g in chain.inputs)
    h = _aligned((len(x1), len(x2)), dtype)  # the one large array: what is added happens in place
    np.matmul(x1 * np.dtype(dtype).type(chain.first), x2.T, out=h)
    one, two = (
        [np.asarray(pair[side]).reshape(len(h if not side else h.T), -1) for pair in chain.gates] for side in (0, 1)
    )
    packed.multiply_overlaps(h, one, two, chain.scales, chain.shifts)
    if chain.last:
        h += np.dtype(dtype).type(chain.last)
    return jnp.asarray(h)


def _aligned(shape: tuple[int, int], dtype: Any) -> np.ndarray:
    """Uninitialised memory that JAX can take over without a copy (64-byte aligned)."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    raw = np.empty(size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size].view(dtype).reshape(shape)
