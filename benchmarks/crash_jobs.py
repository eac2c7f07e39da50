"""Commands whose processes `crash_points` ends: everything that npk writes, as small as it can be.

None computes anything before it is called, and none is in need of another: they are called in forks of a process.
"""

import dataclasses
import json
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from npk import networks
from npk.data import load, with_validation
from npk.studies import CompareConfig, Scale, StudyConfig, reproduce, run_comparison, run_study, verify
from npk.tiles import stored
from npk.training import Network, RegimeConfig, train_regime

_TIMES = ("seconds", "date", "sha256")  # of JSON files, and a checksum of them
STUDY = StudyConfig(dataset="digits", width=6, depth=2, epochs=1, samples=12, test_samples=12, stages=2, regimes=False)
COMPARISON = CompareConfig(
    depth=2,
    widths=(8, 16),
    seeds=2,
    inputs=6,
    samples=40,
    test_samples=20,
    gates_width=8,
    gates_seeds=1,
    epochs=2,
    flow_width=8,
    flow_samples=10,
    flow_steps=5,
)
TABLE, SCALE = "cob-odt", Scale(share=0.01, seeds=1)


@dataclasses.dataclass(frozen=True)
class Job:
    """A command on a folder.

    Attributes:
        run: it; told whether it is given again, it returns what it found, in plain values.
        harm: what is done before to a folder that `before` has made.
        before: the job that makes it; None where the folder is new.
    """

    run: Callable[[pathlib.Path, bool], Any]
    harm: Callable[[pathlib.Path], None] = lambda folder: None
    before: str | None = None


def without_times(content: Any) -> Any:
    """Plain values without what no two runs share."""
    if isinstance(content, dict):
        return {key: without_times(value) for key, value in content.items() if key not in _TIMES}
    return [without_times(value) for value in content] if isinstance(content, list) else content


def _samples() -> Any:
    return np.random.default_rng(0).integers(-4, 5, (10, 3)).astype(np.float32)


def _in_python(a: Any, b: Any) -> Any:
    """A kernel that cannot be traced, of whole numbers."""
    return np.asarray(a) @ np.asarray(b).T


def _both(a: Any, b: Any) -> Any:
    one = _in_python(a, b)
    return {"one": one, "two": np.stack([one, 2 * one], -1)}


def _kernel(folder: pathlib.Path, again: bool) -> Any:
    """One array, 3 × 3 tiles."""
    return stored(_in_python, folder, identity={"name": "exact"}, tile=4)(_samples()).read().tolist()  # type: ignore


def _kernels(folder: pathlib.Path, again: bool) -> Any:
    """Two arrays, one with an axis more, of two batches."""
    x = _samples()
    found = stored(_both, folder, identity={"name": "both"}, tile=4, dtype="bfloat16")(x, x[:7])
    return {name: np.asarray(kernel.read(), np.float32).tolist() for name, kernel in found.items()}  # type: ignore


def _training(folder: pathlib.Path, again: bool) -> Any:
    """Three epochs, a checkpoint after each; given again it is read once more, from the last."""
    model = networks.MLP(width=8, depth=2, outputs=10)
    data = with_validation(load("digits"), 200)
    for _ in range(1 + again):
        run = train_regime(
            Network(model.apply, model.init), RegimeConfig("ReLU", epochs=3), data, (0,), checkpoints=folder
        )
    leaves = [run.epochs, run.loss, run.train, run.validation, run.test, *jax.tree_util.tree_leaves(run.params)]
    return [np.asarray(leaf, np.float64).tobytes().hex() for leaf in leaves]


def _study(folder: pathlib.Path, again: bool) -> Any:
    return without_times(run_study(STUDY, folder, resume=again))


def _comparison(folder: pathlib.Path, again: bool) -> Any:
    return without_times(run_comparison(COMPARISON, folder, resume=again))


def _reproduction(folder: pathlib.Path, again: bool) -> Any:
    return without_times(reproduce(TABLE, folder, SCALE))


def _repaired(folder: pathlib.Path, again: bool) -> Any:
    """`npk verify --repair`, after which nothing is wrong."""
    return list(verify(folder, repair=True).harms)


def flipped(path: pathlib.Path) -> None:
    """One bit, in the middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _harmed_kernel(folder: pathlib.Path) -> None:
    flipped(folder / "c.0.1")
    (folder / "c.2.2").unlink()
    (folder / "tiles.json").unlink()


def _undescribed(folder: pathlib.Path) -> None:
    flipped(folder / "zarr.json")
    (folder / "one" / "zarr.json").unlink()
    (folder / "two" / "tiles.json").unlink()


def _older(folder: pathlib.Path) -> None:
    """As the format before was."""
    path = folder / "zarr.json"
    content = json.loads(path.read_text())
    content["attributes"]["npk"]["format"] = 1
    del content["attributes"]["npk"]["program"]
    path.write_text(json.dumps(content))
    (folder / "tiles.json").unlink()


def _harmed_checkpoints(folder: pathlib.Path) -> None:
    (folder / "3" / "manifest.json").unlink()


def _harmed_study(folder: pathlib.Path) -> None:
    flipped(folder / "parameters.npz")
    (folder / "kernels" / "stage-0.npz").unlink()


def _harmed_comparison(folder: pathlib.Path) -> None:
    flipped(folder / "limits.npz")
    (folder / "kernels" / "width-8.npz").unlink()


def _careless(folder: pathlib.Path, again: bool) -> Any:
    """As nothing should be: a file is written in two steps, and believed if it is there."""
    found = _kernel(folder, again)
    path = folder / "beside.txt"
    if not path.exists():
        with path.open("w") as file:
            print("one", file=file, flush=True)
            print("two", file=file, flush=True)
    return found


CARELESS = {"careless": Job(_careless)}  # what the harness itself is tried on
JOBS: dict[str, Job] = {
    "stored kernel": Job(_kernel),
    "stored kernels": Job(_kernels),
    "training": Job(_training),
    "study": Job(_study),
    "comparison": Job(_comparison),
    "reproduction": Job(_reproduction),
    "harmed kernel": Job(_kernel, _harmed_kernel, "stored kernel"),
    "harmed kernels, repaired": Job(_repaired, _undescribed, "stored kernels"),
    "older kernel, repaired": Job(_repaired, _older, "stored kernel"),
    "harmed checkpoints": Job(_training, _harmed_checkpoints, "training"),
    "harmed checkpoints, repaired": Job(_repaired, _harmed_checkpoints, "training"),
    "harmed study": Job(lambda folder, again: _study(folder, True), _harmed_study, "study"),
    "harmed study, repaired": Job(_repaired, _harmed_study, "study"),
    "harmed comparison": Job(lambda folder, again: _comparison(folder, True), _harmed_comparison, "comparison"),
}
