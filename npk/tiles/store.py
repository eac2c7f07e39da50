"""Tiles on disk: Zarr version 3, written and read by TensorStore, one chunk a tile with its checksum.

A chunk is written beside, synchronised and renamed, so it is there whole or not at all: that it is there, and that
its checksum is right, is the only record of a tile's being done. What the numbers are of stands in `zarr.json`.
"""

import contextlib
import dataclasses
import errno
import functools
import json
import math
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import tensorstore as ts

from npk.tiles.plan import Leaf, Tile, TilePlan, mirrored

FORMAT = 1
KEY = "npk"
DTYPES = ("float32", "float64", "bfloat16")
_CHECKSUM = {"name": "crc32c"}
_BYTES = {"name": "bytes", "configuration": {"endian": "little"}}
# Zarr readers do not know bfloat16. As float32 everyone reads the numbers; the two bytes of zeros cost nothing.
_PACKED = {
    "name": "blosc",
    "configuration": {"cname": "lz4", "clevel": 1, "shuffle": "bitshuffle", "typesize": 4, "blocksize": 0},
}
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_PART = ".part"
_CLOSED = (errno.EROFS, errno.EACCES, errno.EPERM)


@dataclasses.dataclass(frozen=True)
class Record:
    """What the numbers of a store are of; two that differ do not share a store.

    Attributes:
        plan: shape, tile, symmetry.
        leaves: the arrays.
        identity: what the user calls the kernel: names, hashes.
        data: fingerprints of the batches.
        versions: of what computes.
    """

    plan: TilePlan
    leaves: tuple[Leaf, ...]
    identity: Mapping[str, Any]
    data: Mapping[str, Any]
    versions: Mapping[str, Any]

    def as_json(self) -> dict[str, Any]:
        """Plain values, as they stand in `zarr.json`."""
        return {
            "format": FORMAT,
            "shape": list(self.plan.shape),
            "tile": list(self.plan.tile),
            "symmetric": self.plan.symmetric,
            "arrays": {a.name: {"dtype": a.dtype.name, "axes": list(a.axes)} for a in self.leaves},
            "identity": dict(self.identity),
            "data": dict(self.data),
            "versions": dict(self.versions),
        }


def record_of(content: Mapping[str, Any], path: Path) -> Record:
    """The record in the content of a `zarr.json`; one that says anything else is refused."""
    if content["format"] != FORMAT:
        raise ValueError(
            f"{path} is of format {content['format']}, this npk reads {FORMAT}: use the npk that wrote it."
        )
    plan = TilePlan(tuple(content["shape"]), tuple(content["tile"]), content["symmetric"])
    arrays = content["arrays"].items()
    leaves = tuple(Leaf(name, np.dtype(jnp.dtype(a["dtype"])), tuple(a["axes"])) for name, a in arrays)
    found = Record(plan, leaves, content["identity"], content["data"], content["versions"])
    if _text(found.as_json()) != _text(content):
        raise ValueError(f"the record in {path} holds what no record does")
    return found


def _text(content: Any) -> str:
    """Plain values as text, by which they are compared: 1 is not true, and null is not nothing."""
    return json.dumps(content, sort_keys=True)


def find(path: Path) -> Record | None:
    """The record of the store in a folder, or None where one may be begun.

    Raises:
        FileExistsError: the folder holds something else.
        ValueError: its `zarr.json` is damaged.
    """
    if path.exists() and not path.is_dir():
        raise FileExistsError(f"{path} is a file: choose another folder.")
    try:
        content = _described(path)
    except FileNotFoundError:
        if path.is_dir() and any(not entry.name.endswith((_PART, "zarr.json")) for entry in path.iterdir()):
            raise FileExistsError(f"{path} is not empty and holds no kernel: choose another folder.") from None
        return None
    try:
        if KEY not in content.get("attributes", {}):
            raise FileExistsError(f"{path} holds a Zarr store that is none of npk's: choose another folder.")
        record = record_of(content["attributes"][KEY], path)
        for folder, node in _nodes(path, record).items():
            if folder == path or (folder / "zarr.json").exists():
                _compare(folder, content if folder == path else _described(folder), node)
    except (AttributeError, IndexError, KeyError, OverflowError, TypeError) as error:
        raise ValueError(
            f"{path / 'zarr.json'} is damaged ({type(error).__name__}: {error}): remove the folder to begin anew."
        ) from None
    return record


def _described(path: Path) -> dict[str, Any]:
    """What the `zarr.json` of a folder says."""
    try:
        content = json.loads((path / "zarr.json").read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("no description of a store")
        return content
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path / 'zarr.json'} is damaged ({error}): remove the folder to begin anew.") from None


