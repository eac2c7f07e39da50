"""Nothing that was trained is lost: runs that are killed, damaged checkpoints, full disks, other runs' folders."""

import dataclasses
import errno
import os
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from small_runs import network, same

from npk.training import Checkpoints, Network, RegimeConfig, train_regime
from npk.training import checkpoints as folders

pytestmark = pytest.mark.standard_dtypes

CONFIG = RegimeConfig("DL", epochs=12)
KILLED = """
import sys
from small_runs import network
from npk.data import load, with_validation
from npk.training import RegimeConfig, train_regime
data = with_validation(load("digits"), 200)
config = RegimeConfig("DL", epochs=12)
say = lambda share, text: print(f"{share:.3f}", flush=True)
train_regime(network(), config, data, (0, 1), checkpoints=sys.argv[1], on_record=say)
"""


@pytest.mark.slow
def test_a_run_killed_at_any_moment_ends_bit_for_bit_as_if_it_had_not_been(tmp_path, data):
    """Killed three times in a process of its own, and continued here."""
    whole = train_regime(network(), CONFIG, data, (0, 1), checkpoints=tmp_path / "whole")
    path = os.pathsep.join(filter(None, sys.path))
    environment = {**os.environ, "PYTHONPATH": path, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    for kill_at, delay in ((3, 0.0), (6, 0.02), (9, 0.05)):  # at a record, and in the middle of what follows
        command = [sys.executable, "-c", KILLED, str(tmp_path / "killed")]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        assert process.stdout is not None
        for _ in range(kill_at if kill_at == 3 else 3):
            process.stdout.readline()
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=300)
        assert process.returncode == -signal.SIGKILL
    begun = max(int(path.name) for path in (tmp_path / "killed").iterdir() if path.name.isdigit())
    assert 0 < begun < 12, "some of the epochs are left"
    records = []
    again = train_regime(
        network(), CONFIG, data, (0, 1), checkpoints=tmp_path / "killed", on_record=lambda *of: records.append(of)
    )
    assert len(records) <= 13 - begun, "what was written is not done again"
    assert same(whole.params, again.params)
    assert np.array_equal(whole.test, again.test) and np.array_equal(whole.loss, again.loss)


def test_a_damaged_checkpoint_costs_no_more_than_an_epoch(tmp_path, data):
    config = RegimeConfig("ReLU", epochs=3)
    whole = train_regime(network(), config, data, checkpoints=tmp_path)
    newest = tmp_path / "3" / "state"
    for path in newest.rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    said = []
    again = train_regime(network(), config, data, checkpoints=tmp_path, on_record=lambda _, text: said.append(text))
    assert same(whole.params, again.params) and any("step 3 is damaged" in text for text in said)
    for step in ("2", "3"):
        (tmp_path / step / "notes.json").write_text("{")
    with pytest.raises(ValueError, match="no checkpoint in .* can be read"):
        train_regime(network(), config, data, checkpoints=tmp_path)


