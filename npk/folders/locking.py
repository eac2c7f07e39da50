"""One process at a time in a folder that is written as a whole."""

import contextlib
import json
import os
import platform
import stat
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # a system without these locks: there two processes are told by nothing
    fcntl = None

from npk.folders.writing import LOCK


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder, which is made if it is not there, against other processes.

    The lock ends with the process, however that ends; the file that names it is no lock by itself.

    Args:
        folder: that is written.

    Raises:
        FileExistsError: another process holds it; it is named. Or the file of the lock is none: a link, a folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if fcntl is None:
        yield
        return
    path = folder / LOCK
    if not os.access(folder, os.W_OK):
        yield  # nobody can write there
        return
    file = _taken(path, folder)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # while it is held: whoever waits for this file finds that it is gone
        os.close(file)


def _taken(path: Path, folder: Path) -> int:
    """The open file of a lock that is held from now on."""
    assert fcntl is not None
    while True:
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
        except OSError as error:
            if path.is_symlink() or path.is_dir():
                raise FileExistsError(f"{path} is no file of npk's, but a link or a folder: remove it.") from error
            raise
        try:
            if not stat.S_ISREG(os.fstat(file).st_mode):
                os.close(file)
                raise FileExistsError(f"{path} is no file of npk's: remove it.")
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(file, path):
                os.ftruncate(file, 0)
                os.pwrite(file, json.dumps({"process": os.getpid(), "machine": platform.node()}).encode(), 0)
                return file
        except BlockingIOError:
            holder = _holder(file)
            os.close(file)
            raise FileExistsError(
                f"{folder} is being written by {holder}: wait until it ends, or choose another folder."
            ) from None
        except FileExistsError:
            raise
        except OSError:  # a file system that has no locks
            return file
        os.close(file)


def _is_at(file: int, path: Path) -> bool:
    """Whether an open file is the one that has its name: its last holder may just have removed it."""
    try:
        there, own = path.stat(), os.fstat(file)
    except FileNotFoundError:
        return False
    return (there.st_dev, there.st_ino) == (own.st_dev, own.st_ino)


def _holder(file: int) -> str:
    try:
        said = json.loads(os.pread(file, 1000, 0))
        return f"process {int(said['process'])} on {str(said['machine'])[:100]}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
