"""Checkpoints of a run, written whole by Orbax: a run that is killed at any moment continues from the last."""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from npk.folders import broken, differences, digest, fingerprint, is_fresh, read_json, seal, tidy, write_json

CONFIG, NOTES = "config.json", "notes.json"
_PARTIAL = ".partial"
_UNFINISHED = re.compile(rf"\d+\.[0-9a-f]{{16}}{re.escape(_PARTIAL)}")
_KEPT = 2  # the newest, and the one before it in case the newest is damaged


class Checkpoints:
    """The checkpoints of one run in a folder, each a tree of arrays with a few plain values.

    Args:
        folder: where they lie; made if it is not there.
        config: what the run is, in plain values; a folder of another run is refused.

    Raises:
        ValueError: the folder holds checkpoints of another configuration, which is named.
        FileExistsError: it holds something else.

    Example:
        >>> import jax.numpy as jnp, tempfile
        >>> from npk.training import Checkpoints
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     kept = Checkpoints(folder, {"lr": 0.1})
        ...     kept.save(3, {"w": jnp.ones(2)}, {"loss": 1.5})
        ...     step, state, notes = kept.restore(lambda notes: {"w": jnp.zeros(2)})
        >>> step, state["w"].tolist(), notes
        (3, [1.0, 1.0], {'loss': 1.5})
    """

    def __init__(self, folder: str | os.PathLike[str], config: dict[str, Any]) -> None:
        self.folder = Path(folder).absolute()
        path, plain = self.folder / CONFIG, json.loads(json.dumps(config))
        self.run = digest(plain)
        there = None
        if path.exists():
            try:
                there = read_json(path)
            except ValueError as error:
                raise ValueError(f"{error} What its checkpoints are of is not known: choose another folder.") from None
        elif self.folder.exists() and not (self.folder.is_dir() and is_fresh(self.folder)):
            raise FileExistsError(f"{folder} is not empty and holds no checkpoints of npk's: choose another folder.")
        if there is not None and (differ := differences(there, plain)):
            if self.steps():
                said = "; ".join(differ)
                raise ValueError(f"{folder} holds checkpoints of another run ({said}): choose another folder.")
            there = None
        if there is None:
            write_json(path, plain)

    def steps(self) -> list[int]:
        """The steps that have a checkpoint, in order.

        Returns:
            Steps, oldest first.
        """
        return _steps_in(self.folder)

    def save(self, step: int, state: Any, notes: dict[str, Any]) -> None:
        """Write a checkpoint; it counts only once it is whole, and only then is an older one let go.

        Args:
            step: its number.
            state: a tree of arrays.
            notes: plain values for JSON.

        Raises:
            OSError: it could not be written (a full disk); the checkpoints before it are as they were.
        """
        partial = self.folder / f"{step}.{os.urandom(8).hex()}{_PARTIAL}"
        try:
            partial.mkdir()
            with ocp.StandardCheckpointer() as checkpointer:
                checkpointer.save(partial / "state", state)
            noted = {"run": self.run, "step": step, "state": fingerprint(state), "notes": notes}
            write_json(partial / NOTES, noted)
            seal(partial)
            self._remove(step)
            partial.rename(self.folder / str(step))
        except Exception as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise OSError(
                f"the checkpoint of step {step} could not be written to {self.folder} ({error}); the ones before it "
                "are whole: make room and resume."
            ) from error
        for old in self.steps()[:-_KEPT]:
            self._remove(old)

    def _remove(self, step: int) -> None:
        """Remove a checkpoint; at no moment half of it is one."""
        whole = self.folder / str(step)
        if whole.is_dir() and not whole.is_symlink():
            partial = whole.with_name(f"{step}.{os.urandom(8).hex()}{_PARTIAL}")
            whole.rename(partial)
            shutil.rmtree(partial, ignore_errors=True)

    def tidy(self) -> None:
        """Remove what was never finished, and checkpoints that were to be; only while nobody else writes here."""
        tidy(self.folder)
        for old in self.steps()[:-_KEPT]:
            self._remove(old)
        for partial in self.folder.iterdir():
            if _UNFINISHED.fullmatch(partial.name) and not partial.is_symlink():
                shutil.rmtree(partial, ignore_errors=True)

    def restore(
        self, like: Callable[[dict[str, Any]], Any], on_damage: Callable[[str], None] | None = None
    ) -> tuple[int, Any, dict[str, Any]] | None:
        """Read the newest checkpoint that is whole.

        Args:
            like: from the notes to a tree of arrays, or of `jax.ShapeDtypeStruct`, of the structure that was saved.
            on_damage: told of a newer checkpoint that is not as it was written, or of another run.

        Returns:
            (step, state, notes), or None where there is no checkpoint.

        Raises:
            ValueError: there are checkpoints and none can be read.
        """
        failures = []
        for step in reversed(self.steps()):
            try:
                if harm := broken(self.folder / str(step)):
                    raise ValueError("; ".join(harm))
                if harm := _not_of(self.folder / str(step), self.run, step):
                    raise ValueError(harm)
                noted = read_json(self.folder / str(step) / NOTES)
                notes = noted["notes"]
                shapes = jax.tree_util.tree_map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), like(notes))
                with ocp.StandardCheckpointer() as checkpointer:
                    state = checkpointer.restore(self.folder / str(step) / "state", shapes)
                if fingerprint(state) != noted["state"]:
                    raise ValueError("its numbers are not those that were saved")
                return step, state, notes
            except Exception as error:  # whatever a damaged file makes Orbax raise
                failures.append(f"step {step} ({type(error).__name__})")
                if on_damage:
                    on_damage(f"the checkpoint of step {step} is damaged; going back to the one before it")
        if failures:
            raise ValueError(
                f"no checkpoint in {self.folder} can be read: {', '.join(failures)}; remove the folder to begin anew."
            )
        return None


