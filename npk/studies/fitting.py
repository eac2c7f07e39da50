"""Whether a run fits the memory that is free: told from shapes alone, before memory is taken or a folder made."""

from collections.abc import Callable
from typing import Any

import jax

from npk.programs import available_memory

# Of parameters while they are trained: themselves, their gradient, and the two moments of Adam.
TRAINED = 4


def check_network(field: str, value: Any, init: Callable[..., Any], x: Any, copies: int) -> None:
    """Refuse, with a ValueError, a network whose parameters leave no room for so many copies of them.

    Args:
        field: what the user can make smaller.
        value: of that field; None is the network's own.
        init: (key, x) → params; it is not run.
        x: a batch of one sample.
        copies: how often the parameters are held at once.
    """
    leaves = jax.tree_util.tree_leaves(jax.eval_shape(init, jax.random.key(0), x))
    what = f"{sum(leaf.size for leaf in leaves):,} parameters, held {copies} times,"
    _check(field, value, copies * sum(leaf.size * leaf.dtype.itemsize for leaf in leaves), what)


def check_kernels(field: str, value: Any, numbers: int, bytes_each: int) -> None:
    """Refuse, with a ValueError, kernels of so many numbers, each of which takes so many bytes in all their copies."""
    _check(field, value, numbers * bytes_each, "its kernels")


def _check(field: str, value: Any, needed: int, what: str) -> None:
    if needed > (free := available_memory()):
        given = f"the network's own {field}" if value is None else f"{field} = {value}"
        raise ValueError(
            f"{given} needs more memory than there is: {what} take {needed / 1e9:,.1f} GB, and {free / 1e9:,.1f} GB "
            f"are free. Choose a smaller {field}."
        )
