"""What a kernel matrix says: alignment with the labels, similarity of two kernels, spectrum, drift.

Plain arrays in, float64 numbers out, computed on the host: these are statistics of a finished Gram
matrix [N, N] (symmetric, rows and columns in the same order), not part of a network.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.special
from jaxtyping import Float
from numpy.typing import ArrayLike


def _gram(kernel: Any, name: str = "kernel") -> np.ndarray:
    kernel = np.asarray(kernel, dtype=np.float64)
    if kernel.ndim != 2 or kernel.shape[0] != kernel.shape[1] or kernel.shape[0] == 0:
        raise ValueError(f"{name} must be a square matrix [N, N] with N > 0, got shape {list(kernel.shape)}.")
    if not np.isfinite(kernel).all():
        raise ValueError(
            f"{name} must be finite, but holds {int((~np.isfinite(kernel)).sum())} NaN or infinite entries."
        )
    return kernel


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    scale = np.linalg.norm(a) * np.linalg.norm(b)
    return float(np.vdot(a, b) / scale) if scale > 0 else 0.0


def center(kernel: ArrayLike) -> Float[np.ndarray, "n n"]:
    """The kernel of the same features with their mean taken off: (I - 11ᵀ/N) K (I - 11ᵀ/N).

    Args:
        kernel: Gram matrix, of shape (N, N).

    Returns:
        The centred matrix, of shape (N, N); its rows and columns sum to zero.

    Raises:
        ValueError: not a finite square matrix.

    Example:
        >>> import numpy as np
        >>> from npk.solving import center
        >>> center(np.eye(2)).tolist()
        [[0.5, -0.5], [-0.5, 0.5]]
    """
    kernel = _gram(kernel)
    return kernel - kernel.mean(axis=0, keepdims=True) - kernel.mean(axis=1, keepdims=True) + kernel.mean()


def label_kernel(labels: ArrayLike) -> Float[np.ndarray, "n n"]:
    """The ideal kernel Y Yᵀ of one-hot labels: 1 where two samples share their class, else 0.

    Args:
        labels: class numbers, of shape (N,).

    Returns:
        Matrix of shape (N, N).

    Raises:
        ValueError: the labels are not one non-empty axis.

    Example:
        >>> from npk.solving import label_kernel
        >>> label_kernel([0, 1, 0]).tolist()
        [[1.0, 0.0, 1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 1.0]]
    """
    labels = np.asarray(labels)
    if labels.ndim != 1 or labels.size == 0:
        raise ValueError(f"labels must be class numbers [N] with N > 0, got shape {list(labels.shape)}.")
    return (labels[:, None] == labels[None, :]).astype(np.float64)


def alignment(kernel: ArrayLike, labels: ArrayLike, *, centered: bool = True) -> float:
    """Kernel-target alignment ⟨K, YYᵀ⟩ / (‖K‖ ‖YYᵀ‖) in Frobenius norms, for any number of classes.

    Args:
        kernel: Gram matrix, of shape (N, N).
        labels: class numbers, of shape (N,).
        centered: whether both matrices are centred first. Without it a constant kernel already scores above 0.

    Returns:
        A number in [-1, 1] (in [0, 1] for a positive semi-definite kernel); 0 where a matrix vanishes.

    Raises:
        ValueError: the kernel is not a finite square matrix, or the labels are not one a row.

    Example:
        >>> from npk.solving import alignment, label_kernel
        >>> round(alignment(label_kernel([0, 0, 1, 2]), [0, 0, 1, 2]), 6)
        1.0

    Source: Cristianini et al. 2001 (plain); Cortes, Mohri & Rostamizadeh 2012 (centred).
    """
    kernel, target = _gram(kernel), label_kernel(labels)
    if kernel.shape != target.shape:
        raise ValueError(f"labels must have one entry a row of the kernel ({len(kernel)}), got {len(target)}.")
    return _cosine(center(kernel), center(target)) if centered else _cosine(kernel, target)


def cka(kernel1: ArrayLike, kernel2: ArrayLike) -> float:
    """Centred kernel alignment of two kernels on the same samples, the similarity of two representations.

    Args:
        kernel1: Gram matrix, of shape (N, N).
        kernel2: Gram matrix, of shape (N, N).

    Returns:
        A number in [-1, 1]; 1 when one kernel is a positive multiple of the other up to centring.

    Raises:
        ValueError: not finite square matrices of one shape.

    Example:
        >>> import numpy as np
        >>> from npk.solving import cka
        >>> round(cka(np.eye(3), 5 * np.eye(3) + 2), 6)
        1.0

    Source: Kornblith et al. 2019, section 3.
    """
    kernel1, kernel2 = _pair(kernel1, kernel2)
    return _cosine(center(kernel1), center(kernel2))


def drift(kernel: ArrayLike, reference: ArrayLike) -> float:
    """How far a kernel has turned from a reference: 1 - ⟨K, K₀⟩ / (‖K‖ ‖K₀‖). Scale does not count.

    Args:
        kernel: Gram matrix, of shape (N, N).
        reference: Gram matrix of the same samples, of shape (N, N).

    Returns:
        0 for a positive multiple of the reference, at most 1 for positive semi-definite kernels.

    Raises:
        ValueError: not finite square matrices of one shape.

    Example:
        >>> import numpy as np
        >>> from npk.solving import drift
        >>> round(drift(3 * np.eye(2), np.eye(2)), 6), round(drift(np.diag([1.0, 0]), np.diag([0, 1.0])), 6)
        (0.0, 1.0)

    Source: Fort et al. 2020 (kernel distance).
    """
    return 1.0 - _cosine(*_pair(kernel, reference))


def relative_error(kernel: ArrayLike, reference: ArrayLike) -> float:
    """The distance of a kernel from a reference, ‖K - K₀‖ / ‖K₀‖ in Frobenius norm. Scale counts.

    Args:
        kernel: Gram matrix, of shape (N, N).
        reference: Gram matrix of the same samples, of shape (N, N), not zero.

    Returns:
        0 for the reference itself; no upper bound.

    Raises:
        ValueError: not finite square matrices of one shape, or the reference is zero.

    Example:
        >>> import numpy as np
        >>> from npk.solving import relative_error
        >>> relative_error(1.5 * np.eye(2), np.eye(2))
        0.5
    """
    first, second = _pair(kernel, reference)
    size = float(np.linalg.norm(second))
    if size == 0:
        raise ValueError("the reference must not be zero.")
    return float(np.linalg.norm(first - second)) / size


@dataclasses.dataclass(frozen=True)
class PowerLaw:
    """A fit of y = factor · x^slope.

    Attributes:
        slope: the exponent, the slope on logarithmic axes.
        low: lower end of its confidence interval.
        high: upper end.
        factor: y at x = 1.

    Example:
        >>> from npk.solving import PowerLaw
        >>> PowerLaw(slope=-0.5, low=-0.6, high=-0.4, factor=1.0).slope
        -0.5
    """

    slope: float
    low: float
    high: float
    factor: float


def power_law(x: ArrayLike, y: ArrayLike, *, confidence: float = 0.95) -> PowerLaw:
    """Fit log y = slope · log x + constant by least squares, with Student's interval for the slope.

    The interval supposes independent points of equal spread in log y about a straight line.

    Args:
        x: positive, of shape (n,), e.g. the width of each draw.
        y: positive, of shape (n,), e.g. its error.
        confidence: of the interval, in (0, 1).

    Returns:
        A `PowerLaw`.

    Raises:
        ValueError: fewer than three points, a number is not positive and finite, or all x are equal.

    Example:
        >>> from npk.solving import power_law
        >>> fit = power_law([1, 4, 16, 64], [8, 4, 2, 1])
        >>> round(fit.slope, 6), round(fit.factor, 6)
        (-0.5, 8.0)
    """
    points = np.stack([np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)])
    if points.ndim != 2 or points.shape[1] < 3:
        raise ValueError(f"a slope with an interval needs at least three points (x, y), got shape {points.shape[1:]}.")
    if not (np.isfinite(points).all() and (points > 0).all()):
        raise ValueError("x and y must be positive and finite.")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}.")
    if np.ptp(points[0]) == 0:
        raise ValueError("a slope needs at least two different x.")
    log_x, log_y = np.log(points)
    (slope, constant), covariance = np.polyfit(log_x, log_y, 1, cov=True)
    slope, error = float(slope), float(np.sqrt(covariance[0, 0]))
    reach = error * float(scipy.special.stdtrit(points.shape[1] - 2, (1 + confidence) / 2))
    return PowerLaw(slope, slope - reach, slope + reach, float(np.exp(constant)))


def _pair(kernel1: ArrayLike, kernel2: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    first, second = _gram(kernel1, "the first kernel"), _gram(kernel2, "the second kernel")
    if first.shape != second.shape:
        raise ValueError(f"the kernels must have one shape, got {list(first.shape)} and {list(second.shape)}.")
    return first, second


def spectrum(kernel: ArrayLike) -> Float[np.ndarray, " n"]:
    """Eigenvalues of a symmetric kernel, largest first.

    Args:
        kernel: Gram matrix, of shape (N, N); its symmetric part is used.

    Returns:
        Eigenvalues, of shape (N,). Those below zero by rounding are not cut off.

    Raises:
        ValueError: not a finite square matrix.

    Example:
        >>> import numpy as np
        >>> from npk.solving import spectrum
        >>> spectrum(np.diag([1.0, 3.0, 2.0])).tolist()
        [3.0, 2.0, 1.0]
    """
    kernel = _gram(kernel)
    return np.linalg.eigvalsh((kernel + kernel.T) / 2)[::-1]


def effective_rank(eigenvalues: ArrayLike) -> float:
    """The number of directions that carry a spectrum: exp of the entropy of the normalised eigenvalues.

    Args:
        eigenvalues: as from `spectrum`, of shape (N,); those below zero count as zero.

    Returns:
        Between 1 (one direction) and N (all alike).

    Raises:
        ValueError: no eigenvalue is positive, or the array has more than one axis.

    Example:
        >>> from npk.solving import effective_rank
        >>> round(effective_rank([2.0, 2.0, 0.0]), 6)
        2.0

    Source: Roy & Vetterli 2007.
    """
    values = np.asarray(eigenvalues, dtype=np.float64)
    if values.ndim != 1:
        raise ValueError(f"eigenvalues must be one axis [N], got shape {list(values.shape)}.")
    values = values[values > 0]
    if values.size == 0:
        raise ValueError("effective_rank needs at least one positive eigenvalue.")
    share = values / values.sum()
    return float(np.exp(-(share * np.log(share)).sum()))


def gate_flips(gates: Sequence[ArrayLike], reference: Sequence[ArrayLike]) -> list[float]:
    """The fraction of gates that changed between two passes over the same samples, a layer at a time.

    Args:
        gates: gate arrays in call order, each of shape (N, ...).
        reference: gate arrays of the same shapes, e.g. those at initialisation.

    Returns:
        One fraction in [0, 1] an array. (The fraction over all gates is their mean weighted by size.)

    Raises:
        ValueError: the two differ in number or shape.

    Example:
        >>> import numpy as np
        >>> from npk.solving import gate_flips
        >>> gate_flips((np.array([[1.0, 0.0]]),), (np.array([[1.0, 1.0]]),))
        [0.5]
    """
    if len(gates) != len(reference):
        raise ValueError(f"the two must have as many gate arrays, got {len(gates)} and {len(reference)}.")
    flips = []
    for i, (new, old) in enumerate(zip(gates, reference, strict=True)):
        new, old = np.asarray(new), np.asarray(old)
        if new.shape != old.shape:
            raise ValueError(f"gate arrays {i} must have one shape, got {list(new.shape)} and {list(old.shape)}.")
        flips.append(float(np.mean(new != old)))
    return flips
