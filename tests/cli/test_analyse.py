"""`npk analyse`: a user's own file of code, checkpoints and data, from the shell."""

import re
import textwrap

import jax
import numpy as np
import pytest
from flax import serialization
from typer.testing import CliRunner

from npk.cli import app
from npk.folders import read_json

pytestmark = pytest.mark.standard_dtypes

NETS = """
    import flax.linen as nn
    import jax
    import jax.numpy as jnp


    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.relu(nn.Dense(5)(x))
            return nn.Dense(2)(x)


    def make():
        return Net()


    def pair():
        return lambda p, x: jax.nn.relu(x @ p["w"]) @ p["v"], {"w": jnp.eye(3), "v": jnp.ones((3, 2))}


    def broken():
        return 3


    constant = 3
"""


@pytest.fixture
def there(tmp_path, monkeypatch):
    """A folder with code, data and two checkpoints, in which the command is given."""
    (tmp_path / "own_nets.py").write_text(textwrap.dedent(NETS), encoding="utf-8")
    random = np.random.default_rng(0)
    np.savez(tmp_path / "mine.npz", x=random.normal(size=(40, 3)).astype(np.float32), y=np.arange(40) % 2)
    shapes = {"Dense_0": {"kernel": (3, 5), "bias": (5,)}, "Dense_1": {"kernel": (5, 2), "bias": (2,)}}
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        params = jax.tree.map(
            lambda s: random.normal(size=s).astype(np.float32), shapes, is_leaf=lambda s: type(s) is tuple
        )
        (tmp_path / folder / "trained.msgpack").write_bytes(serialization.to_bytes({"params": params}))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def npk(*words):
    return CliRunner().invoke(app, ["analyse", *words])


def test_a_file_of_code_two_checkpoints_and_a_file_of_data(there):
    words = ["--model", "own_nets.py:make", "--data", "mine.npz", "--samples", "16", "--out", "run"]
    words += ["--checkpoint", "a/trained.msgpack", "--checkpoint", "b/trained.msgpack"]
    done = npk(*words)
    assert done.exit_code == 0, done.output
    study = read_json(there / "run" / "study.json")
    assert study["names"] == ["a/trained", "b/trained"], "as much of the path as tells them apart"
    assert (there / "run" / "report.html").is_file() and "run/report.html" in done.output
    row = re.search(r"b/trained +(\S+)%", done.output)
    assert float(row.group(1)) == pytest.approx(100 * study["stages"][1]["train_accuracy"], abs=0.06)
    again = npk(*words)
    assert again.exit_code == 1 and "already holds a finished study" in again.output
    assert npk(*words, "--resume").exit_code == 0
    other = npk(*words[:-2], "--resume")
    assert other.exit_code == 1 and "another configuration" in other.output


def test_a_pair_needs_no_checkpoint_and_a_data_set_is_known_by_its_name(there):
    done = npk("--model", "own_nets:pair", "--data", "mine.npz", "--samples", "10")
    assert done.exit_code == 0, done.output
    assert read_json(there / "runs" / "analyse-pair-mine-samples10" / "study.json")["names"] == ["as it is made"]
    refused = npk("--model", "own_nets:pair", "--data", "digits:0,1", "--samples", "10")
    assert refused.exit_code == 1 and "A sample of Digits, classes 0 and 1 has shape [8, 8, 1]" in refused.output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "own_nets", "--data", "mine.npz"], "must be MODULE:NAME or FILE.py:NAME"),
        (["--model", "own_nets:nothing", "--data", "mine.npz"], "own_nets has no nothing"),
        (["--model", "own_nets:constant", "--data", "mine.npz"], "must be a function without arguments, got int"),
        (["--model", "own_nets:broken", "--data", "mine.npz"], "model must be a pair"),
        (["--model", "nowhere.py:make", "--data", "mine.npz"], "nowhere.py is no file"),
        (["--model", "no_such_nets:make", "--data", "mine.npz"], "there is no module no_such_nets"),
        (["--model", "own_nets:make", "--data", "theirs.npz"], "theirs.npz is no file"),
        (["--model", "own_nets:make", "--data", "no_such_set"], "unknown dataset"),
        (["--model", "own_nets:make", "--data", "mine.npz", "--samples", "1"], "--samples must be at least 2"),
        (["--model", "own_nets:make", "--data", "mine.npz", "--checkpoint", "c.npz"], "c.npz is no file"),
        (
            ["--model", "own_nets:make", "--data", "mine.npz", *["--checkpoint", "a/trained.msgpack"] * 2],
            "names one checkpoint twice",
        ),
        (
            ["--model", "own_nets:pair", "--data", "mine.npz", "--checkpoint", "a/trained.msgpack"],
            "a/trained.msgpack",
        ),
    ],
)
def test_what_is_wrong_is_said_in_a_line_and_no_folder_is_made(there, words, message):
    done = npk(*words)
    said = " ".join(done.output.split())
    assert done.exit_code == 1 and message in said and "Traceback" not in said, done.output
    assert not (there / "runs").exists()
