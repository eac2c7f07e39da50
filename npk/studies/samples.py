"""The data set of a run, whether it suits the network, and how a run describes it."""

import os
from typing import Any

from npk.data import Dataset, load


def load_suited(config: Any, data_dir: str | os.PathLike[str] | None) -> Dataset:
    """The data set of a configuration, or a ValueError where its network does not take it."""
    data = load(config.dataset, data_dir=data_dir, seed=config.seed)
    check_suited(config.network, data)
    check_samples(config.samples, data)
    return data


def check_samples(samples: int, data: Dataset) -> None:
    """Refuse, with a ValueError, samples of which none of any class can be held out, to choose the ridge by."""
    if samples <= (classes := len(data.class_names)):
        raise ValueError(f"samples must be more than the {classes} classes, got {samples}.")


def check_suited(network: str, data: Dataset) -> None:
    """Refuse, with a ValueError, points for a network that takes images."""
    if data.x_train.ndim != 4 and network != "mlp":
        raise ValueError(f"{network} needs images, and {data.title} has none: choose the network mlp, or other data.")


def described(data: Dataset) -> dict[str, Any]:
    """What the page of a run says of its data set."""
    return {
        "title": data.title,
        "source": data.source,
        "class_names": list(data.class_names),
        "shape": list(data.x_train.shape[1:]),
    }
