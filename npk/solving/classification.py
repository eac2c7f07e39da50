"""Kernel ridge regression for classification: exact, in float64, with SciPy's Cholesky solver."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import ArrayLike

from npk.solving import cholesky

CANDIDATES = tuple(10.0**e for e in range(-7, 2))


@dataclasses.dataclass(frozen=True)
class Ridge:
    """A fitted kernel ridge regression.

    Attributes:
        dual: coefficients of the training samples, of shape (N, K).
        mean: mean target, of shape (K,): what a sample is given that resembles none.
        regularization: relative to the kernel's mean diagonal.

    Example:
        >>> import numpy as np
        >>> from npk.solving import one_hot, ridge
        >>> fit = ridge(np.eye(2), one_hot([0, 1]), regularization=1e-6)
        >>> fit.predict(np.eye(2)).argmax(axis=1).tolist()
        [0, 1]
    """

    dual: Float[np.ndarray, "n k"]
    mean: Float[np.ndarray, " k"]
    regularization: float

    def predict(self, kernel: ArrayLike) -> Float[np.ndarray, "m k"]:
        """Targets of new samples: K(new, training) · dual + mean.

        Args:
            kernel: kernel of new samples with those of training, of shape (M, N).

        Returns:
            Scores, of shape (M, K).

        Raises:
            ValueError: the kernel does not have one column a training sample.
        """
        kernel = np.asarray(kernel, dtype=np.float64)
        if kernel.ndim != 2 or kernel.shape[1] != len(self.dual):
            raise ValueError(
                f"kernel must be [new samples, {len(self.dual)} training samples], got shape {list(kernel.shape)}."
            )
        return kernel @ self.dual + self.mean


def one_hot(labels: ArrayLike, classes: int | None = None) -> Float[np.ndarray, "n k"]:
    """One-hot targets of class numbers.

    Args:
        labels: whole numbers from 0, of shape (N,).
        classes: number of classes K; None takes the largest label + 1.

    Returns:
        Matrix of shape (N, K).

    Raises:
        ValueError: a label is not a whole number in 0 … K - 1, or the array is empty or not one axis.

    Example:
        >>> from npk.solving import one_hot
        >>> one_hot([1, 0]).tolist()
        [[0.0, 1.0], [1.0, 0.0]]
    """
    numbers = np.asarray(labels)
    if numbers.ndim != 1 or numbers.size == 0 or not np.issubdtype(numbers.dtype, np.integer):
        raise ValueError(f"labels must be whole numbers [N], N > 0, got {numbers.dtype}{list(numbers.shape)}.")
    classes = int(numbers.max()) + 1 if classes is None else classes
    if numbers.min() < 0 or numbers.max() >= classes:
        raise ValueError(f"labels must lie in 0 … {classes - 1}, got {numbers.min()} … {numbers.max()}.")
    return np.eye(classes)[numbers]


def ridge(kernel: ArrayLike, targets: ArrayLike, *, regularization: float = 1e-3) -> Ridge:
    """Fit (K + r·k̄·I) dual = targets - mean, with k̄ the mean diagonal of K.

    Args:
        kernel: Gram matrix of the training samples, of shape (N, N).
        targets: of shape (N, K), e.g. from `one_hot`; centred here.
        regularization: r > 0, relative to the mean diagonal, so that it means the same for every kernel.

    Returns:
        A fitted `Ridge`.

    Raises:
        ValueError: shapes do not match, an entry is not finite, r is not positive, or the regularised kernel is not
            positive definite.

    Example:
        >>> import numpy as np
        >>> from npk.solving import one_hot, ridge
        >>> ridge(np.eye(3), one_hot([0, 1, 1])).dual.shape
        (3, 2)

    Source: Rasmussen & Williams 2006, algorithm 2.1.
    """
    kernel, targets = _training_pair(kernel, targets)
    if not regularization > 0:
        raise ValueError(f"regularization must be positive, got {regularization}.")
    mean = targets.mean(axis=0)
    system = np.array(kernel, order="F")
    system[np.diag_indices(len(system))] += regularization * _mean_diagonal(kernel)
    try:
        cholesky.factor(system)
    except np.linalg.LinAlgError as error:
        raise ValueError(
            f"the kernel is not positive definite at regularization {regularization:g} "
            "(rounding, or no kernel at all): raise the regularization."
        ) from error
    return Ridge(cholesky.substituted(system, targets - mean), mean, float(regularization))


def choose_regularization(
    kernel: ArrayLike,
    labels: ArrayLike,
    *,
    candidates: Sequence[float] = CANDIDATES,
    validation: float = 0.25,
    seed: int = 0,
) -> tuple[float, dict[float, float]]:
    """The regularization that classifies a held-out part of the training samples best.

    One eigendecomposition of the other part's kernel gives every candidate in closed form.

    Args:
        kernel: Gram matrix of the training samples, of shape (N, N).
        labels: class numbers, of shape (N,).
        candidates: values of r, relative to the mean diagonal.
        validation: fraction of samples held out, split within each class.
        seed: of the split.

    Returns:
        The best candidate (of equals the largest: the smoothest), and the validation accuracy of each.

    Raises:
        ValueError: shapes do not match, an entry is not finite, a candidate is not positive, or the split leaves a
            side empty.

    Example:
        >>> from npk.solving import label_kernel
        >>> from npk.solving import choose_regularization
        >>> labels = [0, 0, 0, 0, 1, 1, 1, 1]
        >>> choose_regularization(label_kernel(labels), labels)[0]
        10.0
    """
    targets = one_hot(labels)
    kernel, targets = _training_pair(kernel, targets)
    if not candidates or min(candidates) <= 0:
        raise ValueError(f"candidates must be positive numbers, got {list(candidates)}.")
    labels = np.asarray(labels)
    held = held_out(labels, validation, seed)
    fit = ~held
    mean = targets[fit].mean(axis=0)
    values, vectors = np.linalg.eigh(kernel[np.ix_(fit, fit)])
    rotated = vectors.T @ (targets[fit] - mean)
    cross = kernel[np.ix_(held, fit)] @ vectors
    scale = _mean_diagonal(kernel)
    accuracies = {}
    for candidate in sorted(candidates):
        # Rounding may push an eigenvalue below zero; the kernel is positive semi-definite.
        shrunk = rotated / (np.maximum(values, 0) + candidate * scale)[:, None]
        accuracies[float(candidate)] = accuracy(cross @ shrunk + mean, labels[held])
    best = max(accuracies, key=lambda candidate: (accuracies[candidate], candidate))
    return best, accuracies


def classify(kernel: ArrayLike, test_kernel: ArrayLike, labels: ArrayLike, test_labels: ArrayLike) -> dict[str, float]:
    """Ridge regression onto the classes: the regularization chosen on a part of the training samples, never on test.

    Args:
        kernel: Gram matrix of the training samples, of shape (N, N).
        test_kernel: kernel of the test samples with those of training, of shape (M, N).
        labels: classes of the training samples, of shape (N,).
        test_labels: classes of the test samples, of shape (M,).

    Returns:
        "regularization", the "validation_accuracy" it was chosen by, and "test_accuracy".

    Raises:
        ValueError: as `choose_regularization` and `ridge`.

    Example:
        >>> from npk.solving import label_kernel
        >>> from npk.solving import classify
        >>> labels = [0, 0, 0, 0, 1, 1, 1, 1]
        >>> classify(label_kernel(labels), label_kernel(labels), labels, labels)["test_accuracy"]
        1.0
    """
    regularization, tried = choose_regularization(kernel, labels)
    fit = ridge(kernel, one_hot(labels), regularization=regularization)
    return {
        "regularization": regularization,
        "validation_accuracy": tried[regularization],
        "test_accuracy": accuracy(fit.predict(test_kernel), test_labels),
    }


def accuracy(scores: ArrayLike, labels: ArrayLike) -> float:
    """The fraction of samples whose largest score is that of their class.

    Args:
        scores: of shape (N, K).
        labels: class numbers, of shape (N,).

    Returns:
        A number in [0, 1].

    Raises:
        ValueError: scores and labels do not have one row a sample.

    Example:
        >>> from npk.solving import accuracy
        >>> accuracy([[0.9, 0.1], [0.8, 0.2]], [0, 1])
        0.5
    """
    scores, labels = np.asarray(scores), np.asarray(labels)
    if scores.ndim != 2 or labels.shape != scores.shape[:1] or labels.size == 0:
        raise ValueError(f"scores [N, K] and labels [N] must match, got {list(scores.shape)} and {list(labels.shape)}.")
    return float(np.mean(scores.argmax(axis=1) == labels))


def held_out(labels: ArrayLike, fraction: float, seed: int = 0) -> Bool[np.ndarray, " n"]:
    """Which samples are held out for validation: a fraction of every class, drawn at random.

    Args:
        labels: class numbers, of shape (N,).
        fraction: of each class; at least one sample is held out, and one kept.
        seed: of the draw.

    Returns:
        Booleans, of shape (N,).

    Raises:
        ValueError: a side of the split is empty.

    Example:
        >>> from npk.solving import held_out
        >>> int(held_out([0, 0, 0, 0, 1, 1, 1, 1], 0.25).sum())
        2
    """
    labels = np.asarray(labels)
    generator = np.random.default_rng(seed)
    held = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        count = min(max(1, round(fraction * len(members))), len(members) - 1)
        held[generator.permutation(members)[:count]] = True
    if not held.any() or held.all():
        raise ValueError(f"validation = {fraction} of {len(labels)} samples leaves a side of the split empty.")
    return held


def _mean_diagonal(kernel: np.ndarray) -> float:
    with np.errstate(over="ignore"):
        scale = float(np.mean(np.diag(kernel)))
    if not scale > 0:
        raise ValueError(f"the kernel's mean diagonal must be positive, got {scale:g}.")
    if scale == np.inf:
        raise ValueError("the kernel's trace leaves the range of float64: scale the kernel.")
    return scale


def _training_pair(kernel: ArrayLike, targets: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    kernel, targets = np.asarray(kernel, dtype=np.float64), np.asarray(targets, dtype=np.float64)
    if kernel.ndim != 2 or kernel.shape[0] != kernel.shape[1]:
        raise ValueError(f"kernel must be square [N, N], got shape {list(kernel.shape)}.")
    if targets.ndim != 2 or len(targets) != len(kernel):
        raise ValueError(f"targets must be [{len(kernel)}, K], one row a sample, got shape {list(targets.shape)}.")
    if not (np.isfinite(kernel).all() and np.isfinite(targets).all()):
        raise ValueError("kernel and targets must be finite, but hold NaN or infinite entries.")
    return kernel, targets
