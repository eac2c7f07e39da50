"""Checks of what is given to kernel operators and of what they give; each failure is a ValueError."""

from typing import Any

import jax.numpy as jnp
import numpy as np


def epsilon(dtype: Any) -> float:
    """The rounding of a kernel's entries: that of its dtype, of whole numbers that of float64."""
    return float(jnp.finfo(dtype).eps) if jnp.issubdtype(dtype, jnp.floating) else float(np.finfo(np.float64).eps)


def square(operator: Any) -> int:
    """The N of a square kernel."""
    n1, n2 = operator.shape
    if n1 != n2:
        raise ValueError(f"kernel must be square [N, N], got shape {[n1, n2]}.")
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
        raise ValueError(f"{name} must be finite, but holds NaN or infinite entries.")
    return array


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
