"""Gradient flow of a network with a fixed tangent kernel, in closed form: ė = -K e, at any time.

Full-batch gradient descent with step η on ½Σ‖f - y‖² moves the outputs by -ηK(f - y) a step, as far as K stays
what it was. In the limit of small steps that is a linear differential equation in the time t = η · steps,
solved here by one eigendecomposition in float64.
"""

import dataclasses

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from npk.programs import shown
from npk.solving.checks import epsilon, matrix


@shown()
@dataclasses.dataclass(frozen=True, eq=False)
class GradientFlow:
    """The outputs that a kernel predicts, as functions of time.

    Attributes:
        eigenvalues: of the kernel of the training samples, largest last, of shape (N,); those that are rounding are 0.
        eigenvectors: of shape (N, N), one a column.
        targets: y, of shape (N, K).
        initial: outputs f₀ on the training samples at time 0, of shape (N, K).
        test_kernel: K(test, training) · eigenvectors, of shape (M, N), or None.
        test_initial: outputs at time 0 on the test samples, of shape (M, K), or None.

    Example:
        >>> import numpy as np
        >>> from npk.solving import gradient_flow
        >>> flow = gradient_flow(np.eye(2), np.ones((2, 1)))
        >>> flow.train([0.0, np.log(2), np.inf])[:, 0, 0].round(3).tolist()
        [0.0, 0.5, 1.0]

    Source: Jacot et al. 2018, section 5; Lee et al. 2019, equations 9-11.
    """

    eigenvalues: Float[np.ndarray, " n"]
    eigenvectors: Float[np.ndarray, "n n"]
    targets: Float[np.ndarray, "n k"]
    initial: Float[np.ndarray, "n k"]
    test_kernel: Float[np.ndarray, "m n"] | None = None
    test_initial: Float[np.ndarray, "m k"] | None = None

    def train(self, t: ArrayLike | float | int) -> Float[np.ndarray, "*t n k"]:
        """Outputs on the training samples: f₀ + (1 - e^{-Kt})(y - f₀).

        Args:
            t: times, of any shape (T,) or a single one; infinity is allowed.

        Returns:
            Outputs, of shape (T, N, K); (N, K) for a single time.

        Raises:
            ValueError: a time is negative or NaN.
        """
        return self.initial + self.eigenvectors @ (self._done(_times(t))[..., None] * self._gap)

    def test(self, t: ArrayLike | float | int) -> Float[np.ndarray, "*t m k"]:
        """Outputs on the test samples: f₀ + K(test, training) K⁻¹ (1 - e^{-Kt})(y - f₀).

        Args:
            t: as of `train`.

        Returns:
            Outputs, of shape (T, M, K); (M, K) for a single time.

        Raises:
            ValueError: a time is negative or NaN, or the flow was made without a test kernel.
        """
        if self.test_kernel is None:
            raise ValueError("this flow knows no test samples: give gradient_flow their test_kernel.")
        times, positive = _times(t), self.eigenvalues > 0
        # A kernel's null directions are null towards every sample: nothing is learned along them.
        inverse = np.divide(1.0, self.eigenvalues, out=np.zeros_like(self.eigenvalues), where=positive)
        return self.test_initial + self.test_kernel @ ((self._done(times) * inverse)[..., None] * self._gap)

    @property
    def _gap(self) -> np.ndarray:
        """y - f₀ along the eigenvectors."""
        return self.eigenvectors.T @ (self.targets - self.initial)

    def _done(self, times: np.ndarray) -> np.ndarray:
        """1 - e^{-λt} without cancellation at small λt; 0 where λ is 0, at any time."""
        with np.errstate(invalid="ignore"):  # 0 · ∞
            return np.where(self.eigenvalues > 0, -np.expm1(-times[..., None] * self.eigenvalues), 0.0)


