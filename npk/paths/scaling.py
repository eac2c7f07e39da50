"""How large the weights are whose second moment a path kernel is."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from npk.programs import working_dtype

Normalize = bool | str  # "own"


@dataclasses.dataclass(frozen=True)
class Scaling:
    """Variances of weights and biases: 1/fan-in and 1 (`normalize`), or one each, times their mean squares.

    These are factors of the terms (`magnitudes`).
    """

    normalize: bool
    magnitudes: bool


def scaling_of(normalize: Any) -> Scaling:
    """What `normalize` asks for.

    Raises:
        ValueError: it is neither True, False nor "own".
    """
    if isinstance(normalize, str):
        if normalize != "own":
            raise ValueError(f'normalize must be True, False or "own", got {normalize!r}.')
        return Scaling(False, True)
    return Scaling(bool(normalize), False)


@dataclasses.dataclass(frozen=True)
class Magnitude:
    """The root mean square of some elements of a parameter: the standard deviation of weights that are as large.

    `chosen` is a mask of its elements (packed bits), None for all of them.
    """

    leaf: int
    chosen: bytes | None

    @classmethod
    def of(cls, leaf: int, mask: np.ndarray) -> "Magnitude":
        """Of the elements of a mask."""
        return cls(leaf, None if mask.all() else np.packbits(mask).tobytes())

    def number(self, leaf: Any) -> jax.Array:
        """For the numbers of the parameter; no square leaves the range of its dtype."""
        values = jnp.ravel(leaf).astype(working_dtype(leaf))
        if self.chosen is not None:
            mask = np.unpackbits(np.frombuffer(self.chosen, np.uint8), count=values.size)
            values = values[np.flatnonzero(mask)]
        largest = jax.lax.stop_gradient(jnp.max(jnp.abs(values)))
        scale = jnp.where(largest == 0, jnp.ones_like(largest), largest)
        mean = jnp.mean(jnp.square(values / scale))
        some = mean != 0  # a root has no derivative at zero
        return jnp.where(some, scale * jnp.sqrt(jnp.where(some, mean, jnp.ones_like(mean))), jnp.zeros_like(mean))
