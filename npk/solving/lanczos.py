"""Lanczos for many starting vectors at once, and the quadrature rules that it gives.

From a start z, m steps give a tridiagonal T whose eigenvalues θ and squared first components w are the nodes and
weights of a Gauss rule: zᵀ f(K) z ≈ Σ w f(θ).

Source: Golub & Meurant 2010, chapters 4 and 6.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.linalg

# A step shorter than this, relative to the largest so far, is rounding: the start has no more directions.
_ENDED = 1e-12


@dataclasses.dataclass(frozen=True, eq=False)
class Tridiagonal:
    """T of every start: diagonal [S, m], below [S, m] (the last entry leads out of T), and |start|² [S]."""

    diagonal: np.ndarray
    below: np.ndarray
    sizes: np.ndarray


def lanczos(product: Callable[[np.ndarray], np.ndarray], starts: np.ndarray, steps: int) -> Tridiagonal:
    """`steps` passes over the kernel for all starts [N, S]; every vector is made orthogonal to all before it."""
    n, number = starts.shape
    sizes = np.square(starts).sum(axis=0)
    vectors = np.empty((steps, n, number))
    diagonal, below = np.zeros((2, steps, number))
    current = starts * _inverse(np.sqrt(sizes))
    for step in range(steps):
        vectors[step] = current
        new = product(current)
        diagonal[step] = np.einsum("ns,ns->s", current, new)
        for _ in range(2):
            shares = np.einsum("mns,ns->ms", vectors[: step + 1], new)
            new = new - np.einsum("mns,ms->ns", vectors[: step + 1], shares)
        length = np.linalg.norm(new, axis=0)
        reach = np.maximum(np.abs(diagonal[: step + 1]).max(axis=0), below[:step].max(axis=0, initial=0.0))
        below[step] = np.where(length > _ENDED * reach, length, 0.0)
        current = new * _inverse(below[step])
    return Tridiagonal(diagonal.T, below.T, sizes)


def _inverse(x: np.ndarray) -> np.ndarray:
    """1/x, and 0 for 0: a start that has ended stays at zero."""
    return np.divide(1.0, x, out=np.zeros_like(x), where=x > 0)


def gauss(matrix: Tridiagonal) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights [S, m], nodes increasing."""
    rules = [_rule(d, b[:-1]) for d, b in zip(matrix.diagonal, matrix.below)]
    nodes, weights = (np.stack(part) for part in zip(*rules))
    return nodes, weights * matrix.sizes[:, None]


def radau(matrix: Tridiagonal, lower: float) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights [S, m + 1] of the rules that have a node at `lower`, below all eigenvalues."""
    rules = []
    for d, b in zip(matrix.diagonal, matrix.below):
        last = np.zeros(len(d))
        last[-1] = b[-1] ** 2
        reach = _last(d - lower, b[:-1], last)
        rules.append(_rule(np.r_[d, lower + reach], b))
    nodes, weights = (np.stack(part) for part in zip(*rules))
    return nodes, weights * matrix.sizes[:, None]


def _last(diagonal: np.ndarray, below: np.ndarray, right: np.ndarray) -> Any:
    """The last entry of the solution of a tridiagonal system; LAPACK's wrapper wants an entry beside the diagonal."""
    if len(diagonal) == 1:
        return right[0] / diagonal[0]
    return scipy.linalg.solveh_banded(np.stack([diagonal, np.r_[below, 0.0]]), right, lower=True)[-1]


def _rule(diagonal: np.ndarray, below: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if len(diagonal) == 1:
        return diagonal, np.ones(1)
    nodes, vectors = scipy.linalg.eigh_tridiagonal(diagonal, below)
    return nodes, np.square(vectors[0])
