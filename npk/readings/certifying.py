"""What a certificate measures: f against its gated form at x, and how far that form is from affine around x."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from npk.readings.reading import Certificate


def measured(value: Any, here: Any, under: Callable[[Any], Any], x: Any, proven: bool) -> Certificate:
    """The certificate of a form of f under the gates of x.

    Args:
        value: f(x).
        here: the form at x.
        under: the form at other inputs, under the same gates; it is asked at x ± a random direction as long as x.
        x: the inputs.
        proven: as of `Certificate`.

    Returns:
        A `Certificate`.
    """
    size = float(jnp.max(jnp.abs(here))) or 1.0
    same = float(jnp.max(jnp.abs(value - here))) / size
    if not jnp.issubdtype(x.dtype, jnp.floating):
        return Certificate(same, None, proven)
    along = np.random.default_rng(0).normal(size=x.shape)
    step = jnp.sqrt(jnp.mean(jnp.square(x))) * jnp.asarray(along, x.dtype)
    there, back = under(x + step), under(x - step)
    return Certificate(same, float(jnp.max(jnp.abs((there - here) + (back - here)))) / size, proven)
