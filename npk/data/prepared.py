"""Reading the folders that `preparing` makes, without TensorFlow: every record, or an error."""

import dataclasses
import io
import os
from pathlib import Path
from typing import Any

import numpy as np

from npk.data.dataset import Dataset


@dataclasses.dataclass(frozen=True)
class Stored:
    """A data set that has to be prepared: its name in results, the images it must have, and which builder made it."""

    title: str
    train: int
    test: int
    version: str
    own: bool = False


# Neither copy may pass as CIFAR-10.
STORED = {
    "mnist": Stored("MNIST", 60_000, 10_000, "3.0.1"),
    "fashion_mnist": Stored("Fashion-MNIST", 60_000, 10_000, "3.0.1"),
    "cifar10": Stored("CIFAR-10", 50_000, 10_000, "3.0.2"),
    "cifar100": Stored("CIFAR-100", 50_000, 10_000, "3.0.2"),
    "cifar10_jpeg": Stored("CIFAR-10 (JPEG copy)", 50_000, 10_000, "1.0.0", own=True),
    "cifar10_subset": Stored("CIFAR-10 (lossless subset)", 7_897, 932, "1.0.0", own=True),
}


def data_folder(data_dir: str | os.PathLike[str] | None = None) -> Path:
    """The folder of prepared data sets: the given one, or tensorflow-datasets' own default."""
    return Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


def folder_of(name: str, data_dir: str | os.PathLike[str] | None = None) -> Path:
    """The folder that a data set is prepared in."""
    return data_folder(data_dir) / name / STORED[name].version


def read(name: str, data_dir: str | os.PathLike[str] | None) -> Dataset:
    """The whole data set, checked against the counts it must have."""
    stored, builder = STORED[name], _builder(name, data_dir)
    try:
        x_train, y_train = _split(builder, "train", stored.train)
        x_test, y_test = _split(builder, "test", stored.test)
    except Exception as error:
        # Readers of records and of images raise errors of many types, none of which names the folder.
        raise ValueError(
            f"{stored.title} in {builder.data_path} is damaged ({error}): remove that folder and prepare it again with "
            f"`npk data prepare {name} --from FOLDER`."
        ) from error
    names = tuple(builder.info.features["label"].names)
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
    if STORED[name].own:
        return tfds.builder_from_directory(str(folder_of(name, data_dir)))
    try:
        return tfds.builder(f"{name}:{STORED[name].version}", data_dir=folder, file_format="array_record")
    except ValueError as error:
        if "file format" not in str(error).lower():
            raise
        raise FileNotFoundError(
            f"{name!r} was prepared in {folder} in another format: use `npk data prepare`, and another folder."
        ) from error


def _split(builder: Any, split: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    import PIL.Image
    import tensorflow_datasets as tfds

    _check_count(builder, split, count)
    source = builder.as_data_source(split=split, decoders={"image": tfds.decode.SkipDecoding()})
    records = source.__getitems__(list(range(count)))
    shape = builder.info.features["image"].shape
    images = np.empty((count, *shape), np.uint8)
    for i, record in enumerate(records):
        images[i] = np.asarray(PIL.Image.open(io.BytesIO(record["image"]))).reshape(shape)
    return images.astype(np.float32) / 255.0, np.array([record["label"] for record in records], np.int32)


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
