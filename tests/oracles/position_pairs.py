"""The second moment of a network's output, unit by unit at every pair of positions: float64, obviously right.

K[p, c, p', c'] holds the moment of unit (p, c) of one sample with unit (p', c') of another, over independent
zero-mean weights. Each layer is what it says; nothing is shared with npk. Counts stay below 2^53, so that
float64 holds them exactly.
"""

import math

import numpy as np

from oracles import language as lang
from oracles.enumeration import windows


class Moment:
    """One pair of samples x, x' [*positions, channels] with their gates, an array for every `Relu` in order."""

    def __init__(self, gates1, gates2, normalize: bool):
        self.gates1, self.gates2 = list(gates1), list(gates2)
        self.normalize = normalize

    def of(self, network: lang.Network, x1: np.ndarray, x2: np.ndarray) -> float:
        shape = network.input
        k = np.multiply.outer(x1.reshape(-1, shape[-1]).astype(float), x2.reshape(-1, shape[-1]).astype(float))
        k, shape = self.run(network.layers, k, shape)
        assert k.shape[0] == 1, "the network ends in a vector"
        return float(k[0, 0, 0, 0])

    def run(self, layers, k, shape):
        for layer in layers:
            k, shape = getattr(self, type(layer).__name__.lower())(layer, k, shape)
        return k, shape

    def weights(self, summed: np.ndarray, out: int, fan_in: int, bias: bool) -> np.ndarray:
        """Fresh weights: every output unit has the moment `summed` [p, p'], and none with another channel."""
        values = summed * (1 / fan_in if self.normalize else 1) + (1 if bias else 0)
        return values[:, None, :, None] * np.eye(out)[None, :, None, :]

    def dense(self, layer, k, shape):
        summed = np.einsum("pcqc->pq", k)
        return self.weights(summed, layer.out, shape[-1], layer.bias), (*shape[:-1], layer.out)

    def conv(self, layer, k, shape):
        places = windows(shape[:-1], layer.kernel, layer.stride, layer.dilation, layer.padding)
        counts = places.shape[: len(shape) - 1]
        outputs, taps = math.prod(counts), math.prod(layer.kernel)
        places = places.reshape(outputs, taps)
        flat = np.array([[-1 if at is None else np.ravel_multi_index(at, shape[:-1]) for at in row] for row in places])
        moment = np.einsum("pcqc->pq", k)
        summed = np.zeros((outputs, outputs))
        for tap in range(taps):
            inside = np.flatnonzero(flat[:, tap] >= 0)
            read = flat[inside, tap]
            summed[np.ix_(inside, inside)] += moment[np.ix_(read, read)]
        return self.weights(summed, layer.out, taps * shape[-1], layer.bias), (*counts, layer.out)

    def relu(self, layer, k, shape):
        g1, g2 = (g.pop(0).astype(float).reshape(-1, shape[-1]) for g in (self.gates1, self.gates2))
        return k * g1[:, :, None, None] * g2[None, None], shape

    def linear(self, k, matrix):
        return np.einsum("op,pcqd,rq->ocrd", matrix, k, matrix)

    def avgpool(self, layer, k, shape):
        places = windows(shape[:-1], layer.window, layer.stride, 1, layer.padding)
        counts = places.shape[: len(shape) - 1]
        matrix = np.zeros((math.prod(counts), k.shape[0]))
        for o, row in enumerate(places.reshape(len(matrix), -1)):
            for at in row:
                if at is not None:
                    matrix[o, np.ravel_multi_index(at, shape[:-1])] += 1 / math.prod(layer.window)
        return self.linear(k, matrix), (*counts, shape[-1])

    def globalavgpool(self, layer, k, shape):
        return self.linear(k, np.full((1, k.shape[0]), 1 / k.shape[0])), (shape[-1],)

    def residual(self, layer, k, shape):
        """The branch ends in fresh weights, so that it and the shortcut are uncorrelated."""
        assert isinstance(layer.branch[-1], (lang.Conv, lang.Dense))
        branch, out = self.run(layer.branch, k, shape)
        shortcut, same = self.run(layer.shortcut, k, shape)
        assert out == same
        return branch + shortcut, out


def kernel(network: lang.Network, x1, x2, gates1, gates2, normalize: bool) -> np.ndarray:
    """H [n1, n2] for inputs [n, *network.input] and gates [n, ...], one an activation."""
    h = np.empty((len(x1), len(x2)))
    for i in range(len(x1)):
        for j in range(len(x2)):
            moment = Moment([g[i] for g in gates1], [g[j] for g in gates2], normalize)
            h[i, j] = moment.of(network, x1[i], x2[j])
    return h
