"""Named arrays in one file, with a checksum over all of them. Nothing in it is ever run: no pickles are read."""

import hashlib
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from npk.folders.writing import replace
from npk.programs import available_memory

_DIGEST = "sha256"


def write_arrays(path: Path, arrays: Mapping[str, Any]) -> str:
    """Write an NPZ file whole.

    Args:
        path: of the file.
        arrays: by name, of numbers or text.

    Returns:
        The checksum of the file, by which `read_arrays` tells it from others.

    Raises:
        ValueError: an array of Python objects, or the name of the checksum.
    """
    made = {name: np.asarray(array) for name, array in arrays.items()}
    if _DIGEST in made or any(array.dtype.hasobject for array in made.values()):
        raise ValueError(f"arrays must be of numbers or text, under names other than {_DIGEST!r}.")
    checksum = {_DIGEST: np.frombuffer(_digest(made), np.uint8)}
    replace(path, lambda file: np.savez(file, **made, **checksum))  # type: ignore[arg-type]
    with path.open("rb") as file:
        return hashlib.file_digest(file, _DIGEST).hexdigest()


def read_arrays(path: Path, checksum: str | None = None) -> dict[str, np.ndarray]:
    """The arrays of a file that `write_arrays` wrote, every bit as it was.

    Args:
        path: of the file.
        checksum: what `write_arrays` returned, where it is known: then every byte of the file is compared, and others
            that are whole are none of these.

    Returns:
        The arrays by name.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, or none of these.
    """
    try:
        with path.open("rb") as whole, np.load(whole, allow_pickle=False) as file:
            found = {name: file[name] for name in file.files}
    except FileNotFoundError:
        raise
    except Exception as error:  # of many types, where a bit of a header has flipped
        raise ValueError(f"{path} is damaged, or no file of arrays ({type(error).__name__}: {error}).") from error
    digest = found.pop(_DIGEST, None)
    if digest is None or digest.tobytes() != _digest(found):
        raise ValueError(f"{path} is damaged: its numbers are not those that its checksum is of.")
    if checksum is not None:
        with path.open("rb") as file:
            if hashlib.file_digest(file, _DIGEST).hexdigest() != checksum:
                raise ValueError(f"{path} is not the file that was written there.")
    return found


def check_unpacked(path: Path) -> None:
    """Refuse an NPZ file whose arrays would take more than half of the memory that is free, before it is unpacked.

    Args:
        path: of the file.

    Raises:
        ValueError: it would; or it is damaged.
    """
    try:
        with zipfile.ZipFile(path) as file:
            needed = sum(entry.file_size for entry in file.infolist())
    except Exception as error:  # of many types, where a bit has flipped
        raise ValueError(f"{path} is damaged, or no file of arrays ({type(error).__name__}: {error}).") from error
    if needed > (free := available_memory()) / 2:
        raise ValueError(f"{path} unpacks to {needed / 2**30:.3g} GiB, and {free / 2**30:.3g} GiB of memory are free.")


def _digest(arrays: Mapping[str, np.ndarray]) -> bytes:
    whole = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        whole.update(repr((name, array.dtype.str, array.shape)).encode())
        whole.update(np.ascontiguousarray(array).tobytes())
    return whole.digest()
