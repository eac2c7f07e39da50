"""Checks of kernels, matrices and vectors, those of a kernel's products included; each failure is a ValueError."""

from typing import Any

import jax.numpy as jnp
import numpy as np


def epsilon(dtype: Any) -> float:
    """The rounding of a kernel's entries: that of its dtype, of whole numbers that of float64."""
    return float(jnp.finfo(dtype).eps) if jnp.issubdtype(dtype, jnp.floating) else float(np.finfo(np.float64).eps)


def square(operator: Any, name: str = "kernel") -> int:
    """The N of a square kernel."""
    n1, n2 = operator.shape
    if n1 != n2:
        raise ValueError(f"{name} must be square [N, N], got shape {[n1, n2]}.")
    return n1


def vectors(v: Any, size: int, name: str = "v") -> np.ndarray:
    """Finite float64 vectors [size, K], one a column."""
    array = np.asarray(v, dtype=np.float64)
    if array.ndim != 2 or len(array) != size:
        raise ValueError(f"{name} must be [{size}, K], got shape {list(array.shape)}.")
    return finite(array, name)


def indices(places: Any, size: int) -> np.ndarray:
    """Whole numbers in 0 … size - 1, of shape (r,)."""
    array = np.asarray(places)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise ValueError(f"places must be whole numbers [r], got {array.dtype}{list(array.shape)}.")
    if array.size and not (0 <= array.min() and array.max() < size):
        raise ValueError(f"places must lie in 0 … {size - 1}, got {array.min()} … {array.max()}.")
    return array


def finite(array: np.ndarray, name: str) -> np.ndarray:
    """The array, every number of which is finite."""
    if not np.isfinite(array).all():
        bad = int((~np.isfinite(array)).sum())
        raise ValueError(f"{name} must be finite, but holds {bad} NaN or infinite entries.")
    return array


def matrix(value: Any, name: str) -> np.ndarray:
    """A finite float64 matrix that is not empty."""
    array = np.asarray(value, dtype=np.float64)
    if array.ndim != 2 or array.size == 0:
        raise ValueError(f"{name} must have two axes and not be empty, got shape {list(array.shape)}.")
    return finite(array, name)


def gram(value: Any, name: str = "kernel") -> np.ndarray:
    """A square `matrix`."""
    array = matrix(value, name)
    square(array, name)
    return array


def symmetric_part(value: Any) -> np.ndarray:
    """(K + Kᵀ)/2 of an array that is symmetric up to rounding: that of float32 at the least, which it may come from."""
    eps = max(epsilon(np.asarray(value).dtype), epsilon(np.float32))
    array = gram(value)
    pair = probes(len(array))
    check_symmetry(pair, array @ pair, eps)
    return (array + array.T) / 2


def diagonal_of(operator: Any) -> np.ndarray:
    """The diagonal of a square kernel in float64: finite, none of it negative, some of it positive."""
    n = square(operator)
    diagonal = np.asarray(operator.diagonal(), dtype=np.float64)
    if diagonal.shape != (n,):
        raise ValueError(f"the kernel's diagonal must have shape [{n}], got {list(diagonal.shape)}.")
    finite(diagonal, "the kernel's diagonal")
    with np.errstate(over="ignore"):
        mean = diagonal.mean()
    if not mean > 0:
        raise ValueError(f"the kernel's mean diagonal must be positive, got {mean:g}.")
    if mean == np.inf:
        raise ValueError("the kernel's trace leaves the range of float64: scale the kernel.")
    if diagonal.min() < 0:
        raise ValueError(
            f"the kernel is not positive semi-definite: entry {int(diagonal.argmin())} of its diagonal is "
            f"{diagonal.min():g}."
        )
    return diagonal


def check_symmetric(tile: np.ndarray) -> None:
    """A tile of the diagonal is symmetric up to rounding."""
    wide = tile.astype(np.float64)
    gap = float(np.abs(wide - wide.T).max())
    if gap > 64 * epsilon(tile.dtype) * float(np.abs(wide).max()):
        raise ValueError(
            f"the kernel is not symmetric: kernel(a, a) differs from its transpose by {gap:.3g}. "
            "Give the second batch (two=) to use all tiles as they are."
        )


class Passes:
    """The products of one kernel. Each carries two random vectors more: zᵀKw = wᵀKz for a symmetric K.

    Each, not the first alone: beside other vectors a product may round differently, and a run that is continued has
    its kernel checked and gives the bits of one that was not interrupted.
    """

    def __init__(self, operator: Any):
        self.operator = operator
        self.count = 0

    def __call__(self, v: np.ndarray) -> np.ndarray:
        """K v [N, K]."""
        self.count += 1
        pair = probes(len(v))
        out = self.operator.product(np.hstack([v, pair]))
        check_symmetry(pair, out[:, -2:], epsilon(self.operator.dtype))
        return out[:, :-2]


def probes(n: int) -> np.ndarray:
    """Two random vectors [N, 2]."""
    return np.random.default_rng(0).normal(size=(n, 2))


def check_symmetry(pair: np.ndarray, products: np.ndarray, eps: float) -> None:
    """Raise where K is not symmetric: zᵀKw - wᵀKz has the variance ‖K - Kᵀ‖²."""
    gap = abs(float(pair[:, 0] @ products[:, 1] - pair[:, 1] @ products[:, 0]))
    size = float(np.linalg.norm(products)) / np.sqrt(2)  # about ‖K‖
    if gap > (64 * eps + 1e-11) * size:
        raise ValueError(
            f"the kernel is not symmetric: two random vectors give zᵀKw - wᵀKz = {gap / size:.2g} ‖K‖, which rounding "
            f"does not explain."
        )
