"""Checkpoints of a run, written whole by Orbax: a run that is killed at any moment continues from the last."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from npk.folders import broken, is_sealed, replace, seal

_KEPT = 2  # the newest, and the one before it in case the newest is damaged


class Checkpoints:
    """The checkpoints of one run in a folder, each a tree of arrays with a few plain values.

    Args:
        folder: where they lie; made if it is not there.
        config: what the run is, in plain values; a folder of another run is refused.

    Raises:
        ValueError: the folder holds checkpoints of another configuration.

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
        self.folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(config, sort_keys=True, indent=1)
        path = self.folder / "config.json"
        if path.exists():
            if path.read_text(encoding="utf-8") != text:
                raise ValueError(f"{folder} holds checkpoints of another configuration: choose another folder.")
            return
        replace(path, text.encode())

    def steps(self) -> list[int]:
        """The steps that have a checkpoint, in order.

        Returns:
            Steps, oldest first.
        """
        return sorted(int(p.name) for p in self.folder.iterdir() if p.name.isdecimal())

    def save(self, step: int, state: Any, notes: dict[str, Any]) -> None:
        """Write a checkpoint; it counts only once it is whole, and only then is an older one let go.

        Args:
            step: its number.
            state: a tree of arrays.
            notes: plain values for JSON.

        Raises:
            OSError: it could not be written (a full disk); the checkpoints before it are as they were.
        """
        partial = self.folder / f"{step}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        try:
            partial.mkdir()
            with ocp.StandardCheckpointer() as checkpointer:
                checkpointer.save(partial / "state", state)
            (partial / "notes.json").write_text(json.dumps(notes), encoding="utf-8")
            seal(partial)
            final = self.folder / str(step)
            shutil.rmtree(final, ignore_errors=True)
            partial.rename(final)
        except Exception as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise OSError(
                f"the checkpoint of step {step} could not be written to {self.folder} ({error}); the ones before it "
                "are whole: make room and resume."
            ) from error
        for old in self.steps()[:-_KEPT]:
            shutil.rmtree(self.folder / str(old), ignore_errors=True)

    def restore(
        self, like: Callable[[dict[str, Any]], Any], on_damage: Callable[[str], None] | None = None
    ) -> tuple[int, Any, dict[str, Any]] | None:
        """Read the newest checkpoint that is whole.

        Args:
            like: from the notes to a tree of arrays, or of `jax.ShapeDtypeStruct`, of the structure that was saved.
            on_damage: told of a newer checkpoint that is not as it was written, and of one without checksums.

        Returns:
            (step, state, notes), or None where there is no checkpoint.

        Raises:
            ValueError: there are checkpoints and none can be read.
        """
        failures = []
        for step in reversed(self.steps()):
            try:
                if is_sealed(self.folder / str(step)):
                    if harm := broken(self.folder / str(step)):
                        raise ValueError("; ".join(harm))
                elif on_damage:
                    on_damage(f"the checkpoint of step {step} has no checksums (an older npk wrote it): taken as it is")
                notes = json.loads((self.folder / str(step) / "notes.json").read_text(encoding="utf-8"))
                shapes = jax.tree_util.tree_map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), like(notes))
                with ocp.StandardCheckpointer() as checkpointer:
                    state = checkpointer.restore(self.folder / str(step) / "state", shapes)
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
