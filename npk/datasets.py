"""Images and labels as plain float32 arrays: digits inside scikit-learn, the others prepared by TFDS.

Nothing is downloaded here. `mnist`, `fashion_mnist`, `cifar10` and `cifar100` are read, without
TensorFlow, from a folder that tensorflow-datasets has prepared in its `array_record` format.
"""

import dataclasses
import io
import os
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

NAMES = ("digits", "mnist", "fashion_mnist", "cifar10", "cifar100")


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """A classification problem of images in [0, 1].

    Attributes:
        name: as given to `load`.
        x_train: training images, of shape (N, height, width, channels).
        y_train: their classes, of shape (N,).
        x_test: held-out images, of shape (M, height, width, channels).
        y_test: their classes, of shape (M,).
        class_names: what class 0, 1, … is called.
        source: where the images come from, in words.

    Example:
        >>> from npk import datasets
        >>> datasets.load("digits").x_test.shape
        (360, 8, 8, 1)
    """

    name: str
    x_train: Float[np.ndarray, "n h w c"]
    y_train: Int[np.ndarray, " n"]
    x_test: Float[np.ndarray, "m h w c"]
    y_test: Int[np.ndarray, " m"]
    class_names: tuple[str, ...]
    source: str


def load(name: str, *, data_dir: str | os.PathLike[str] | None = None, seed: int = 0) -> Dataset:
    """Load a data set by name: one of `NAMES`.

    Args:
        name: "digits" needs nothing; the others need their prepared folder.
        data_dir: folder prepared by tensorflow-datasets; None is its own default (`~/tensorflow_datasets`, or
            `TFDS_DATA_DIR`).
        seed: of the held-out split of the digits; the others come with their own test set.

    Returns:
        Images in [0, 1] and labels.

    Raises:
        ValueError: the name is unknown.
        ModuleNotFoundError: the packages that read prepared data are not installed.
        FileNotFoundError: the data set has not been prepared in that folder.

    Example:
        >>> from npk import datasets
        >>> digits = datasets.load("digits")
        >>> digits.x_train.shape, digits.class_names[:3]
        ((1437, 8, 8, 1), ('0', '1', '2'))
    """
    if name == "digits":
        return _digits(seed)
    if name in NAMES:
        return _prepared(name, data_dir)
    raise ValueError(f"unknown dataset {name!r}: choose one of {', '.join(NAMES)}.")


def _digits(seed: int) -> Dataset:
    import sklearn.datasets
    import sklearn.model_selection

    bunch: Any = sklearn.datasets.load_digits()
    images = (bunch.images[..., None] / 16.0).astype(np.float32)
    parts: Any = sklearn.model_selection.train_test_split(
        images, bunch.target.astype(np.int32), test_size=360, random_state=seed, stratify=bunch.target
    )
    names = tuple(str(digit) for digit in range(10))
    x_train, x_test, y_train, y_test = parts
    return Dataset("digits", x_train, y_train, x_test, y_test, names, "scikit-learn's handwritten digits, 8×8")


def _prepared(name: str, data_dir: str | os.PathLike[str] | None) -> Dataset:
    builder = _builder(name, data_dir)
    x_train, y_train = _split(builder, "train")
    x_test, y_test = _split(builder, "test")
    names = tuple(builder.info.features["label"].names)
    source = f"{builder.info.full_name}, prepared by tensorflow-datasets"
    return Dataset(name, x_train, y_train, x_test, y_test, names, source)


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
    if data_dir is not None and not Path(data_dir).is_dir():
        raise FileNotFoundError(f"data_dir {str(data_dir)!r} is not a folder.")
    try:
        builder = tfds.builder(name, data_dir=data_dir, file_format="array_record")
    except ValueError as error:
        if "file format" not in str(error).lower():
            raise
        raise FileNotFoundError(
            f"{name!r} was prepared in {data_dir or 'the default folder'} in another format: prepare it with "
            "file_format='array_record', in another folder."
        ) from error
    if not (builder.data_path / "dataset_info.json").exists():
        raise FileNotFoundError(
            f"{name!r} is not prepared in {builder.data_path}. Prepare it once, where TensorFlow is installed, with "
            f"`tfds.builder({name!r}, data_dir=…, file_format='array_record').download_and_prepare()`, and give that "
            "folder as data_dir."
        )
    return builder


def _split(builder: Any, split: str) -> tuple[np.ndarray, np.ndarray]:
    import PIL.Image
    import tensorflow_datasets as tfds

    source = builder.as_data_source(split=split, decoders={"image": tfds.decode.SkipDecoding()})
    records = source.__getitems__(list(range(len(source))))
    shape = builder.info.features["image"].shape
    images = np.empty((len(records), *shape), np.uint8)
    for i, record in enumerate(records):
        images[i] = np.asarray(PIL.Image.open(io.BytesIO(record["image"]))).reshape(shape)
    return images.astype(np.float32) / 255.0, np.array([record["label"] for record in records], np.int32)
