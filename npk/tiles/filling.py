"""Fill a store: check what is there, compute what is not, keep it, and say how it stands."""

import contextlib
import dataclasses
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from npk.tiles import disk, records, store
from npk.tiles.devices import Work, run
from npk.tiles.plan import Device, Tile, TilePlan, kept, share
from npk.tiles.progress import Meter
from npk.tiles.records import Record
from npk.tiles.stored_kernel import read_ahead


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
        return f"{sum(map(self.is_done, tiles))} of {len(tiles)} tiles are kept, and safe"

    def check(self) -> None:
        """Find the damaged ones among the tiles that are there."""
        plan = self.record.plan
        copies = [copy for tile in plan.tiles() for copy in plan.copies(tile)]
        for array in self.arrays.values():
            there = [copy for copy in copies if array.exists(copy)]
            if there:
                self.meter.say(f"checking {len(there):,} chunks that are there in {array.path}")
            for copy, block in read_ahead(array, there, strict=False):
                if block is None:
                    self.damaged.add((min(copy), max(copy)) if plan.symmetric else copy)
                    self.meter.say(f"chunk {array.file(copy)} is damaged: tile {copy} is computed again")

    def keep(self, tile: Tile, block: Any) -> None:
        parts = kept(self.record.plan, self.record.leaves, tile, block)
        with disk.errors(self.path, self.state):
            writing = [f for name, array in self.arrays.items() for f in array.write(tile, parts[name])]
            for future in writing:
                future.result()
            for array in self.arrays.values():
                array.release(tile)
        self.damaged.discard(tile)

    def fill(self, work: Work, devices: Sequence[Device], process: tuple[int, int]) -> None:
        """Compute the tiles that are not done."""
        plan = self.record.plan
        records.complete_nodes(self.path, self.record)
        self.check()
        tiles = plan.tiles()
        order = share(tiles, *process, start=random.SystemRandom().randrange(len(tiles)))
        todo = [tile for tile in order if not self.is_done(tile)]
        if not todo:
            return self.meter.begin(len(tiles), 0)
        disk.check_writable(self.path, self.state)
        self.meter.say(self.room(todo))
        compute(dataclasses.replace(work, skip=self.is_done), plan, todo, devices, self.meter, len(tiles) - len(todo))

    def room(self, todo: Sequence[Tile]) -> str:
        plan, leaves = self.record.plan, self.record.leaves
        chunk = math.prod(plan.tile) * sum(leaf.dtype.itemsize * math.prod(leaf.axes) for leaf in leaves)
        needed = chunk * sum(len(plan.copies(tile)) for tile in todo)
        free = disk.free_bytes(self.path)
        told = f"{needed / 1e9:,.2f} GB to be written at most, {free / 1e9:,.2f} GB of disk are free"
        return told if needed <= free else f"{told}: it may stop when the disk is full, and go on when there is room"
