"""What a folder must hold: a list of all its files, each with its checksum, and of nothing else."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from npk.folders.writing import LOCK, replace

NAME = "manifest.json"
_FORMAT = 1


def seal(folder: Path) -> None:
    """Note the checksum of every file of a folder that is complete.

    Args:
        folder: of which every file is written.
    """
    files = {name: _checksum(path) for name, path in _files(folder)}
    content = {"format": _FORMAT, "files": files, "sha256": _of_list(files)}
    replace(folder / NAME, json.dumps(content, indent=1).encode())


def broken(folder: Path) -> tuple[str, ...]:
    """What is not as it was sealed, in words; nothing where every byte is.

    Args:
        folder: one that `seal` was called for.

    Returns:
        A sentence a file: changed, missing, or not among those that were sealed.
    """
    try:
        content = json.loads((folder / NAME).read_text(encoding="utf-8"))
        files = content["files"]
        named = isinstance(files, dict) and all(isinstance(sum_, str) for sum_ in files.values())
        if not named or content["format"] != _FORMAT or content["sha256"] != _of_list(files):
            return (f"{NAME} is not as it was written",)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return (f"{NAME} cannot be read",)
    there = dict(_files(folder))
    said = [f"{name} is missing" for name in files if name not in there]
    said += [f"{name} was not there" for name in there if name not in files]
    said += [f"{name} has changed" for name in files if name in there and _checksum(there[name]) != files[name]]
    return tuple(said)


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Every file below a folder but for the list itself."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path not in (folder / NAME, folder / LOCK):
            yield path.relative_to(folder).as_posix(), path


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _of_list(files: dict[str, str]) -> str:
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
