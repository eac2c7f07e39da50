"""Low-rank approximations K ≈ F Fᵀ from a few columns of a kernel: randomly pivoted Cholesky, and Nyström.

Both are exact on the rows of their pivots, never exceed K (K - F Fᵀ stays positive semi-definite), and know their own
error: its trace is the diagonal of K less that of F Fᵀ.
"""

import dataclasses
from typing import Any

import numpy as np
import scipy.linalg
from jaxtyping import Float, Int
from numpy.typing import ArrayLike

from npk.programs import shown
from npk.solving.checks import diagonal_of, epsilon, finite, indices
from npk.solving.operators import KernelOperator, operator_of

# Columns that are asked for together.
_BLOCK = 128


@shown("relative_error")
@dataclasses.dataclass(frozen=True, eq=False)
class LowRank:
    """An approximation K ≈ F Fᵀ.

    Attributes:
        factor: F, of shape (N, r).
        pivots: the samples whose columns it was made from, of shape (r,); there it is exact.
        residual: trace of K - F Fᵀ, the sum of its eigenvalues.
        trace: trace of K.

    Example:
        >>> import numpy as np
        >>> from npk.solving import pivoted_cholesky
        >>> found = pivoted_cholesky(np.ones((3, 3)), 2)
        >>> found.factor.tolist(), found.relative_error
        ([[1.0], [1.0], [1.0]], 0.0)
    """

    factor: Float[np.ndarray, "n r"]
    pivots: Int[np.ndarray, " r"]
    residual: float
    trace: float

    @property
    def relative_error(self) -> float:
        """The trace of K - F Fᵀ, relative to that of K."""
        return self.residual / self.trace


def pivoted_cholesky(
    kernel: Any, rank: int, *, tolerance: float = 0.0, seed: int = 0, block: int | None = None
) -> LowRank:
    """Randomly pivoted Cholesky: each pivot is drawn in proportion to the diagonal of what is not yet explained.

    Columns are asked for in blocks. A block's candidates are drawn together, and each is then accepted with the
    probability that its diagonal has kept under the pivots before it: the pivots are distributed as those drawn one
    by one. A sample that is a copy of a pivot has nothing left, and is not accepted.

    Args:
        kernel: positive semi-definite, an operator or array of shape (N, N).
        rank: the largest number of columns of F.
        tolerance: stop once the trace of K - F Fᵀ is this fraction of that of K. Below the rounding of the kernel's
            entries nothing is left to explain, and it stops at any tolerance.
        seed: of the draws.
        block: candidates drawn together; None is 128, or as many as the rank.

    Returns:
        A `LowRank`, of smaller rank where it stopped early.

    Raises:
        ValueError: the kernel is not square, finite or positive semi-definite; rank or block are below 1.

    Example:
        >>> import numpy as np
        >>> from npk.solving import pivoted_cholesky
        >>> x = np.random.default_rng(0).normal(size=(50, 3))
        >>> pivoted_cholesky(x @ x.T, 10).factor.shape
        (50, 3)

    Source: Chen, Epperly, Tropp & Webber 2023, algorithm 1; Epperly, Tropp & Webber 2024, algorithm 2 (blocks).
    """
    operator = operator_of(kernel)
    diagonal = diagonal_of(operator)
    block = min(rank, _BLOCK) if block is None else block
    if rank < 1 or block < 1:
        raise ValueError(f"rank and block must be at least 1, got {rank} and {block}.")
    if not tolerance >= 0:
        raise ValueError(f"tolerance must not be negative, got {tolerance}.")
    return _grown(operator, diagonal, min(rank, len(diagonal)), block, tolerance, np.random.default_rng(seed))


def _grown(
    operator: KernelOperator, diagonal: np.ndarray, rank: int, block: int, tolerance: float, random: Any
) -> LowRank:
    eps = epsilon(operator.dtype)
    # Less than this is the rounding of the kernel's entries.
    floor = 100 * eps * diagonal
    factor = np.zeros((len(diagonal), rank), order="F")
    pivots: list[int] = []
    left = np.where(diagonal > floor, diagonal, 0.0)
    while len(pivots) < rank and left.sum() > tolerance * diagonal.sum():
        done = len(pivots)
        drawn = random.choice(len(left), size=block, p=left / left.sum())
        columns = finite(np.asarray(operator.columns(drawn), dtype=np.float64), "the kernel")
        columns = columns - factor[:, :done] @ factor[drawn, :done].T
        accepted, lower = _accepted(columns[drawn], floor[drawn], random, rank - done)
        if not accepted:  # only rounding is left of all of them
            left[drawn] = 0.0
            continue
        new = scipy.linalg.solve_triangular(lower, columns[:, accepted].T, lower=True).T
        factor[:, done : done + len(accepted)] = new
        pivots += drawn[accepted].tolist()
        left = left - np.square(new).sum(axis=1)
        _check_positive(left, diagonal, eps)
        left[pivots] = 0.0
        left = np.where(left > floor, left, 0.0)
    return _approximation(factor[:, : len(pivots)], np.array(pivots, dtype=int), diagonal)


