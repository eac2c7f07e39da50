"""What travels with a page so that one can touch it: small images of the samples, and their gates as bits."""

from collections.abc import Sequence
from typing import Any

import numpy as np

#: Most samples that a page shows; of their gates most bytes a stage; most pixels a side of an image.
SHOWN, _MOST_BYTES, _SIDE = 160, 4_000_000, 32


def thumbnails(x: np.ndarray) -> dict[str, np.ndarray]:
    """Images [n, h, w, c] of one or three channels as bytes from their least value to their largest; else nothing."""
    if x.ndim != 4 or x.shape[-1] not in (1, 3):
        return {}
    step = -(-max(x.shape[1:3]) // _SIDE)
    small = x[:, ::step, ::step]
    low, high = float(small.min()), float(small.max())
    return {"thumbnails": np.rint(255 * (small - low) / ((high - low) or 1)).astype(np.uint8)}


def packed_gates(gates: Sequence[Any], kinds: Sequence[str], shown: np.ndarray) -> dict[str, np.ndarray]:
    """Gates of units that switch, of the samples that are shown, eight to a byte; where they are too many, nothing."""
    hard = [np.asarray(gate)[shown].reshape(len(shown), -1) for gate, kind in zip(gates, kinds) if kind == "activation"]
    if not hard or any(len(np.unique(gate)) > 2 for gate in hard):
        return {}
    packed = [np.packbits(gate == 1, axis=1) for gate in hard]  # of leaky units, too, an open gate is 1
    if sum(part.size for part in packed) > _MOST_BYTES:
        return {}
    named = {f"open/{layer}": part for layer, part in enumerate(packed)}
    return {**named, "units": np.array([gate.shape[1] for gate in hard], np.int64)}
