"""Tiles on disk: Zarr version 3, written and read by TensorStore, one chunk a tile with its checksum.

A chunk is written beside, synchronised and renamed, so it is there whole or not at all: that it is there, and that
its checksum is right, says that a tile is done. What the numbers are of stands in `zarr.json` (`records`), and which
chunk belongs where in a list beside (`ledger`).
"""

import contextlib
import dataclasses
import functools
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts

from npk.tiles.ledger import Ledger, ledger_of
from npk.tiles.plan import Leaf, Tile, TilePlan, mirrored
from npk.tiles.records import Record, compare, described, layout

_CHECKSUM = 4  # bytes of CRC-32C, the end of a chunk


@dataclasses.dataclass(frozen=True, eq=False)
class TileArray:
    """One array of a store, tile by tile.

    Attributes:
        path: its folder.
        plan: its tiles.
        leaf: its dtype and further axes.
        ledger: which chunk belongs where.
        checked: tiles whose checksums this process has compared.
    """

    path: Path
    plan: TilePlan
    leaf: Leaf
    ledger: Ledger
    checked: set[Tile] = dataclasses.field(default_factory=set)

    @functools.cached_property
    def array(self) -> ts.TensorStore:
        """The array as TensorStore opens it; nothing is cached but its description."""
        content = described(self.path)
        content.pop("attributes", None)
        compare(self.path, content, layout(self.plan, self.leaf))
        return ts.open(self._spec(), open=True, read=True, write=True).result()

    @functools.cached_property
    def padded(self) -> ts.TensorStore:
        """The same up to the end of its last tiles, so that each is written whole, without reading what it replaces."""
        metadata = dict(self.array.spec().to_json()["metadata"])
        sides = [count * side for count, side in zip(self.plan.grid, self.plan.tile)]
        metadata["shape"] = [*sides, *self.leaf.axes]
        return ts.open({**self._spec(), "metadata": metadata}, open=True, assume_metadata=True).result()

    def open(self) -> None:
        """Read the description of the array, which is not read again."""
        assert self.array.rank == self.padded.rank

    def _spec(self) -> dict[str, Any]:
        kvstore = {"driver": "file", "path": f"{self.path.absolute()}/"}
        return {"driver": "zarr3", "kvstore": kvstore, "store_data_equal_to_fill_value": True}

    def file(self, tile: Tile) -> Path:
        """Where the chunk of a tile is."""
        return self.path / ".".join(map(str, ("c", *tile, *(0 for _ in self.leaf.axes))))

    def exists(self, tile: Tile) -> bool:
        """Whether the chunk is there; a link is none."""
        return self.file(tile).is_file() and not self.file(tile).is_symlink()

    def is_written(self, tile: Tile) -> bool:
        """Whether the chunk is there, of its size and in its place; one on its way is not yet."""
        return self.exists(tile) and not self.wrong(tile)

    def wrong(self, tile: Tile) -> str:
        """What is wrong with a chunk that is there, and that its own checksum does not see: its size, its place."""
        size = self.file(tile).stat().st_size
        if not self.raw:
            with self.file(tile).open("rb") as file:
                content = int.from_bytes(file.read(16)[12:], "little")  # Blosc's own header
        else:
            content = math.prod((*self.plan.tile, *self.leaf.axes)) * self.leaf.dtype.itemsize
        if size != content + _CHECKSUM:
            return f"{size} bytes instead of {content + _CHECKSUM}"
        if self.ledger and not self.ledger.holds(tile, self.checksum(tile)):
            return "it is not the chunk that was written there"
        return ""

    def checksum(self, tile: Tile) -> str:
        """What a chunk that is there says of itself, at its end."""
        with self.file(tile).open("rb") as file:
            file.seek(-_CHECKSUM, os.SEEK_END)
            return file.read(_CHECKSUM).hex()

    def checksums(self, tiles: Sequence[Tile]) -> dict[Tile, str]:
        """What the chunks of tiles say of themselves, those of mirrored ones too."""
        return {copy: self.checksum(copy) for tile in tiles for copy in self.plan.copies(tile)}

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
            if (link := self.file(copy).with_name(f"{self.file(copy).name}.__lock")).is_symlink():
                link.unlink()  # what is written beside is called so, and would be written through it
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
    made = ((leaf, ledger_of(path, record, leaf)) for leaf in record.leaves)
    return {leaf.name: TileArray(path / leaf.name, record.plan, leaf, ledger) for leaf, ledger in made}


def is_done(arrays: Sequence[TileArray], tile: Tile) -> bool:
    """Whether every array has the tile and the mirrored one."""
    return all(array.exists(copy) for array in arrays for copy in array.plan.copies(tile))
