"""A regularised kernel K + λI made nearly a multiple of the identity by its low-rank approximation F Fᵀ + μI.

μ is λ plus the mean eigenvalue of what F Fᵀ leaves of K. With μ = λ, and a kernel that decays slowly, the
small eigenvalues that the preconditioner does not know would become the largest, and passes more instead of fewer.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Preconditioner:
    """S = (I + F Fᵀ/μ)^(-1/2) = I + F · down · Fᵀ, and its inverse I + F · up · Fᵀ; without a factor, I."""

    factor: np.ndarray | None = None
    down: np.ndarray | None = None
    up: np.ndarray | None = None

    def apply(self, v: np.ndarray) -> np.ndarray:
        """S v."""
        return v if self.factor is None else v + self.factor @ (self.down @ (self.factor.T @ v))

    def invert(self, v: np.ndarray) -> np.ndarray:
        """S⁻¹ v."""
        return v if self.factor is None else v + self.factor @ (self.up @ (self.factor.T @ v))


def preconditioners(factor: np.ndarray | None, shifts: Sequence[float]) -> list[Preconditioner]:
    """One for each μ; they share F and one eigendecomposition of FᵀF [r, r] (Woodbury's identity)."""
    if factor is None or factor.shape[1] == 0:
        return [Preconditioner() for _ in shifts]
    values, vectors = np.linalg.eigh(factor.T @ factor)
    values = np.maximum(values, np.finfo(np.float64).eps * values[-1])
    found = []
    for shift in shifts:
        half = 0.5 * np.log1p(values / shift)
        down, up = ((vectors * (np.expm1(power) / values)) @ vectors.T for power in (-half, half))
        found.append(Preconditioner(factor, down, up))
    return found
