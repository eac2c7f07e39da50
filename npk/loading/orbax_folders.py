"""Folders that Orbax has written, read to NumPy on this host, whatever devices their arrays were on."""

import dataclasses
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from npk.loading.array_files import flat

_TREE = "_METADATA"  # the file that a tree of arrays has
_STEP = "_CHECKPOINT_METADATA"  # the file that a checkpoint has, beside its items or its tree
_UNFINISHED = ".orbax-checkpoint-tmp"
# Orbax that has it reads what is asked for; an older one reads all.
_PLACEHOLDER = getattr(ocp, "PLACEHOLDER", None)


@dataclasses.dataclass(frozen=True)
class OrbaxFolder:
    """A checkpoint of one tree, or of several items, each below its name.

    Attributes:
        leaves: what is stored, by name: shapes and dtypes.
        items: the folder and the described tree of each item, by what its names begin with.
    """

    leaves: dict[str, Any]
    items: dict[str, tuple[Path, Any]]

    def read(self, names: Collection[str]) -> dict[str, np.ndarray]:
        """The arrays of some names.

        Args:
            names: of leaves.

        Raises:
            ValueError: the folder is damaged.
        """
        found: dict[str, np.ndarray] = {}
        for prefix, (folder, tree) in self.items.items():
            own = {name.removeprefix(prefix) for name in names if name.startswith(prefix)}
            if own:
                found |= {f"{prefix}{name}": array for name, array in _arrays(folder, tree, own).items()}
        return found


def open_folder(folder: Path) -> OrbaxFolder:
    """What a folder holds.

    Args:
        folder: of a tree, of a step with items, or of steps.

    Raises:
        ValueError: it holds no checkpoint, several steps, one that was never finished, a link; or it is damaged.
    """
    folder = folder.absolute()
    if _UNFINISHED in folder.name:
        raise ValueError(f"{folder} is a checkpoint that was never finished.")
    if (folder / _TREE).is_file():
        found = {"": folder}
    else:
        trees = _trees(folder)
        numbers = [name for name in trees if re.search(r"(?:^|_)[0-9]+$", name)]
        steps = numbers if not (folder / _STEP).exists() and len(numbers) == len(trees) else []
        steps = steps or ([] if trees else [p.name for p in _folders(folder) if _trees(p)])
        if steps:
            steps.sort(key=lambda name: (int(re.sub(r"[^0-9]", "", name) or 0), name))
            raise ValueError(
                f"{folder} holds the checkpoints {', '.join(steps[-20:])}: name one of them, e.g. {folder / steps[-1]}."
            )
        if not trees:
            raise ValueError(f"{folder} holds no checkpoint of Orbax.")
        found = {"": next(iter(trees.values()))} if len(trees) == 1 else {f"{k}/": v for k, v in trees.items()}
    items = {prefix: (path, _described(path)) for prefix, path in found.items()}
    leaves = {
        f"{prefix}{name}": of for prefix, (_, tree) in items.items() for name, of in flat(tree).items() if _is_array(of)
    }
    return OrbaxFolder(leaves, items)


def _folders(folder: Path) -> list[Path]:
    """The folders in a folder, links and what was never finished left out."""
    return [p for p in sorted(folder.iterdir()) if p.is_dir() and not p.is_symlink() and _UNFINISHED not in p.name]


def _trees(folder: Path) -> dict[str, Path]:
    return {path.name: path for path in _folders(folder) if (path / _TREE).is_file()}


def _is_array(leaf: Any) -> bool:
    return getattr(leaf, "shape", None) is not None and getattr(leaf, "dtype", None) is not None


def _described(folder: Path) -> Any:
    """The tree that a folder says it holds, a description of each array at its place."""
    for path in folder.rglob("*"):
        if path.is_symlink():
            raise ValueError(f"{path} is a link, and may lead anywhere: npk does not read through it.")
    directory: Any = folder
    try:
        found = ocp.PyTreeCheckpointHandler().metadata(directory)
        return getattr(found, "tree", found)
    except Exception as error:  # of many types
        raise ValueError(f"{folder} is damaged, or of an Orbax that is not read here ({_said(error)}).") from error


def _arrays(folder: Path, tree: Any, names: Collection[str]) -> dict[str, np.ndarray]:
    """Some arrays of a tree. They are asked for as NumPy's: nothing then depends on where they were."""
    leaves, structure = jax.tree_util.tree_flatten_with_path(tree)
    chosen, how = [], []
    for path, of in leaves:
        wanted = jax.tree_util.keystr(path, simple=True, separator="/") in names
        chosen.append(jax.ShapeDtypeStruct(of.shape, of.dtype) if wanted else _PLACEHOLDER)
        how.append(ocp.RestoreArgs(restore_type=np.ndarray) if _is_array(of) else ocp.RestoreArgs())
    item = None if _PLACEHOLDER is None else jax.tree_util.tree_unflatten(structure, chosen)
    asked = ocp.args.PyTreeRestore(item=item, restore_args=jax.tree_util.tree_unflatten(structure, how))
    directory: Any = folder
    try:
        found = flat(ocp.PyTreeCheckpointHandler().restore(directory, args=asked))
        return {name: np.asarray(found[name]) for name in names}
    except Exception as error:  # whatever a damaged file makes it raise
        raise ValueError(f"{folder} is damaged ({_said(error)}).") from error


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"[:300]
