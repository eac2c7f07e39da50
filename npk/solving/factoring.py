"""Cholesky factor of a large matrix, in place, in blocks.

LAPACK is never given more than 8,192 rows: the factorization of OpenBLAS 0.3.30, which comes with SciPy, writes beyond
its memory and ends the process where two threads work on some 16,000 rows.
"""

import numpy as np
import scipy.linalg

_WHOLE = 8192  # rows that LAPACK factors at once
_BLOCK = 2048  # else: a square of float64 is 32 MiB, and products of such run at the rate of any


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


def needed_memory(n: int) -> int:
    """Bytes beside the matrix itself, where it is in Fortran's order."""
    return 0 if n <= _WHOLE else 4 * 8 * _BLOCK**2


def solve(factored: np.ndarray, right: np.ndarray) -> np.ndarray:
    """X of L Lᵀ X = `right` [n, K], L being the lower triangle of `factored`."""
    return scipy.linalg.cho_solve((factored, True), right, check_finite=False)
