"""Classification by kernel ridge regression: one-hot targets, and a regularization chosen on samples held out."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import ArrayLike

from npk.programs import shown
from npk.solving.checks import diagonal_of
from npk.solving.kernel_regression import NotPositiveDefinite, kernel_ridge
from npk.solving.operators import operator_of, part_of

_CANDIDATES = tuple(10.0**e for e in range(-7, 2))


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


def choose_ridge(
    kernel: Any,
    labels: ArrayLike,
    *,
    candidates: Sequence[float] = _CANDIDATES,
    validation: float = 0.25,
    seed: int = 0,
    **options: Any,
) -> tuple[float, dict[float, float]]:
    """The regularization that classifies a held-out part of the training samples best.

    All candidates are fitted side by side on the other samples. Those at which rounding leaves that part's kernel not
    positive definite are no regression, and out of the choice.

    Args:
        kernel: of the training samples, an operator or array of shape (N, N).
        labels: class numbers, of shape (N,).
        candidates: values of r, relative to the mean diagonal of the whole kernel.
        validation: fraction of samples held out, split within each class.
        seed: of the split.
        options: as of `kernel_ridge`. For conjugate gradients a tolerance of 1e-3 is enough to tell candidates apart.

    Returns:
        The best candidate (of equals the largest: the smoothest), and the validation accuracy of each.

    Raises:
        ValueError: as `kernel_ridge`, or the split leaves a side empty.
        NotPositiveDefinite: at every candidate.

    Example:
        >>> from npk.solving import choose_ridge, label_kernel
        >>> labels = [0, 0, 0, 0, 1, 1, 1, 1]
        >>> choose_ridge(label_kernel(labels), labels, candidates=(0.1, 10.0))
        (10.0, {0.1: 1.0, 10.0: 1.0})
    """
    operator, targets, labels = operator_of(kernel), one_hot(labels), np.asarray(labels)
    scale = diagonal_of(operator).mean()
    if len(labels) != operator.shape[0]:
        raise ValueError(f"labels must be [{operator.shape[0]}], one a sample, got shape {list(labels.shape)}.")
    held = held_out(labels, validation, seed)
    fitted, left = np.flatnonzero(~held), np.flatnonzero(held)
    part = part_of(operator, fitted)
    # The same absolute regularization: that of the whole kernel's diagonal.
    relative = {float(r): float(r * scale / diagonal_of(part).mean()) for r in sorted(candidates)}
    while True:
        try:
            fits = kernel_ridge(part, targets[fitted], regularization=list(relative.values()), **options)
            break
        except NotPositiveDefinite as error:
            positive = {r: value for r, value in relative.items() if value > error.regularization}
            if not positive:
                raise
            relative = positive
    scores = part_of(operator, left, fitted).product(np.hstack([fit.dual for fit in fits]))
    accuracies = {
        r: accuracy(score + fit.mean, labels[left])
        for r, fit, score in zip(relative, fits, np.split(scores, len(fits), axis=1))
    }
    return max(accuracies, key=lambda r: (accuracies[r], r)), accuracies


@shown()
@dataclasses.dataclass(frozen=True, eq=False)
class Classified:
    """What a ridge regression onto the classes makes of the test samples.

    Attributes:
        regularization: that was chosen.
        validation_accuracy: that it was chosen by.
        correct: which test samples it classifies correctly, of shape (M,).

    Example:
        >>> import numpy as np
        >>> from npk.solving import Classified
        >>> found = Classified(0.1, 0.9, np.array([True, True, False, True]))
        >>> found.test_accuracy
        0.75
    """

    regularization: float
    validation_accuracy: float
    correct: Bool[np.ndarray, " m"]

    @property
    def test_accuracy(self) -> float:
        """The share of test samples that are classified correctly; `proportion(correct)` has its interval."""
        return float(self.correct.mean())


def classify(kernel: Any, test_kernel: Any, labels: ArrayLike, test_labels: ArrayLike) -> Classified:
    """Ridge regression onto the classes: the regularization chosen on a part of the training samples, never on test.

    Where rounding leaves the whole kernel not positive definite at the best, though its part was, the next best counts.

    Args:
        kernel: of the training samples, an operator or array of shape (N, N).
        test_kernel: of the test samples with those of training, an operator or array of shape (M, N).
        labels: classes of the training samples, of shape (N,).
        test_labels: classes of the test samples, of shape (M,).

    Returns:
        A `Classified`: which test samples it gets right, and the regularization with the accuracy it was chosen by.

    Raises:
        ValueError: as `choose_ridge` and `kernel_ridge`.

    Example:
        >>> from npk.solving import classify, label_kernel
        >>> labels = [0, 0, 0, 0, 1, 1, 1, 1]
        >>> classify(label_kernel(labels), label_kernel(labels), labels, labels).test_accuracy
        1.0
    """
    _, tried = choose_ridge(kernel, labels)
    best = sorted(tried, key=lambda r: (tried[r], r), reverse=True)
    for regularization in best:
        try:
            fit = kernel_ridge(kernel, one_hot(labels), regularization=regularization)
            return Classified(regularization, tried[regularization], hits(fit.predict(test_kernel), test_labels))
        except NotPositiveDefinite:
            continue
    raise NotPositiveDefinite(max(best))


def hits(scores: ArrayLike, labels: ArrayLike) -> Bool[np.ndarray, " n"]:
    """Which samples have their largest score at their class.

    Args:
        scores: of shape (N, K).
        labels: class numbers, of shape (N,).

    Returns:
        Truth values, of shape (N,).

    Raises:
        ValueError: scores and labels do not have one row a sample.

    Example:
        >>> from npk.solving import hits
        >>> hits([[0.9, 0.1], [0.8, 0.2]], [0, 1]).tolist()
        [True, False]
    """
    scores, labels = np.asarray(scores), np.asarray(labels)
    if scores.ndim != 2 or labels.shape != scores.shape[:1] or labels.size == 0:
        raise ValueError(f"scores [N, K] and labels [N] must match, got {list(scores.shape)} and {list(labels.shape)}.")
    return scores.argmax(axis=1) == labels


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
    return float(np.mean(hits(scores, labels)))


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
