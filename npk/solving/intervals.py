"""Intervals of what is measured on some samples: accuracies, differences of two, smooth statistics of a kernel."""

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.special
from jaxtyping import Bool, Int
from numpy.typing import ArrayLike

from npk.solving.traces import Estimate


def proportion(correct: ArrayLike, *, confidence: float = 0.95) -> Estimate:
    """The share of trues among independent samples, with Wilson's interval.

    Args:
        correct: one truth value a sample, of shape (N,).
        confidence: of the interval, in (0, 1).

    Returns:
        An `Estimate` in [0, 1]; its interval has a width even where all samples agree.

    Raises:
        ValueError: not truth values of one axis, or none.

    Example:
        >>> import numpy as np
        >>> from npk.solving import proportion
        >>> found = proportion(np.arange(100) < 95)
        >>> found.value, round(found.low, 3), round(found.high, 3)
        (0.95, 0.888, 0.978)

    Source: Wilson 1927.
    """
    trues, z = _truths(correct, "correct"), _normal(confidence)
    n, p = len(trues), float(trues.mean())
    middle, reach = p + z**2 / (2 * n), z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    scale = 1 + z**2 / n
    # Rounding may leave the end of an interval beside the share where that is 0 or 1.
    low, high = float((middle - reach) / scale), float((middle + reach) / scale)
    return Estimate(p, max(0.0, min(p, low)), min(1.0, max(p, high)))


def paired_difference(correct: ArrayLike, reference: ArrayLike, *, confidence: float = 0.95) -> Estimate:
    """How much more often one of two classifiers is right, on the same samples, with an interval for pairs.

    Only samples on which the two differ count, so that it is narrower than that of two test sets.

    Args:
        correct: where the one is right, of shape (N,).
        reference: where the other is, of shape (N,).
        confidence: of the interval, in (0, 1).

    Returns:
        An `Estimate` of the difference of accuracies, in [-1, 1].

    Raises:
        ValueError: not truth values of one axis and one length, or none.

    Example:
        >>> import numpy as np
        >>> from npk.solving import paired_difference
        >>> samples = np.arange(360)
        >>> found = paired_difference(samples < 348, samples < 344)  # 96.7 and 95.6 %
        >>> round(found.value, 4), found.low > 0
        (0.0111, False)

    Source: Agresti & Min 2005 (Wald's interval with half a sample added to each of the four cells).
    """
    one, other = _truths(correct, "correct"), _truths(reference, "reference")
    if one.shape != other.shape:
        raise ValueError(f"correct and reference must be of the same samples, got {len(one)} and {len(other)}.")
    n, better, worse = len(one), int((one & ~other).sum()), int((other & ~one).sum())
    value = (better - worse) / n
    n, better, worse = n + 2, better + 0.5, worse + 0.5
    middle = (better - worse) / n
    reach = _normal(confidence) * np.sqrt((better + worse) / n - middle**2) / np.sqrt(n)
    low, high = max(-1.0, float(middle - reach)), min(1.0, float(middle + reach))
    return Estimate(value, min(low, value), max(high, value))


def jackknife(
    statistic: Callable[[Int[np.ndarray, " kept"]], Any],
    samples: int,
    *,
    groups: int | Int[np.ndarray, " n"] = 20,
    confidence: float = 0.95,
) -> list[Estimate]:
    """Intervals of smooth statistics of N samples: how much they change as one group after another is left out.

    Sample i is in group i mod G, unless told otherwise: groups that have their share of every class give the interval
    of balanced samples. A difference of two statistics is a statistic too: of the same samples its interval is narrower
    than either's.

    Args:
        statistic: from the places of samples that are kept, in order, to numbers of shape (k,).
        samples: how many there are, N.
        groups: G, at least 2, no more than there are samples; or the number of every sample's group, 0 to G - 1.
        confidence: of the interval (Student's, with G - 1 degrees of freedom), in (0, 1).

    Returns:
        k `Estimate`s, each with the statistic of all samples as its value.

    Raises:
        ValueError: fewer than 2 samples or groups.

    Example:
        >>> import numpy as np
        >>> from npk.solving import jackknife
        >>> x = np.random.default_rng(0).normal(size=400)
        >>> (mean,) = jackknife(lambda kept: [x[kept].mean()], 400)
        >>> bool(mean.low < 0 < mean.high), bool(0.8 < (mean.high - mean.low) / (2 * 1.96 / 20) < 1.4)
        (True, True)

    Source: Quenouille 1949; Tukey 1958.
    """
    places = np.arange(samples)
    numbers = places % max(min(groups, samples), 1) if isinstance(groups, int) else np.asarray(groups)
    count = len(np.unique(numbers))
    if min(samples, groups if isinstance(groups, int) else count) < 2:
        raise ValueError(f"a jackknife needs at least 2 samples and 2 groups, got {samples} and {groups}.")
    if numbers.shape != (samples,):
        raise ValueError(f"groups must be a number, or one for each of {samples} samples, got {list(numbers.shape)}.")
    whole = np.asarray(statistic(places), np.float64)
    left = np.array([statistic(places[numbers != g]) for g in np.unique(numbers)], np.float64)
    spread = np.sqrt((count - 1) * np.square(left - left.mean(axis=0)).mean(axis=0))
    reach = _student(count - 1, confidence) * spread
    return [Estimate(float(v), float(v - r), float(v + r)) for v, r in zip(whole, reach, strict=True)]


def _truths(values: ArrayLike, name: str) -> Bool[np.ndarray, " n"]:
    trues = np.asarray(values)
    if trues.dtype != bool or trues.ndim != 1 or trues.size == 0:
        raise ValueError(f"{name} must be truth values [N], N > 0, got {trues.dtype}{list(trues.shape)}.")
    return trues


def _normal(confidence: float) -> float:
    return float(scipy.special.ndtri((1 + _checked(confidence)) / 2))


def _student(freedom: int, confidence: float) -> float:
    return float(scipy.special.stdtrit(freedom, (1 + _checked(confidence)) / 2))


def _checked(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}.")
    return confidence
