"""Fill a store: check what is there, compute what is not, keep it, and say how it stands."""

import contextlib
import dataclasses
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from npk import _tile_devices, _tile_plan, _tile_store
from npk._stored_kernel import read_ahead
from npk._tile_plan import Device, Plan, Tile
from npk._tile_progress import Meter
from npk._tile_store import Record


def compute(
    work: _tile_devices.Work,
    plan: Plan,
    tiles: Sequence[Tile],
    devices: Sequence[Device],
    meter: Meter,
    done: int,
) -> None:
    """Compute and keep tiles, of which `done` others are done already."""
    meter.begin(done, sum(map(plan.pairs, tiles)))
    with contextlib.closing(_tile_devices.run(work, tiles, devices)) as events:
        for tile, here in events:
            meter.advance(plan.pairs(tile), here)


class Filling:
    """A store that is being filled."""

    def __init__(self, path: Path, record: Record, meter: Meter):
        self.path, self.record, self.meter = path, record, meter
        self.arrays = _tile_store.arrays_of(path, record)
        self.damaged: set[Tile] = set()

    def is_done(self, tile: Tile) -> bool:
        return tile not in self.damaged and _tile_store.is_done(list(self.arrays.values()), tile)

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
        parts = _tile_plan.kept(self.record.plan, self.record.leaves, tile, block)
        with _tile_store.errors(self.path, self.state):
            writing = [f for name, array in self.arrays.items() for f in array.write(tile, parts[name])]
            for future in writing:
                future.result()
            for array in self.arrays.values():
                array.release(tile)
        self.damaged.discard(tile)

    def fill(self, work: _tile_devices.Work, devices: Sequence[Device], process: tuple[int, int]) -> None:
        """Compute the tiles that are not done."""
        plan = self.record.plan
        _tile_store.complete_nodes(self.path, self.record)
        self.check()
        tiles = plan.tiles()
        order = _tile_plan.share(tiles, *process, start=random.SystemRandom().randrange(len(tiles)))
        todo = [tile for tile in order if not self.is_done(tile)]
        if not todo:
            return self.meter.begin(len(tiles), 0)
        _tile_store.check_writable(self.path, self.state)
        self.meter.say(self.room(todo))
        compute(dataclasses.replace(work, skip=self.is_done), plan, todo, devices, self.meter, len(tiles) - len(todo))

    def room(self, todo: Sequence[Tile]) -> str:
        plan, leaves = self.record.plan, self.record.leaves
        chunk = math.prod(plan.tile) * sum(leaf.dtype.itemsize * math.prod(leaf.axes) for leaf in leaves)
        needed = chunk * sum(len(plan.copies(tile)) for tile in todo)
        free = _tile_store.free_bytes(self.path)
        told = f"{needed / 1e9:,.2f} GB to be written at most, {free / 1e9:,.2f} GB of disk are free"
        return told if needed <= free else f"{told}: it may stop when the disk is full, and go on when there is room"