def test_a_full_disk_leaves_the_checkpoints_before_it_whole(tmp_path, data, monkeypatch):
    config = RegimeConfig("ReLU", epochs=2)
    whole = train_regime(network(), config, data)
    saved = folders.ocp.StandardCheckpointer.save

    def full(self, path, *rest, **options):
        if path.parent.name.startswith("2."):
            raise OSError(errno.ENOSPC, "No space left on device")
        return saved(self, path, *rest, **options)

    monkeypatch.setattr(folders.ocp.StandardCheckpointer, "save", full)
    with pytest.raises(OSError, match="step 2 could not be written.*No space left.*make room and resume"):
        train_regime(network(), config, data, checkpoints=tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["1", "config.json"]
    monkeypatch.undo()
    assert same(train_regime(network(), config, data, checkpoints=tmp_path).params, whole.params)


def test_checkpoints_of_another_run_are_refused(tmp_path, data):
    train_regime(network(), RegimeConfig("ReLU", epochs=1), data, checkpoints=tmp_path)
    with pytest.raises(ValueError, match=r"checkpoints of another run \(epochs is 1 there and 2 here"):
        train_regime(network(), RegimeConfig("ReLU", epochs=2), data, checkpoints=tmp_path)


def shuffled(data):
    return dataclasses.replace(data, y_train=np.random.default_rng(0).permutation(data.y_train))


OTHERS = {
    "labels": (lambda net, data: (net, shuffled(data)), "fingerprint is"),
    "inputs": (lambda net, data: (net, dataclasses.replace(data, x_train=-data.x_train)), "fingerprint is"),
    "test set": (lambda net, data: (net, dataclasses.replace(data, x_test=data.x_test[::-1])), "fingerprint is"),
    "activation": (lambda net, data: (network(activation=jax.nn.gelu), data), "programs.training is"),
    "number in f": (
        lambda net, data: (Network(lambda p, x: 2 * net.apply(p, x), net.init), data),
        "programs.evaluation is",
    ),
    "initialisation": (
        lambda net, data: (
            Network(net.apply, lambda k, x: jax.tree.map(lambda a: a / 2, net.init(k, x))),
            data,
        ),
        "programs.initialisation is",
    ),
}


@pytest.mark.parametrize("change, said", OTHERS.values(), ids=OTHERS.keys())
def test_a_run_goes_on_with_its_own_data_and_network_alone(tmp_path, data, change, said):
    """Under the same names: the data set's, the configuration's."""
    config, net = RegimeConfig("ReLU", epochs=1), network()
    train_regime(net, config, data, checkpoints=tmp_path)
    other, changed = change(net, data)
    with pytest.raises(ValueError, match=f"checkpoints of another run .*{said}"):
        train_regime(other, config, changed, checkpoints=tmp_path)
    assert train_regime(network(), config, data, checkpoints=tmp_path).epochs[-1] == 1


def test_gates_of_another_source_are_not_joined_with_old_values(tmp_path, data):
    sources = [train_regime(network(), RegimeConfig("ReLU", epochs=n), data) for n in (1, 2)]
    config = RegimeConfig("FL", epochs=1)
    train_regime(network(), config, data, source=sources[0], checkpoints=tmp_path)
    with pytest.raises(ValueError, match="checkpoints of another run .*source is"):
        train_regime(network(), config, data, source=sources[1], checkpoints=tmp_path)


def test_other_versions_are_named(tmp_path, data, monkeypatch):
    config = RegimeConfig("ReLU", epochs=1)
    train_regime(network(), config, data, checkpoints=tmp_path)
    monkeypatch.setattr("npk.training.regime.versions", lambda platform: {"jax": "0.0", "platform": platform})
    with pytest.raises(ValueError, match=r'versions.jax is "[0-9.]+" there and "0.0" here'):
        train_regime(network(), config, data, checkpoints=tmp_path)


def test_a_checkpoint_of_another_run_is_none_of_this_one(tmp_path, data):
    """Copied in whole, with the right checksums."""
    config = RegimeConfig("ReLU", epochs=2)
    whole = train_regime(network(), config, data, checkpoints=tmp_path / "own")
    train_regime(network(), dataclasses.replace(config, learning_rate=0.01), data, checkpoints=tmp_path / "other")
    shutil.rmtree(tmp_path / "own" / "2")
    shutil.copytree(tmp_path / "other" / "2", tmp_path / "own" / "2")
    said = []
    again = train_regime(
        network(), config, data, checkpoints=tmp_path / "own", on_record=lambda _, text: said.append(text)
    )
    assert same(whole.params, again.params) and any("step 2 is damaged" in text for text in said)
    (tmp_path / "own" / "1").rename(tmp_path / "own" / "3")
    assert same(train_regime(network(), config, data, checkpoints=tmp_path / "own").params, whole.params)


def test_a_folder_that_another_process_writes_is_left_alone(tmp_path, data):
    holding = "import sys, pathlib; from npk.folders import locked\nwith locked(pathlib.Path(sys.argv[1])): "
    holding += "print('held', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", holding, str(tmp_path / "k")]
    other = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None and other.stdout.readline() == "held\n"
    config = RegimeConfig("ReLU", epochs=1)
    with pytest.raises(FileExistsError, match=rf"is being written by process {other.pid} on .*: wait until it ends"):
        train_regime(network(), config, data, checkpoints=tmp_path / "k")
    other.kill()
    other.communicate()
    train_regime(network(), config, data, checkpoints=tmp_path / "k")  # a lock ends with its process
    assert sorted(p.name for p in (tmp_path / "k").iterdir()) == ["1", "config.json"]


@pytest.mark.parametrize("file", ["notes.json", "state", "manifest.json"])
def test_one_flipped_bit_of_the_newest_checkpoint_is_told(tmp_path, data, file):
    """Not only one that cannot be read: a loss of another digit, a weight of another sign."""
    config = RegimeConfig("ReLU", epochs=3)
    whole = train_regime(network(), config, data, checkpoints=tmp_path)
    newest, rng = tmp_path / "3", np.random.default_rng(0)
    for _ in range(3):  # written anew each time
        files = [path for path in sorted(newest.rglob("*")) if path.is_file() and path.stat().st_size]
        path = rng.choice([p for p in files if file in p.relative_to(newest).as_posix()])
        content = path.read_bytes()
        at, said = int(rng.integers(len(content))), []
        path.write_bytes(content[:at] + bytes([content[at] ^ (1 << int(rng.integers(8)))]) + content[at + 1 :])
        again = train_regime(
            network(), config, data, checkpoints=tmp_path, on_record=lambda _, t, said=said: said.append(t)
        )
        assert any("step 3 is damaged" in text for text in said), path
        assert same(whole.params, again.params) and np.array_equal(whole.loss, again.loss)


