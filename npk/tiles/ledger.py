"""Which chunk belongs where: the checksums of all chunks of an array, bound to the record of its store.

A chunk carries a checksum of its own, which says that it is whole. That it is the chunk of this place, of this store,
stands here. While a store is filled every process notes what it has written in a file of its own, a line a chunk; when
all tiles are there they become one list. Where that is lost, chunks are taken by what they say, and that is said.
"""

import collections
import contextlib
import dataclasses
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from npk.folders import as_text, differences, digest, replace
from npk.tiles import records
from npk.tiles.plan import Leaf, Tile
from npk.tiles.records import Record, record_of

LIST, LOG = "tiles.json", ".tiles.log"
FORMAT = 1
_DAMAGE = (AttributeError, IndexError, KeyError, OSError, OverflowError, RecursionError, TypeError, ValueError)


class Ledger:
    """The checksums of the chunks of one array.

    Args:
        path: folder of the array.
        record: of the whole store.
        name: of the array in it.
    """

    def __init__(self, path: Path, record: Record, name: str):
        self.path, self.record = path, record
        self.bound = digest([record.as_json(), name])
        self.log = path / f"{os.urandom(8).hex()}{LOG}"
        self.sums: dict[Tile, set[str]] = {}
        self.damage, self.seen = "", ()
        self.read()

    def __bool__(self) -> bool:
        return bool(self.sums)

    def read(self) -> None:
        """What the list and all processes have noted by now."""
        found: dict[Tile, set[str]] = collections.defaultdict(set)
        self.damage, self.seen = "", _sizes(self.path)
        try:
            for tile, checksum in _listed(self.path, self.bound):
                found[tile].add(checksum)
        except FileNotFoundError:
            pass
        except ValueError as error:
            self.damage = str(error)
        for log in _logs(self.path):
            for tile, checksum in _noted(log, self.bound):
                found[tile].add(checksum)
        self.sums = dict(found)

    def holds(self, tile: Tile, checksum: str) -> bool:
        """Whether a chunk is the one that was written there; another process may just have written it."""
        if checksum not in self.sums.get(tile, ()) and self.seen != _sizes(self.path):
            self.read()
        return checksum in self.sums.get(tile, ())

    def note(self, written: Mapping[Tile, str]) -> None:
        """Remember chunks that are durable."""
        self.path.mkdir(parents=True, exist_ok=True)
        begun = [] if self.log.exists() else [as_text(self.record.as_json())]
        lines = [_line(self.bound, tile, checksum) for tile, checksum in written.items()]
        with self.log.open("a", encoding="utf-8") as file:
            file.write("".join(f"{line}\n" for line in begun + lines))
            file.flush()
            os.fsync(file.fileno())
        for tile, checksum in written.items():
            self.sums.setdefault(tile, set()).add(checksum)

    def is_of(self, chunks: Mapping[Tile, str]) -> bool:
        """Whether the list is of these chunks, and nothing is noted beside it."""
        with contextlib.suppress(FileNotFoundError, ValueError):
            return dict(_listed(self.path, self.bound)) == dict(chunks) and not list(_logs(self.path))
        return False

    def finish(self, chunks: Mapping[Tile, str]) -> None:
        """Write the list of an array that is whole, in place of what the processes have noted."""
        logs = list(_logs(self.path))
        places = {_place(tile): checksum for tile, checksum in sorted(chunks.items())}
        content = {"format": FORMAT, "record": self.record.as_json(), "chunks": places}
        replace(self.path / LIST, json.dumps({**content, "bound": self.bound, "sha256": digest(content)}).encode())
        for log in logs:
            log.unlink(missing_ok=True)
        self.read()


def ledger_of(path: Path, record: Record, leaf: Leaf) -> Ledger:
    """That of an array of a store, or of an array of a store of several that was opened alone."""
    if leaf.name:
        return Ledger(path / leaf.name, record, leaf.name)
    whole = record_at(path)
    if whole is not None and any(record == _alone(whole, one) for one in whole.leaves if one.name == path.name):
        return Ledger(path, whole, path.name)
    return Ledger(path, record, "")


