"""Folders of runs: begun once, written whole file by whole file, continued only by the same configuration."""

import dataclasses
import datetime
import hashlib
import importlib.metadata
import json
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from npk.folders import is_fresh, replace
from npk.programs import cores

# Called with the fraction done and what is being done.
Progress = Callable[[float, str], None]

FORMAT = 1
_NOUNS = {"study": "study", "compare": "comparison"}
_VERSIONS = ("jax", "jaxlib", "flax", "optax", "numpy", "scipy", "scikit-learn")


def digest(config: dict[str, Any]) -> str:
    """A hash of a configuration, by which its run folder is recognised."""
    text = json.dumps({"format": FORMAT, **config}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def read_study(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """The content of a run folder's `study.json`.

    Args:
        folder: the run folder.

    Returns:
        Configuration, versions and numbers.

    Raises:
        FileNotFoundError: the folder holds no study.

    Example:
        >>> from npk.studies import read_study
        >>> read_study("nowhere")
        Traceback (most recent call last):
        FileNotFoundError: nowhere holds no study (no study.json).
    """
    return read_run(folder, "study")


def read_run(folder: str | os.PathLike[str], kind: str) -> dict[str, Any]:
    """The content of a run folder's file kind.json, or FileNotFoundError."""
    found = read_json(Path(folder) / f"{kind}.json")
    if found is None:
        raise FileNotFoundError(f"{folder} holds no {_NOUNS[kind]} (no {kind}.json).")
    return found


def read_json(path: Path) -> dict[str, Any] | None:
    """The content of a JSON file, or None where there is none."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


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


def carry_out(
    kind: str,
    config: dict[str, Any],
    out: str | os.PathLike[str],
    nothing: dict[str, Any],
    prepare: Callable[[], Callable[[Run], None]],
    *,
    resume: bool,
    progress: Progress | None,
) -> dict[str, Any]:
    """Begin, continue, or only read the run of a configuration; its file is kind.json.

    `nothing` is the content of a run of which nothing is done yet. `prepare` loads what the run needs, refuses what
    does not suit, and returns what fills the run; only after that is the folder made. A folder that holds something
    else, or a run while `resume` is not set, is a FileExistsError; a run of another configuration a ValueError.
    """
    folder, say = Path(out), progress or (lambda fraction, text: None)
    found = _existing(kind, config, folder, resume)
    if found is not None and found["finished"]:
        return found
    say(0.0, "loading data")
    fill = prepare()
    run = Run(folder / f"{kind}.json", found or _begun(config, nothing), say)
    if found is None:
        run.set()
    fill(run)
    run.set(finished=True)
    say(1.0, "done")
    return run.content


def _existing(kind: str, config: dict[str, Any], folder: Path, resume: bool) -> dict[str, Any] | None:
    """The run of that kind in the folder, or None where a new one may begin."""
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file: choose another folder.")
    noun, run = _NOUNS[kind], read_json(folder / f"{kind}.json")
    if run is None:
        if folder.is_dir() and not is_fresh(folder):
            raise FileExistsError(f"{folder} is not empty and holds no {noun}: choose another folder.")
        return None
    if not resume:
        done = f" ({len(run['stages'])} stages done)" if "stages" in run else ""
        state = f"a finished {noun}" if run["finished"] else f"an unfinished {noun}{done}"
        raise FileExistsError(f"{folder} already holds {state}: continue it with --resume, or choose another folder.")
    if run["digest"] != digest(config):
        sides = [(k, *(one.get(k, "nothing") for one in (run["config"], config))) for k in {**run["config"], **config}]
        other = [f"{k} = {there} there, {here} here" for k, there, here in sides if there != here]
        reason = "; ".join(other) or f"it was written in format {run['format']}, this is {FORMAT}"
        raise ValueError(f"{folder} holds a {noun} of another configuration ({reason}): choose another folder.")
    return run


def _begun(config: dict[str, Any], nothing: dict[str, Any]) -> dict[str, Any]:
    around = {key: value for key, value in surroundings().items() if key != "date"}
    return {"format": FORMAT, "digest": digest(config), "finished": False, "config": config, **around, **nothing}


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


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file whole."""
    replace(path, json.dumps(content, indent=1, ensure_ascii=False).encode())


def write_arrays(path: Path, **arrays: Any) -> None:
    """Write an NPZ file whole."""
    replace(path, lambda file: np.savez(file, **arrays))
