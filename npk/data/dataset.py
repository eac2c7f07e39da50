"""What a data set is, and smaller ones made of it: some of its classes, a part held out to choose models by."""

import dataclasses
import functools
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int, Num

from npk.folders import digest, fingerprint
from npk.programs import shown

# What NumPy and scikit-learn, which split and draw, both take for a seed.
MOST_SEED = 2**32 - 1


def check_seed(seed: Any) -> None:
    """Raise `ValueError` unless it is a seed: those who draw would refuse it in words of their own."""
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or not 0 <= seed <= MOST_SEED:
        raise ValueError(f"seed must be a whole number, at least 0 and at most {MOST_SEED}, got {seed!r}.")


@shown()
@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """A classification problem: images in [0, 1], points, or tokens.

    Attributes:
        name: as given to `load`.
        x_train: training inputs, of shape (N, height, width, channels) or (N, dimensions).
        y_train: their classes, of shape (N,).
        x_test: held-out inputs, of shape (M, …).
        y_test: their classes, of shape (M,).
        class_names: what class 0, 1, … is called.
        source: where the data come from, in words.
        title: what to call the data set where results are shown.
        x_validation: inputs to choose models by, of shape (V, …), or None: see `with_validation`.
        y_validation: their classes, of shape (V,), or None.

    Example:
        >>> from npk import data
        >>> data.load("digits").x_test.shape
        (360, 8, 8, 1)
    """

    name: str
    x_train: Num[np.ndarray, "n *features"]
    y_train: Int[np.ndarray, " n"]
    x_test: Num[np.ndarray, "m *features"]
    y_test: Int[np.ndarray, " m"]
    class_names: tuple[str, ...]
    source: str
    title: str
    x_validation: Num[np.ndarray, "v *features"] | None = None
    y_validation: Int[np.ndarray, " v"] | None = None

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 of all its numbers and of the names of its classes: by it a run knows its data."""
        arrays = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name[:2] in ("x_", "y_")}
        return digest([fingerprint(arrays), self.class_names])


def only_classes(dataset: Dataset, classes: Sequence[str]) -> Dataset:
    """The samples of some classes, or groups of classes, relabelled 0, 1, … in the order given.

    Args:
        dataset: to choose from.
        classes: two or more of its classes, each by its number or its name; "4+7" makes one class of two, "0-4" one of
            those numbers.

    Returns:
        The smaller data set; its name is the one that `load` takes.

    Raises:
        ValueError: a class is unknown or given twice, or there are fewer than two.

    Example:
        >>> from npk import data
        >>> pair = data.only_classes(data.load("digits"), ["4", "7"])
        >>> pair.name, pair.title, sorted(set(pair.y_train.tolist()))
        ('digits:4,7', 'Digits, classes 4 and 7', [0, 1])
        >>> data.only_classes(data.load("digits"), ["0-4", "5-9"]).class_names
        ('0-4', '5-9')
    """
    names = dataset.class_names
    groups = [_class_numbers(dataset, text.strip()) for text in classes]
    numbers = [number for group in groups for number in group]
    if len(groups) < 2 or len(set(numbers)) < len(numbers) or not all(groups):
        raise ValueError(f"choose two or more different classes of {dataset.name!r}, got {','.join(classes)!r}.")
    new = np.full(len(names), -1, np.int32)
    new[numbers] = [label for label, group in enumerate(groups) for _ in group]

    def choose(x: Any, y: Any) -> tuple[Any, Any]:
        return (None, None) if x is None else (x[new[y] >= 0], new[y][new[y] >= 0])

    several = {
        group[0]: re.sub(r"\s*\+\s*", "+", text.strip())
        for text, group in zip(classes, groups, strict=True)
        if len(group) > 1
    }
    chosen = tuple(several.get(group[0], names[group[0]]) for group in groups)
    x_train, y_train = choose(dataset.x_train, dataset.y_train)
    x_test, y_test = choose(dataset.x_test, dataset.y_test)
    x_validation, y_validation = choose(dataset.x_validation, dataset.y_validation)
    return Dataset(
        name=f"{dataset.name}:{','.join(several.get(group[0], str(group[0])) for group in groups)}",
        x_train=x_train,
        y_train=y_train,
        x_test=x_test,
        y_test=y_test,
        class_names=chosen,
        source=dataset.source,
        title=f"{dataset.title}, classes {', '.join(chosen[:-1])} and {chosen[-1]}",
        x_validation=x_validation,
        y_validation=y_validation,
    )


def _class_numbers(dataset: Dataset, text: str) -> list[int]:
    """The classes of a group: one by number or name, some with + between, or a range of numbers."""
    if text in dataset.class_names:
        return [dataset.class_names.index(text)]
    if ends := re.fullmatch(r"(\d+)-(\d+)", text):
        first, last = (_class_number(dataset, end) for end in ends.groups())
        return list(range(first, last + 1))
    return [_class_number(dataset, part.strip()) for part in text.split("+")]


def _class_number(dataset: Dataset, text: str) -> int:
    names = dataset.class_names
    if text in names:
        return names.index(text)
    if text.isdecimal() and int(text) < len(names):
        return int(text)
    known = ", ".join(names[:10]) + (", …" if len(names) > 10 else "")
    raise ValueError(f"{dataset.name!r} has no class {text!r}: choose from 0 … {len(names) - 1} or {known}.")


def with_validation(dataset: Dataset, size: int | float, *, seed: int = 0) -> Dataset:
    """Hold out a part of the training set to choose models by, so that the test set is looked at once.

    Args:
        dataset: without a validation set.
        size: how much of the training set: a whole number ≥ 1 is a count, a number in (0, 1) a fraction.
        seed: of the choice.

    Returns:
        The same samples; `x_validation` and `y_validation` have each class in its proportion in the training set.

    Raises:
        ValueError: there is a validation set already, the size leaves a class out of either part, or the seed is no
            whole number from 0 to 2³² - 1.

    Example:
        >>> from npk import data
        >>> held = data.with_validation(data.load("digits"), 0.1)
        >>> held.x_train.shape, held.x_validation.shape, held.x_test.shape
        ((1293, 8, 8, 1), (144, 8, 8, 1), (360, 8, 8, 1))
    """
    if dataset.x_validation is not None:
        raise ValueError(f"{dataset.name!r} has a validation set already.")
    if not (0 < size < 1 or (size >= 1 and size == int(size))):
        raise ValueError(f"size must be a count ≥ 1 or a fraction in (0, 1), got {size}.")
    check_seed(seed)
    import sklearn.model_selection

    try:
        parts: Any = sklearn.model_selection.train_test_split(
            np.arange(len(dataset.y_train)),
            test_size=float(size) if size < 1 else int(size),
            random_state=seed,
            stratify=dataset.y_train,
        )
    except ValueError as error:
        raise ValueError(f"cannot hold out {size} of {len(dataset.y_train)} training samples: {error}") from error
    # In their old order, which says nothing, but is the cheapest to read through.
    train, validation = (np.sort(part) for part in parts)
    return dataclasses.replace(
        dataset,
        x_train=dataset.x_train[train],
        y_train=dataset.y_train[train],
        x_validation=dataset.x_train[validation],
        y_validation=dataset.y_train[validation],
    )


def balanced(labels: np.ndarray, count: int, seed: int = 0) -> np.ndarray:
    """At most `count` samples, as balanced over the classes as they allow, ordered by class.

    Args:
        labels: class numbers, of shape (N,).
        count: how many to choose.
        seed: of the choice.

    Returns:
        Their places, of shape (min(count, N),).

    Raises:
        ValueError: the seed is no whole number from 0 to 2³² - 1.

    Example:
        >>> import numpy as np
        >>> from npk.data import balanced
        >>> labels = np.array([1, 1, 1, 1, 0, 0])
        >>> labels[balanced(labels, 4)].tolist()
        [0, 0, 1, 1]
    """
    check_seed(seed)
    generator = np.random.default_rng(seed)
    shuffled = generator.permutation(len(labels))
    # The rank of each sample within its class: taking the lowest ranks first keeps the classes level.
    rank = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        members = shuffled[labels[shuffled] == label]
        rank[members] = np.arange(len(members))
    chosen = np.lexsort((labels, rank))[:count]
    return chosen[np.lexsort((rank[chosen], labels[chosen]))]
