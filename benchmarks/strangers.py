"""Files of a stranger: each value of a description is another, under a checksum that is right.

What it says cannot be told from what npk wrote, so that other numbers are no harm; but it is read, or refused by name.
"""

import hashlib
import json
import pathlib
import random
from collections.abc import Iterator
from typing import Any

from benchmarks.flips import KINDS, Count, judge, kept
from npk.folders import digest, seal, write_json

VALUES = (None, 3, "x", [], {}, True, -1.5, "../../evil", [1], {"a": 1}, 10**30)
_GONE = object()


def places(content: Any, before: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value, of lists to the first two."""
    yield before
    if isinstance(content, dict):
        for key, value in content.items():
            yield from places(value, (*before, key))
    elif isinstance(content, list):
        for number, value in enumerate(content[:2]):
            yield from places(value, (*before, number))


def changed(content: Any, place: tuple[Any, ...], value: Any) -> Any:
    """A copy with another value at a place, or none."""
    if not place:
        return value
    copy = json.loads(json.dumps(content))
    around = copy
    for key in place[:-1]:
        around = around[key]
    if value is _GONE:
        del around[place[-1]]
    else:
        around[place[-1]] = value
    return copy


def write(path: pathlib.Path, content: Any) -> None:
    """As npk would have written it."""
    if path.name == "zarr.json" or not isinstance(content, dict):
        path.write_text(json.dumps(content))
    elif path.name == "tiles.json":
        bound = content.pop("bound", None)
        content.pop("sha256", None)
        path.write_text(json.dumps({**content, "bound": bound, "sha256": digest(content)}))
    elif path.name == "manifest.json":
        text = json.dumps(content.get("files"), sort_keys=True)
        path.write_text(json.dumps({**content, "sha256": hashlib.sha256(text.encode()).hexdigest()}))
    else:
        write_json(path, content)


def tried(name: str, folder: pathlib.Path, share: float, seed: int = 0) -> Count:
    """Put every value at every place of the descriptions of a kind of folder, or a share of them.

    Args:
        name: of `KINDS`.
        folder: where it is made, if it is not there.
        share: of the changes that are tried.
        seed: of which.

    Returns:
        What became of them; other numbers count as harmless.
    """
    kind, count, draw = KINDS[name], Count(f"{name}: of a stranger"), random.Random(seed)
    if not folder.exists():
        kind.make(folder)
    files = [path for path in sorted(folder.rglob("*.json")) if any(path.match(p) for p in kind.descriptions)]
    for path in files:
        sealed = path.parent / "manifest.json" if path.name == "notes.json" else path
        with kept(folder, path) as written, kept(folder, sealed):
            content = json.loads(written)
            for place in places(content):
                gone = (_GONE,) if place and isinstance(place[-1], str) else ()
                for value in (*VALUES, *gone):
                    if draw.random() >= share:
                        continue
                    write(path, changed(content, place, value))
                    if path.name == "notes.json":
                        seal(path.parent)
                    verdict = judge(folder, kind.read, None)
                    said = "nothing" if value is _GONE else json.dumps(value)
                    at = f"{path.relative_to(folder)}, {'.'.join(map(str, place))} is {said}"
                    count.add("harmless" if verdict.startswith("silent") else verdict, at)
    return count
