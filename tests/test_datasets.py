import io
import json
import sys

import numpy as np
import pytest

from npk import datasets


def test_digits_are_scaled_and_split_by_seed_within_each_class():
    data = datasets.load("digits")
    assert data.x_train.shape == (1437, 8, 8, 1) and data.x_test.shape == (360, 8, 8, 1)
    assert data.x_train.dtype == np.float32 and data.y_train.dtype == np.int32
    assert data.x_train.min() == 0.0 and data.x_train.max() == 1.0
    assert set(np.bincount(data.y_test)) <= {35, 36, 37}
    assert np.array_equal(data.x_test, datasets.load("digits", seed=0).x_test)
    assert not np.array_equal(data.y_test, datasets.load("digits", seed=1).y_test)


def test_no_test_digit_is_a_training_digit_of_the_split():
    data = datasets.load("digits")
    both = np.concatenate([data.x_train, data.x_test]).reshape(1797, -1)
    assert len(np.unique(both, axis=0)) == 1797


PREPARED = {
    "mnist": ("3.0.1", (28, 28, 1), 10),
    "fashion_mnist": ("3.0.1", (28, 28, 1), 10),
    "cifar10": ("3.0.2", (32, 32, 3), 10),
    "cifar100": ("3.0.2", (32, 32, 3), 100),
}
SIZES = {"train": 7, "test": 3}


def prepare(folder, name, file_format="array_record"):
    """A tiny folder as tensorflow-datasets prepares it, made without TensorFlow. Returns images and labels by split."""
    import PIL.Image
    from array_record.python.array_record_module import ArrayRecordWriter
    from tensorflow_datasets.proto import tf_example_pb2

    version, shape, classes = PREPARED[name]
    root = folder / name / version
    root.mkdir(parents=True)
    generator = np.random.default_rng(0)
    made = {}
    for split, size in SIZES.items():
        images = generator.integers(0, 256, size=(size, *shape)).astype(np.uint8)
        labels = generator.integers(0, classes, size=size)
        writer = ArrayRecordWriter(str(root / f"{name}-{split}.{file_format}-00000-of-00001"), "group_size:1")
        for image, label in zip(images, labels, strict=True):
            buffer = io.BytesIO()
            PIL.Image.fromarray(image.squeeze()).save(buffer, format="PNG")
            example = tf_example_pb2.Example()
            example.features.feature["image"].bytes_list.value.append(buffer.getvalue())
            example.features.feature["label"].int64_list.value.append(int(label))
            example.features.feature["coarse_label"].int64_list.value.append(0)
            example.features.feature["id"].bytes_list.value.append(b"0")
            writer.write(example.SerializeToString())
        writer.close()
        made[split] = images, labels
    template = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
    info = {
        "fileFormat": file_format,
        "name": name,
        "version": version,
        "splits": [
            {"name": split, "shardLengths": [str(size)], "filepathTemplate": template, "numBytes": "1"}
            for split, size in SIZES.items()
        ],
    }
    (root / "dataset_info.json").write_text(json.dumps(info))
    return made


@pytest.mark.parametrize("name", PREPARED)
def test_a_prepared_folder_is_read_exactly_and_without_tensorflow(tmp_path, name):
    made = prepare(tmp_path, name)
    data = datasets.load(name, data_dir=tmp_path)
    assert "tensorflow" not in sys.modules
    for split, x, y in (("train", data.x_train, data.y_train), ("test", data.x_test, data.y_test)):
        images, labels = made[split]
        assert x.dtype == np.float32 and y.dtype == np.int32
        np.testing.assert_array_equal(x, images.astype(np.float32) / 255)
        np.testing.assert_array_equal(y, labels)
    assert len(data.class_names) == PREPARED[name][2]
    assert name in data.source


def test_a_folder_without_the_data_set_says_how_to_prepare_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"'mnist' is not prepared in .*download_and_prepare\(\)"):
        datasets.load("mnist", data_dir=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_folder_in_another_format_says_so(tmp_path):
    prepare(tmp_path, "mnist", file_format="tfrecord")
    with pytest.raises(FileNotFoundError, match="in another format: prepare it with file_format='array_record'"):
        datasets.load("mnist", data_dir=tmp_path)


def test_a_folder_that_does_not_exist(tmp_path):
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        datasets.load("mnist", data_dir=tmp_path / "nowhere")


@pytest.mark.parametrize("package", ["tensorflow_datasets", "array_record", "importlib_resources"])
def test_a_missing_package_is_named_with_the_remedy(monkeypatch, tmp_path, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ModuleNotFoundError, match=rf"needs the package {package}: run `pip install 'npk\[data\]'`"):
        datasets.load("mnist", data_dir=tmp_path)


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match="unknown dataset 'emnist': choose one of digits, mnist"):
        datasets.load("emnist")
