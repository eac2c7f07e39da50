"""Batches of samples: an array [N, ...], or a tree of arrays that all begin with the samples."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

_map = jax.tree_util.tree_map


def samples_in(x: Any) -> int:
    """How many samples a batch has."""
    return jax.tree_util.tree_leaves(x)[0].shape[0]


def resized(x: Any, n: int) -> Any:
    """The shapes of a batch of n such samples."""
    return _map(lambda a: jax.ShapeDtypeStruct((n, *a.shape[1:]), a.dtype), x)


def sample_of(x: Any) -> Any:
    """The shapes of one sample."""
    return _map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), x)


def alone(x: Any) -> Any:
    """Each sample as a batch of its own, [N, 1, ...]."""
    return _map(lambda a: a[:, None], x)


def together(x: Any) -> Any:
    """The opposite of `alone`, of shapes as well."""
    return _map(lambda a: jax.ShapeDtypeStruct((a.shape[0], *a.shape[2:]), a.dtype), x)


def some_of(x: Any, rows: Any) -> Any:
    """Some samples."""
    return _map(lambda a: a[rows], x)


def of_floats(function: Callable[[Any], Any], x: Any) -> Any:
    """A batch with a function of its leaves of a floating dtype; others, which index or mask, stay."""
    return _map(lambda a: function(a) if jnp.issubdtype(jnp.result_type(a), jnp.floating) else a, x)


def floats_of(x: Any) -> list[Any]:
    """The leaves of a floating dtype."""
    return [a for a in jax.tree_util.tree_leaves(x) if jnp.issubdtype(jnp.result_type(a), jnp.floating)]
