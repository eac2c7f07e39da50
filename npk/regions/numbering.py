"""Which samples share a region: those whose gates are all alike."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int
from numpy.typing import ArrayLike


def region_numbers(gates: Sequence[ArrayLike]) -> Int[np.ndarray, " n"]:
    """A number for each sample, the same for samples whose gates are all the same; 0, 1, … in the order they are met.

    Args:
        gates: hard gates as of `gates(f)`, each [N, ...].

    Returns:
        Numbers, of shape (N,): `.max() + 1` is how many regions the samples are in.

    Raises:
        ValueError: there are no gates, or not of one number of samples.

    Example:
        >>> import numpy as np
        >>> from npk.regions import region_numbers
        >>> region_numbers((np.array([[1, 0], [0, 1], [1, 0]]),)).tolist()
        [0, 1, 0]
    """
    arrays = [np.asarray(gate) for gate in gates]
    if not arrays or any(a.ndim < 1 or len(a) != len(arrays[0]) for a in arrays):
        raise ValueError(
            f"gates must be at least one array, of one number of samples, got {[a.shape for a in arrays]}."
        )
    codes = np.concatenate([a.reshape(len(a), -1) for a in arrays], axis=1)
    _, first, numbers = np.unique(codes, axis=0, return_index=True, return_inverse=True)
    order = np.argsort(np.argsort(first))
    return order[numbers.reshape(-1)]
