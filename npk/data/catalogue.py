"""The data sets that are prepared once and then read, and where their folders are."""

import dataclasses
import os
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class Stored:
    """A data set that has to be prepared: its name in results, what it must hold, and which builder made it."""

    title: str
    train: int
    test: int
    version: str
    classes: int = 10
    own: bool = False


# Neither copy may pass as CIFAR-10.
STORED = {
    "mnist": Stored("MNIST", 60_000, 10_000, "3.0.1"),
    "fashion_mnist": Stored("Fashion-MNIST", 60_000, 10_000, "3.0.1"),
    "cifar10": Stored("CIFAR-10", 50_000, 10_000, "3.0.2"),
    "cifar100": Stored("CIFAR-100", 50_000, 10_000, "3.0.2", classes=100),
    "cifar10_jpeg": Stored("CIFAR-10 (JPEG copy)", 50_000, 10_000, "1.0.0", own=True),
    "cifar10_subset": Stored("CIFAR-10 (lossless subset)", 7_897, 932, "1.0.0", own=True),
}


def data_folder(data_dir: str | os.PathLike[str] | None = None) -> Path:
    """The folder of prepared data sets: the given one, or tensorflow-datasets' own default."""
    default = os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return Path(default if data_dir is None else data_dir).expanduser()


def folder_of(name: str, data_dir: str | os.PathLike[str] | None = None) -> Path:
    """The folder that a data set is prepared in."""
    return data_folder(data_dir) / name / STORED[name].version
