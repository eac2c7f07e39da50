"""A unit of a network as a dictionary of its paths: {weights on the way: feature of every sample}, and its value.

Nothing is remembered but the definition: what is known multiplies features, a weight lengthens every path, a sum adds
features of equal paths. Units lie in object arrays, which NumPy moves as it moves numbers.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable

import numpy as np

Weight = tuple[str, tuple[int, ...]]  # the leaf and the index into it


@dataclasses.dataclass(frozen=True)
class Unit:
    """The features [N] of its paths, and its value [N] for the weights of the network."""

    paths: dict[tuple[Weight, ...], np.ndarray]
    value: np.ndarray


def known(value: np.ndarray) -> Unit:
    """Numbers that start paths: an input, or a constant."""
    return Unit({(): value}, value)


def nothing(samples: int) -> Unit:
    return Unit({}, np.zeros(samples))


def times(unit: Unit, factor) -> Unit:
    """A gate [N], or a number."""
    return Unit({path: feature * factor for path, feature in unit.paths.items()}, unit.value * factor)


def through(unit: Unit, weight: Weight, number: float, constant: float = 1.0) -> Unit:
    """A weight on the way, times a constant."""
    longer = {(*path, weight): feature * constant for path, feature in unit.paths.items()}
    return Unit(longer, unit.value * (number * constant))


def plus(units: Iterable[Unit], samples: int) -> Unit:
    paths: dict[tuple[Weight, ...], np.ndarray] = {}
    value = np.zeros(samples)
    for unit in units:
        value = value + unit.value
        for path, feature in unit.paths.items():
            paths[path] = paths[path] + feature if path in paths else feature
    return Unit(paths, value)


def each(function: Callable[..., Unit], *arrays: np.ndarray) -> np.ndarray:
    """A function of units, element by element of arrays of one shape."""
    out = np.empty(arrays[0].shape, object)
    for place in np.ndindex(*out.shape):
        out[place] = function(*(array[place] for array in arrays))
    return out


def values(units: np.ndarray) -> np.ndarray:
    """[N, *units]."""
    return np.stack([u.value for u in units.ravel()], 1).reshape(-1, *units.shape)


def gram(unit: Unit, variance: Callable[[Weight], float]) -> np.ndarray:
    """Σ over paths of φ φ' and of the variance of its weights, [N, N]."""
    total = np.zeros((len(unit.value),) * 2)
    for path, feature in unit.paths.items():
        total = total + math.prod(map(variance, path)) * feature[:, None] * feature[None, :]
    return total
