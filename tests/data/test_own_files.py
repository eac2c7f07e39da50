"""Samples of a user's own: as they are, under numbers of classes, or refused with what is wrong with them."""

import os
import pickle

import numpy as np
import pytest

from npk import data
from npk.data import from_arrays, from_file

RNG = np.random.default_rng(0)
X = RNG.normal(size=(20, 3)).astype(np.float32)
Y = np.arange(20) % 2
WORDS = np.array(["no", "yes"])[Y]


def saved(folder, **arrays):
    np.savez(folder / "points.npz", **arrays)
    return folder / "points.npz"


@pytest.mark.parametrize("x, y", [("x", "y"), ("x_train", "y_train"), ("x", "y_train")])
def test_a_file_is_read_as_it_is(x, y, tmp_path):
    path = saved(tmp_path, **{x: X, y: Y}, x_test=X[:4], y_test=Y[:4], class_names=np.array(["a", "b"]))
    found = from_file(path)
    assert isinstance(found, data.Dataset)
    assert (found.name, found.title, found.class_names) == ("points", "points", ("a", "b"))
    assert found.source == "arrays of the file points.npz"
    for one, two in ((found.x_train, X), (found.y_train, Y), (found.x_test, X[:4]), (found.y_test, Y[:4])):
        np.testing.assert_array_equal(one, two)
    assert found.x_train.dtype == np.float32 and found.y_train.dtype == np.int32


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int64, np.uint64, ">i4"])
def test_labels_of_any_whole_numbers_are_classes(dtype):
    found = from_arrays(X, Y.astype(dtype), X, Y.astype(dtype))
    assert found.class_names == ("0", "1") and found.y_train.dtype == np.int32
    np.testing.assert_array_equal(found.y_train, Y)


def test_strings_are_classes_in_their_order_or_in_that_of_their_names():
    found = from_arrays(X, WORDS, X[:2], ["yes", "no"])
    assert found.class_names == ("no", "yes") and found.y_test.tolist() == [1, 0]
    found = from_arrays(X, WORDS, X[:2], ["yes", "no"], class_names=["yes", "no", "perhaps"])
    assert found.class_names == ("yes", "no", "perhaps") and found.y_test.tolist() == [0, 1]


def test_names_may_be_of_classes_that_no_sample_has():
    assert from_arrays(X, Y + 1, X, Y, class_names=["a", "b", "c"]).class_names == ("a", "b", "c")


def test_a_fifth_of_every_class_is_held_out_by_seed():
    x = np.arange(100, dtype=np.float64)[:, None]
    y = (np.arange(100) % 5 == 0).astype(int)
    found = from_arrays(x, y)
    assert np.bincount(found.y_test).tolist() == [16, 4] and np.bincount(found.y_train).tolist() == [64, 16]
    assert sorted([*found.x_train[:, 0], *found.x_test[:, 0]]) == list(range(100))
    for inputs, labels in ((found.x_train, found.y_train), (found.x_test, found.y_test)):
        np.testing.assert_array_equal(labels, inputs[:, 0] % 5 == 0)
    assert found.x_train.dtype == np.float64 and found.x_validation is None and "held out" in found.source
    np.testing.assert_array_equal(found.x_test, from_arrays(x, y, seed=0).x_test)
    assert not np.array_equal(found.x_test, from_arrays(x, y, seed=1).x_test)


def test_a_run_knows_them_by_their_numbers():
    one, two = from_arrays(X, Y, X, Y), from_arrays(X, Y, X, Y, name="other", title="Other")
    assert one.fingerprint == two.fingerprint != from_arrays(X + 1, Y, X, Y).fingerprint


