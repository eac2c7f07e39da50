"""What a store says of itself: a record of what its numbers are of, in a `zarr.json` that is as it was written.

Of another record, or of a description that would have its chunks read as other numbers, nothing is read.
"""

import dataclasses
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from npk.folders import as_text, differences, inside, replace, write_once
from npk.tiles.disk import errors
from npk.tiles.plan import Leaf, TilePlan

FORMAT = 2  # 1 knew no program, and kept no list of its chunks
KEY = "npk"
DTYPES = ("float32", "float64", "bfloat16")
_CHECKSUM = {"name": "crc32c"}
_BYTES = {"name": "bytes", "configuration": {"endian": "little"}}
# Zarr readers do not know bfloat16. As float32 everyone reads the numbers; the two bytes of zeros cost nothing.
_PACKED = {
    "name": "blosc",
    "configuration": {"cname": "lz4", "clevel": 1, "shuffle": "bitshuffle", "typesize": 4, "blocksize": 0},
}
_PART = ".part"
_MOST_TILES = 1 << 24


@dataclasses.dataclass(frozen=True)
class Record:
    """What the numbers of a store are of; two that differ do not share a store.

    Attributes:
        plan: shape, tile, symmetry.
        leaves: the arrays.
        identity: what the user calls the kernel: names, hashes.
        data: fingerprints of the batches.
        versions: of what computes.
        program: hash of the kernel's program, where it can be traced.
        format: of the store.
    """

    plan: TilePlan
    leaves: tuple[Leaf, ...]
    identity: Mapping[str, Any]
    data: Mapping[str, Any]
    versions: Mapping[str, Any]
    program: str | None = None
    format: int = FORMAT

    def as_json(self) -> dict[str, Any]:
        """Plain values, as they stand in `zarr.json`."""
        return {
            "format": self.format,
            "shape": list(self.plan.shape),
            "tile": list(self.plan.tile),
            "symmetric": self.plan.symmetric,
            "arrays": {a.name: {"dtype": a.dtype.name, "axes": list(a.axes)} for a in self.leaves},
            "identity": dict(self.identity),
            "data": dict(self.data),
            "versions": dict(self.versions),
            **({"program": self.program} if self.format > 1 else {}),
        }


def record_of(content: Mapping[str, Any], path: Path) -> Record:
    """The record in the content of a `zarr.json`; one that says anything else is refused."""
    if content["format"] not in (1, FORMAT) or isinstance(content["format"], bool):
        raise ValueError(
            f"{path} is of format {content['format']}, this npk reads 1 and {FORMAT}: use the npk that wrote it."
        )
    plan = _plan_in(content, path)
    if other := [key for key in ("identity", "data", "versions", "arrays") if not isinstance(content[key], Mapping)]:
        raise ValueError(f"the record in {path} is none: {', '.join(other)}")
    arrays = content["arrays"].items()
    try:
        leaves = tuple(Leaf(name, np.dtype(jnp.dtype(a["dtype"])), tuple(a["axes"])) for name, a in arrays)
    except ValueError as error:
        raise ValueError(f"the record in {path} is none: {error}") from None
    found = Record(
        plan,
        leaves,
        content["identity"],
        content["data"],
        content["versions"],
        content.get("program"),
        content["format"],
    )
    if as_text(found.as_json()) != as_text(content):
        raise ValueError(f"the record in {path} holds what no record does")
    return found


def _plan_in(content: Mapping[str, Any], path: Path) -> TilePlan:
    """The tiles of a record, which a stranger may have written."""
    shape, tile, symmetric = (content[key] for key in ("shape", "tile", "symmetric"))
    sizes = [n for pair in (shape, tile) for n in (pair if isinstance(pair, list) and len(pair) == 2 else [0])]
    if all(type(n) is int and n > 0 for n in sizes) and type(symmetric) is bool:
        plan = TilePlan(tuple(shape), tuple(tile), symmetric)
        if math.prod(plan.grid) <= _MOST_TILES and not (symmetric and shape[0] != shape[1]):
            return plan
    raise ValueError(f"the record in {path} is none: shape {shape}, tile {tile}, symmetric {symmetric}")


