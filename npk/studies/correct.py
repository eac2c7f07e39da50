"""Which test samples a classifier gets right: as text in a run's file, and intervals of what follows from it."""

from collections.abc import Sequence

import numpy as np

from npk import solving


def packed(correct: np.ndarray) -> str:
    """Truth values as hexadecimal digits, four to a digit."""
    return np.packbits(correct).tobytes().hex()


def unpacked(text: str, count: int) -> np.ndarray:
    """The truth values of `packed`.

    Raises:
        ValueError: they are not so many.
    """
    found = np.unpackbits(np.frombuffer(bytes.fromhex(text), np.uint8))
    if not count <= len(found) < count + 8:
        raise ValueError(f"{text[:12]}… is not of {count} samples.")
    return found[:count].astype(bool)


def mean_accuracy(networks: Sequence[np.ndarray]) -> solving.Estimate:
    """The mean accuracy of some networks on the same test samples; the interval is over samples."""
    if len(networks) == 1:
        return solving.proportion(networks[0])
    return _mean(np.mean(networks, axis=0))


def mean_difference(networks: Sequence[np.ndarray], references: Sequence[np.ndarray]) -> solving.Estimate:
    """How much more often some networks are right than others, on the same test samples, on average."""
    if len(networks) == len(references) == 1:
        return solving.paired_difference(networks[0], references[0])
    return _mean(np.mean(networks, axis=0) - np.mean(references, axis=0))


def _mean(shares: np.ndarray) -> solving.Estimate:
    (found,) = solving.jackknife(lambda kept: [shares[kept].mean()], len(shares))
    return found
