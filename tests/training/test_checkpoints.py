"""Nothing that was trained is lost: runs that are killed, damaged checkpoints, full disks, other runs' folders."""

import errno
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from small_runs import network, same

from npk.training import RegimeConfig, train_regime
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
    with pytest.raises(ValueError, match="another configuration"):
        train_regime(network(), RegimeConfig("ReLU", epochs=2), data, checkpoints=tmp_path)


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


def test_a_checkpoint_without_checksums_is_taken_and_said(tmp_path, data):
    config = RegimeConfig("ReLU", epochs=2)
    whole = train_regime(network(), config, data, checkpoints=tmp_path)
    (tmp_path / "2" / "manifest.json").unlink()
    said = []
    again = train_regime(network(), config, data, checkpoints=tmp_path, on_record=lambda _, text: said.append(text))
    assert same(whole.params, again.params)
    assert any("no checksums" in text for text in said)
