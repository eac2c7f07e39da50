"""Traces tr f(K) of an operator's functions: random starts z with intervals, and zᵀ f(K) z by Lanczos.

From a start z, m steps of Lanczos give a tridiagonal T whose eigenvalues θ and squared first components w are the nodes
and weights of a Gauss rule: zᵀ f(K) z ≈ Σ w f(θ).

Source: Golub & Meurant 2010, chapters 4 and 6; Meyer et al. 2021 (the directions).
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.linalg
import scipy.special

from npk.programs import shown
from npk.solving.checks import Passes, square

# A step shorter than this, relative to the largest so far, is rounding: the start has no more directions.
_ENDED = 1e-12
# Weights of a rule that are rounding.
NO_WEIGHT = 1e-14


@shown()
@dataclasses.dataclass(frozen=True)
class Estimate:
    """A number and its confidence interval; of what is known exactly both ends are the number.

    Attributes:
        value: the estimate.
        low: lower end of the interval.
        high: upper end.

    Example:
        >>> from npk.solving import Estimate
        >>> Estimate(2.0, 1.5, 2.5).high
        2.5
    """

    value: float
    low: float
    high: float


def known(value: Any) -> Estimate:
    """A number of which nothing is left to chance."""
    return Estimate(*[float(value)] * 3)


@dataclasses.dataclass(frozen=True, eq=False)
class Starts:
    """Directions Q, then probes orthogonal to them, all of length √(N - sketch): [N, sketch + probes]."""

    vectors: np.ndarray
    sketch: int
    confidence: float

    def total(self, values: np.ndarray, confidence: float | None = None) -> Estimate:
        """A trace from vᵀ f(K) v of every start; f(K) is positive semi-definite, so that Q's share is the least."""
        value, low, high = self.spread(values, confidence)
        return Estimate(value, max(low, float(values[: self.sketch].sum())), high)

    def spread(self, values: np.ndarray, confidence: float | None = None) -> tuple[float, float, float]:
        """The same of any f: the estimate, and the ends of its interval."""
        certain, samples = float(values[: self.sketch].sum()), values[self.sketch :]
        low, high = _interval(samples, self.confidence if confidence is None else confidence)
        middle = float(samples.mean()) if samples.size else 0.0
        return certain + middle, certain + low, certain + high


def _interval(samples: np.ndarray, confidence: float) -> tuple[float, float]:
    """Of the mean of few samples, which may be skewed: where few eigenvalues matter, a probe gives nearly a χ²."""
    number = len(samples)
    spread = float(np.std(samples, ddof=1)) if number else 0.0
    middle = float(samples.mean()) if number else 0.0
    if spread <= 1e-14 * abs(middle):
        return middle, middle
    skew = float(np.mean((samples - middle) ** 3)) / spread**3
    reach, root = float(scipy.special.stdtrit(number - 1, (1 + confidence) / 2)), np.sqrt(number)
    below, above = (_unskewed(side - skew / (6 * root), skew / root) for side in (reach, -reach))
    return middle - below * spread / root, middle - above * spread / root


def _unskewed(u: float, slope: float) -> float:
    """Hall's transformation, turned around: t of u = t + slope t²/3 + slope² t³/27."""
    return u if abs(slope) < 1e-6 else float(3 / slope * (np.cbrt(1 + slope * u) - 1))


def starts_of(product: Passes, sketch: int, probes: int, confidence: float, seed: int) -> Starts:
    n = square(product.operator)
    if sketch < 0 or probes < 2:
        raise ValueError(f"sketch must not be negative and probes at least 2, got {sketch} and {probes}.")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}.")
    random, sketch = np.random.default_rng(seed), min(sketch, n)
    directions = np.linalg.qr(product(random.normal(size=(n, sketch))))[0] if sketch else np.empty((n, 0))
    if sketch == n:
        return Starts(directions, sketch, confidence)
    rest = random.normal(size=(n, probes))
    for _ in range(2):
        rest = rest - directions @ (directions.T @ rest)
    rest *= np.sqrt(n - sketch) / np.linalg.norm(rest, axis=0)
    return Starts(np.hstack([directions, rest]), sketch, confidence)


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


def above(nodes: np.ndarray, weights: np.ndarray, level: float, ended: bool) -> tuple[float, float]:
    """Bounds of the weight above a level that a Gauss rule allows; where Lanczos ended the nodes are eigenvalues."""
    total = weights.sum()
    carried = weights > NO_WEIGHT * total
    nodes, sums = nodes[carried], np.r_[0.0, np.cumsum(weights[carried])]
    below = int(np.searchsorted(nodes, level, side="right"))
    if ended:
        return total - sums[below], total - sums[below]
    return total - sums[min(below + 1, len(nodes))], total - sums[max(below - 1, 0)]
