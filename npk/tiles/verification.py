"""Whether a store is as it was written, and what of it can be mended without its kernel."""

import dataclasses
from pathlib import Path

from npk.folders import tidy
from npk.tiles import disk, ledger, records, store
from npk.tiles.ledger import LIST
from npk.tiles.plan import Tile
from npk.tiles.records import FORMAT, Record
from npk.tiles.store import TileArray
from npk.tiles.stored_kernel import damaged

_SHOWN = 5  # tiles that are named


def is_store(path: Path) -> bool:
    """Whether a folder is one of a kernel, or what is left of one."""
    return (path / "zarr.json").exists() or ledger.noted_in(path) is not None


def check_store(path: Path, repair: bool) -> tuple[Record | None, tuple[str, ...], tuple[str, ...]]:
    """Look through a store.

    Args:
        path: its folder.
        repair: write again what the chunks and what is noted beside them determine: descriptions, lists of chunks.

    Returns:
        What its numbers are of, where that is known; what is not as it was written; and what was mended.
    """
    harms: list[str] = []
    mended: list[str] = []
    if repair:
        tidy(path)
    record = _described(path, repair, harms, mended)
    if record is None:
        return None, tuple(harms), tuple(mended)
    if record.format != FORMAT and repair:
        record = _renewed(path, record)
        mended.append(f"{path / 'zarr.json'} is of format {FORMAT} now")
    for name, array in store.arrays_of(path, record).items():
        if not (array.path / "zarr.json").exists():
            harms.append(f"{array.path / 'zarr.json'} is missing")
            continue
        _check_array(array, name, repair, harms, mended)
    return record, tuple(harms), tuple(mended)


def _described(path: Path, repair: bool, harms: list[str], mended: list[str]) -> Record | None:
    """The record of a store; its descriptions are written again where they are lost and it is noted."""
    noted = ledger.noted_in(path)
    try:
        found = ledger.find(path) if (path / "zarr.json").exists() else None
        harm = "" if found else f"{path / 'zarr.json'} is missing"
    except (ValueError, FileExistsError) as error:
        found, harm = None, str(error)
    record = found or noted
    if harm and (noted is None or not repair):
        harms.append(harm)
        return record if noted is not None and not (path / "zarr.json").exists() else None
    assert record is not None
    lost = [folder / "zarr.json" for folder in records.folders_of(path, record) if harm or not _is_there(folder)]
    if lost and repair:
        records.rewrite(path, record)
        mended += [f"{description} was written again" for description in lost]
    return record


def _is_there(folder: Path) -> bool:
    return (folder / "zarr.json").exists()


def _renewed(path: Path, record: Record) -> Record:
    """A store of the format before as one of this: its kernel's program is not known."""
    renewed = dataclasses.replace(record, format=FORMAT)
    records.rewrite(path, renewed)
    return renewed


def _check_array(array: TileArray, name: str, repair: bool, harms: list[str], mended: list[str]) -> None:
    plan, which = array.plan, f" of {name}" if name else ""
    every = [copy for tile in plan.tiles() for copy in plan.copies(tile)]
    missing = [tile for tile in every if not array.exists(tile)]
    wrong = sorted(set(damaged(array, [tile for tile in every if tile not in set(missing)])))
    if missing:
        harms.append(f"{len(missing):,} of {len(every):,} tiles{which} are not there ({_named(missing)})")
    if wrong:
        harms.append(f"{len(wrong):,} of {len(every):,} tiles{which} are damaged ({_named(wrong)})")
    if array.ledger or array.ledger.record.format != FORMAT:
        return
    lost = array.ledger.damage or f"{array.path / LIST} is missing"
    if not repair or missing or wrong:
        harms.append(f"{lost}: which chunk belongs where is not known, but by the chunks' own checksums")
        return
    with disk.errors(array.path):
        array.ledger.finish(array.checksums(plan.tiles()))
    mended.append(f"{array.path / LIST} was made again of what the chunks say")


def _named(tiles: list[Tile]) -> str:
    return ", ".join(map(str, tiles[:_SHOWN])) + (", …" if len(tiles) > _SHOWN else "")
