"""Counts of paths are whole numbers, and exact: what a dtype would round is refused, under tracing it is NaN."""

from typing import Any

import jax
import jax.numpy as jnp

from npk.programs import known_true


def zero_or_one(values: Any) -> Any:
    """Where the numbers of an array are 0 or 1."""
    return (values == 0) | (values == 1)


def whole(values: Any) -> Any:
    """Where the numbers of an array are integers."""
    return values % 1 == 0


def whole_numbers(*xs: Any) -> bool:
    """Whether arrays are known to hold integers alone."""
    return known_true(whole, *xs)


def is_binary(gates: Any) -> bool:
    """Whether gates are known to be 0 or 1."""
    return known_true(zero_or_one, *gates)


def _limit(dtype: Any) -> int:
    """A dtype holds every integer below this one; the first that it rounds is rounded to it."""
    return 2 ** (jnp.finfo(dtype).nmant + 1)


def check_counts(most: float, dtype: Any) -> None:
    """Refuse counts of which the largest is not held exactly."""
    limit = _limit(dtype)
    if not most < limit:  # NaN is no count either
        remedy = "enable x64 (jax.config.update('jax_enable_x64', True)) or " if dtype == jnp.float32 else ""
        raise ValueError(
            f"path counts reach {most:.3g}, and {jnp.dtype(dtype).name} holds every integer below {limit} alone: "
            f"{remedy}use normalize=True; npk.log_path_kernel gives logarithms of counts."
        )


def exact_or_nan(counts: Any, most: Any, x: Any, gates: Any) -> Any:
    """Counts as they are, or NaN: where the largest is not held exactly, x is whole and gates are 0 or 1.

    Args:
        counts: what may be counts; of other x and gates nothing is asked.
        most: the largest, or one for every count.
        x: a tree of inputs.
        gates: a tree of gates.

    Returns:
        An array like `counts`.
    """
    tests = [whole(a).all() for a in jax.tree_util.tree_leaves(x)]
    tests += [zero_or_one(a).all() for a in jax.tree_util.tree_leaves(gates)]
    rounded = jnp.all(jnp.stack(tests)) & ~(most < _limit(counts.dtype))
    return jnp.where(rounded, jnp.asarray(jnp.nan, counts.dtype), counts)
