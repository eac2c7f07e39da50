import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from prepared_folders import PREPARED, SIZES, make_tiny, prepare

from npk.data import STORED, balanced, cob_odt_hyperplanes, data_folder, load, only_classes, with_validation


@pytest.fixture
def tiny(monkeypatch):
    make_tiny(monkeypatch)


def test_digits_are_scaled_and_split_by_seed_within_each_class():
    data = load("digits")
    assert data.x_train.shape == (1437, 8, 8, 1) and data.x_test.shape == (360, 8, 8, 1)
    assert data.x_train.dtype == np.float32 and data.y_train.dtype == np.int32
    assert data.x_train.min() == 0.0 and data.x_train.max() == 1.0
    assert set(np.bincount(data.y_test)) <= {35, 36, 37}
    assert np.array_equal(data.x_test, load("digits", seed=0).x_test)
    assert not np.array_equal(data.y_test, load("digits", seed=1).y_test)


def test_no_test_digit_is_a_training_digit_of_the_split():
    data = load("digits")
    both = np.concatenate([data.x_train, data.x_test]).reshape(1797, -1)
    assert len(np.unique(both, axis=0)) == 1797


@pytest.mark.parametrize("name", PREPARED)
def test_a_prepared_folder_is_read_exactly(tmp_path, tiny, name):
    made = prepare(tmp_path, name)
    data = load(name, data_dir=tmp_path)
    for split, x, y in (("train", data.x_train, data.y_train), ("test", data.x_test, data.y_test)):
        images, labels = made[split]
        assert x.dtype == np.float32 and y.dtype == np.int32
        np.testing.assert_array_equal(x, images.astype(np.float32) / 255)
        np.testing.assert_array_equal(y, labels)
    assert len(data.class_names) == PREPARED[name][2]
    assert name in data.source and data.title in data.source


