"""Reading the folders that `preparing` makes, without TensorFlow: every record, or an error.

A folder may come from a stranger. What its records are is known here and not asked of it: no class that it names is
built, no image format but PNG and JPEG is decoded, and every shape and label is checked.
"""

import io
import os
from pathlib import Path
from typing import Any

import numpy as np

from npk.data.catalogue import STORED, data_folder, folder_of
from npk.data.dataset import Dataset
from npk.data.own_builders import builder_class


def read(name: str, data_dir: str | os.PathLike[str] | None) -> Dataset:
    """The whole data set, checked against the counts it must have."""
    stored, builder = STORED[name], _builder(name, data_dir)
    try:
        names = tuple(builder.info.features["label"].names)
        if len(names) != stored.classes:
            raise ValueError(f"{len(names)} classes, must be {stored.classes}")
        x_train, y_train = _split(builder, "train", stored.train)
        x_test, y_test = _split(builder, "test", stored.test)
    except Exception as error:
        # Readers of records and of images raise errors of many types, none of which names the folder.
        raise ValueError(
            f"{stored.title} in {builder.data_path} is damaged ({error}): remove that folder and prepare it again with "
            f"`npk data prepare {name} --from FOLDER`."
        ) from error
    source = f"{stored.title}: {builder.info.full_name}, prepared by tensorflow-datasets"
    return Dataset(name, x_train, y_train, x_test, y_test, names, source, stored.title)


def _builder(name: str, data_dir: str | os.PathLike[str] | None) -> Any:
    """TFDS's own reader of a prepared folder; it would prepare or download nothing."""
    try:
        # These two are left out of tensorflow-datasets' requirements, but reading needs them.
        import array_record  # noqa: F401
        import importlib_resources  # noqa: F401
        import tensorflow_datasets as tfds
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"reading {name!r} needs the package {error.name}: run `pip install 'npk[data]'` "
            "(the data set 'digits' needs nothing more)."
        ) from error
    folder = data_folder(data_dir)
    if data_dir is not None and not folder.is_dir():
        raise FileNotFoundError(f"data_dir {str(data_dir)!r} is not a folder.")
    if not (folder_of(name, data_dir) / "dataset_info.json").exists():
        raise FileNotFoundError(
            f"{name!r} is not prepared in {folder}. Prepare it once from its original files, where TensorFlow is "
            f"installed (`pip install 'npk[prepare]'`), with `npk data prepare {name} --from FOLDER --data-dir "
            f"{folder}`; `npk data list {name}` names the files."
        )
    # The class that makes the records is that of the code, never one that the folder names.
    made_by: Any = builder_class(name) if STORED[name].own else tfds.builder_cls(name)
    try:
        return made_by(data_dir=str(folder), version=STORED[name].version, file_format="array_record")
    except AssertionError as error:  # by which it refuses a version that it does not have
        raise ValueError(
            f"the installed tensorflow-datasets {tfds.__version__} does not read {name!r} of version "
            f"{STORED[name].version} ({error}): install one that does."
        ) from error
    except ValueError as error:
        if "file format" not in str(error).lower():
            raise
        raise FileNotFoundError(
            f"{name!r} was prepared in {folder} in another format: use `npk data prepare`, and another folder."
        ) from error


def _split(builder: Any, split: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    import tensorflow_datasets as tfds

    _check_count(builder, split, count)
    source = builder.as_data_source(split=split, decoders={"image": tfds.decode.SkipDecoding()})
    records = source.__getitems__(list(range(count)))
    shape, classes = builder.info.features["image"].shape, builder.info.features["label"].num_classes
    images, labels = np.empty((count, *shape), np.uint8), np.empty(count, np.int32)
    for i, record in enumerate(records):
        try:
            images[i] = _decoded(record["image"], shape)
        except Exception as error:  # of many types, as above
            raise ValueError(f"record {i} of {split}: {error}") from error
        if not 0 <= record["label"] < classes:
            raise ValueError(f"record {i} of {split} has label {record['label']}, must be 0 to {classes - 1}")
        labels[i] = record["label"]
    return images.astype(np.float32) / 255.0, labels


def _decoded(content: bytes, shape: tuple[int, int, int]) -> np.ndarray:
    """The pixels of an image; nothing is decoded of a size or a kind that it must not have."""
    import PIL.Image

    height, width, channels = shape
    with PIL.Image.open(io.BytesIO(content), formats=("PNG", "JPEG")) as image:
        found = (image.height, image.width, len(image.getbands()))
        if found != shape or image.mode not in ("L", "RGB"):
            raise ValueError(
                f"an image of {_size(found)} ({image.mode}), must be {_size(shape)}, of bytes that are grey or colours"
            )
        return np.asarray(image).reshape(shape)


def _size(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape))


def _check_count(builder: Any, split: str, count: int) -> None:
    """The right number of records, by the folder's own account and by that of its files."""
    from array_record.python.array_record_module import ArrayRecordReader

    if split not in builder.info.splits:
        raise ValueError(f"no split {split!r}")
    info = builder.info.splits[split]
    if info.num_examples != count:
        raise ValueError(f"{info.num_examples} {split} images, must be {count}")
    for path, length in zip(info.filepaths, info.shard_lengths, strict=True):
        if not Path(path).is_file():
            raise ValueError(f"{Path(path).name} is missing")
        reader = ArrayRecordReader(str(path))
        found = reader.num_records()
        reader.close()
        if found != length:
            raise ValueError(f"{Path(path).name} holds {found} records, must hold {length}")
