"""Regularised systems (K + λI) X = B by Cholesky, in the memory of one float64 matrix."""

from collections.abc import Sequence

import numpy as np
import scipy.linalg

from npk._operator_checks import epsilon, finite
from npk._passes import check_symmetry, probes
from npk.operators import KernelOperator

# Part of a matrix's columns that are asked for together.
_PARTS = 16


class Indefinite(ArithmeticError):
    """K + λI of this λ is not positive definite."""

    def __init__(self, shift: int):
        super().__init__(shift)
        self.shift = shift


def needed_memory(n: int, outputs: int) -> int:
    """Bytes: the matrix, a part of it in float64 on its way there, and a few arrays [N, K]."""
    return 8 * (n * n + n * -(-n // _PARTS) + 8 * n * outputs)


def solve(operator: KernelOperator, shifts: Sequence[float], right: np.ndarray) -> list[np.ndarray]:
    """X [N, K] for every λ. The upper triangle keeps K while the lower one is factored."""
    matrix = _filled(operator)
    diagonal = matrix.diagonal().copy()
    (potrf,) = scipy.linalg.get_lapack_funcs(("potrf",), (matrix,))
    solutions = []
    for number, shift in enumerate(shifts):
        if number:
            _mirror(matrix)
        np.fill_diagonal(matrix, diagonal + shift)
        _, info = potrf(matrix, lower=1, clean=0, overwrite_a=1)
        if info > 0:
            raise Indefinite(number)
        solutions.append(scipy.linalg.cho_solve((matrix, True), right, check_finite=False))
    return solutions


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
