"""What kernels say about labels, about each other and about widths: alignment, similarity, drift, slopes, gate flips.

Computed on the host in float64: these are statistics of a finished Gram matrix [N, N] (symmetric, rows and columns in
the same order), not part of a network.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.special
from jaxtyping import Float
from numpy.typing import ArrayLike

from npk.programs import shown
from npk.solving.checks import gram, indices, square, vectors
from npk.solving.operators import KernelOperator, is_operator
from npk.solving.spectra import moments
from npk.solving.traces import Estimate, known


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    scale = np.linalg.norm(a) * np.linalg.norm(b)
    return float(np.vdot(a, b) / scale) if scale > 0 else 0.0


def center(kernel: Any) -> Any:
    """The kernel of the same features with their mean taken off: (I - 11ᵀ/N) K (I - 11ᵀ/N).

    Args:
        kernel: Gram matrix, an operator or array of shape (N, N).

    Returns:
        The centred matrix, of shape (N, N), whose rows and columns sum to zero; of an operator an operator, whose
        products and columns take a pass, as its diagonal does.

    Raises:
        ValueError: not a finite square matrix.

    Example:
        >>> import numpy as np
        >>> from npk.solving import center, operator_of
        >>> center(np.eye(2)).tolist()
        [[0.5, -0.5], [-0.5, 0.5]]
        >>> center(operator_of(np.eye(2))).product(np.array([[1.0], [0.0]])).tolist()
        [[0.5], [-0.5]]
    """
    if is_operator(kernel):
        square(kernel)
        return _Centred(kernel)
    kernel = gram(kernel)
    return kernel - kernel.mean(axis=0, keepdims=True) - kernel.mean(axis=1, keepdims=True) + kernel.mean()


@dataclasses.dataclass(frozen=True, eq=False)
class _Centred:
    """A symmetric operator, centred."""

    whole: KernelOperator

    @property
    def shape(self) -> tuple[int, int]:
        return self.whole.shape

    @property
    def dtype(self) -> Any:
        return self.whole.dtype

    def product(self, v: np.ndarray) -> np.ndarray:
        v = vectors(v, self.shape[1])
        out = self.whole.product(v - v.mean(axis=0))
        return out - out.mean(axis=0)

    def columns(self, places: np.ndarray) -> np.ndarray:
        places = indices(places, self.shape[1])
        chosen = np.zeros((self.shape[1], len(places)))
        chosen[places, np.arange(len(places))] = 1.0
        return self.product(chosen)

    def diagonal(self) -> np.ndarray:
        means = self.whole.product(np.full((self.shape[1], 1), 1 / self.shape[1]))[:, 0]
        return np.asarray(self.whole.diagonal(), np.float64) - 2 * means + means.mean()


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
    numbers = _class_numbers(labels)
    return (numbers[:, None] == numbers[None, :]).astype(np.float64)


def _class_numbers(labels: ArrayLike) -> np.ndarray:
    numbers = np.asarray(labels)
    if numbers.ndim != 1 or numbers.size == 0:
        raise ValueError(f"labels must be class numbers [N] with N > 0, got shape {list(numbers.shape)}.")
    return numbers


def alignment(kernel: Any, labels: ArrayLike, *, centered: bool = True, **options: Any) -> Estimate:
    """Kernel-target alignment ⟨K, YYᵀ⟩ / (‖K‖ ‖YYᵀ‖) in Frobenius norms, for any number of classes.

    Args:
        kernel: Gram matrix, an operator or array of shape (N, N). Of an array the alignment is exact; of an operator
            ‖K‖ is estimated, in three passes.
        labels: class numbers, of shape (N,).
        centered: whether both matrices are centred first. Without it a constant kernel already scores above 0.
        options: of the estimate: sketch, probes, confidence and seed, as of `moments`.

    Returns:
        An `Estimate` in [-1, 1] (in [0, 1] for a positive semi-definite kernel); 0 where a matrix vanishes.

    Raises:
        ValueError: the kernel is not a finite square matrix, or the labels are not one a row.

    Example:
        >>> from npk.solving import alignment, label_kernel
        >>> round(alignment(label_kernel([0, 0, 1, 2]), [0, 0, 1, 2]).value, 6)
        1.0

    Source: Cristianini et al. 2001 (plain); Cortes, Mohri & Rostamizadeh 2012 (centred).
    """
    kernel = kernel if is_operator(kernel) else gram(kernel)
    classes = np.unique(_class_numbers(labels), return_inverse=True)[1]
    if square(kernel) != len(classes):
        raise ValueError(f"labels must have one entry a row of the kernel ({kernel.shape[0]}), got {len(classes)}.")
    kernel = center(kernel) if centered else kernel
    if not is_operator(kernel):
        target = label_kernel(labels)
        return known(_cosine(kernel, center(target) if centered else target))
    targets = np.eye(classes.max() + 1)[classes]
    targets = targets - targets.mean(axis=0) if centered else targets
    share, length = np.vdot(targets, kernel.product(targets)), np.linalg.norm(targets.T @ targets)
    norm = moments(kernel, use_diagonal=False, **options).frobenius_norm
    with np.errstate(divide="ignore", invalid="ignore"):
        found = np.nan_to_num(share / (length * np.array([norm.value, norm.low, norm.high])))
    value, *ends = np.clip(found, -1.0, 1.0).tolist()
    return Estimate(value, min(ends), max(ends))


def cka(kernel1: ArrayLike, kernel2: ArrayLike, *, unbiased: bool = False) -> float:
    """Centred kernel alignment of two kernels on the same samples, the similarity of two representations.

    The plain one is biased upward where samples are few beside features: of independent Gaussian features, 50 samples
    in 100 dimensions, it is about 0.67. The unbiased one is about 0 there, and may be a little below.

    Args:
        kernel1: Gram matrix, of shape (N, N).
        kernel2: Gram matrix, of shape (N, N).
        unbiased: whether each inner product of centred kernels is estimated without bias, from pairs of different
            samples alone; it needs at least 4.

    Returns:
        A number in [-1, 1]; 1 when one kernel is a positive multiple of the other up to centring. Unbiased: 0 where the
        estimate of either kernel's own size is not positive.

    Raises:
        ValueError: not finite square matrices of one shape, or too few samples.

    Example:
        >>> import numpy as np
        >>> from npk.solving import cka
        >>> round(cka(np.eye(3), 5 * np.eye(3) + 2), 6)
        1.0
        >>> x, y = np.random.default_rng(0).normal(size=(2, 50, 100))  # of nothing in common
        >>> bool(cka(x @ x.T, y @ y.T) > 0.6), bool(abs(cka(x @ x.T, y @ y.T, unbiased=True)) < 0.1)
        (True, True)

    Source: Kornblith et al. 2019, section 3; unbiased: Song et al. 2012, equation 5.
    """
    kernel1, kernel2 = _pair(kernel1, kernel2)
    if not unbiased:
        return _cosine(center(kernel1), center(kernel2))
    if len(kernel1) < 4:
        raise ValueError(f"the unbiased estimate needs at least 4 samples, got {len(kernel1)}.")
    own1, own2 = _dependence(kernel1, kernel1), _dependence(kernel2, kernel2)
    return _dependence(kernel1, kernel2) / float(np.sqrt(own1 * own2)) if min(own1, own2) > 0 else 0.0


def _dependence(kernel1: np.ndarray, kernel2: np.ndarray) -> float:
    """Hilbert-Schmidt independence criterion, unbiased: times n (n - 3)."""
    n = len(kernel1)
    a, b = (kernel - np.diag(np.diag(kernel)) for kernel in (kernel1, kernel2))
    rest = a.sum() * b.sum() / ((n - 1) * (n - 2)) - 2 * float(a.sum(0) @ b.sum(0)) / (n - 2)
    return float(np.vdot(a, b)) + rest


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


@shown()
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
    first, second = gram(kernel1, "the first kernel"), gram(kernel2, "the second kernel")
    if first.shape != second.shape:
        raise ValueError(f"the kernels must have one shape, got {list(first.shape)} and {list(second.shape)}.")
    return first, second


def gate_changes(gates: Sequence[ArrayLike], reference: Sequence[ArrayLike]) -> list[float]:
    """How far gates of any kind moved between two passes over the same samples: Σ|G - G'| / Σ(|G| + |G'|).

    Of attention patterns it is the share of the attention that went elsewhere (total variation), since each row sums to
    one; of a norm's 1/σ half its relative change, where that is small; of hard gates the share of the open ones that
    are not open in both.

    Args:
        gates: gate arrays in call order, each of shape (N, ...).
        reference: gate arrays of the same shapes, e.g. those at initialisation.

    Returns:
        One number in [0, 1] an array: 0 where nothing moved, 1 where nothing is left of what was.

    Raises:
        ValueError: the two differ in number or shape.

    Example:
        >>> import numpy as np
        >>> from npk.solving import gate_changes
        >>> gate_changes((np.array([[0.5, 0.5]]),), (np.array([[1.0, 0.0]]),))
        [0.5]

    Source: Bray & Curtis 1957 (the dissimilarity).
    """
    changes = []
    for new, old in _paired(gates, reference):
        new, old = np.asarray(new, np.float64), np.asarray(old, np.float64)
        size = np.abs(new).sum() + np.abs(old).sum()
        changes.append(float(np.abs(new - old).sum() / size) if size > 0 else 0.0)
    return changes


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
    return [float(np.mean(new != old)) for new, old in _paired(gates, reference)]


def _paired(gates: Sequence[ArrayLike], reference: Sequence[ArrayLike]) -> list[tuple[np.ndarray, np.ndarray]]:
    """The arrays of two passes side by side, checked to fit."""
    if len(gates) != len(reference):
        raise ValueError(f"the two must have as many gate arrays, got {len(gates)} and {len(reference)}.")
    pairs = [(np.asarray(new), np.asarray(old)) for new, old in zip(gates, reference, strict=True)]
    for i, (new, old) in enumerate(pairs):
        if new.shape != old.shape:
            raise ValueError(f"gate arrays {i} must have one shape, got {list(new.shape)} and {list(old.shape)}.")
    return pairs
