"""Files of named arrays as frameworks write them: NPZ, safetensors, Flax's msgpack. Pickles are refused unread."""

import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from npk.folders import check_unpacked, read_arrays

_PICKLES = (".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".bin")
_REMEDY = "save the parameters as .npz, .safetensors, Flax's msgpack or Orbax"
_CHECKED = "sha256"  # by which npk's own files say whether they are whole
_DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
    "C64": "complex64",
}


def arrays_in(path: Path) -> dict[str, Any]:
    """All that a file holds, by name.

    Args:
        path: of a file.

    Returns:
        Arrays by name, as they are stored.

    Raises:
        FileNotFoundError: there is no such file.
        ModuleNotFoundError: the package that reads its format is not installed.
        ValueError: it is a pickle, of no format that is read, or damaged.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is no file, and no folder.")
    with path.open("rb") as file:
        start = file.read(9)
    _refuse(path, start)
    reader = _READERS.get(path.suffix.lower()) or _reader(path, start)
    return reader(path)


def flat(tree: Any, name: str = "") -> dict[str, Any]:
    """The leaves of nested mappings and sequences by name, keys joined by "/"; leaves may be anything.

    Args:
        tree: of what a file held.
        name: of the whole.
    """
    if isinstance(tree, Mapping):
        children = [(str(key), child) for key, child in tree.items()]
    elif isinstance(tree, list | tuple):
        children = [(str(i), child) for i, child in enumerate(tree)]
    else:
        return {name: tree}
    found: dict[str, Any] = {}
    for key, child in children:
        leaves = flat(child, f"{name}/{key}" if name else key)
        if not found.keys().isdisjoint(leaves):
            raise ValueError(f"two leaves of the name {next(iter(found.keys() & leaves.keys()))!r}")
        found |= leaves
    return found


def _refuse(path: Path, start: bytes) -> None:
    """Raise for what would run code when it is read, and for arrays without names."""
    pickled = start[:1] == b"\x80" and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")
    if pickled or path.suffix.lower() in _PICKLES or (zipfile.is_zipfile(path) and _holds_pickle(path)):
        by = "is" if pickled else "is named, or made, as"
        raise ValueError(f"{path} {by} a pickle, and pickles run code when they are read: {_REMEDY}.")
    if start[:6] == b"\x93NUMPY":
        raise ValueError(
            f"{path} holds arrays without names (NumPy's .npy, Equinox's tree_serialise_leaves): {_REMEDY}, or read it "
            "by eqx.tree_deserialise_leaves(path, model), and the parameters are those of the model."
        )


def _holds_pickle(path: Path) -> bool:
    """Whether a ZIP file is one of PyTorch, or holds pickles beside arrays."""
    try:
        with zipfile.ZipFile(path) as file:
            return any(name.lower().endswith(_PICKLES) for name in file.namelist())
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile):
        return False


def _reader(path: Path, start: bytes) -> Callable[[Path], dict[str, Any]]:
    """By the first bytes: the format of a file whose name does not say it."""
    if start[:4] == b"PK\x03\x04":
        return _npz
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < path.stat().st_size:
        return _safetensors
    if start and (0x80 <= start[0] <= 0x8F or start[0] in (0xDE, 0xDF)):  # a map of msgpack
        return _msgpack
    raise ValueError(f"{path} is of no format that npk reads, or damaged: {_REMEDY}.")


def _npz(path: Path) -> dict[str, Any]:
    if zipfile.is_zipfile(path):
        check_unpacked(path)
    try:
        with path.open("rb") as whole, np.load(whole, allow_pickle=False) as file:
            found = [(name, file[name]) for name in file.files]
        if not all(isinstance(array, np.ndarray) for _, array in found) or len(dict(found)) < len(found):
            raise ValueError("a member is no array, or two have one name")
    except Exception as error:  # of many types, where a bit of a header has flipped
        raise ValueError(f"{path} is no NPZ file of arrays, or damaged ({_said(error)}).") from error
    arrays = dict(found)
    checksum = arrays.get(_CHECKED)
    if checksum is not None and checksum.dtype == np.uint8 and checksum.shape == (32,):
        return dict(read_arrays(path))
    return arrays


def _safetensors(path: Path) -> dict[str, Any]:
    try:
        from safetensors import deserialize
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"reading {path} needs the package safetensors: run `pip install 'npk[safetensors]'`."
        ) from error
    try:
        stored: Sequence[tuple[str, Any]] = deserialize(path.read_bytes())
        return {
            name: np.frombuffer(of["data"], jnp.dtype(_DTYPES[of["dtype"]])).reshape(of["shape"]) for name, of in stored
        }
    except Exception as error:  # its own, or of NumPy where a dtype is not one of these
        raise ValueError(f"{path} is no safetensors file of plain numbers, or damaged ({_said(error)}).") from error


def _msgpack(path: Path) -> dict[str, Any]:
    from flax.serialization import msgpack_restore

    try:
        tree = msgpack_restore(path.read_bytes())
        if not isinstance(tree, Mapping | np.ndarray):
            raise ValueError(f"it holds {type(tree).__name__}")
        return flat(tree)
    except Exception as error:  # of msgpack, of NumPy, of Flax
        raise ValueError(f"{path} is no Flax msgpack checkpoint, or damaged ({_said(error)}).") from error


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}".removesuffix(".")


_READERS = {".npz": _npz, ".safetensors": _safetensors, ".msgpack": _msgpack}
