"""The largest singular values of maps that are known by their products alone, many maps of one shape at a time.

A subspace grows by what its best approximations are still wrong by: by the residuals Mᵀu − σv of the leading triples
(σ, u, v) that it holds, for which M v = σ u exactly (Rayleigh and Ritz). That is the space of block Lanczos, and goes
on after a restart from its leading vectors. Every residual is measured: within it of σ lies a singular value of M.

Source: Golub & Kahan 1965; Stewart 2001, Matrix Algorithms II, chapter 5 (restarts, residuals).
"""

from collections.abc import Callable
from typing import Any

import numpy as np

# Directions beside those that are asked for, and how many times as many are held before a restart.
_BESIDE, _HELD = 2, 8
# Of what is left of unit vectors by orthogonalisation: squared lengths below this are rounding.
_GONE = 1e-24

Product = Callable[[np.ndarray], np.ndarray]


def largest_singular_values(
    product: Product, transposed: Product, shape: tuple[int, int, int], k: int, tolerance: float, steps: int = 200
) -> tuple[np.ndarray, np.ndarray]:
    """The k largest singular values of each of n maps, and the residuals that they were left with.

    The start is fixed: normal numbers of a generator seeded with 0, the same for every map.

    Args:
        product: M v of b vectors for each map, [n, b, columns] → [n, b, rows].
        transposed: Mᵀ u, [n, b, rows] → [n, b, columns].
        shape: n, rows, columns.
        k: how many, at most min(rows, columns).
        tolerance: of the residuals, relative to each map's largest singular value.
        steps: the most products either way.

    Returns:
        The values, largest first, and |Mᵀu − σv| of each, both [n, k] in float64.

    Raises:
        ValueError: the residuals were larger than that after all steps.

    Example:
        >>> import numpy as np
        >>> from npk.solving import largest_singular_values
        >>> m = np.diag([3.0, 2.0, 1.0])[None]
        >>> there, back = (lambda v: v @ m.swapaxes(1, 2)), (lambda u: u @ m)
        >>> [[round(float(v), 6) for v in largest_singular_values(there, back, (1, 3, 3), 2, 1e-9)[0][0]]]
        [[3.0, 2.0]]
    """
    n, rows, columns = shape
    block = min(k + _BESIDE, rows, columns)
    most = min(_HELD * block, columns)
    first = np.random.default_rng(0).normal(size=(1, block, rows))
    start = np.asarray(transposed(np.broadcast_to(first, (n, block, rows))), np.float64)
    held, images = np.zeros((n, 0, columns)), np.zeros((n, 0, rows))
    new = _orthonormal(start, held)
    values, sizes = np.zeros((n, k)), np.zeros((n, k))
    for _ in range(steps):
        held = np.concatenate([held, new], axis=1)
        images = np.concatenate([images, np.asarray(product(new), np.float64)], axis=1)
        mixing, found, left = np.linalg.svd(images, full_matrices=False)
        leading = mixing[:, :, :block].swapaxes(1, 2)
        right, left, found = leading @ held, left[:, :block], found[:, :block]
        wrong = np.asarray(transposed(left), np.float64) - found[..., None] * right
        values, sizes = found[:, :k], np.linalg.norm(wrong, axis=-1)[:, :k]
        if (sizes <= tolerance * found[:, :1]).all():
            return values, sizes
        if held.shape[1] + block > most:
            keep = mixing[:, :, : max(block, most - block)].swapaxes(1, 2)
            held, images = keep @ held, keep @ images
        new = _orthonormal(wrong, held)
    worst = float((sizes / np.maximum(values[:, :1], np.finfo(np.float64).tiny)).max())
    raise ValueError(
        f"after {steps} products either way the {k} largest singular values have residuals of up to {worst:.1e} of the "
        f"largest, not {tolerance:.1e}: ask for fewer, or for a larger tolerance."
    )


def _orthonormal(vectors: np.ndarray, held: np.ndarray) -> np.ndarray:
    """Of each map an orthonormal basis of `vectors` [n, b, d] beside those `held`; what depends on others is zero."""
    for _ in range(2):
        vectors = _unit(vectors)
        vectors = vectors - (vectors @ held.swapaxes(1, 2)) @ held
        lengths, axes = np.linalg.eigh(vectors @ vectors.swapaxes(1, 2))
        kept = np.where(lengths > _GONE, 1 / np.sqrt(np.maximum(lengths, _GONE)), 0.0)
        vectors = (kept[..., None] * axes.swapaxes(1, 2)) @ vectors
    return vectors


def _unit(vectors: Any) -> np.ndarray:
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.divide(vectors, length, out=np.zeros_like(vectors), where=length > 0)