def test_a_checkpoint_without_a_manifest_is_none(tmp_path, data):
    config = RegimeConfig("ReLU", epochs=2)
    whole = train_regime(network(), config, data, checkpoints=tmp_path)
    (tmp_path / "2" / "manifest.json").unlink()
    said = []
    again = train_regime(network(), config, data, checkpoints=tmp_path, on_record=lambda _, text: said.append(text))
    assert same(whole.params, again.params) and any("step 2 is damaged" in text for text in said)


def test_a_configuration_that_is_damaged_is_told(tmp_path, data):
    config = RegimeConfig("ReLU", epochs=1)
    train_regime(network(), config, data, checkpoints=tmp_path)
    path = tmp_path / "config.json"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"config.json is damaged.* What its checkpoints are of is not known"):
        train_regime(network(), config, data, checkpoints=tmp_path)


FOREIGN = {
    "a configuration": {"config.json": '{"model_type": "mine"}', "x.partial/mine": "mine"},
    "numbered folders": {"2021/a.jpg": "mine", "2022/a.jpg": "mine", "2023/a.jpg": "mine"},
    "a file": {"notes.txt": "mine"},
}


@pytest.mark.parametrize("content", FOREIGN.values(), ids=FOREIGN.keys())
def test_a_folder_of_something_else_is_left_alone(tmp_path, data, content):
    for name, text in content.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    with pytest.raises((ValueError, FileExistsError), match="choose another folder"):
        train_regime(network(), RegimeConfig("ReLU", epochs=1), data, checkpoints=tmp_path)
    with pytest.raises((ValueError, FileExistsError), match="choose another folder"):
        Checkpoints(tmp_path, {"a": 1})
    there = {str(p.relative_to(tmp_path)): p.read_text() for p in tmp_path.rglob("*") if p.is_file()}
    assert there == content


def test_a_link_in_place_of_a_lock_is_not_written_through(tmp_path, data):
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "k").mkdir()
    (tmp_path / "k" / ".lock").symlink_to(tmp_path / "precious")
    with pytest.raises(FileExistsError, match=r".lock is no file of npk's"):
        train_regime(network(), RegimeConfig("ReLU", epochs=1), data, checkpoints=tmp_path / "k")
    assert (tmp_path / "precious").read_text() == "mine"


def test_seeds_of_any_whole_numbers(tmp_path, data):
    config = RegimeConfig("ReLU", epochs=1)
    one = train_regime(network(), config, data, tuple(np.arange(3, 6, 2)), checkpoints=tmp_path)
    assert one.seeds == (3, 5) and same(one.params, train_regime(network(), config, data, (3, 5)).params)


def test_another_derivative_is_another_network(tmp_path, data):
    """Of the same values: a surrogate gradient."""

    def network_of(slope):
        @jax.custom_vjp
        def act(q):
            return jax.nn.relu(q)

        act.defvjp(lambda q: (jax.nn.relu(q), q), lambda q, g: (g * jax.nn.sigmoid(slope * q),))
        return network(activation=act)

    config = RegimeConfig("ReLU", epochs=1)
    train_regime(network_of(1.0), config, data, checkpoints=tmp_path)
    train_regime(network_of(1.0), config, data, checkpoints=tmp_path)
    with pytest.raises(ValueError, match="programs.training is"):
        train_regime(network_of(2.0), config, data, checkpoints=tmp_path)


def test_numbers_that_are_not_those_that_were_saved_are_told(tmp_path, data, monkeypatch):
    """Whatever stands between the files and the numbers."""
    config, said = RegimeConfig("ReLU", epochs=2), []
    whole = train_regime(network(), config, data, checkpoints=tmp_path)
    read = folders.ocp.StandardCheckpointer.restore

    def other(self, path, *rest, **options):
        found = read(self, path, *rest, **options)
        return jax.tree.map(lambda a: a + 1, found) if path.parent.name == "2" else found

    monkeypatch.setattr(folders.ocp.StandardCheckpointer, "restore", other)
    again = train_regime(network(), config, data, checkpoints=tmp_path, on_record=lambda _, text: said.append(text))
    assert same(whole.params, again.params) and any("step 2 is damaged" in text for text in said)
