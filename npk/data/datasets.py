"""Images, or points, and labels as plain NumPy arrays: made here, inside scikit-learn, or prepared by TFDS.

Nothing is downloaded here, and nothing needs TensorFlow: the larger sets of images are read from a folder
that `preparing` has made from their original files, in the `array_record` format of tensorflow-datasets.
"""

import os
from typing import Any

import numpy as np

from npk.data.catalogue import STORED
from npk.data.dataset import Dataset, check_seed, only_classes
from npk.data.prepared import read
from npk.data.synthetic import cob_odt

# The published sizes: training points, dimensions.
_COB_ODT = {"cob_odt_20": (20_000, 20), "cob_odt_100": (30_000, 100)}
#: What each data set is called where results are shown, by its name.
TITLES = {
    "digits": "Digits",
    **{name: stored.title for name, stored in STORED.items()},
    **{name: f"COB-ODT, {dimensions} dimensions" for name, (_, dimensions) in _COB_ODT.items()},
}
#: The data sets that `load` knows.
NAMES = tuple(TITLES)


def load(name: str, *, data_dir: str | os.PathLike[str] | None = None, seed: int = 0) -> Dataset:
    """Load a data set by name: one of `NAMES`, or some classes of it, as in "mnist:4,7" or "digits:0-4,5-9".

    Args:
        name: "digits" and "cob_odt_…" need nothing; the others need their prepared folder. After a colon: the
            classes to keep, by number or by name; they become classes 0, 1, … in that order. "4+7" makes one class of
            two, "0-4" one of those numbers.
        data_dir: folder that `npk data prepare` has filled; None is the default of tensorflow-datasets
            (`TFDS_DATA_DIR`, or else `~/tensorflow_datasets`).
        seed: of the held-out split of the digits and of the points of "cob_odt_…"; the others come with their own
            test set.

    Returns:
        Inputs and labels.

    Raises:
        ValueError: the name, or a class, is unknown; the seed is no whole number from 0 to 2³² - 1; or the prepared
            folder is damaged or incomplete.
        ModuleNotFoundError: the packages that read prepared data are not installed.
        FileNotFoundError: the data set has not been prepared in that folder.

    Example:
        >>> from npk import data
        >>> digits = data.load("digits")
        >>> digits.x_train.shape, digits.class_names[:3]
        ((1437, 8, 8, 1), ('0', '1', '2'))
        >>> data.load("digits:4,7").class_names
        ('4', '7')
    """
    base, colon, classes = name.partition(":")
    if base not in NAMES:
        raise ValueError(f"unknown dataset {base!r}: choose one of {', '.join(NAMES)}.")
    check_seed(seed)
    if base == "digits":
        dataset = _digits(seed)
    elif base in _COB_ODT:
        samples, dimensions = _COB_ODT[base]
        dataset = cob_odt(seed, samples, dimensions)
    else:
        dataset = read(base, data_dir)
    return only_classes(dataset, classes.split(",")) if colon else dataset


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
    source = "scikit-learn's handwritten digits, 8×8"
    return Dataset("digits", x_train, y_train, x_test, y_test, names, source, TITLES["digits"])
