"""Fill a store: check what is there, compute what is not, keep it, and say how it stands."""

import contextlib
import dataclasses
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from npk.folders import tidy
from npk.tiles import disk, records, store
from npk.tiles.devices import Work, run
from npk.tiles.ledger import LIST
from npk.tiles.plan import Device, Tile, TilePlan, kept, share
from npk.tiles.progress import Meter
from npk.tiles.records import Record
from npk.tiles.store import TileArray
from npk.tiles.stored_kernel import damaged

_PASSES = 3  # over what is not done: another may remove what was written


def compute(
    work: Work,
    plan: TilePlan,
    tiles: Sequence[Tile],
    devices: Sequence[Device],
    meter: Meter,
    done: int,
) -> None:
    """Compute and keep tiles, of which `done` others are done already."""
    meter.begin(done, sum(map(plan.pairs, tiles)))
    with contextlib.closing(run(work, tiles, devices)) as events:
        for tile, here in events:
            meter.advance(plan.pairs(tile), here)


class Filling:
    """A store that is being filled."""

    def __init__(self, path: Path, record: Record, meter: Meter):
        self.path, self.record, self.meter = path, record, meter
        self.arrays = store.arrays_of(path, record)
        self.damaged: set[Tile] = set()

    def is_done(self, tile: Tile) -> bool:
        return tile not in self.damaged and store.is_done(list(self.arrays.values()), tile)

    def state(self) -> str:
        tiles = self.record.plan.tiles()
        kept = sum(self.is_done(tile) and self.is_held(tile) for tile in tiles)
        return f"{kept} of {len(tiles)} tiles are kept, and safe"

    def check(self) -> None:
        """Find the damaged ones among the tiles that are there."""
        plan = self.record.plan
        copies = [copy for tile in plan.tiles() for copy in plan.copies(tile)]
        there = {name: [c for c in copies if array.exists(c)] for name, array in self.arrays.items()}
        for name, array in self.arrays.items():
            if there[name]:
                if lost := self.lost(array):
                    self.meter.say(f"{lost}: chunks are taken by their own checksums, and one tile is computed again")
                self.meter.say(f"checking {len(there[name]):,} chunks that are there in {array.path}")
            for copy in damaged(array, there[name]):
                self.damaged.add((min(copy), max(copy)) if plan.symmetric else copy)
                self.meter.say(f"chunk {array.file(copy)} is damaged: tile {copy} is computed again")

    def lost(self, array: TileArray) -> str:
        """What became of the list of chunks, where there is none to go by."""
        return "" if array.ledger else array.ledger.damage or f"{array.path / LIST} is not there"

    def keep(self, tile: Tile, block: Any) -> None:
        parts = kept(self.record.plan, self.record.leaves, tile, block)
        try:
            self.write(tile, parts)
        except FileNotFoundError:  # the folder has just been moved away: it is made anew
            self.write(tile, parts)
        self.damaged.discard(tile)

    def write(self, tile: Tile, parts: dict[str, Any]) -> None:
        with disk.errors(self.path, self.state):
            writing = [f for name, array in self.arrays.items() for f in array.write(tile, parts[name])]
            for future in writing:
                future.result()
            for array in self.arrays.values():
                array.ledger.note(array.checksums([tile]))
                array.release(tile)

    def fill(self, work: Work, devices: Sequence[Device], process: tuple[int, int]) -> None:
        """Compute the tiles that are not done, until the store is whole."""
        tiles = self.record.plan.tiles()
        tidy(self.path)
        records.complete_nodes(self.path, self.record)
        for array in self.arrays.values():
            array.open()  # while its description is there
        self.check()
        done = [tile for tile in tiles if self.is_done(tile)]
        lost = [array for array in self.arrays.values() if self.lost(array)]
        if done and (lost or len(done) < len(tiles) or self.record.program is None):
            self.compare(random.SystemRandom().choice(done), work, devices[0])
            for array in lost:
                array.ledger.note(array.checksums(done))
        order = share(tiles, *process, start=random.SystemRandom().randrange(len(tiles)))
        for _ in range(_PASSES):
            todo = [tile for tile in order if not self.is_done(tile)]
            if todo:
                disk.check_writable(self.path, self.state)
                self.meter.say(self.room(todo))
            work_left = dataclasses.replace(work, skip=self.is_done)
            compute(work_left, self.record.plan, todo, devices, self.meter, len(tiles) - len(todo))
            if self.is_whole():
                return
        raise OSError(f"{self.path} loses what is written to it: {self.state()}. Nothing else must write there.")

    def is_whole(self) -> bool:
        """Whether all is there that this and other processes have written; then it is noted as one list."""
        tiles = self.record.plan.tiles()
        described = all((path / "zarr.json").exists() for path in {self.path, *(a.path for a in self.arrays.values())})
        if not described:
            self.meter.say(f"{self.path} has lost its description while this ran: it is written again")
            with disk.errors(self.path, self.state):
                records.refuse_other(self.path, records.begin(self.path, self.record), self.record)
            records.complete_nodes(self.path, self.record)
        self.damaged |= {tile for tile in tiles if self.is_done(tile) and not self.is_held(tile)}
        missing = [tile for tile in tiles if not self.is_done(tile)]
        if missing:
            self.meter.say(f"{len(missing):,} tiles are not as they were written: they are computed again")
            return False
        for array in self.arrays.values():
            chunks = array.checksums(tiles)
            if not array.ledger.is_of(chunks):
                with disk.errors(self.path, self.state):
                    array.ledger.finish(chunks)
        return True

    def is_held(self, tile: Tile) -> bool:
        """Whether the chunks of a tile that is there are those that were written."""
        return all(
            array.ledger.holds(copy, checksum)
            for array in self.arrays.values()
            for copy, checksum in array.checksums([tile]).items()
        )

    def compare(self, tile: Tile, work: Work, device: Device) -> None:
        """Compute a tile that is there again: the store must be of this kernel, and of this machine as far as it goes.

        Raises:
            ValueError: its numbers are others.
        """
        self.meter.say(f"tile {tile} is there, and computed again to compare it")
        with jax.default_device(device):
            found = kept(self.record.plan, self.record.leaves, tile, work.kernel(*work.load(tile, device)))
        for name, array in self.arrays.items():
            there, here = (np.asarray(a, np.float64) for a in (array.read(tile).result(), found[name]))
            scale, apart = np.abs(there).max(), np.abs(there - here).max()
            eps = float(jnp.finfo(array.leaf.dtype).eps)
            if apart > min(math.sqrt(eps), 8 * max(eps, 1e-3)) * scale:
                raise ValueError(
                    f"{self.path} holds other numbers than the kernel gives: tile {tile} of {name or 'it'} differs by "
                    f"{apart:.3g} of {scale:.3g}. Its code has changed, or what identity does not name: choose another "
                    "folder, or remove this one to begin anew."
                )

    def room(self, todo: Sequence[Tile]) -> str:
        plan, leaves = self.record.plan, self.record.leaves
        chunk = math.prod(plan.tile) * sum(leaf.dtype.itemsize * math.prod(leaf.axes) for leaf in leaves)
        needed = chunk * sum(len(plan.copies(tile)) for tile in todo)
        free = disk.free_bytes(self.path)
        told = f"{needed / 1e9:,.2f} GB to be written at most, {free / 1e9:,.2f} GB of disk are free"
        return told if needed <= free else f"{told}: it may stop when the disk is full, and go on when there is room"
