"""A checkpoint from a stranger, or one that is damaged: nothing of it is run, and what is wrong with it is said."""

import io
import json
import os
import pickle
import shutil
import sys
import time
import zipfile

import jax
import msgpack as pack
import numpy as np
import orbax.checkpoint as ocp
import pytest
from checkpoint_formats import LIKE, TRAINED, assert_same, msgpack, npks_own, npz, standard, tensors, without_suffix
from small_models import X

from npk.loading import read_checkpoint

pytestmark = pytest.mark.standard_dtypes


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def torch_zip(content):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/data/0", b"\0" * 16)
    return file.getvalue()


def objects(content):
    file = io.BytesIO()
    np.savez(file, w=np.array([Evil(content)], object))
    return file.getvalue()


@pytest.mark.parametrize("suffix", [".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".bin", "", ".msgpack", ".npz"])
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickles_are_refused_and_never_run(suffix, protocol, tmp_path):
    path, ran = tmp_path / f"model{suffix}", tmp_path / "it ran"
    content = pickle.dumps(Evil(ran), protocol)
    for written_ in (content, torch_zip(content)):
        path.write_bytes(written_)
        with pytest.raises(ValueError, match="pickle, and pickles run code|no format|no Flax msgpack|no NPZ"):
            read_checkpoint(path, LIKE)
        assert not ran.exists()
    assert pickle.loads(content) is None and ran.exists(), "a pickle that runs nothing shows nothing"


def test_arrays_of_objects_are_never_run(tmp_path):
    path, ran = tmp_path / "model.npz", tmp_path / "it ran"
    path.write_bytes(objects(ran))
    with pytest.raises(ValueError, match="no NPZ file of arrays, or damaged .*Object arrays cannot be loaded"):
        read_checkpoint(path, {"w": X})
    assert not ran.exists()


def packed(shape, dtype):
    return pack.ExtType(1, pack.packb((shape, dtype, b"\0" * 8)))


HOSTILE = {
    "objects": {"w": packed([1], "O")},
    "a shape that is none": {"w": packed([1 << 40], "float32")},
    "no dtype": {"w": packed([2], "nothing")},
    "chunks that are none": {"w": {"__msgpack_chunked_array__": True, "shape": {"0": 1}, "chunks": {"0": "x"}}},
    "text": {"w": "text"},
    "another extension": {"w": pack.ExtType(77, b"x")},
    "a name twice": {"1": packed([2], "float32"), 1: packed([2], "float32")},
    "a list": [1, 2],
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_msgpack_is_refused(content, tmp_path):
    path = tmp_path / "params.msgpack"
    path.write_bytes(pack.packb(content))
    with pytest.raises(ValueError, match="no Flax msgpack checkpoint, or damaged|holds no arrays"):
        read_checkpoint(path, {"w": np.zeros(2, np.float32)})


def test_msgpack_nested_without_end_is_refused(tmp_path):
    path = tmp_path / "params.msgpack"
    path.write_bytes(b"\x81\xa1a" * 100_000 + b"\xc0")
    with pytest.raises(ValueError, match="no Flax msgpack checkpoint, or damaged"):
        read_checkpoint(path, LIKE)


def test_a_link_in_a_folder_is_refused(tmp_path):
    path = standard(tmp_path, TRAINED)
    (path / "_METADATA").rename(tmp_path / "elsewhere")
    (path / "_METADATA").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="is a link, and may lead anywhere"):
        read_checkpoint(path, LIKE)


def test_the_root_of_a_manager_lists_its_steps(tmp_path):
    with ocp.CheckpointManager(tmp_path / "run") as manager:
        for step in (9, 10):
            manager.save(step, args=ocp.args.StandardSave(TRAINED))
    with pytest.raises(ValueError, match=r"holds the checkpoints 9, 10: name one of them, e.g. .*run/10\."):
        read_checkpoint(tmp_path / "run", LIKE)
    (tmp_path / "bare").mkdir()
    for step in ("checkpoint_2", "checkpoint_10"):
        shutil.copytree(tmp_path / "run/9/default", tmp_path / "bare" / step)
    with pytest.raises(ValueError, match=r"holds the checkpoints checkpoint_2, checkpoint_10: name one"):
        read_checkpoint(tmp_path / "bare", LIKE)


def test_a_folder_without_a_checkpoint_and_one_that_was_never_finished_are_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no checkpoint of Orbax"):
        read_checkpoint(tmp_path, LIKE)
    unfinished = standard(tmp_path, TRAINED).rename(tmp_path / "standard.orbax-checkpoint-tmp-7")
    with pytest.raises(ValueError, match="never finished"):
        read_checkpoint(unfinished, LIKE)
    with pytest.raises(ValueError, match="holds no checkpoint of Orbax"):
        read_checkpoint(tmp_path, LIKE)
    with pytest.raises(FileNotFoundError, match="nowhere.npz is no file, and no folder"):
        read_checkpoint(tmp_path / "nowhere.npz", LIKE)


def test_arrays_without_names_are_refused(tmp_path):
    np.save(tmp_path / "w.npy", X)
    with pytest.raises(ValueError, match="arrays without names .*eqx.tree_deserialise_leaves"):
        read_checkpoint(tmp_path / "w.npy", LIKE)


@pytest.mark.parametrize("write", [npz, tensors, msgpack, without_suffix, npks_own])
def test_a_file_that_was_cut_short_is_refused(write, tmp_path):
    path = write(tmp_path, TRAINED)
    whole = path.read_bytes()
    for length in (0, 1, 8, 9, 40, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="or damaged|is damaged"):
            read_checkpoint(path, LIKE)


@pytest.mark.parametrize("write", [npz, npks_own])
def test_a_flipped_bit_of_an_npz_file_is_told_or_changes_nothing(write, tmp_path):
    path = write(tmp_path, TRAINED)
    whole, told = path.read_bytes(), 0
    for place in range(0, len(whole), 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        try:
            assert_same(read_checkpoint(path, LIKE), TRAINED)
        except ValueError:
            told += 1
    assert told > len(whole) / 7 / 2


@pytest.mark.parametrize("write", [tensors, msgpack])
def test_a_flipped_bit_of_the_other_formats_raises_nothing_but_a_value_error(write, tmp_path):
    path = write(tmp_path, TRAINED)
    whole, told = path.read_bytes(), 0
    for place in range(0, len(whole), 3):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 64]) + whole[place + 1 :])
        try:
            assert jax.tree.structure(read_checkpoint(path, LIKE)) == jax.tree.structure(LIKE)
        except ValueError:
            told += 1
    assert told


