"""Folders of runs: begun once, written whole file by whole file, continued only by the same run of the same data.

The JSON file of a run says what it is of (configuration, data, network, versions), holds every number, and lists the
arrays beside it with their checksums. An array that is lost or damaged is computed again, as the seed determines it.
"""

import contextlib
import dataclasses
import datetime
import functools
import importlib.metadata
import json
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from npk.folders import (
    differences,
    inside,
    is_fresh,
    locked,
    read_arrays,
    read_json,
    tidy,
    versions,
    write_arrays,
    write_json,
)
from npk.programs import cores

# Called with the fraction done and what is being done.
Progress = Callable[[float, str], None]

FORMAT = 2  # 1 knew neither data nor program, and had no checksums
_NOUNS = {"study": "study", "compare": "comparison"}
_VERSIONS = ("jax", "jaxlib", "flax", "optax", "numpy", "scipy", "scikit-learn")
_TYPES = {"format": int, "finished": bool, "config": dict, "identity": dict, "files": dict, "versions": dict}
_TYPES |= {"asked": dict, "rows": list, "stages": list, "ladder": list}
_PARTS = ("format", "finished", "config", "identity", "files", "versions", "machine")


def read_study(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """The content of a run folder's `study.json`.

    Args:
        folder: the run folder.

    Returns:
        Configuration, versions and numbers.

    Raises:
        FileNotFoundError: the folder holds no study.
        ValueError: it is damaged.

    Example:
        >>> from npk.studies import read_study
        >>> read_study("nowhere")
        Traceback (most recent call last):
        FileNotFoundError: nowhere holds no study (no study.json).
    """
    return read_run(folder, "study")


def read_run(folder: str | os.PathLike[str], kind: str) -> dict[str, Any]:
    """The content of a run folder's file kind.json, or FileNotFoundError."""
    try:
        return read_content(Path(folder) / f"{kind}.json", _PARTS)
    except FileNotFoundError:
        raise FileNotFoundError(f"{folder} holds no {_NOUNS[kind]} (no {kind}.json).") from None


def read_content(path: Path, parts: Sequence[str]) -> dict[str, Any]:
    """A run's JSON file, which must have these parts; one of the format before has no checksum.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged.
    """
    try:
        content = read_json(path)
        lacking = [part for part in ("format", *parts) if not isinstance(content.get(part), _TYPES.get(part, object))]
        if lacking or content["format"] != FORMAT:
            raise ValueError(f"{path} holds no run of format {FORMAT} ({', '.join(lacking) or 'format'}).")
        return content
    except ValueError as error:
        with contextlib.suppress(OSError, ValueError, RecursionError):
            older = json.loads(path.read_bytes())
            known = isinstance(older, dict) and all(isinstance(older.get(p), _TYPES[p]) for p in ("finished", "config"))
            if known and older.get("format") == 1 and not {"identity", "sha256"} & set(older):
                return older
        raise ValueError(
            f"{error} The same flags give the same numbers again: remove the folder, or choose another."
        ) from None


class Filling(NamedTuple):
    """What a run is of, and what fills it.

    Attributes:
        identity: fingerprints of its data, and of the programs of its networks.
        fill: computes what is not there.
    """

    identity: Mapping[str, Any]
    fill: Callable[["Run"], None]


@dataclasses.dataclass(frozen=True)
class Run:
    """A run on its way: the content of its JSON file, which is written anew as each part ends."""

    path: Path
    content: dict[str, Any]
    progress: Progress

    @property
    def folder(self) -> Path:
        return self.path.parent

    def between(self, start: float, end: float) -> Progress:
        """The progress of a part, whose own fractions run from 0 to 1."""
        return lambda fraction, text: self.progress(start + (end - start) * fraction, text)

    def set(self, **parts: Any) -> None:
        """Replace parts of the content."""
        self.content.update(parts)
        write_json(self.path, self.content)

    def add(self, part: str, *rows: Any) -> None:
        """Append to a list of the content."""
        self.set(**{part: [*self.content[part], *rows]})

    def write(self, name: str, **arrays: Any) -> None:
        """Write arrays beside; the JSON file, when it is next written, says which."""
        self.content["files"][name] = write_arrays(inside(self.folder, name), arrays)

    def read(self, name: str) -> dict[str, np.ndarray]:
        """Arrays that were written, every bit as it was.

        Raises:
            FileNotFoundError: they are not there.
            ValueError: they are damaged, or others.
        """
        return run_arrays(self.folder, self.content, name)

    def has(self, name: str) -> bool:
        """Whether arrays are there as they were written; what is lost is said."""
        if name not in self.content["files"]:
            return False
        if lost := lost_files(self.folder, {name: self.content["files"][name]}):
            self.progress(0.0, f"{lost[0]} It is computed again")
        return not lost


def run_arrays(folder: Path, content: Mapping[str, Any], name: str) -> dict[str, np.ndarray]:
    """Arrays of a run, every bit as it was; those of the format before have no checksum.

    Raises:
        FileNotFoundError: they are not there.
        ValueError: they are damaged, or others.
    """
    if content["format"] == FORMAT:
        return read_arrays(inside(folder, name), content["files"].get(name, ""))
    with np.load(inside(folder, name), allow_pickle=False) as arrays:
        return dict(arrays)


def lost_files(folder: Path, files: Mapping[str, str]) -> tuple[str, ...]:
    """What is not there as it was written, of a run's arrays: a sentence each."""
    found = []
    for name, checksum in files.items():
        try:
            read_arrays(inside(folder, name), str(checksum))
        except FileNotFoundError:
            found.append(f"{folder / name} is missing.")
        except ValueError as error:
            found.append(str(error))
    return tuple(found)


def carry_out(
    kind: str,
    config: dict[str, Any],
    out: str | os.PathLike[str],
    nothing: dict[str, Any],
    prepare: Callable[[], Filling],
    *,
    resume: bool,
    progress: Progress | None,
) -> dict[str, Any]:
    """Begin, continue, or only read the run of a configuration; its file is kind.json.

    `nothing` is the content of a run of which nothing is done yet. `prepare` loads what the run needs, refuses what
    does not suit, and returns what fills the run; only after that is the folder made. A folder that holds something
    else, that another process writes, or a run while `resume` is not set, is a FileExistsError; a run of another
    configuration, of other data or by other versions a ValueError. Of a finished run versions are not compared: nothing
    is added to it but arrays that were lost.
    """
    folder, say = Path(out), progress or (lambda fraction, text: None)
    existing = functools.partial(_existing, kind, config, folder, resume)
    found = existing()
    say(0.0, "loading data")
    try:
        identity, fill = prepare()
    except FileNotFoundError:
        if found is None or not found["finished"] or lost_files(folder, found.get("files", {})):
            raise
        say(0.0, "the data are not here, and not compared")
        return found
    with locked(folder):
        tidy(folder)
        found = existing()  # another process may have been here
        if found is None:
            around = surroundings()
            own = {"format": FORMAT, "finished": False, "config": config, "identity": {**identity}, "files": {}}
            found = {**own, **{k: v for k, v in around.items() if k != "date"}, **json.loads(json.dumps(nothing))}
            run = Run(folder / f"{kind}.json", found, say)
            run.set()
        else:
            check_identity(folder, found, identity)
            run = Run(folder / f"{kind}.json", found, say)
            if found["finished"] and not lost_files(folder, found.get("files", {})):
                return found
            found["finished"] = False  # until what was lost is there again
        fill(run)
        run.set(finished=True)
    say(1.0, "done")
    return run.content


def _existing(kind: str, config: dict[str, Any], folder: Path, resume: bool) -> dict[str, Any] | None:
    """The run of that kind in the folder, or None where a new one may begin."""
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file: choose another folder.")
    noun, path = _NOUNS[kind], folder / f"{kind}.json"
    if not path.exists():
        if folder.is_dir() and not is_fresh(folder):
            raise FileExistsError(f"{folder} is not empty and holds no {noun} (no {kind}.json): choose another folder.")
        return None
    run = read_content(path, _PARTS)
    if not _is_begun(run):
        return None  # nothing of it is done: it is taken over
    if not resume:
        done = f" ({len(run['stages'])} stages done)" if "stages" in run else ""
        state = f"a finished {noun}" if run["finished"] else f"an unfinished {noun}{done}"
        raise FileExistsError(f"{folder} already holds {state}: continue it with --resume, or choose another folder.")
    if differ := differences(run["config"], config):
        raise ValueError(
            f"{folder} holds a {noun} of another configuration ({'; '.join(differ)}): choose another folder."
        )
    return run


def _is_begun(run: Mapping[str, Any]) -> bool:
    """Whether anything of a run is done."""
    return bool(run.get("files", True) or run["finished"])


def check_identity(folder: Path, run: Mapping[str, Any], identity: Mapping[str, Any]) -> None:
    """Refuse to go on with a run of other data, of another network, or by other versions."""
    if run["format"] != FORMAT:
        if not run["finished"]:
            raise ValueError(f"{folder} was begun by an older npk, which did not note its data: choose another folder.")
        return
    there, here = dict(run["identity"]), json.loads(json.dumps({**identity}))
    if run["finished"]:
        there, here = ({k: v for k, v in side.items() if k != "versions"} for side in (there, here))
    if differ := differences(there, here):
        raise ValueError(
            f"{folder} holds a run of something else ({'; '.join(differ)}): choose another folder, or go on with what "
            "it was begun with."
        )


def identity_of(data: Mapping[str, str], **programs: str | None) -> dict[str, Any]:
    """What numbers are of beside a configuration: data by fingerprint, programs by hash, versions."""
    computing = {**surroundings()["versions"], **versions(jax.default_backend())}
    return {"data": dict(data), "programs": programs, "versions": computing}


def surroundings() -> dict[str, Any]:
    """What numbers depend on besides the configuration: versions and machine; and the date."""
    return {
        "date": datetime.date.today().isoformat(),
        "versions": {"python": platform.python_version(), **{p: importlib.metadata.version(p) for p in _VERSIONS}},
        "machine": {
            "system": f"{platform.system()} {platform.machine()}",
            "cores": cores(),
            "device": jax.devices()[0].device_kind,
        },
    }
