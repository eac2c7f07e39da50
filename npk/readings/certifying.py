"""What a certificate measures: f against its gated form at x, and how far that form is from affine around x."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from npk.programs import floats_of, of_floats
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
    if not floats_of(x):
        return Certificate(same, None, proven)
    rng = np.random.default_rng(0)
    steps = [jnp.sqrt(jnp.mean(jnp.square(a))) * jnp.asarray(rng.normal(size=a.shape), a.dtype) for a in floats_of(x)]

    def moved(sign: int) -> Any:
        rest = iter(steps)
        return of_floats(lambda a: a + sign * next(rest), x)

    there, back = under(moved(1)), under(moved(-1))
    return Certificate(same, float(jnp.max(jnp.abs((there - here) + (back - here)))) / size, proven)