def _compare(path: Path, content: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """What describes an array must be what was written for it, or its chunks would be read as other numbers."""
    differ = [key for key in {**content, **expected} if _text(content.get(key)) != _text(expected.get(key))]
    if differ or len(content) != len(expected):
        raise ValueError(
            f"{path / 'zarr.json'} is not as it was written ({', '.join(differ)}), and its numbers would be others: "
            "put the file back as it was, or remove the folder to begin anew."
        )


def refuse_other(path: Path, there: Record, here: Record) -> None:
    """Refuse to go on with a store of another configuration, naming all that differs."""
    found, wanted = _flat(there.as_json()), _flat(here.as_json())
    differ = [key for key in {**found, **wanted} if found.get(key) != wanted.get(key)]
    if differ:
        parts = [
            f"{'.'.join(key)} is {_shown(found.get(key))} there and {_shown(wanted.get(key))} here" for key in differ
        ]
        raise ValueError(
            f"{path} holds a kernel of another configuration: {'; '.join(parts)}. Nothing was changed. Choose another "
            "folder, go on with the configuration of the store, or remove the folder to begin anew."
        )


def _flat(content: Mapping[str, Any], prefix: tuple[str, ...] = ()) -> dict[tuple[str, ...], str]:
    """Every value as text, by its way there; nothing in it is as much a value as any."""
    result = {}
    for key, value in content.items():
        if isinstance(value, Mapping) and value:
            result.update(_flat(value, (*prefix, key)))
        else:
            result[(*prefix, key)] = _text(value)
    return result


def _shown(text: str | None) -> str:
    return "nothing" if text is None else f"{text[:13]}…" if re.fullmatch(r'"[0-9a-f]{64}"', text) else text


# ------------------------------------------------------------------------------------ writing metadata


def begin(path: Path, record: Record) -> Record:
    """Make the store, or find that another process has just made it; the record that counts."""
    with errors(path):
        path.mkdir(parents=True, exist_ok=True)
        _write_once(path, _nodes(path, record)[path])
        _synchronise(path.absolute().parent)
    found = find(path)
    assert found is not None
    return found


def complete_nodes(path: Path, record: Record) -> None:
    """The `zarr.json` of each array of a group."""
    missing = {f: node for f, node in _nodes(path, record).items() if not (f / "zarr.json").exists()}
    with errors(path):
        for folder, node in missing.items():
            folder.mkdir(exist_ok=True)
            _write_once(folder, node)
        if missing:
            _synchronise(path)


def _write_once(folder: Path, content: dict[str, Any]) -> None:
    """Write `zarr.json` whole, unless there is one already: of several processes the first one decides."""
    target = folder / "zarr.json"
    temporary = folder / f"zarr.json.{os.urandom(8).hex()}{_PART}"
    try:
        with temporary.open("xb") as file:
            file.write(json.dumps(content, indent=1, ensure_ascii=False).encode())
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, target)  # fails where there is one
        except FileExistsError:
            pass
        except OSError:  # a file system without links
            if not target.exists():
                temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    _synchronise(folder)


def _synchronise(folder: Path) -> None:
    """Make the names in a folder durable, where the system can."""
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _nodes(path: Path, record: Record) -> dict[Path, dict[str, Any]]:
    """What the `zarr.json` of each folder of a store says: of a group and its arrays, or of the one array."""
    if record.leaves[0].name == "":
        return {path: _array_node(record, record.leaves[0])}
    group = {"zarr_format": 3, "node_type": "group", "attributes": {KEY: record.as_json()}}
    ones = {leaf: dataclasses.replace(record, leaves=(dataclasses.replace(leaf, name=""),)) for leaf in record.leaves}
    return {path: group, **{path / leaf.name: _array_node(one, leaf) for leaf, one in ones.items()}}


def _array_node(record: Record, leaf: Leaf) -> dict[str, Any]:
    return {**_layout(record.plan, leaf), "attributes": {KEY: record.as_json()}}


def _layout(plan: TilePlan, leaf: Leaf) -> dict[str, Any]:
    """How the numbers of an array lie in its chunks."""
    half = leaf.dtype.name == "bfloat16"
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [*plan.shape, *leaf.axes],
        "data_type": "float32" if half else leaf.dtype.name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [*plan.tile, *leaf.axes]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
        "fill_value": "NaN",  # so that a tile that is not done is never taken for numbers
        "codecs": [_BYTES, *([_PACKED] if half else []), _CHECKSUM],
    }


# --------------------------------------------------------------------------------------------- errors


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


# --------------------------------------------------------------------------------------------- arrays


