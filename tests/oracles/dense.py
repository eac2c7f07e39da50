"""Dense networks without biases in NumPy and float64: gates, tangents and limits by their formulas, nothing of npk's.

Weights are a list of matrices, the inputs first. Tangents and limits are in NTK parameterisation with He's variances,
2/fan-in, and of one output: the mean over outputs where there are several.
"""

from collections.abc import Callable, Sequence

import numpy as np

Weights = Sequence[np.ndarray]
Gate = Callable[[int, np.ndarray], np.ndarray]
"""(number of the layer, its pre-activations) → factors of them."""


def hard(layer: int, q: np.ndarray) -> np.ndarray:
    return (q > 0).astype(float)


def soft(beta: float) -> tuple[Gate, Gate]:
    """γ_β(q), and the derivative of the activation q·γ_β(q)."""

    def gate(layer: int, q: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-beta * q))

    return gate, lambda layer, q: gate(layer, q) * (1 + beta * q * (1 - gate(layer, q)))


def given(gates: Sequence[np.ndarray]) -> Gate:
    return lambda layer, q: gates[layer]


def layers(weights: Weights, x: np.ndarray, gate: Gate) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """What every weight layer reads, and what it makes of it: pre-activations, the outputs last."""
    read, made = [x], [x @ weights[0]]
    for number, w in enumerate(weights[1:]):
        read.append(gate(number, made[-1]) * made[-1])
        made.append(read[-1] @ w)
    return read, made


def gates(weights: Weights, x: np.ndarray, gate: Gate = hard) -> list[np.ndarray]:
    return [gate(number, q) for number, q in enumerate(layers(weights, x, gate)[1][:-1])]


def outputs(weights: Weights, x: np.ndarray, gate: Gate) -> np.ndarray:
    return layers(weights, x, gate)[1][-1]


def tangents(weights: Weights, x: np.ndarray, gate: Gate, slope: Gate | None = None) -> list[np.ndarray]:
    """∂f/∂ω of every layer, [N, K, fan-in, fan-out]; without the activations' slope the gates are held fixed."""
    read, made = layers(weights, x, gate)
    back, found = np.broadcast_to(np.eye(made[-1].shape[1]), (len(x), *[made[-1].shape[1]] * 2)), []
    for number in reversed(range(len(weights))):
        scale = np.sqrt(2 / len(weights[number]))
        found.append(scale * read[number][:, None, :, None] * back[:, :, None, :])
        if number:
            factor = (slope or gate)(number - 1, made[number - 1])
            back = (back @ weights[number].T) * factor[:, None, :]
    return found[::-1]


def gram(one: Sequence[np.ndarray], two: Sequence[np.ndarray]) -> np.ndarray:
    """The kernel of two batches of tangents."""
    return np.add.reduce([np.einsum("nkab,mkab->nm", a, b) / a.shape[1] for a, b in zip(one, two, strict=True)])


def path_kernel(x1: np.ndarray, x2: np.ndarray, gates1: Weights, gates2: Weights) -> np.ndarray:
    """d·∏σ² H: d times the product over layers of 2/fan-in · overlap, the overlap of the inputs first."""
    found = (len(gates1) + 1) * 2 / x1.shape[1] * (x1 @ x2.T)
    for one, two in zip(gates1, gates2, strict=True):
        found = found * (2 / one.shape[1] * (one @ two.T))
    return found


def limits(depth: int, x1: np.ndarray, x2: np.ndarray) -> dict[str, np.ndarray]:
    """At infinite width, of ReLU: the tangent kernel, the outputs' covariance, d·∏σ² H of independent gates."""
    inner = 2 / x1.shape[1] * (x1 @ x2.T)
    size = 2 / x1.shape[1] * np.sqrt(np.outer(np.square(x1).sum(1), np.square(x2).sum(1)))
    nngp, ntk, npk = inner, inner, depth * inner
    for _ in range(depth - 1):
        theta = np.arccos(np.clip(nngp / size, -1, 1))
        nngp = size * (np.sin(theta) + (np.pi - theta) * np.cos(theta)) / np.pi
        ntk, npk = nngp + ntk * (1 - theta / np.pi), npk * (1 - theta / np.pi)
    return {"ntk": ntk, "nngp": nngp, "npk": npk}


def descended(weights: Weights, x: np.ndarray, y: np.ndarray, step: float, gate: Gate, slope: Gate) -> Weights:
    """One step of gradient descent by ω on ½Σ‖f - y‖²."""
    error = outputs(weights, x, gate) - y
    moved = [np.einsum("nk,nkab->ab", error, part) for part in tangents(weights, x, gate, slope)]
    return [w - step * np.sqrt(2 / len(w)) * m for w, m in zip(weights, moved, strict=True)]


def ridge(kernel: np.ndarray, test_kernel: np.ndarray, labels: np.ndarray, strength: float) -> np.ndarray:
    """Scores of the test samples; the ridge is `strength` times the kernel's mean diagonal."""
    targets = np.eye(labels.max() + 1)[labels]
    system = kernel + strength * np.diag(kernel).mean() * np.eye(len(kernel))
    return test_kernel @ np.linalg.solve(system, targets - targets.mean(0)) + targets.mean(0)
