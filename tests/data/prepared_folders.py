"""Folders of data sets as they are prepared, of a handful of images."""

import dataclasses
import io
import json

import numpy as np
import PIL.Image

from npk.data import STORED

PREPARED = {
    "mnist": ("3.0.1", (28, 28, 1), 10),
    "fashion_mnist": ("3.0.1", (28, 28, 1), 10),
    "cifar10": ("3.0.2", (32, 32, 3), 10),
    "cifar100": ("3.0.2", (32, 32, 3), 100),
    "cifar10_jpeg": ("1.0.0", (32, 32, 3), 10),
    "cifar10_subset": ("1.0.0", (32, 32, 3), 10),
}
SIZES = {"train": 7, "test": 3}


def png(image):
    """An image as the bytes of a record."""
    buffer = io.BytesIO()
    PIL.Image.fromarray(image.squeeze()).save(buffer, format="PNG")
    return buffer.getvalue()


def prepare(folder, name, file_format="array_record", encode=png, relabel=int):
    """A tiny folder as tensorflow-datasets prepares it, made without TensorFlow. Returns images and labels by split."""
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
            example = tf_example_pb2.Example()
            example.features.feature["image"].bytes_list.value.append(encode(image))
            example.features.feature["label"].int64_list.value.append(relabel(label))
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


def make_tiny(monkeypatch):
    """The prepared data sets have a handful of images."""
    for name, stored in STORED.items():
        monkeypatch.setitem(STORED, name, dataclasses.replace(stored, **SIZES))
