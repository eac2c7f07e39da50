"""Initial weights, drawn so that XLA compiles them quickly, and the type of an activation."""

import math
from collections.abc import Callable
from typing import Any

from flax import linen as nn

Activation = Callable[[Any], Any]
Initializer = Callable[..., Any]


def _normal(scale: float) -> Initializer:
    """Flax's truncated normal weights of variance scale / fan-in, drawn in one row.

    The numbers are the same; a generator of four small axes takes XLA on a CPU ten times as long to compile.
    """

    def draw(key: Any, shape: tuple[int, ...], dtype: Any = float) -> Any:
        size = math.prod(shape)  # all of which counts as fan-in below
        in_a_row = nn.initializers.variance_scaling(scale * shape[-1], "fan_in", "truncated_normal")
        return in_a_row(key, (size, 1), dtype).reshape(shape)

    return draw


he_normal, lecun_normal = _normal(2.0), _normal(1.0)


def small_normal(deviation: float = 0.02) -> Initializer:
    """Normal weights of one standard deviation whatever the fan-in, drawn in one row."""

    def draw(key: Any, shape: tuple[int, ...], dtype: Any = float) -> Any:
        return nn.initializers.normal(deviation)(key, (math.prod(shape),), dtype).reshape(shape)

    return draw
