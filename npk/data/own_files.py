"""A user's own samples as a data set: arrays, or an NPZ file of them, checked; only labels are ever changed."""

import os
import zipfile
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from npk.data.dataset import Dataset, check_seed, with_validation
from npk.folders import check_unpacked

# What the arrays of a file may be called, and what each is to `from_arrays`.
_NAMES = {"x": "x", "x_train": "x", "y": "y", "y_train": "y"}
_NAMES |= {name: name for name in ("x_test", "y_test", "class_names")}
_HELD_OUT = 0.2


def from_file(path: str | os.PathLike[str], *, seed: int = 0) -> Dataset:
    """A data set of an NPZ file: arrays `x` and `y`, and as you have them `x_test`, `y_test` and `class_names`.

    `x_train` and `y_train` are taken for `x` and `y`. What the arrays must be, `from_arrays` says.

    Args:
        path: of the file, as `np.savez` writes it; nothing in it is run.
        seed: of the test samples, where the file has none.

    Returns:
        The data set, called as the file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no NPZ file, or damaged; an array is missing, or is none of these; or as `from_arrays`.

    Example:
        >>> import os, tempfile, numpy as np
        >>> from npk import data
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = os.path.join(folder, "points.npz")
        ...     np.savez(path, x=np.eye(10), y=np.arange(10) % 2)
        ...     points = data.from_file(path)
        >>> points.name, points.x_train.shape, sorted(points.y_test.tolist())
        ('points', (8, 10), [0, 1])
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is no file.")
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path} is no NPZ file, or damaged: write it by np.savez(path, x=…, y=…).")
    check_unpacked(path)
    try:
        with path.open("rb") as whole, np.load(whole, allow_pickle=False) as file:
            found = [(name, file[name]) for name in file.files]
    except Exception as error:  # of many types, where a bit of a header has flipped
        raise ValueError(
            f"{path} is damaged, or holds objects and no arrays ({type(error).__name__}: {error})."
        ) from error
    if unknown := [name for name, _ in found if name not in _NAMES]:
        raise ValueError(f"{path} holds {_some(unknown)}, and may hold only {', '.join(_NAMES)}.")
    arrays: dict[str, Any] = {_NAMES[name]: array for name, array in found}
    if len(arrays) < len(found):
        raise ValueError(f"{path} holds the same under two names: keep one of x and x_train, and of y and y_train.")
    if missing := [name for name in ("x", "y") if name not in arrays]:
        raise ValueError(f"{path} lacks {' and '.join(missing)}.")
    source = f"arrays of the file {path.name}"
    return from_arrays(**arrays, name=path.stem, title=path.stem, source=source, seed=seed)


def from_arrays(
    x: ArrayLike,
    y: ArrayLike,
    x_test: ArrayLike | None = None,
    y_test: ArrayLike | None = None,
    *,
    class_names: ArrayLike | None = None,
    name: str = "own",
    title: str = "Own data",
    source: str = "arrays of the user's own",
    seed: int = 0,
) -> Dataset:
    """A data set of your own arrays.

    Args:
        x: training inputs, of shape (N, …): floats as the network takes them, finite; or tokens, signed integers.
        y: their classes, of shape (N,): whole numbers from 0, or strings, which are then the names of the classes.
        x_test: test inputs, of shape (M, …); None holds out a fifth of the samples of every class.
        y_test: their classes, of shape (M,), as `y`.
        class_names: what class 0, 1, … is called; None is the numbers, or the strings of `y` in their order.
        name: of the data set; a run knows it by its numbers.
        title: what to call it where results are shown.
        source: where the data come from, in words.
        seed: of the test samples that are held out.

    Returns:
        The data set; labels are numbers 0, 1, … in the order of `class_names`, inputs are as given.

    Raises:
        ValueError: inputs are neither floats nor tokens, not finite, or of two shapes; there are more or fewer labels
            than inputs; labels are no classes; there are fewer than two classes; a class has too few samples to hold
            one out; or the seed is no whole number from 0 to 2³² - 1.

    Example:
        >>> import numpy as np
        >>> from npk import data
        >>> points = data.from_arrays(np.eye(4), ["no", "yes", "no", "yes"], np.eye(4)[:1], ["yes"])
        >>> points.class_names, points.y_train.tolist(), points.y_test.tolist()
        (('no', 'yes'), [0, 1, 0, 1], [1])
    """
    check_seed(seed)
    if (x_test is None) != (y_test is None):
        raise ValueError("x_test and y_test are given together, or neither.")
    inputs, labels = _inputs(x, "x"), _labels(y, "y")
    names = _class_names(labels, class_names)
    _check_lengths(inputs, labels, "x", "y")
    train = _numbers(labels, names, "y")
    if x_test is not None:
        held, held_labels = _inputs(x_test, "x_test"), _labels(y_test, "y_test")
        if (held_labels.dtype.kind == "U") != (labels.dtype.kind == "U"):
            raise ValueError("of y and y_test one has strings and the other numbers: give both in the same way.")
        _check_lengths(held, held_labels, "x_test", "y_test")
        if held.shape[1:] != inputs.shape[1:]:
            raise ValueError(f"samples of x are of shape {inputs.shape[1:]}, those of x_test of {held.shape[1:]}.")
        return Dataset(name, inputs, train, held, _numbers(held_labels, names, "y_test"), names, source, title)
    whole = Dataset(name, inputs, train, inputs[:0], train[:0], names, source, title)
    try:
        parted: Any = with_validation(whole, _HELD_OUT, seed=seed)
    except ValueError as error:
        raise ValueError(f"there is no x_test, and a fifth of every class cannot be held out: {error}") from error
    source += "; a fifth of every class held out to test by"
    return Dataset(name, parted.x_train, parted.y_train, parted.x_validation, parted.y_validation, names, source, title)


def _inputs(x: ArrayLike, what: str) -> np.ndarray:
    array = np.asarray(x)
    if array.ndim < 2 or array.size == 0:
        raise ValueError(f"{what} must be inputs of shape (samples, …), got {array.shape}.")
    if array.dtype.kind != "i" and not jnp.issubdtype(array.dtype, jnp.floating):
        pixels = " (pixels from 0 to 255: divide by 255 if it was trained so)" if array.dtype == np.uint8 else ""
        raise ValueError(f"{what} is of dtype {array.dtype}: give floats as the network takes them{pixels}, or tokens.")
    if not np.isfinite(array).all():
        raise ValueError(f"{what} holds numbers that are not finite.")
    return array


def _labels(y: Any, what: str) -> np.ndarray:
    array = np.asarray(y)
    if array.ndim != 1:
        more = f" Of one-hot labels give {what}.argmax(1)." if array.ndim == 2 else ""
        raise ValueError(f"{what} must be classes of shape (samples,), got {array.shape}.{more}")
    if array.dtype.kind == "O" and all(isinstance(word, str) for word in array):
        array = array.astype(str)  # as a column of words is in a data frame
    if array.dtype.kind not in "iuU":
        remedy = f"{what}.astype(int)" if array.dtype.kind in "fb" else f"{what}.astype(str)"
        raise ValueError(f"{what} is of dtype {array.dtype}: give classes as whole numbers or strings, {remedy}.")
    return array


def _check_lengths(inputs: np.ndarray, labels: np.ndarray, x: str, y: str) -> None:
    if len(inputs) != len(labels):
        raise ValueError(f"{x} has {len(inputs)} samples, and {y} {len(labels)} labels.")


def _class_names(labels: np.ndarray, given: ArrayLike | None) -> tuple[str, ...]:
    """What class 0, 1, … is called: as given, or as the labels say it."""
    if given is not None:
        array = np.asarray(given)
        if array.ndim != 1 or array.dtype.kind != "U":
            raise ValueError(f"class_names must be strings, of shape (classes,), got {array.dtype} {array.shape}.")
        names = tuple(map(str, array))
    elif labels.dtype.kind == "U":
        names = tuple(map(str, np.unique(labels)))
    else:
        found = np.unique(labels)
        if found.tolist() != list(range(len(found))):
            raise ValueError(
                f"y has labels {_some(found)}, and not 0 to {len(found) - 1}: number classes 0, 1, …, or give "
                "class_names for all."
            )
        names = tuple(str(label) for label in found)
    if len(names) < 2:
        raise ValueError(f"there must be at least two classes, got {', '.join(names) or 'none'}.")
    if len(set(names)) < len(names) or not all(name and name.isprintable() for name in names):
        raise ValueError("names of classes must be different, not empty, and of characters that can be shown.")
    return names


def _numbers(labels: np.ndarray, names: tuple[str, ...], what: str) -> np.ndarray:
    """Labels as numbers of classes."""
    if labels.dtype.kind == "U":
        unknown = sorted(set(labels.tolist()) - set(names))
        if unknown:
            raise ValueError(f"{what} has the class {unknown[0]!r}, which is none of {_some(names)}.")
        return np.array([names.index(label) for label in labels.tolist()], np.int32)
    if len(labels) and not (labels.min() >= 0 and labels.max() < len(names)):
        raise ValueError(f"{what} has labels {_some(np.unique(labels))}, and must have 0 to {len(names) - 1}.")
    return labels.astype(np.int32)


def _some(values: Any) -> str:
    return ", ".join(str(value) for value in values[:5]) + (", …" if len(values) > 5 else "")
