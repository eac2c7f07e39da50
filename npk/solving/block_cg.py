"""Conjugate gradients for all right-hand sides at once: they share one Krylov space, and one product a step.

K right-hand sides with a matrix that is expensive to multiply with are solved in the sum of their Krylov spaces: the
best approximation in K times as many directions as a single one has after as many products. The recursion keeps the
residuals as an orthonormal basis times small coefficients, which stays stable where residuals become dependent.

Source: O'Leary 1980; Dubrulle 2001, algorithm BCGrQ.
"""

import dataclasses

import numpy as np
import scipy.linalg


class Indefinite(ArithmeticError):
    """A direction p with pᵀAp ≤ 0: the matrix is not positive definite."""


@dataclasses.dataclass(frozen=True, eq=False)
class State:
    """After some steps: the solution, directions P, and residuals B - A X = basis · coefficients."""

    solution: np.ndarray
    directions: np.ndarray
    basis: np.ndarray
    coefficients: np.ndarray


def begin(right: np.ndarray) -> State:
    """Before the first step, for A X = right [N, K]; X = 0."""
    basis, sizes, rotation = np.linalg.svd(right, full_matrices=False)
    # Targets that sum to zero are dependent, and more targets than samples are.
    kept = sizes > 4 * np.finfo(np.float64).eps * sizes.max(initial=0.0)
    basis = np.ascontiguousarray(basis[:, kept])
    return State(np.zeros_like(right), basis, basis, sizes[kept, None] * rotation[kept])


def advance(state: State, product: np.ndarray) -> State:
    """One step, given product = A · state.directions."""
    p = state.directions
    gram = p.T @ product
    try:
        factor = scipy.linalg.cho_factor((gram + gram.T) / 2)
    except scipy.linalg.LinAlgError as error:
        raise Indefinite from error
    solution = state.solution + p @ scipy.linalg.cho_solve(factor, state.coefficients)
    steps = scipy.linalg.cho_solve(factor, np.eye(len(gram)))
    basis, shrink = np.linalg.qr(state.basis - product @ steps)
    return State(solution, basis + p @ shrink.T, basis, shrink @ state.coefficients)