def find(path: Path) -> Record | None:
    """The record of the store in a folder, or None where one may be begun.

    Raises:
        FileExistsError: the folder holds something else.
        ValueError: its `zarr.json` is damaged.
    """
    if path.exists() and not path.is_dir():
        raise FileExistsError(f"{path} is a file: choose another folder.")
    try:
        content = described(path)
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
                compare(folder, content if folder == path else described(folder), node)
    except (AttributeError, IndexError, KeyError, OverflowError, TypeError) as error:
        raise ValueError(
            f"{path / 'zarr.json'} is damaged ({type(error).__name__}: {error}): remove the folder to begin anew."
        ) from None
    return record


def described(path: Path) -> dict[str, Any]:
    """What the `zarr.json` of a folder says."""
    try:
        content = json.loads((path / "zarr.json").read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("no description of a store")
        return content
    except FileNotFoundError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path / 'zarr.json'} is damaged ({error}): remove the folder to begin anew.") from None


def compare(path: Path, content: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """What describes an array must be what was written for it, or its chunks would be read as other numbers."""
    differ = [key for key in {**content, **expected} if as_text(content.get(key)) != as_text(expected.get(key))]
    if differ or len(content) != len(expected):
        raise ValueError(
            f"{path / 'zarr.json'} is not as it was written ({', '.join(differ)}), and its numbers would be others: "
            "put the file back as it was, or remove the folder to begin anew."
        )


def refuse_other(path: Path, there: Record, here: Record) -> None:
    """Refuse to go on with a store of another configuration, naming all that differs."""
    if there.format != FORMAT:
        raise ValueError(
            f"{path} was written by an npk that kept no list of its chunks: it can be read, and gone on with once "
            f"`npk verify --repair {path}` has looked through it."
        )
    if differ := differences(there.as_json(), here.as_json()):
        raise ValueError(
            f"{path} holds a kernel of another configuration: {'; '.join(differ)}. Nothing was changed. Choose another "
            "folder, go on with the configuration of the store, or remove the folder to begin anew."
        )


# ------------------------------------------------------------------------------------ writing metadata


def begin(path: Path, record: Record) -> Record:
    """Make the store, or find that another process has just made it; the record that counts."""
    if not (path / "zarr.json").exists():
        with errors(path):
            path.mkdir(parents=True, exist_ok=True)
            _write_node(path, _nodes(path, record)[path])
            _synchronise(path.absolute().parent)
    if (found := find(path)) is None:
        raise FileExistsError(f"{path / 'zarr.json'} is a link that leads nowhere: remove it.")
    return found


def complete_nodes(path: Path, record: Record) -> None:
    """The `zarr.json` of each array of a group."""
    missing = {f: node for f, node in _nodes(path, record).items() if not (f / "zarr.json").exists()}
    with errors(path):
        for folder, node in missing.items():
            folder.mkdir(exist_ok=True)
            _write_node(folder, node)
        if missing:
            _synchronise(path)


def rewrite(path: Path, record: Record) -> None:
    """Write every description anew, in the place of what is there."""
    for folder, node in _nodes(path, record).items():
        replace(folder / "zarr.json", _bytes(node))
        _synchronise(folder)


def _write_node(folder: Path, content: dict[str, Any]) -> None:
    write_once(folder / "zarr.json", _bytes(content))
    _synchronise(folder)


def _bytes(content: dict[str, Any]) -> bytes:
    return json.dumps(content, indent=1, ensure_ascii=False).encode()


def _synchronise(folder: Path) -> None:
    """Make the names in a folder durable, where the system can."""
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def folders_of(path: Path, record: Record) -> tuple[Path, ...]:
    """The folders of a store that have a description each."""
    return tuple(_nodes(path, record))


def _nodes(path: Path, record: Record) -> dict[Path, dict[str, Any]]:
    """What the `zarr.json` of each folder of a store says: of a group and its arrays, or of the one array."""
    if record.leaves[0].name == "":
        return {path: _array_node(record, record.leaves[0])}
    group = {"zarr_format": 3, "node_type": "group", "attributes": {KEY: record.as_json()}}
    ones = {leaf: dataclasses.replace(record, leaves=(dataclasses.replace(leaf, name=""),)) for leaf in record.leaves}
    return {path: group, **{inside(path, leaf.name): _array_node(one, leaf) for leaf, one in ones.items()}}


def _array_node(record: Record, leaf: Leaf) -> dict[str, Any]:
    return {**layout(record.plan, leaf), "attributes": {KEY: record.as_json()}}


def layout(plan: TilePlan, leaf: Leaf) -> dict[str, Any]:
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
