"""Passes over a kernel: counted, and each also tells whether the kernel is symmetric."""

from typing import Any

import numpy as np

from npk.solving.operator_checks import epsilon


class Passes:
    """The products of one kernel. Each carries two random vectors more: zᵀKw = wᵀKz for a symmetric K.

    Each, not the first alone: beside other vectors a product may round differently, and a run that is continued has
    its kernel checked and gives the bits of one that was not interrupted.
    """

    def __init__(self, operator: Any):
        self.operator = operator
        self.count = 0

    def __call__(self, v: np.ndarray) -> np.ndarray:
        """K v [N, K]."""
        self.count += 1
        pair = probes(len(v))
        out = self.operator.product(np.hstack([v, pair]))
        check_symmetry(pair, out[:, -2:], epsilon(self.operator.dtype))
        return out[:, :-2]


def probes(n: int) -> np.ndarray:
    """Two random vectors [N, 2]."""
    return np.random.default_rng(0).normal(size=(n, 2))


def check_symmetry(pair: np.ndarray, products: np.ndarray, eps: float) -> None:
    """Raise where K is not symmetric: zᵀKw - wᵀKz has the variance ‖K - Kᵀ‖²."""
    gap = abs(float(pair[:, 0] @ products[:, 1] - pair[:, 1] @ products[:, 0]))
    size = float(np.linalg.norm(products)) / np.sqrt(2)  # about ‖K‖
    if gap > (64 * eps + 1e-11) * size:
        raise ValueError(
            f"the kernel is not symmetric: two random vectors give zᵀKw - wᵀKz = {gap / size:.2g} ‖K‖, which rounding "
            f"does not explain."
        )
