"""Results of `npk.solving`: a fitted regression and how well it was fitted, iterates, a warning and an error."""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float

from npk.solving import conjugate_gradients
from npk.solving.classification import Ridge
from npk.solving.operators import operator_of


class NotConverged(UserWarning):
    """Conjugate gradients have stopped before the wanted residual; the result says where they are."""


class NotPositiveDefinite(ValueError):
    """K + r·k̄·I is not positive definite: there is no regression.

    Attributes:
        iterate: what conjugate gradients had when they found out, or None.
    """

    iterate: "Iterate | None" = None


@dataclasses.dataclass(frozen=True, eq=False)
class Iterate:
    """What conjugate gradients have after some passes; pickled, it is a checkpoint.

    Attributes:
        products: passes over the kernel so far.
        regularizations: as they were given.
        duals: coefficients of the training samples, one array [N, K] a regularization.
        residuals: by recursion, ‖b - A x‖/‖b‖ of every output, one array [K] a regularization.
        progress: what `start` needs to continue as if never interrupted.

    Example:
        >>> import numpy as np
        >>> from npk.solving import kernel_ridge
        >>> seen = []
        >>> fit = kernel_ridge(np.diag([1.0, 2, 3]), np.eye(3), method="cg", rank=0, callback=seen.append)
        >>> seen[0].products, seen[0].duals[0].shape
        (1, (3, 3))
    """

    products: int
    regularizations: tuple[float, ...]
    duals: tuple[np.ndarray, ...]
    residuals: tuple[np.ndarray, ...]
    progress: conjugate_gradients.Progress


@dataclasses.dataclass(frozen=True, eq=False)
class Solved:
    """A fitted kernel ridge regression, and how well it was fitted.

    Attributes:
        fit: the regression, as `npk.solving.ridge` gives it.
        residuals: ‖b - (K + r·k̄·I) dual‖ / ‖b‖ of every output, computed from the kernel at the end, of shape (K,).
        converged: whether none is above the tolerance.
        method: "cholesky" or "cg".
        why: the reason for the method: memory needed and available.
        products: passes over the kernel, those that checked residuals included.
        rank: columns of the preconditioner.

    Example:
        >>> import numpy as np
        >>> from npk.solving import kernel_ridge
        >>> solved = kernel_ridge(np.eye(3), np.eye(3))
        >>> solved.method, solved.converged
        ('cholesky', True)
    """

    fit: Ridge
    residuals: Float[np.ndarray, " k"]
    converged: bool
    method: str
    why: str
    products: int
    rank: int

    def predict(self, kernel: Any) -> Float[np.ndarray, "m k"]:
        """Targets of new samples: K(new, training) · dual + mean, in one pass.

        Args:
            kernel: kernel of new samples with those of training, an operator or array of shape (M, N).

        Returns:
            Scores, of shape (M, K).

        Raises:
            ValueError: the kernel does not have one column a training sample.
        """
        operator = operator_of(kernel)
        if operator.shape[1] != len(self.fit.dual):
            raise ValueError(
                f"kernel must be [new samples, {len(self.fit.dual)} training samples], got shape "
                f"{list(operator.shape)}."
            )
        return operator.product(self.fit.dual) + self.fit.mean
