"""What numbers are of: fingerprints of arrays and programs, versions, and what differs between two descriptions."""

import hashlib
import importlib.metadata
import json
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

_HASHED = 1 << 24  # bytes hashed at a time: an array may be a memory map


def fingerprint(tree: PyTree) -> str:
    """A hash of all numbers of a tree, with their names, dtypes and shapes: SHA-256.

    Args:
        tree: a tree of arrays, e.g. parameters.

    Returns:
        64 hexadecimal digits.

    Raises:
        ValueError: a leaf is not an array or number.

    Example:
        >>> import numpy as np
        >>> from npk.tiles import fingerprint
        >>> fingerprint({"w": np.ones(2)}) == fingerprint({"w": np.ones(2)}) != fingerprint({"v": np.ones(2)})
        True
    """
    found = hashlib.sha256()
    for place, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        if hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        array = np.asarray(leaf)
        if array.dtype == object:
            raise ValueError(f"{jax.tree_util.keystr(place)} must be an array or number, got {type(leaf).__name__}.")
        found.update(f"{jax.tree_util.keystr(place)} {array.dtype} {array.shape};".encode())
        rows = max(1, _HASHED // max(1, array[:1].nbytes)) if array.ndim else 1
        for start in range(0, len(array) if array.ndim else 1, rows):
            part = np.ascontiguousarray(array[start : start + rows] if array.ndim else array)
            found.update(part.reshape(-1).view(np.uint8).data)
    return found.hexdigest()


def versions(platform: str) -> dict[str, str]:
    """What bits depend on besides a program and its data.

    Args:
        platform: of the device that computes, "cpu", "gpu" or "tpu".

    Returns:
        Versions of npk and JAX, and the platform.
    """
    return {**{name: importlib.metadata.version(name) for name in ("npk", "jax", "jaxlib")}, "platform": platform}


def as_text(content: Any) -> str:
    """Plain values as text, by which they are compared: 1 is not true, and null is not nothing.

    Args:
        content: what JSON can hold.

    Returns:
        JSON with its keys sorted.
    """
    return json.dumps(content, sort_keys=True)


def digest(content: Any) -> str:
    """SHA-256 of plain values.

    Args:
        content: what JSON can hold.

    Returns:
        64 hexadecimal digits.
    """
    return hashlib.sha256(as_text(content).encode()).hexdigest()


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> tuple[str, ...]:
    """What is not the same in two descriptions, each a phrase.

    Args:
        there: of what a folder holds, plain values.
        here: of what is asked for.

    Returns:
        As in `identity.depth is 1 there and true here`; nothing where the texts are equal.

    Example:
        >>> from npk.folders import differences
        >>> differences({"net": {"depth": 1}}, {"net": {"depth": 2, "bias": None}})
        ('net.depth is 1 there and 2 here', 'net.bias is nothing there and null here')
    """
    found, wanted = _flat(there), _flat(here)
    return tuple(
        f"{'.'.join(key)} is {_shown(found.get(key))} there and {_shown(wanted.get(key))} here"
        for key in {**found, **wanted}
        if found.get(key) != wanted.get(key)
    )


def _flat(content: Mapping[str, Any], prefix: tuple[str, ...] = ()) -> dict[tuple[str, ...], str]:
    """Every value as text, by its way there; nothing in it is as much a value as any."""
    result = {}
    for key, value in content.items():
        if isinstance(value, Mapping) and value:
            result.update(_flat(value, (*prefix, key)))
        else:
            result[(*prefix, key)] = as_text(value)
    return result


def _shown(text: str | None) -> str:
    return "nothing" if text is None else f"{text[:13]}…" if re.fullmatch(r'"[0-9a-f]{64}"', text) else text
