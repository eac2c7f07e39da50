"""Files that are there whole or not at all."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

PART = ".part"  # the end of the name of what is being written
LOCK = ".lock"  # the file that names who writes in a folder


def is_fresh(folder: Path) -> bool:
    """Whether a folder holds nothing but what was never finished.

    Args:
        folder: one that is there.
    """
    return all(path.is_dir() or path.name == LOCK or path.name.endswith(PART) for path in folder.rglob("*"))


def replace(path: Path, content: bytes | Callable[[Any], Any]) -> None:
    """Write beside and rename, folder and all, so that a reader, or an interruption, never meets half a file.

    Two processes write under names of their own: the last to end is what is there.

    Args:
        path: of the file; what was there is there until the new one is whole.
        content: its bytes, or a function that writes them to an open file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.urandom(8).hex()}{PART}")
    try:
        with temporary.open("xb") as file:
            if callable(content):
                content(file)
            else:
                file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
