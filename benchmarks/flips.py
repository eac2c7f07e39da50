"""Flipped bits: of every file of every kind of folder, one at a time, and what becomes of it when it is read.

Told: an error, or a sentence, that names the file or its folder. Harmless: the same numbers. Else it is silent (other
numbers) or a traceback (an error of another kind, or one that names nothing). Beside bits: files that are cut, empty,
missing, a folder, of a stranger.
"""

import contextlib
import dataclasses
import pathlib
import random
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from benchmarks.crash_jobs import JOBS, without_times
from benchmarks.crash_points import contents, unlike
from npk.folders import read_arrays, read_json
from npk.studies import read_study, verify
from npk.tiles import open_kernel
from npk.training import Checkpoints

Numbers = Any
Found = tuple[Numbers, list[str]]  # what was read, and what was said of harms

STRANGE = {
    "cut": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "longer": lambda content: content + b"\0",
    "zeros": lambda content: bytes(len(content)),
    "not UTF-8": lambda content: b"\xff\xfe" + content,
    "a list": lambda content: b"[1, 2]",
    "null": lambda content: b"null",
    "a mapping": lambda content: b'{"sha256": 1, "attributes": 2, "format": true}',
    "deep": lambda content: b"[" * 100_000,
    "a long number": lambda content: b"1" * 10_000,
    "missing": None,
    "a folder": None,
}
_STRANGE = 8  # files of numbers that become none


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of folder.

    Attributes:
        make: it, as npk does.
        read: its numbers, as npk does.
        descriptions: patterns of the files whose every bit is flipped; the others hold numbers.
    """

    make: Callable[[pathlib.Path], Any]
    read: Callable[[pathlib.Path], Found]
    descriptions: tuple[str, ...]


@dataclasses.dataclass
class Count:
    """What became of some harms; those that were not told are named."""

    what: str
    tried: int = 0
    told: int = 0
    harmless: int = 0
    silent: list[str] = dataclasses.field(default_factory=list)
    tracebacks: list[str] = dataclasses.field(default_factory=list)

    def add(self, verdict: str, name: str) -> None:
        self.tried += 1
        if verdict == "told":
            self.told += 1
        elif verdict == "harmless":
            self.harmless += 1
        elif verdict.startswith("silent"):
            self.silent.append(f"{name}: {verdict}")
        else:
            self.tracebacks.append(f"{name}: {verdict}")


# ------------------------------------------------------------------------------------ kinds of folders


def _kernels(folder: pathlib.Path) -> Found:
    found = open_kernel(folder)
    kernels = found if isinstance(found, dict) else {"": found}
    return {name: np.asarray(kernel.read(), np.float64).tolist() for name, kernel in kernels.items()}, []


def _checked(folder: pathlib.Path) -> Found:
    """Only whether it is whole; numbers are what it is said to be of."""
    verdict = verify(folder)
    return [list(row) for row in verdict.of], list(verdict.harms)


def _study(folder: pathlib.Path) -> Found:
    content = read_study(folder)
    arrays = {name: read_arrays(folder / name, checksum) for name, checksum in content["files"].items()}
    return without_times(content) | {
        name: {key: a.tolist() for key, a in found.items()} for name, found in arrays.items()
    }, []


def _reproduction(folder: pathlib.Path) -> Found:
    return without_times(read_json(folder / "cob-odt.json")), []


_CONFIG = {"rate": 0.1, "layers": [3, 4], "bias": None}


def _state(step: int) -> dict[str, Any]:
    return {"w": jax.numpy.arange(12, dtype="float32").reshape(3, 4) / step, "n": jax.numpy.full((2,), step, "int32")}


def _notes(step: int) -> dict[str, Any]:
    return {"loss": 0.5 * step, "records": [[0, 0.25], [step, 0.125]]}


def _checkpoints(folder: pathlib.Path) -> None:
    kept = Checkpoints(folder, _CONFIG)
    for step in (1, 2):
        kept.save(step, _state(step), _notes(step))


def _restored(folder: pathlib.Path) -> Found:
    """Relative to what the step that was read should hold: an earlier one is as right, where that is said."""
    said: list[str] = []
    found = Checkpoints(folder, _CONFIG).restore(lambda notes: _state(1), said.append)
    if found is None:
        return None, said
    step, state, notes = found
    same = all(np.array_equal(state[name], _state(step)[name]) for name in ("w", "n"))
    return [same, notes == _notes(step), step == 2 or bool(said)], said


def _made(job: str) -> Callable[[pathlib.Path], Any]:
    return lambda folder: JOBS[job].run(folder, False)


KINDS = {
    "a stored kernel": Kind(_made("stored kernel"), _kernels, ("*.json",)),
    "stored kernels": Kind(_made("stored kernels"), _kernels, ("*.json",)),
    "a stored kernel, verified": Kind(_made("stored kernel"), _checked, ("*.json",)),
    "checkpoints": Kind(_checkpoints, _restored, ("*.json",)),
    "checkpoints, verified": Kind(_checkpoints, _checked, ("*.json",)),
    "a study": Kind(_made("study"), _study, ("study.json",)),
    "a study, verified": Kind(_made("study"), _checked, ("study.json",)),
    "a comparison, verified": Kind(_made("comparison"), _checked, ("compare.json",)),
    "a reproduction": Kind(_made("reproduction"), _reproduction, ("cob-odt.json",)),
    "a reproduction, verified": Kind(_made("reproduction"), _checked, ("cob-odt.json",)),
}


# --------------------------------------------------------------------------------------------- harms


def judge(folder: pathlib.Path, read: Callable[[pathlib.Path], Found], wanted: Numbers) -> str:
    """ "told", "harmless", or what was wrong."""
    try:
        found, said = read(folder)
    except (OSError, ValueError) as error:  # FileExistsError and FileNotFoundError among them
        return "told" if str(folder) in str(error) else f"names nothing: {type(error).__name__}: {error}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    if said:
        return "told" if all(text.strip() for text in said) else "says nothing"
    return "harmless" if found == wanted else "silent: other numbers"


@contextlib.contextmanager
def kept(folder: pathlib.Path, path: pathlib.Path) -> Iterator[bytes]:
    """The content of a file, which is there again afterwards."""
    content = path.read_bytes()
    try:
        yield content
    finally:
        if path.is_dir():
            shutil.rmtree(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def flips(
    folder: pathlib.Path, path: pathlib.Path, kind: Kind, wanted: Numbers, bits: "range | list[int]", count: Count
) -> None:
    """One bit at a time."""
    with kept(folder, path) as content:
        for bit in bits:
            changed = bytearray(content)
            changed[bit // 8] ^= 1 << (bit % 8)
            path.write_bytes(changed)
            count.add(judge(folder, kind.read, wanted), f"bit {bit} of {path.relative_to(folder)}")


def strange(folder: pathlib.Path, path: pathlib.Path, kind: Kind, wanted: Numbers, count: Count) -> None:
    """Files that are none."""
    for name, change in STRANGE.items():
        with kept(folder, path) as content:
            if change is not None:
                path.write_bytes(change(content))
            else:
                path.unlink()
                if name == "a folder":
                    path.mkdir()
            count.add(judge(folder, kind.read, wanted), f"{path.relative_to(folder)}, {name}")


def tried(name: str, folder: pathlib.Path, every: int, data: int, seed: int = 0) -> Iterator[Count]:
    """Harm a folder of a kind.

    Args:
        name: of `KINDS`.
        folder: where it is made, if it is not there.
        every: only every n-th bit of descriptions.
        data: how many bits of files of numbers, at random.
        seed: of those.

    Yields:
        Counts: of bits of each description, of bits of numbers, of files that are none.
    """
    kind, draw = KINDS[name], random.Random(seed)
    if not folder.exists():
        kind.make(folder)
    wanted, said = kind.read(folder)
    assert not said, said
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    own = {p: any(p.match(pattern) for pattern in kind.descriptions) for p in files}
    by_name: dict[str, list[pathlib.Path]] = {}
    for path in (path for path in files if own[path] and "state" not in path.relative_to(folder).parts):
        by_name.setdefault(path.name, []).append(path)
    for file, paths in by_name.items():
        count = Count(f"{name}: bits of {file}")
        for path in paths:
            bits = range(draw.randrange(every), 8 * path.stat().st_size, every)
            flips(folder, path, kind, wanted, bits, count)
        yield count
    others = [path for path in files if not own[path] and path.stat().st_size]
    if others and data:
        count = Count(f"{name}: bits of numbers")
        for _ in range(data):
            path = draw.choice(others)
            flips(folder, path, kind, wanted, [draw.randrange(8 * path.stat().st_size)], count)
        yield count
    count = Count(f"{name}: files that are none")
    for path in [path for path in files if own[path]] + draw.sample(others, min(len(others), _STRANGE)):
        strange(folder, path, kind, wanted, count)
    yield count
    assert kind.read(folder) == (wanted, []), "it is as it was"


def given_again(job: str, folder: pathlib.Path, number: int, seed: int = 0) -> Count:
    """Flip bits of a finished folder at random, and give the command again: it ends as it was, or tells."""
    draw, whole = random.Random(seed), folder.with_name(f"{folder.name}-whole")
    if not whole.exists():
        JOBS[job].run(whole, False)
    wanted, count = (JOBS[job].run(whole, True), contents(whole)), Count(f"{job}: given again")

    def read(_: pathlib.Path) -> Found:
        return JOBS[job].run(folder, True), []

    files = sorted(path.relative_to(whole) for path in whole.rglob("*") if path.is_file() and path.stat().st_size)
    for turn in range(number):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(whole, folder)
        name = files[turn % len(files)]
        content = bytearray((folder / name).read_bytes())
        bit = draw.randrange(8 * len(content))
        content[bit // 8] ^= 1 << (bit % 8)
        (folder / name).write_bytes(content)
        verdict = judge(folder, read, wanted[0])
        whole_again = job != "training"  # of checkpoints the newest alone is read, and the other left
        if verdict == "harmless" and whole_again and (differ := unlike(contents(folder), wanted[1])):
            verdict = f"silent: {differ}"
        count.add(verdict, f"bit {bit} of {name}")
    return count
