"""What independent draws of features [N, D, K] say: their mean, and by their spread how well it is known."""

import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special

from npk.programs import cuts, in_blocks

# Samples a side of a block of standard errors: its float32 numbers stay in the cache while all draws pass.
_SIDE = 256
# Numbers of features of a block on the host.
_BLOCK_NUMBERS = 1 << 22


@jax.jit
def mean_product(one: Any, two: Any) -> Any:
    """K̂ of two blocks of features [n, D, K]: one matrix product."""
    flat = [a.reshape(a.shape[0], -1) for a in (one, two)]
    return jnp.matmul(flat[0], flat[1].T, precision=jax.lax.Precision.HIGHEST) / one.shape[1]


def blocks(features: Any) -> Iterator[tuple[slice, np.ndarray]]:
    """Blocks of features [n, D·K] on the host, and which samples they are of."""
    n, *rest = features.shape
    size = max(1, _BLOCK_NUMBERS // math.prod(rest))
    for rows in cuts(n, size):
        yield rows, np.asarray(features[rows]).reshape(rows.stop - rows.start, -1)


def rows_of(features: Any) -> Iterator[np.ndarray]:
    """Blocks of features [n, D·K] in float64."""
    return (z.astype(np.float64) for _, z in blocks(features))


@jax.jit
def standard_errors(one: Any, two: Any | None) -> Any:
    return in_blocks(_errors, one, two, _SIDE, lambda block: block)


def _errors(one: Any, two: Any) -> Any:
    """Standard errors of all pairs of two blocks [n, D, K]: two passes over the draws, the mean first."""
    draws, mean = one.shape[1], mean_product(one, two)

    def add(total: Any, z: tuple[Any, Any]) -> tuple[Any, None]:
        a, b = z[0], z[1].T
        products = a * b if a.shape[1] == 1 else jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)
        return total + jnp.square(products - mean), None

    total, _ = jax.lax.scan(add, jnp.zeros_like(mean), (jnp.swapaxes(one, 0, 1), jnp.swapaxes(two, 0, 1)))
    return jnp.sqrt(total / (draws * (draws - 1)))


def draw_products(features: Any) -> tuple[np.ndarray, np.ndarray]:
    """Of the kernel P_d = Z_d Z_dᵀ of every draw ‖P_d‖² and Σ_e ⟨P_d, P_e⟩, both [D]; all draws' norms at once.

    Σ_e ⟨P_d, P_e⟩ is Σ_k z_dkᵀ (ZZᵀ) z_dk, or the sum of squares of Z_dᵀZ: whichever of N and D·K is smaller is
    squared, a block at a time.
    """
    n, draws, k = features.shape
    kept = list(rows_of(features)) if n * draws * k <= _BLOCK_NUMBERS else None

    def rows() -> Iterator[np.ndarray]:
        return iter(kept) if kept else rows_of(features)

    each = (z.reshape(len(z), draws, k) for z in rows())
    own = np.square(sum(np.einsum("ndk,ndl->dkl", z, z) for z in each)).sum((1, 2))
    if not own.any():
        raise ValueError("all features are zero, so that there is no relative error.")
    if n <= draws * k:
        along = sum((z * sum((z @ other.T) @ other for other in rows())).sum(0) for z in rows())
    else:
        side = max(1, _BLOCK_NUMBERS // (draws * k))
        parts = cuts(draws * k, side)
        along = np.concatenate([np.square(sum(z[:, part].T @ z for z in rows())).sum(1) for part in parts])
    return own, np.reshape(along, (draws, k)).sum(1)


def relative_variance(own: np.ndarray, along: np.ndarray) -> float:
    """E‖P_d - K‖²/‖K‖² of one draw, numerator and denominator each without bias."""
    draws, trace, everything = len(own), own.sum(), along.sum()
    norm = (everything - trace) / (draws * (draws - 1))
    return float((trace - everything / draws) / (draws - 1) / norm) if norm > 0 else math.inf


def upper_variance(own: np.ndarray, along: np.ndarray, confidence: float) -> float:
    """An upper confidence limit of `relative_variance`: leave one draw out after another, on a log scale."""
    draws = len(own)
    trace, everything = own.sum() - own, along.sum() - 2 * along + own
    rest = draws - 1
    spread = np.maximum((trace - everything / rest) / (rest - 1), np.finfo(float).tiny)
    norm = np.maximum((everything - trace) / (rest * (rest - 1)), np.finfo(float).tiny)
    logs = np.log(spread / norm)
    error = math.sqrt(rest / draws * np.square(logs - logs.mean()).sum())
    return relative_variance(own, along) * math.exp(float(scipy.special.stdtrit(draws - 1, confidence)) * error)
