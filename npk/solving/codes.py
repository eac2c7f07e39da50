"""What gate codes say of units and of classes: dead units, units open for two samples, distances between codes.

A code is what the gates of one sample are, open (1) or closed (0), a unit a digit. All of it follows from how many
samples of each class a unit is open for: no pair of codes is listed, and all counts are exact.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int
from numpy.typing import ArrayLike

from npk.programs import shown

_UNITS = 1 << 16  # of which the codes are numbers at a time


@shown()
@dataclasses.dataclass(frozen=True)
class UnitStates:
    """The units of one gate array that do not tell samples apart.

    Attributes:
        dead: the fraction of units that are closed at every sample.
        always_open: the fraction that are open at every sample.

    Example:
        >>> from npk.solving import UnitStates
        >>> UnitStates(dead=0.25, always_open=0.0).dead
        0.25
    """

    dead: float
    always_open: float


@shown()
@dataclasses.dataclass(frozen=True)
class CodeDistances:
    """Mean Hamming distances of gate codes over pairs of samples i < j, as fractions of the units.

    Attributes:
        within: over the pairs of one class; NaN where there is none.
        between: over the pairs of two classes; NaN where there is none.

    Example:
        >>> from npk.solving import CodeDistances
        >>> distances = CodeDistances(within=0.1, between=0.3)
        >>> distances.between > distances.within
        True
    """

    within: float
    between: float


def unit_states(gates: Sequence[ArrayLike]) -> list[UnitStates]:
    """Which units are closed, or open, at every sample, a gate array at a time.

    A unit is an element of a gate array beside the axis of the samples: a channel at a position.

    Args:
        gates: arrays of 0 (closed) and 1 (open), each of shape (N, ...) with the same N.

    Returns:
        `UnitStates`, one an array.

    Raises:
        ValueError: there is no array, one has no element, holds another number than 0 and 1, or another N.

    Example:
        >>> import numpy as np
        >>> from npk.solving import unit_states
        >>> (states,) = unit_states((np.array([[0, 1, 1, 0], [0, 1, 0, 1]]),))
        >>> states.dead, states.always_open
        (0.25, 0.25)

    Source: Lu et al. 2020 (dying ReLU).
    """
    return [UnitStates(float((~code.any(0)).mean()), float(code.all(0).mean())) for code in _codes(gates)]


def mean_overlaps(gates: Sequence[ArrayLike]) -> list[float]:
    """The fraction of units that are open for both of two samples, mean over the pairs i < j, a gate array at a time.

    Args:
        gates: arrays of 0 (closed) and 1 (open), each of shape (N, ...) with the same N.

    Returns:
        One fraction an array, each that of the mean of G Gᵀ off its diagonal; NaN for a single sample.

    Raises:
        ValueError: as `unit_states`.

    Example:
        >>> import numpy as np
        >>> from npk.solving import mean_overlaps
        >>> mean_overlaps((np.array([[1, 1, 0, 0], [1, 0, 1, 0]]),))
        [0.25]

    Source: Lakshminarayanan & Singh 2020, section 2 (Λ, of which G Gᵀ is a factor).
    """
    overlaps = []
    for code in _codes(gates):
        n, units = code.shape
        counts = _open_counts(code, np.ones((1, n), bool))
        overlaps.append(_share(int((counts * (counts - 1)).sum()) // 2, math.comb(n, 2) * units))
    return overlaps


def code_distances(gates: Sequence[ArrayLike], labels: ArrayLike) -> CodeDistances:
    """Mean Hamming distances of gate codes, all arrays together, within classes and between them.

    Of a class of n samples of which m have a unit open, m (n - m) pairs differ in that unit.

    Args:
        gates: arrays of 0 (closed) and 1 (open), each of shape (N, ...) with the same N.
        labels: class numbers, of shape (N,).

    Returns:
        `CodeDistances`, in fractions of the units.

    Raises:
        ValueError: as `unit_states`; or the labels are not one a sample.

    Example:
        >>> import numpy as np
        >>> from npk.solving import code_distances
        >>> found = code_distances((np.array([[1, 0], [1, 1], [0, 0]]),), [0, 0, 1])
        >>> found.within, found.between
        (0.5, 0.75)

    Source: Hamming 1950 (the distance).
    """
    codes = _codes(gates)
    numbers = np.asarray(labels)
    if numbers.shape != codes[0].shape[:1]:
        raise ValueError(f"labels must be class numbers [{len(codes[0])}], got shape {list(numbers.shape)}.")
    classes, members = np.unique(numbers, return_inverse=True)
    members = members == np.arange(len(classes))[:, None]
    sizes, n = members.sum(1), len(numbers)
    inside, every, units = 0, 0, 0
    for code in codes:
        counts = _open_counts(code, members)
        inside += int((counts * (sizes[:, None] - counts)).sum())
        every += int((counts.sum(0) * (n - counts.sum(0))).sum())
        units += code.shape[1]
    pairs = sum(math.comb(int(size), 2) for size in sizes)
    return CodeDistances(_share(inside, pairs * units), _share(every - inside, (math.comb(n, 2) - pairs) * units))


def _share(part: int, whole: int) -> float:
    """A mean over pairs, which there may be none of."""
    return part / whole if whole else math.nan


def _open_counts(code: Bool[np.ndarray, "n units"], members: Bool[np.ndarray, "c n"]) -> Int[np.ndarray, "c units"]:
    """For how many members of each class a unit is open, as a product: float32 holds whole numbers up to 2^24."""
    rows = members.astype(np.float32 if len(code) < 1 << 24 else np.float64)
    blocks = (code[:, start : start + _UNITS] for start in range(0, code.shape[1], _UNITS))
    return np.concatenate([(rows @ block.astype(rows.dtype)).astype(np.int64) for block in blocks], axis=1)


def _codes(gates: Sequence[ArrayLike]) -> list[Bool[np.ndarray, "n _"]]:
    """Gate arrays as codes [N, units], checked."""
    if len(gates) == 0:
        raise ValueError("gates must be at least one array [N, ...], got none.")
    arrays = [np.asarray(gate) for gate in gates]
    for i, array in enumerate(arrays):
        if array.ndim == 0 or array.size == 0:
            raise ValueError(f"gate array {i} must be [N, ...] and not be empty, got shape {list(array.shape)}.")
        if len(array) != len(arrays[0]):
            raise ValueError(f"gate arrays must have one number of samples, got {len(arrays[0])} and {len(array)}.")
        if array.dtype != bool and not ((array == 0) | (array == 1)).all():
            raise ValueError(
                f"gate array {i} must hold 0 (closed) and 1 (open) alone: compare gates of other values first, "
                "gate > threshold."
            )
    return [array.reshape(len(array), -1).astype(bool) for array in arrays]