def test_a_damaged_folder_of_orbax_is_told_or_changes_nothing(tmp_path, monkeypatch):
    # Its readers of the other arrays may end after the first has failed, and say that nobody waits for them.
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: None)
    path = standard(tmp_path, TRAINED)
    told = 0
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        whole = file.read_bytes()
        for damaged in (whole[: len(whole) // 2], *(flipped(whole, i) for i in (0, len(whole) // 3, len(whole) - 2))):
            file.write_bytes(damaged)
            try:
                assert_same(read_checkpoint(path, LIKE), TRAINED)
            except ValueError:
                told += 1
        file.write_bytes(whole)
    assert told >= 8
    assert_same(read_checkpoint(path, LIKE), TRAINED)
    time.sleep(0.1)


def flipped(whole, place):
    return whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :] if 0 <= place < len(whole) else whole


def test_a_format_whose_package_is_missing_says_which(tmp_path, monkeypatch):
    path = tensors(tmp_path, TRAINED)
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(
        ModuleNotFoundError, match=r"needs the package safetensors: run `pip install 'npk\[safetensors\]'`"
    ):
        read_checkpoint(path, LIKE)


def test_json_beside_a_tree_is_no_tree(tmp_path):
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "metadata").write_text(json.dumps({"w": 1}))
    with pytest.raises(ValueError, match="holds no checkpoint of Orbax"):
        read_checkpoint(tmp_path, LIKE)