def is_checkpoints(folder: Path) -> bool:
    """Whether a folder is one of checkpoints: it has a configuration with a checksum, or what `save` writes.

    Args:
        folder: of any kind.
    """
    try:
        read_json(folder / CONFIG)
    except OSError:
        return False
    except ValueError:
        return any((folder / str(step) / NOTES).is_file() for step in _steps_in(folder))
    return True


def check_checkpoints(folder: Path, repair: bool) -> tuple[dict[str, Any], tuple[str, ...], tuple[str, ...]]:
    """Look through the checkpoints of a run.

    Args:
        folder: of checkpoints.
        repair: remove damaged ones, where one that is whole is left.

    Returns:
        What the run is, what is not as it was written, and what was mended.
    """
    try:
        config = read_json(folder / CONFIG)
    except ValueError as error:
        return {}, (f"{error} What the checkpoints are of is not known.",), ()
    run, harms = digest(config), {}
    steps = _steps_in(folder)
    for step in reversed(steps):
        if harm := "; ".join(broken(folder / str(step))) or _not_of(folder / str(step), run, step):
            harms[step] = f"the checkpoint of step {step} is damaged: {harm}"
    if repair:
        tidy(folder)
    if not repair or len(harms) == len(steps):
        return config, tuple(harms.values()), ()
    for step in harms:
        shutil.rmtree(folder / str(step))
    return config, (), tuple(f"{harm}; it was removed" for harm in harms.values())


def _steps_in(folder: Path) -> list[int]:
    """The steps that have a folder."""
    found = (p for p in folder.iterdir() if p.is_dir() and not p.is_symlink())
    return sorted(int(p.name) for p in found if re.fullmatch("0|[1-9][0-9]*", p.name))


def _not_of(folder: Path, run: str, step: int) -> str:
    """Why a checkpoint that is whole is none of a run and step, or nothing."""
    try:
        noted = read_json(folder / NOTES)
    except (OSError, ValueError) as error:
        return str(error)
    return "" if (noted.get("run"), noted.get("step")) == (run, step) else "it is of another run or step"