NAN = np.where(np.arange(60).reshape(20, 3) == 7, np.nan, X)
REFUSED = {
    "pixels": (dict(x=np.zeros((20, 3), np.uint8)), r"x is of dtype uint8: give floats .*divide by 255"),
    "truths": (dict(x=X > 0), "x is of dtype bool: give floats as the network takes them, or tokens"),
    "not finite": (dict(x=NAN), "x holds numbers that are not finite"),
    "no features": (dict(x=X[:, 0]), r"x must be inputs of shape \(samples, …\), got \(20,\)"),
    "no samples": (dict(x=X[:0], y=Y[:0]), "x must be inputs"),
    "fewer labels": (dict(y=Y[:19]), "x has 20 samples, and y 19 labels"),
    "one-hot labels": (dict(y=np.eye(2)[Y]), r"y must be classes of shape \(samples,\), got \(20, 2\)"),
    "labels that are floats": (dict(y=Y.astype(float)), "y is of dtype float64: give classes as whole numbers"),
    "labels that are truths": (dict(y=Y == 1), "y is of dtype bool"),
    "labels that are bytes": (dict(y=WORDS.astype("S")), r"y is of dtype \|S3"),
    "one class": (dict(y=Y * 0), "at least two classes, got 0"),
    "classes from one": (dict(y=Y + 1), "y has labels 1, 2, and not 0 to 1: number classes 0, 1, …, or give"),
    "a class that is left out": (dict(y=Y * 2), "y has labels 0, 2, and not 0 to 1"),
    "negative labels": (dict(y=Y - 1), "y has labels -1, 0, and not 0 to 1"),
    "a label beyond the names": (dict(class_names=["a", "b"], y=Y + 1), "y has labels 1, 2, and must have 0 to 1"),
    "another class in the test": (dict(x_test=X, y_test=Y * 3), "y_test has labels 0, 3, and must have 0 to 1"),
    "another word in the test": (dict(y=WORDS, x_test=X[:1], y_test=["maybe"]), "y_test has the class 'maybe'"),
    "words and numbers": (dict(x_test=X, y_test=WORDS), "of y and y_test one has strings"),
    "names of numbers": (dict(class_names=[1, 2]), "class_names must be strings"),
    "one name twice": (dict(class_names=["a", "a"]), "must be different"),
    "a name that moves a cursor": (dict(class_names=["a", "\x1b[2J"]), "characters that can be shown"),
    "no test labels": (dict(x_test=X), "given together, or neither"),
    "test samples of another shape": (dict(x_test=X[:, :2], y_test=Y), r"of shape \(3,\), those of x_test of \(2,\)"),
    "fewer test labels": (dict(x_test=X, y_test=Y[:3]), "x_test has 20 samples, and y_test 3"),
    "a class of one sample": (dict(y=(np.arange(20) == 3).astype(int)), "no x_test, and a fifth of every class cannot"),
    "a seed that is none": (dict(seed=-1), "seed must be a whole number"),
}  # fmt: skip


@pytest.mark.parametrize("given, said", REFUSED.values(), ids=REFUSED.keys())
def test_what_is_no_data_set_says_what_is_wrong(given, said):
    with pytest.raises(ValueError, match=said):
        from_arrays(**{"x": X, "y": Y} | given)


FILES = {
    "no labels": (dict(x=X), "points.npz lacks y"),
    "nothing": ({}, "lacks x and y"),
    "another array": (dict(x=X, y=Y, weights=X), "holds weights, and may hold only x, x_train, y"),
    "samples twice": (dict(x=X, x_train=X, y=Y), "the same under two names: keep one of x and x_train"),
    "objects": (dict(x=X, y=np.array(["a", None] * 10, object)), "is damaged, or holds objects and no arrays"),
}


@pytest.mark.parametrize("arrays, said", FILES.values(), ids=FILES.keys())
def test_a_file_holds_these_arrays_and_no_others(arrays, said, tmp_path):
    with pytest.raises(ValueError, match=said):
        from_file(saved(tmp_path, **arrays))


class Evil:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_nothing_of_a_file_is_run(tmp_path):
    ran = tmp_path / "it ran"
    with pytest.raises(ValueError, match="is damaged, or holds objects"):
        from_file(saved(tmp_path, x=np.array([Evil(ran)], object), y=Y))
    (tmp_path / "points.npz").write_bytes(pickle.dumps(Evil(ran)))
    with pytest.raises(ValueError, match="is no NPZ file, or damaged"):
        from_file(tmp_path / "points.npz")
    assert not ran.exists()


def test_a_damaged_file_is_told(tmp_path):
    path = saved(tmp_path, x=X, y=Y)
    whole = path.read_bytes()
    for damaged in (whole[:100], b"", whole[:300] + bytes([whole[300] ^ 1]) + whole[301:]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="damaged"):
            from_file(path)
    with pytest.raises(FileNotFoundError, match="nowhere.npz is no file"):
        from_file(tmp_path / "nowhere.npz")


def test_whole_numbers_are_tokens():
    tokens = np.arange(60).reshape(20, 3)
    found = from_arrays(tokens, Y)
    assert found.x_train.dtype == tokens.dtype and len(found.x_train) + len(found.x_test) == 20