def test_reading_never_imports_tensorflow(tmp_path):
    prepare(tmp_path, "mnist")
    program = f"""
import dataclasses, sys
from npk.data import STORED, datasets
STORED["mnist"] = dataclasses.replace(STORED["mnist"], **{SIZES})
assert len(datasets.load("mnist", data_dir={str(tmp_path)!r}).x_train) == {SIZES["train"]}
assert "tensorflow" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_default_folder_is_that_of_tensorflow_datasets(tmp_path, tiny, monkeypatch):
    prepare(tmp_path, "mnist")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    assert len(load("mnist").x_train) == SIZES["train"]


def test_a_folder_without_the_data_set_says_how_to_prepare_it(tmp_path):
    with pytest.raises(FileNotFoundError, match="'mnist' is not prepared in .*`npk data prepare mnist --from FOLDER"):
        load("mnist", data_dir=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_folder_in_another_format_says_so(tmp_path):
    prepare(tmp_path, "mnist", file_format="tfrecord")
    with pytest.raises(FileNotFoundError, match="in another format: use `npk data prepare`, and another folder"):
        load("mnist", data_dir=tmp_path)


def shard_of(folder):
    (shard,) = folder.glob("mnist/*/mnist-train*")
    return shard


def truncate(folder):
    shard = shard_of(folder)
    shard.write_bytes(shard.read_bytes()[:-1000])


def flip(folder):
    shard = shard_of(folder)
    content = bytearray(shard.read_bytes())
    content[1000] ^= 255  # in the first records; padding follows
    shard.write_bytes(content)


def exchange(folder):
    shard = shard_of(folder)
    shard.write_bytes(shard.with_name(shard.name.replace("train", "test")).read_bytes())


def forget_split(folder):
    (path,) = folder.glob("mnist/*/dataset_info.json")
    info = json.loads(path.read_text())
    path.write_text(json.dumps(info | {"splits": info["splits"][1:]}))


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (truncate, ""),
        (flip, ""),
        (exchange, "holds 3 records, must hold 7"),
        (lambda folder: shard_of(folder).unlink(), "mnist-train.* is missing"),
        (lambda folder: shard_of(folder).write_bytes(b""), ""),
        (forget_split, "no split 'train'"),
    ],
)
def test_a_damaged_folder_is_an_error(tmp_path, tiny, harm, message):
    prepare(tmp_path, "mnist")
    harm(tmp_path)
    with pytest.raises(ValueError, match=rf"MNIST in .* is damaged \(.*{message}.*remove that folder and prepare it"):
        load("mnist", data_dir=tmp_path)


def test_a_folder_that_agrees_with_itself_but_is_too_short_is_an_error(tmp_path):
    prepare(tmp_path, "mnist")
    with pytest.raises(ValueError, match=r"is damaged \(7 train images, must be 60000\)"):
        load("mnist", data_dir=tmp_path)


def test_a_folder_that_does_not_exist(tmp_path):
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        load("mnist", data_dir=tmp_path / "nowhere")


@pytest.mark.parametrize("package", ["tensorflow_datasets", "array_record", "importlib_resources"])
def test_a_missing_package_is_named_with_the_remedy(monkeypatch, tmp_path, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ModuleNotFoundError, match=rf"needs the package {package}: run `pip install 'npk\[data\]'`"):
        load("mnist", data_dir=tmp_path)


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match="unknown dataset 'emnist': choose one of digits, mnist"):
        load("emnist")


# --- classes and validation -------------------------------------------------------------------------


def test_a_subset_keeps_exactly_the_chosen_classes_in_the_given_order():
    whole, pair = load("digits"), load("digits:7,4")
    assert pair.class_names == ("7", "4") and pair.name == "digits:7,4" and pair.title == "Digits, classes 7 and 4"
    for x, y, all_x, all_y in (
        (pair.x_train, pair.y_train, whole.x_train, whole.y_train),
        (pair.x_test, pair.y_test, whole.x_test, whole.y_test),
    ):
        kept = np.isin(all_y, (4, 7))
        np.testing.assert_array_equal(x, all_x[kept])
        np.testing.assert_array_equal(y, (all_y[kept] == 4).astype(np.int32))
        assert y.dtype == np.int32


def test_classes_are_chosen_by_name_too(tmp_path, tiny):
    prepare(tmp_path, "fashion_mnist")
    data = load("fashion_mnist:Ankle boot, 0", data_dir=tmp_path)
    assert data.class_names == ("Ankle boot", "T-shirt/top") and data.name == "fashion_mnist:9,0"


@pytest.mark.parametrize(
    ("name", "groups"),
    [
        ("digits:0-4,5-9", [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]),
        ("digits:4+7,1", [[4, 7], [1]]),
        ("digits:7+4,3-3,0+1+2", [[7, 4], [3], [0, 1, 2]]),
        ("digits:8,0-2", [[8], [0, 1, 2]]),
    ],
)
def test_groups_of_classes_become_one_class_each(name, groups):
    """Their samples keep their order, and the name is the one that gives them again."""
    whole, found = load("digits"), load(name)
    for x, y, all_x, all_y in (
        (found.x_train, found.y_train, whole.x_train, whole.y_train),
        (found.x_test, found.y_test, whole.x_test, whole.y_test),
    ):
        kept = np.isin(all_y, [number for group in groups for number in group])
        np.testing.assert_array_equal(x, all_x[kept])
        expected = [next(i for i, group in enumerate(groups) if digit in group) for digit in all_y[kept]]
        np.testing.assert_array_equal(y, expected)
        assert y.dtype == np.int32
    again = load(found.name)
    assert again.fingerprint == found.fingerprint and again.name == found.name
    assert len(found.class_names) == len(groups) == len(set(found.class_names))
    assert all(class_name in found.title for class_name in found.class_names)


def test_groups_are_named_as_they_are_asked_for():
    assert load("digits: 0-4 , 5 + 9").class_names == load("digits:0-4,5+9").class_names == ("0-4", "5+9")
    assert load("digits:4+7,1").class_names == ("4+7", "1")
    assert load("digits:3-3,1").class_names == ("3", "1"), "of one class its own name"
    assert load("digits:3-3,1").fingerprint == load("digits:3,1").fingerprint


def test_groups_of_named_classes_come_back_by_the_name_of_their_data_set(tmp_path, tiny):
    """Some names have spaces: in a group they may stand as in the list of names."""
    prepare(tmp_path, "fashion_mnist")
    data = load("fashion_mnist:Ankle boot+T-shirt/top,1-4,8", data_dir=tmp_path)
    whole, groups = load("fashion_mnist", data_dir=tmp_path), [[9, 0], [1, 2, 3, 4], [8]]
    kept = np.isin(whole.y_train, sum(groups, []))
    assert data.y_train.tolist() == [
        next(i for i, group in enumerate(groups) if label in group) for label in whole.y_train[kept]
    ]
    assert load(data.name, data_dir=tmp_path).fingerprint == data.fingerprint
    one = load("fashion_mnist:9+0,1+2+3+4,8", data_dir=tmp_path)
    assert np.array_equal(one.y_train, data.y_train) and np.array_equal(one.x_test, data.x_test)


def test_a_class_whose_name_has_a_sign_of_groups_is_one_class():
    """By its name where that is all, and by its number within a group."""
    whole = load("digits:1,2,3,4")
    named = dataclasses.replace(whole, class_names=("a+b", "0-2", "b", "a"), name="letters")
    pair = only_classes(named, ["0-2", "a+b"])
    assert pair.class_names == ("0-2", "a+b") and pair.name == "letters:1,0"
    assert np.array_equal(pair.y_test, (whole.y_test[np.isin(whole.y_test, (0, 1))] == 0).astype(np.int32))
    group = only_classes(named, ["0+1", "a"])
    assert np.array_equal(group.y_test, (whole.y_test[np.isin(whole.y_test, (0, 1, 3))] == 3).astype(np.int32))
    with pytest.raises(ValueError, match="two or more different classes of 'letters'"):
        only_classes(named, ["a+b", "0+2"])


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ("0-4,3-9", "choose two or more different classes of 'digits', got '0-4,3-9'"),
        ("0-4,4+5", "two or more different classes"),
        ("4+4,5", "two or more different classes"),
        ("4-0,5-9", "two or more different classes"),
        ("0-9", "two or more different classes"),
        ("0-4", "two or more different classes"),
        ("0-4,", "no class ''"),
        ("4+,5", "no class ''"),
        ("0-10,1", "no class '10'"),
        ("-4,5", "no class '-4'"),
        ("0-4-7,8", "no class '0-4-7'"),
        ("4+ten,5", "no class 'ten': choose from 0 … 9"),
        ("4", "two or more different classes"),
        ("4,4", "two or more different classes"),
        ("", "no class ''"),
        ("4,ten", "no class 'ten': choose from 0 … 9"),
        ("4,10", "no class '10'"),
    ],
)
def test_wrong_classes_are_named(classes, message):
    with pytest.raises(ValueError, match=message):
        load(f"digits:{classes}")


@pytest.mark.parametrize("size", [0.2, 300])
def test_a_validation_set_is_a_stratified_part_of_the_training_set(size):
    whole = load("digits")
    held = with_validation(whole, size)
    assert len(held.x_validation) == (288 if size < 1 else size)
    assert len(held.x_train) + len(held.x_validation) == len(whole.x_train)
    np.testing.assert_array_equal(held.x_test, whole.x_test)
    rows = np.concatenate([held.x_train, held.x_validation]).reshape(len(whole.x_train), -1)
    both = np.column_stack([rows, np.concatenate([held.y_train, held.y_validation])])
    expected = np.column_stack([whole.x_train.reshape(len(whole.x_train), -1), whole.y_train])
    assert sorted(map(tuple, both)) == sorted(map(tuple, expected))
    share = len(held.x_validation) / len(whole.x_train)
    assert np.abs(np.bincount(held.y_validation) - share * np.bincount(whole.y_train)).max() <= 1


def test_a_validation_set_is_chosen_by_its_seed_and_kept_by_a_subset():
    whole = load("digits")
    first, same, other = (with_validation(whole, 0.1, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.x_validation, same.x_validation)
    assert not np.array_equal(first.y_validation, other.y_validation)
    pair, kept = only_classes(first, ["4", "7"]), np.isin(first.y_validation, (4, 7))
    np.testing.assert_array_equal(pair.x_validation, first.x_validation[kept])
    np.testing.assert_array_equal(pair.y_validation, first.y_validation[kept] == 7)


@pytest.mark.parametrize("size", [0, 1.5, -1, float("nan"), 5, 1437, 0.999])
def test_a_wrong_validation_size_is_an_error(size):
    with pytest.raises(ValueError, match="size must be|cannot hold out"):
        with_validation(load("digits"), size)


@pytest.mark.parametrize("seed", [-1, 2**32, True])
def test_what_is_no_seed_is_refused_by_all_who_draw_in_the_same_words(seed):
    digits = load("digits")
    for draw in (
        lambda: load("digits", seed=seed),
        lambda: load("cob_odt_20", seed=seed),
        lambda: with_validation(digits, 0.1, seed=seed),
        lambda: balanced(digits.y_train, 10, seed),
        lambda: cob_odt_hyperplanes(seed, 20),
    ):
        with pytest.raises(
            ValueError, match=f"seed must be a whole number, at least 0 and at most 4294967295, got {seed}"
        ):
            draw()


def test_an_empty_name_of_a_folder_is_no_default(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert data_folder() == tmp_path and data_folder("") == Path()


def test_a_second_validation_set_is_refused():
    with pytest.raises(ValueError, match="has a validation set already"):
        with_validation(with_validation(load("digits"), 0.1), 0.1)


def test_a_reader_that_lacks_the_version_is_named(tmp_path, tiny, monkeypatch):
    prepare(tmp_path, "mnist")
    (tmp_path / "mnist" / "3.0.1").rename(tmp_path / "mnist" / "9.9.9")
    monkeypatch.setitem(STORED, "mnist", dataclasses.replace(STORED["mnist"], version="9.9.9"))
    with pytest.raises(ValueError, match="does not read 'mnist' of version 9.9.9 .*: install one that does"):
        load("mnist", data_dir=tmp_path)
