"""A checkpoint as parameters of a model: numbers of a file in the structure of a template, or what differs."""

import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from npk.loading.array_files import arrays_in
from npk.loading.matching import matched
from npk.loading.orbax_folders import open_folder
from npk.programs import paths_of

_KINDS = {"floating point": jnp.floating, "integer": jnp.integer, "complex": jnp.complexfloating, "bool": jnp.bool_}


def read_checkpoint(path: str | os.PathLike[str], like: PyTree, *, at: str | None = None) -> PyTree:
    """Read the parameters of a model from a file or folder that a framework has written.

    Formats: a folder of Orbax (a tree, or a step of a CheckpointManager), `.npz`, `.safetensors`, and what
    `flax.serialization.to_bytes` gives (`.msgpack`). Where a name does not say the format, the first bytes do. Pickles,
    and so PyTorch's files, are refused: they run code when they are read.

    Leaves are found by name and shape:

    1. Names are their keys alone: `a/b/0`, `a.b.0`, `.a.b[0]` and `['a']['b'][0]` are one name, and a last key `value`,
       that of a Flax variable, is left out.
    2. A checkpoint that has the names and shapes of `like`, and no others, is read as it is. Otherwise the one subtree
       of it is that has them, and no others. What lies below a key `opt_state` (Optax's state in Flax's TrainState)
       does not count. Several such subtrees are refused until `at` chooses.
    3. Where the top keys of `like` are `params`, or `params` and `batch_stats` (Flax linen), each of them is looked for
       by itself, by rule 2: so that a TrainState is read, or the inner tree alone. With `at`, `batch_stats` may also
       stand beside the place where `params` was found, or, if not there, be the only one in the checkpoint.
    4. That by which NNX draws random numbers does not count: leaves `key` and `count` of uint32, alone at a place.

    Numbers stay of the dtype that they are stored in. A flipped bit is told where the format has checksums: NPZ has,
    safetensors and msgpack have none, Orbax has none of large arrays.

    Args:
        path: of the file or folder.
        like: parameters of the model: arrays, or `jax.ShapeDtypeStruct`; only structure, shapes and kinds count.
        at: the place in the checkpoint below which to look, keys joined by "/"; `stage-3` of a study's parameters.

    Returns:
        NumPy arrays in the structure of `like`.

    Raises:
        FileNotFoundError: there is nothing of that name.
        ModuleNotFoundError: the package that reads a format is not installed.
        ValueError: the file is a pickle, of an unknown format, or damaged; the parameters are not in it, or in several
            places; their kinds of numbers differ; a number is not finite; or `like` has leaves that are no arrays.

    Example:
        >>> import os, tempfile, numpy as np
        >>> from npk.loading import read_checkpoint
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = os.path.join(folder, "trained.npz")
        ...     np.savez(path, **{"model/w": np.ones(2), "step": np.array(7)})
        ...     read_checkpoint(path, {"w": np.zeros(2)})
        {'w': array([1., 1.])}
    """
    leaves, structure = jax.tree_util.tree_flatten(like)
    names = paths_of(like)
    template = {name: _described(leaf, name) for name, leaf in zip(names, leaves, strict=True)}
    if not template:
        raise ValueError("like has no leaves: there is nothing to read.")
    path = Path(path)
    if path.is_dir():
        folder = open_folder(path)
        stored, read = folder.leaves, folder.read
    else:
        stored = {k: v for k, v in arrays_in(path).items() if isinstance(v, np.ndarray | np.generic)}
        read = lambda names: {name: np.asarray(stored[name]) for name in names}  # noqa: E731
    if not stored:
        raise ValueError(f"{path} holds no arrays.")
    places = matched(stored, template, str(path), at)
    arrays = read(places.values())
    for name, of in template.items():
        _check(arrays[places[name]], of, f"{places[name] or 'the array'} of {path}")
    return jax.tree_util.tree_unflatten(structure, [arrays[places[name]] for name in names])


def _described(leaf: Any, name: str) -> Any:
    """A leaf of the template, which has a shape and a dtype of numbers."""
    if not hasattr(leaf, "shape") or not hasattr(leaf, "dtype"):
        leaf = np.asarray(leaf)
    if _kind(leaf.dtype) is None:
        raise ValueError(f"{name or 'like'} is of dtype {leaf.dtype}, and no parameter: no checkpoint is read into it.")
    return leaf


def _kind(dtype: Any) -> str | None:
    return next((kind for kind, of in _KINDS.items() if jnp.issubdtype(dtype, of)), None)


def _check(array: np.ndarray, of: Any, what: str) -> None:
    """Raise unless an array that was read is as the description it was chosen by, of the same kind, and finite."""
    if array.shape != tuple(of.shape):
        raise ValueError(f"{what} is damaged: of shape {list(array.shape)}, and not {list(of.shape)} as described.")
    found, needed = _kind(array.dtype), _kind(of.dtype)
    if found != needed:
        remedy = " NumPy's files do not keep what bfloat16 is: save float32." if array.dtype.kind == "V" else ""
        raise ValueError(f"{what} is of dtype {array.dtype}, and the model's is {of.dtype} ({needed}).{remedy}")
    if needed in ("floating point", "complex") and not np.isfinite(array).all():
        raise ValueError(f"{what} holds numbers that are not finite.")
