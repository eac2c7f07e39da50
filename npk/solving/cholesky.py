"""Regularised systems (K + λI) X = B by Cholesky, in the memory of one float64 matrix, in place and in blocks.

LAPACK is never given more than 8,192 rows: the factorization of OpenBLAS 0.3.30, which comes with SciPy, writes beyond
its memory and ends the process where two threads work on some 16,000 rows.
"""

from collections.abc import Sequence

import numpy as np
import scipy.linalg

from npk.solving.checks import Passes, check_symmetry, epsilon, finite, probes
from npk.solving.conjugate_gradients import worst
from npk.solving.operators import KernelOperator

_WHOLE = 8192  # rows that LAPACK factors at once
_BLOCK = 2048  # else: a square of float64 is 32 MiB, and products of such run at the rate of any
_PARTS = 16  # parts in which a matrix's columns are asked for


class Indefinite(ArithmeticError):
    """K + λI of this λ is not positive definite."""

    def __init__(self, shift: int):
        super().__init__(shift)
        self.shift = shift


def needed_memory(n: int, outputs: int) -> int:
    """Bytes: the matrix, a part of it in float64 on its way there or being factored, and a few arrays [N, K]."""
    return 8 * (n * n + 8 * n * outputs) + max(8 * n * -(-n // _PARTS), _beside(n))


def solve(
    operator: KernelOperator, shifts: Sequence[float], right: np.ndarray, tolerance: float
) -> tuple[list[np.ndarray], list[np.ndarray], int]:
    """X [N, K] for every λ, what is left of `right`, and the passes over the kernel that told it.

    The upper triangle keeps K while the lower one is factored. Rounding may tell K[i, j] from K[j, i] (tiles of two
    shapes in float32) and the factor knows one of them: solutions are corrected by it until that no longer halves the
    worst residual.
    """
    matrix = _filled(operator)
    diagonal = matrix.diagonal().copy()
    passes, solutions, residuals = Passes(operator), [], []
    for number, shift in enumerate(shifts):
        if number:
            _mirror(matrix)
        np.fill_diagonal(matrix, diagonal + shift)
        try:
            factor(matrix)
        except np.linalg.LinAlgError as error:
            raise Indefinite(number) from error
        solution, left = np.zeros_like(right), right
        while worst(left) > tolerance:
            corrected = solution + substituted(matrix, left)
            remains = right - passes(corrected) - shift * corrected
            before = worst(left)
            if not worst(remains) < before:
                break
            solution, left = corrected, remains
            if worst(left) > before / 2:
                break
        solutions.append(solution)
        residuals.append(left)
    return solutions, residuals, passes.count


def _filled(operator: KernelOperator) -> np.ndarray:
    n = operator.shape[0]
    matrix = np.empty((n, n), order="F")
    for places in np.array_split(np.arange(n), min(n, _PARTS)):
        matrix[:, places[0] : places[-1] + 1] = operator.columns(places)
        finite(matrix[:, places[0] : places[-1] + 1], "the kernel")
    pair = probes(n)
    check_symmetry(pair, matrix @ pair, epsilon(operator.dtype))
    return matrix


def _mirror(matrix: np.ndarray) -> None:
    """The lower triangle from the upper one, in place."""
    for places in np.array_split(np.arange(len(matrix)), min(len(matrix), _PARTS)):
        start, stop = places[0], places[-1] + 1
        square = np.triu(matrix[start:stop, start:stop], 1)
        matrix[start:stop, start:stop] = square + square.T
        matrix[stop:, start:stop] = matrix[start:stop, stop:].T


def factor(matrix: np.ndarray, block: int | None = None) -> None:
    """L of K = L Lᵀ takes the place of the lower triangle of K [n, n]; what is above the diagonal stays.

    Raises:
        numpy.linalg.LinAlgError: K is not positive definite, or holds numbers that are not finite.
    """
    n = len(matrix)
    block = block or (n if n <= _WHOLE else _BLOCK)
    (potrf,) = scipy.linalg.get_lapack_funcs(("potrf",), (matrix,))
    for start in range(0, n, block):
        own, done = slice(start, start + block), slice(start)
        for first in range(start, n, block) if start else ():
            rows = slice(first, first + block)
            product = matrix[rows, done] @ matrix[own, done].T
            matrix[rows, own] -= np.tril(product) if first == start else product
        square, info = potrf(matrix[own, own], lower=1, clean=0, overwrite_a=1)
        if info > 0:
            raise np.linalg.LinAlgError(f"the leading minor of order {start + info} is not positive")
        if not np.isfinite(square.diagonal()).all():  # LAPACK lets them through; all that is in a row ends there
            raise np.linalg.LinAlgError(f"rows {start} to {start + len(square)} hold numbers that are not finite")
        matrix[own, own] = square
        for first in range(start + block, n, block):
            rows = slice(first, first + block)
            right = matrix[rows, own].T
            matrix[rows, own] = scipy.linalg.solve_triangular(square, right, lower=True, check_finite=False).T


def _beside(n: int) -> int:
    """Bytes beside the matrix itself, where it is in Fortran's order."""
    return 0 if n <= _WHOLE else 4 * 8 * _BLOCK**2


def substituted(factored: np.ndarray, right: np.ndarray) -> np.ndarray:
    """X of L Lᵀ X = `right` [n, K], L being the lower triangle of `factored`."""
    return scipy.linalg.cho_solve((factored, True), right, check_finite=False)