def _accepted(gram: np.ndarray, floor: np.ndarray, random: Any, most: int) -> tuple[list[int], np.ndarray]:
    """The candidates that become pivots, and the Cholesky factor of their part of `gram`."""
    gram = (gram + gram.T) / 2
    first = gram.diagonal().copy()
    lower = np.zeros_like(gram)
    accepted: list[int] = []
    for i, chance in enumerate(random.random(len(gram)) * first):
        kept = gram[i, i]
        if kept <= max(chance, floor[i]):
            continue
        column = np.where(np.arange(len(gram)) >= i, gram[:, i], 0.0) / np.sqrt(kept)
        lower[:, len(accepted)] = column
        gram -= np.outer(column, column)
        accepted.append(i)
        if len(accepted) == most:
            break
    return accepted, lower[accepted][:, : len(accepted)]


def _check_positive(left: np.ndarray, diagonal: np.ndarray, eps: float) -> None:
    worst = int(np.argmin(left))
    if left[worst] < -np.sqrt(eps) * max(diagonal[worst], diagonal.mean()):
        raise ValueError(
            f"the kernel is not positive semi-definite: once its pivots are taken off, entry {worst} of its diagonal "
            f"is {left[worst]:.3g} (of {diagonal[worst]:.3g})."
        )


def _approximation(factor: np.ndarray, pivots: np.ndarray, diagonal: np.ndarray) -> LowRank:
    left = diagonal - np.einsum("nr,nr->n", factor, factor)
    # Of no diagonal entry can more than all be explained: what is below zero is rounding.
    return LowRank(factor, pivots, float(np.maximum(left, 0.0).sum()), float(diagonal.sum()))


def nystrom(kernel: Any, landmarks: ArrayLike | int, *, seed: int = 0) -> LowRank:
    """Nyström's approximation K[:, S] K[S, S]⁻¹ K[S, :] on landmarks S.

    Landmarks whose column the others already explain (copies, or more than the kernel's rank) are left out.

    Args:
        kernel: positive semi-definite, an operator or array of shape (N, N).
        landmarks: samples, of shape (r,); or how many different ones to draw, all equally likely.
        seed: of the draw.

    Returns:
        A `LowRank`; its pivots are the landmarks in use.

    Raises:
        ValueError: the kernel is not square, finite or positive semi-definite; landmarks are none, more than N, or
            outside the kernel.

    Example:
        >>> import numpy as np
        >>> from npk.solving import nystrom
        >>> x = np.random.default_rng(0).normal(size=(50, 3))
        >>> nystrom(x @ x.T, [0, 0, 1, 2, 3]).factor.shape
        (50, 3)

    Source: Williams & Seeger 2001.
    """
    operator = operator_of(kernel)
    diagonal = diagonal_of(operator)
    if isinstance(landmarks, int | np.integer):
        if not 1 <= landmarks <= len(diagonal):
            raise ValueError(f"landmarks must be 1 … {len(diagonal)} in number, got {landmarks}.")
        landmarks = np.random.default_rng(seed).permutation(len(diagonal))[: int(landmarks)]
    places = np.unique(indices(landmarks, len(diagonal)))
    if len(places) == 0:
        raise ValueError("nystrom needs at least one landmark.")
    columns = finite(np.asarray(operator.columns(places), dtype=np.float64), "the kernel")
    eps = epsilon(operator.dtype)
    gram = columns[places]
    (pstrf,) = scipy.linalg.get_lapack_funcs(("pstrf",), (gram,))
    lower, order, rank, _ = pstrf((gram + gram.T) / 2, tol=100 * eps * gram.max(), lower=1)
    used = order[:rank] - 1
    factor = scipy.linalg.solve_triangular(lower[:rank, :rank], columns[:, used].T, lower=True).T
    _check_positive(diagonal - np.square(factor).sum(axis=1), diagonal, eps)
    return _approximation(factor, places[used], diagonal)