@dataclasses.dataclass(frozen=True, eq=False)
class TileArray:
    """One array of a store, tile by tile.

    Attributes:
        path: its folder.
        plan: its tiles.
        leaf: its dtype and further axes.
        checked: tiles whose checksums this process has compared.
    """

    path: Path
    plan: TilePlan
    leaf: Leaf
    checked: set[Tile] = dataclasses.field(default_factory=set)

    @functools.cached_property
    def array(self) -> ts.TensorStore:
        """The array as TensorStore opens it; nothing is cached but its description."""
        content = _described(self.path)
        content.pop("attributes", None)
        _compare(self.path, content, _layout(self.plan, self.leaf))
        return ts.open(self._spec(), open=True, read=True, write=True).result()

    @functools.cached_property
    def padded(self) -> ts.TensorStore:
        """The same up to the end of its last tiles, so that each is written whole, without reading what it replaces."""
        metadata = dict(self.array.spec().to_json()["metadata"])
        sides = [count * side for count, side in zip(self.plan.grid, self.plan.tile)]
        metadata["shape"] = [*sides, *self.leaf.axes]
        return ts.open({**self._spec(), "metadata": metadata}, open=True, assume_metadata=True).result()

    def _spec(self) -> dict[str, Any]:
        kvstore = {"driver": "file", "path": f"{self.path.absolute()}/"}
        return {"driver": "zarr3", "kvstore": kvstore, "store_data_equal_to_fill_value": True}

    def file(self, tile: Tile) -> Path:
        """Where the chunk of a tile is."""
        return self.path / ".".join(map(str, ("c", *tile, *(0 for _ in self.leaf.axes))))

    def exists(self, tile: Tile) -> bool:
        """Whether the chunk is there."""
        return self.file(tile).exists()

    def wrong_size(self, tile: Tile) -> str:
        """What is wrong with the size of a chunk that is there; a checksum does not see what follows it."""
        size = self.file(tile).stat().st_size
        if not self.raw:
            with self.file(tile).open("rb") as file:
                content = int.from_bytes(file.read(16)[12:], "little")  # Blosc's own header
        else:
            content = math.prod((*self.plan.tile, *self.leaf.axes)) * self.leaf.dtype.itemsize
        return "" if size == content + 4 else f"{size} bytes instead of {content + 4}"

    def write(self, tile: Tile, block: np.ndarray) -> list[Any]:
        """Begin to write a tile, and the mirrored one; futures that are done once both are durable."""
        wide = self.leaf.dtype if self.raw else np.float32
        block = block.astype(wide, copy=False)
        missing = [side - size for side, size in zip(self.plan.tile, block.shape)]
        if any(missing):
            edge = [(0, number) for number in missing] + [(0, 0)] * len(self.leaf.axes)
            block = np.pad(block, edge, constant_values=np.nan)
        futures = []
        for copy, part in zip(self.plan.copies(tile), (block, mirrored(block))):
            place = tuple(slice(number * side, (number + 1) * side) for number, side in zip(copy, self.plan.tile))
            futures.append(self.padded[place].write(part, can_reference_source_data_indefinitely=True))
        return futures

    def release(self, tile: Tile) -> None:
        """Let the system forget what it keeps in memory of a durable tile: the next one takes the same pages.

        A store may be larger than the memory, and what it would keep pushes out what others need; in a virtual machine
        new pages may also take longer than writing them. Whoever reads the tile next reads it from the disk.
        """
        if not hasattr(os, "posix_fadvise"):
            return
        for copy in self.plan.copies(tile):
            with contextlib.suppress(OSError), self.file(copy).open("rb") as file:  # it is advice, no more
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    @property
    def raw(self) -> bool:
        """Whether the numbers lie on disk as they are."""
        return self.leaf.dtype.name != "bfloat16"

    def mapped(self, tile: Tile) -> np.ndarray:
        """The chunk as it lies on disk, without looking at its checksum."""
        shape = (*self.plan.tile, *self.leaf.axes)
        return np.memmap(self.file(tile), self.leaf.dtype.newbyteorder("<"), "r", shape=shape)

    def read(self, tile: Tile) -> Any:
        """A future of the numbers of a tile."""
        return self.array[self.plan.places(tile)].read()


def arrays_of(path: Path, record: Record) -> dict[str, TileArray]:
    """The arrays of a store, by name."""
    return {leaf.name: TileArray(path / leaf.name, record.plan, leaf) for leaf in record.leaves}


def is_done(arrays: Sequence[TileArray], tile: Tile) -> bool:
    """Whether every array has the tile and the mirrored one."""
    return all(array.exists(copy) for array in arrays for copy in array.plan.copies(tile))
