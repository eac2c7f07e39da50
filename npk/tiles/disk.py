"""What a disk can refuse, and in which words it is told."""

import contextlib
import errno
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_CLOSED = (errno.EROFS, errno.EACCES, errno.EPERM)


@contextlib.contextmanager
def errors(path: Path, state: Callable[[], str] = lambda: "nothing was begun") -> Iterator[None]:
    """TensorStore's and the system's errors as an OSError that says how it stands and what to do."""
    try:
        yield
    except (OSError, ValueError) as error:
        number = _error_number(error)
        if number is None:
            raise
        raise OSError(number, _explained(number, state()), str(path)) from error


def _explained(number: int, state: str) -> str:
    what = os.strerror(number)
    if number in _FULL:
        return f"the disk is full ({what}); {state}. Make room and give the same command again: it continues"
    if number in _CLOSED:
        return (
            f"the store cannot be written ({what}); {state}. Make it writable and give the same command again, or "
            "read what is there by npk.tiles.open_kernel"
        )
    return f"{what}; {state}"


def _error_number(error: OSError | ValueError) -> int | None:
    """The system's number of an error, which TensorStore gives in words."""
    if isinstance(error, OSError):
        return error.errno
    found = re.search(r"os_error_code='(\d+)'", str(error))
    if found:
        return int(found.group(1))
    return next((number for number in (*_FULL, *_CLOSED) if os.strerror(number) in str(error)), None)


def check_writable(path: Path, state: Callable[[], str]) -> None:
    """Find out before the work that its result could not be kept."""
    existing = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    with errors(path, state):
        if not os.access(existing, os.W_OK | os.X_OK):
            read_only = hasattr(os, "statvfs") and os.statvfs(existing).f_flag & os.ST_RDONLY
            raise OSError(errno.EROFS if read_only else errno.EACCES, "not writable")


def free_bytes(path: Path) -> int:
    """Room on the disk."""
    return shutil.disk_usage(path).free
