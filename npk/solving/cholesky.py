"""Regularised systems (K + λI) X = B by Cholesky, in the memory of one float64 matrix."""

from collections.abc import Sequence

import numpy as np

from npk.solving import factoring
from npk.solving.conjugate_gradients import worst
from npk.solving.operator_checks import epsilon, finite
from npk.solving.operators import KernelOperator
from npk.solving.passes import Passes, check_symmetry, probes

# Part of a matrix's columns that are asked for together.
_PARTS = 16


class Indefinite(ArithmeticError):
    """K + λI of this λ is not positive definite."""

    def __init__(self, shift: int):
        super().__init__(shift)
        self.shift = shift


def needed_memory(n: int, outputs: int) -> int:
    """Bytes: the matrix, a part of it in float64 on its way there or being factored, and a few arrays [N, K]."""
    return 8 * (n * n + 8 * n * outputs) + max(8 * n * -(-n // _PARTS), factoring.needed_memory(n))


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
            factoring.factor(matrix)
        except np.linalg.LinAlgError as error:
            raise Indefinite(number) from error
        solution, left = np.zeros_like(right), right
        while worst(left) > tolerance:
            corrected = solution + factoring.solve(matrix, left)
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