def find(path: Path) -> Record | None:
    """As `records.find`, also of a store that has lost its description: its arrays know it."""
    noted = noted_in(path)
    if noted is None or (path / "zarr.json").exists():
        found = records.find(path)
        if noted is not None and found is not None and not _is_of(found, noted, path) and _has_chunks_of(path, noted):
            differ = "; ".join(differences(found.as_json(), noted.as_json()))
            raise ValueError(
                f"{path / 'zarr.json'} is not as it was written: beside its chunks it is noted as another store "
                f"({differ}). `npk verify --repair` writes it again."
            )
        return found
    return noted


def _is_of(found: Record, whole: Record, path: Path) -> bool:
    """Whether a record is that of a whole store, or of one of its arrays."""
    return found == whole or any(found == _alone(whole, leaf) for leaf in whole.leaves if leaf.name == path.name)


def _has_chunks_of(path: Path, whole: Record) -> bool:
    """Whether more chunks that are there are those of the lists than are not: a list may be the wrong one, too."""
    right = wrong = 0
    for leaf in whole.leaves:
        folder = path if leaf.name in ("", path.name) else path / leaf.name
        with contextlib.suppress(*_DAMAGE):
            for place, checksum in _content(folder)["chunks"].items():
                file = folder / ".".join(("c", place, *("0" for _ in leaf.axes)))
                if file.is_file():
                    same = file.read_bytes()[-4:].hex() == checksum
                    right, wrong = right + same, wrong + (not same)
    return right > wrong


def noted_in(path: Path) -> Record | None:
    """The record of a store as it is noted beside the chunks of its arrays."""
    inner = (p for p in sorted(path.iterdir()) if p.is_dir() and not p.is_symlink()) if path.is_dir() else ()
    folders = [path, *inner]
    return next((found for folder in folders if (found := record_at(folder)) is not None), None)


def _alone(record: Record, leaf: Leaf) -> Record:
    return dataclasses.replace(record, leaves=(dataclasses.replace(leaf, name=""),))


def record_at(path: Path) -> Record | None:
    """The record of the whole store, as it is noted beside the chunks of an array."""
    with contextlib.suppress(*_DAMAGE):
        return record_of(_content(path)["record"], path / LIST)
    for log in _logs(path):
        with contextlib.suppress(*_DAMAGE):
            return record_of(json.loads(log.read_text(encoding="utf-8").partition("\n")[0]), log)
    return None


def _sizes(path: Path) -> tuple[tuple[str, int], ...]:
    """Of the list and all logs: where one has grown, it is read again."""
    found = []
    for file in (path / LIST, *_logs(path)):
        with contextlib.suppress(FileNotFoundError):
            found.append((file.name, file.stat().st_size))
    return tuple(found)


def _logs(path: Path) -> list[Path]:
    return sorted(path.glob(f"*{LOG}"))


def _content(path: Path) -> dict[str, Any]:
    """The list, every bit as it was written."""
    try:
        content = json.loads((path / LIST).read_text(encoding="utf-8"))
        bound, checksum = content.pop("bound"), content.pop("sha256")
        if checksum != digest(content) or content["format"] != FORMAT:
            raise ValueError("its checksum is another")
        return {**content, "bound": bound}
    except FileNotFoundError:
        raise
    except _DAMAGE as error:
        raise ValueError(f"{path / LIST} is not as it was written ({error})") from None


def _listed(path: Path, bound: str) -> Iterator[tuple[Tile, str]]:
    content = _content(path)
    if content["bound"] != bound:
        raise ValueError(f"{path / LIST} is of another store")
    chunks = content.get("chunks")
    if not isinstance(chunks, dict) or not all(isinstance(checksum, str) for checksum in chunks.values()):
        raise ValueError(f"{path / LIST} is no list of chunks")
    for place, checksum in chunks.items():
        yield _tile(place), checksum


def _noted(path: Path, bound: str) -> Iterator[tuple[Tile, str]]:
    """The lines of a log that are whole, and of this store."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:  # another process has just made the list of it
        return
    for line in lines[1:]:
        with contextlib.suppress(ValueError):
            place, checksum, _ = line.split("\t")
            if line == _line(bound, _tile(place), checksum):
                yield _tile(place), checksum


def _line(bound: str, tile: Tile, checksum: str) -> str:
    """A chunk and its checksum, with one over the line and what it is bound to."""
    text = f"{_place(tile)}\t{checksum}"
    return f"{text}\t{digest([bound, text])[:16]}"


def _place(tile: Tile) -> str:
    return f"{tile[0]}.{tile[1]}"


def _tile(place: str) -> Tile:
    row, column = place.split(".")
    return int(row), int(column)
