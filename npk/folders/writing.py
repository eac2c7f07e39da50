"""Files that are there whole or not at all."""

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # a system without locks: what was never finished stays there
    fcntl = None

PART = ".part"  # the end of the name of what is being written
LOCK = ".lock"  # the file that names who writes in a folder
_UNFINISHED = re.compile(rf".+\.[0-9a-f]{{16}}{re.escape(PART)}", re.DOTALL)


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
    with _beside(path, content) as temporary:
        temporary.replace(path)


def write_once(path: Path, content: bytes) -> None:
    """Write a file whole, unless there is one already: of several processes the first one decides.

    Args:
        path: of the file.
        content: its bytes.
    """
    with _beside(path, content) as temporary:
        try:
            os.link(temporary, path)  # fails where there is one
        except FileExistsError:
            pass
        except OSError:  # a file system without links
            if not path.exists():
                temporary.replace(path)


def tidy(folder: Path) -> None:
    """Remove what was being written when a process ended; what one is writing now is locked, and stays.

    Args:
        folder: of files that `replace` and `write_once` write, those below it included.
    """
    for path in folder.rglob(f"*{PART}") if fcntl is not None else ():
        if path.is_symlink() or not _UNFINISHED.fullmatch(path.name):
            continue
        with contextlib.suppress(OSError), path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # type: ignore[union-attr]
            path.unlink()


@contextlib.contextmanager
def _beside(path: Path, content: bytes | Callable[[Any], Any]) -> Iterator[Path]:
    """A file of a name of its own that is whole and durable, and gone in the end."""
    temporary = path.with_name(f"{path.name}.{os.urandom(8).hex()}{PART}")
    try:
        with temporary.open("xb") as file:
            if fcntl is not None:
                with contextlib.suppress(OSError):
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if callable(content):
                content(file)
            else:
                file.write(content)
            file.flush()
            os.fsync(file.fileno())
            yield temporary
    finally:
        temporary.unlink(missing_ok=True)