def gradient_flow(
    kernel: ArrayLike,
    targets: ArrayLike,
    *,
    test_kernel: ArrayLike | None = None,
    initial: ArrayLike | None = None,
    test_initial: ArrayLike | None = None,
    rounding: float | None = None,
) -> GradientFlow:
    """Solve ḟ = -K (f - y), the gradient flow of the loss ½Σ‖f - y‖² under a fixed tangent kernel.

    Any kernel will do: `ntk`, the value part of `split_ntk`, a path kernel times its factor, the limits in
    `npk.infinite`. Its scale sets the speed: time is step size times steps for `ntk` of one output (the sum over K
    outputs divided by K); of a mean loss over N samples, N times that.

    Args:
        kernel: K of the training samples, shared by all outputs, of shape (N, N).
        targets: y, of shape (N, K).
        test_kernel: K of test samples with those of training, of shape (M, N).
        initial: outputs on the training samples at time 0, of shape (N, K); None is zero.
        test_initial: outputs on the test samples at time 0, of shape (M, K); None is zero.
        rounding: error of the kernel relative to its largest eigenvalue; None is N · ε of the kernel's dtype.
            Eigenvalues may be that far below zero; those no larger than what is found below zero count as zero.

    Returns:
        A `GradientFlow`: its `train(t)` and `test(t)` are the outputs at any times. After infinite time they are
        those of kernel regression without ridge on y - f₀.

    Raises:
        ValueError: shapes do not match, an entry is not finite, or the kernel is not symmetric or has an eigenvalue
            below zero beyond rounding.

    Example:
        >>> import numpy as np, npk
        >>> x, x_test = np.array([[1.0, 0.0], [1.0, 1.0]]), np.array([[2.0, 1.0]])
        >>> flow = npk.gradient_flow(x @ x.T, np.array([[1.0], [3.0]]), test_kernel=x_test @ x.T)
        >>> flow.test(np.inf).round(6).tolist()  # the linear function x₁ + 2x₂
        [[4.0]]

    Source: Jacot et al. 2018, section 5; Lee et al. 2019, equations 9-11.
    """
    eps = epsilon(np.asarray(kernel).dtype)
    kernel, targets = matrix(kernel, "kernel"), matrix(targets, "targets")
    n, k = targets.shape
    _expect(kernel, (n, n), "kernel must be square, one row a row of the targets")
    values, vectors = _positive(kernel, n * eps if rounding is None else rounding, eps)
    initial = _outputs(initial, (n, k), "initial")
    if test_kernel is None:
        if test_initial is not None:
            raise ValueError("test_initial needs a test_kernel.")
        return GradientFlow(values, vectors, targets, initial)
    cross = matrix(test_kernel, "test_kernel")
    _expect(cross, (len(cross), n), "test_kernel must have one column a training sample")
    return GradientFlow(
        values, vectors, targets, initial, cross @ vectors, _outputs(test_initial, (len(cross), k), "test_initial")
    )


def _positive(kernel: np.ndarray, tolerance: float, eps: float) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues and eigenvectors of a positive semi-definite kernel; eigenvalues that are rounding are zero."""
    size = float(np.abs(kernel).max())
    if float(np.abs(kernel - kernel.T).max()) > max(tolerance, 8 * eps) * size:
        raise ValueError("kernel must be symmetric.")
    values, vectors = np.linalg.eigh((kernel + kernel.T) / 2)
    largest, below = float(np.abs(values).max()), max(0.0, -float(values[0]))
    if below > tolerance * largest:
        raise ValueError(
            f"kernel must be positive semi-definite, but has an eigenvalue {-below / largest:.1e} times its largest, "
            f"beyond rounding ({tolerance:.1e}); where it was computed in a coarser dtype, give `rounding`."
        )
    return np.where(values > max(below, eps * largest), values, 0.0), vectors


def _times(t: ArrayLike | float | int) -> np.ndarray:
    times = np.asarray(t, dtype=np.float64)
    if not (times >= 0).all():
        raise ValueError("times must be zero or positive (infinity included).")
    return times


def _expect(found: np.ndarray, shape: tuple[int, ...], what: str) -> None:
    if found.shape != shape:
        raise ValueError(f"{what}: expected shape {list(shape)}, got {list(found.shape)}.")


def _outputs(value: ArrayLike | None, shape: tuple[int, int], name: str) -> np.ndarray:
    if value is None:
        return np.zeros(shape)
    found = matrix(value, name)
    _expect(found, shape, f"{name} must have one row a sample and one column an output")
    return found
