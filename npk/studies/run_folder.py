"""Folders of runs: begun once, written whole file by whole file, continued only by the same configuration."""

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

from npk.programs import cores

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
    path = Path(folder) / "study.json"
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no study (no study.json).")
    return json.loads(path.read_text(encoding="utf-8"))


def existing(config: dict[str, Any], folder: Path, resume: bool, kind: str = "study") -> dict[str, Any] | None:
    """The run of that kind in the folder, or None where a new one may begin; its file is kind.json."""
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file: choose another folder.")
    path = folder / f"{kind}.json"
    if path.exists():
        run = json.loads(path.read_text(encoding="utf-8"))
        _check_same(config, run, folder, resume, kind)
        return run
    if folder.is_dir() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty and holds no {_NOUNS[kind]}: choose another folder.")
    return None


def _check_same(config: dict[str, Any], run: dict[str, Any], folder: Path, resume: bool, kind: str) -> None:
    noun = _NOUNS[kind]
    done = f" ({len(run['stages'])} stages done)" if "stages" in run else ""
    state = f"a finished {noun}" if run["finished"] else f"an unfinished {noun}{done}"
    if not resume:
        raise FileExistsError(f"{folder} already holds {state}: continue it with --resume, or choose another folder.")
    if run["digest"] != digest(config):
        other = [f"{k} = {v} there, {config.get(k)} here" for k, v in run["config"].items() if v != config.get(k)]
        reason = "; ".join(other) or f"it was written in format {run['format']}, this is {FORMAT}"
        raise ValueError(f"{folder} holds a {noun} of another configuration ({reason}): choose another folder.")


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


def begin(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Make the folder, and in it the `study.json` of a study of which nothing is done yet."""
    (folder / "kernels").mkdir(parents=True, exist_ok=True)
    nothing = {"data": None, "network": None, "training": None, "pixels": None, "stages": [], "regimes": []}
    return begin_run(config, folder, "study", nothing)


def begin_run(config: dict[str, Any], folder: Path, kind: str, nothing: dict[str, Any]) -> dict[str, Any]:
    """Make the folder, and in it the kind.json of a run of which nothing is done yet."""
    folder.mkdir(parents=True, exist_ok=True)
    run = {
        "format": FORMAT,
        "digest": digest(config),
        "finished": False,
        "config": config,
        **{key: value for key, value in surroundings().items() if key != "date"},
        **nothing,
    }
    write_json(folder / f"{kind}.json", run)
    return run


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file whole."""
    replace(path, json.dumps(content, indent=1, ensure_ascii=False).encode())


def write_arrays(path: Path, **arrays: Any) -> None:
    """Write an NPZ file whole."""
    replace(path, lambda file: np.savez(file, **arrays))


def replace(path: Path, content: bytes | Callable[[Any], Any]) -> None:
    """Write beside and rename, so that a reader, or an interruption, never meets half a file."""
    temporary = path.with_name(path.name + ".part")
    with temporary.open("wb") as file:
        if callable(content):
            content(file)
        else:
            file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
