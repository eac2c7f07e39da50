"""The published tables, run again: each figure beside ours, with what was made smaller said in the output."""

import dataclasses
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from npk import datasets, networks
from npk._run_folder import digest, surroundings, write_json
from npk.regime_training import RegimeRun, train_regime
from npk.regimes import Network, Regime, RegimeConfig

_FEWEST = 200  # training samples
VALIDATION = 1 / 12  # of the training set: 5,000 of MNIST's 60,000


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of a table.

    Attributes:
        config: the regime and how it is trained.
        published: test accuracy in percent, as printed; None where the papers give none.
        spread: its published standard deviation over 5 runs.
        network: by name, where a table has several.
        dataset: by name, where a table has several.
        width: of the network, where a table has several.

    Example:
        >>> from npk.regimes import RegimeConfig
        >>> from npk.reproduce import Row
        >>> Row(RegimeConfig("DL"), 98.22, 0.05).published
        98.22
    """

    config: RegimeConfig
    published: float | None = None
    spread: float | None = None
    network: str | None = None
    dataset: str | None = None
    width: int | None = None


@dataclasses.dataclass(frozen=True)
class Table:
    """A published table.

    Attributes:
        title: what it compares.
        source: where it was published.
        dataset: by name.
        network: by name.
        width: of the network.
        depth: of the network, None where it is fixed.
        rows: its lines; a ReLU row comes before the FL rows that take its gates.

    Example:
        >>> from npk.reproduce import TABLES
        >>> TABLES["fc-mnist"].width
        128
    """

    title: str
    source: str
    dataset: str
    network: str
    width: int
    depth: int | None
    rows: tuple[Row, ...]


_PAPER = "Lakshminarayanan & Singh 2020, section 6"
_DUALITY = "Lakshminarayanan & Singh 2021, section 4"


def _rows(published: dict[str, Any], **options: Any) -> tuple[Row, ...]:
    rows = []
    for name, value in published.items():
        regime, _, stage = name.partition("FL-")
        where: dict[str, Any] = {"regime": "FL", "stage": int(stage)} if stage else {"regime": regime}
        accuracy, spread = value if isinstance(value, tuple) else (value, None)
        rows.append(Row(RegimeConfig(**where, **options), accuracy, spread))
    return tuple(rows)


_FC = {"ReLU": (98.14, 0.07), "FR-II": (96.02, 0.13), "FR-DI": (96.09, 0.12), "DL": (98.22, 0.05), "FL": (97.82, 0.02)}
_FC_SGD = {"ReLU": 97.85, "FR-II": 95.85, "FR-DI": 95.85, "DL": 97.86, "FL": 97.10}
_GCONV = {"ReLU": 80.32, "FR-II": 67.09, "FR-DI": 67.08, "DL": 77.12, "FL": 79.68}
_VCONV = {"ReLU": 72.43, "FR-II": 64.86, "FR-DI": 64.68, "DL": 69.45, "FL": 71.40}
_STAGES = (67.09, 72.29, 74.42, 77.1, 78.4, 78.7, 79.43)
# Points on a unit sphere have small coordinates: gates need a larger β to open and close. The table names no
# hyperparameters; these, and the widths and decays of its rows, were chosen on the validation split.
_TREE: dict[str, Any] = {"beta": 10.0, "constant_input": True, "schedule": "cosine", "epochs": 80}


def _stage_rows(**options: Any) -> tuple[Row, ...]:
    relu = Row(RegimeConfig("ReLU", stages=len(_STAGES), **options), 80.32)
    return (relu, *_rows({f"FL-{k}": value for k, value in enumerate(_STAGES)}, **options))


TABLES: dict[str, Table] = {
    "fc-mnist": Table(
        "Fully connected, depth 6, MNIST", _PAPER, "mnist", "mlp", 128, 6,
        _rows(_FC, learning_rate=1e-4, epochs=100),
    ),
    "fc-mnist-sgd": Table(
        "Fully connected, depth 6, MNIST, SGD", _PAPER, "mnist", "mlp", 128, 6,
        _rows(_FC_SGD, optimizer="sgd", learning_rate=1e-2, epochs=300),
    ),
    "fc-mnist-stages": Table(
        "Gates of stage k of training, frozen, fully connected, MNIST", "not published: fl-stages on MNIST",
        "mnist", "mlp", 128, 6,
        (
            Row(RegimeConfig("ReLU", stages=len(_STAGES), learning_rate=1e-4, epochs=100)),
            *_rows({f"FL-{k}": None for k in range(len(_STAGES))}, learning_rate=1e-4, epochs=100),
        ),
    ),
    "vconv-cifar10": Table(
        "Convolutions without pooling, CIFAR-10", _PAPER, "cifar10", "gconv-flat", 64, None,
        _rows(_VCONV, learning_rate=3e-4, epochs=80),
    ),
    "gconv-cifar10": Table(
        "Convolutions with global average pooling, CIFAR-10", _PAPER, "cifar10", "gconv", 64, None,
        _rows(_GCONV, learning_rate=3e-4, epochs=200),
    ),
    "fl-stages": Table(
        "Gates of stage k of training, frozen, CIFAR-10", _PAPER, "cifar10", "gconv", 64, None,
        _stage_rows(learning_rate=3e-4, epochs=200),
    ),
    "constant-input": Table(
        "All ones for the value network, CIFAR-10", _DUALITY, "cifar10", "gconv", 64, None,
        (
            Row(RegimeConfig("ReLU", learning_rate=3e-4, epochs=200)),
            *(
                Row(RegimeConfig(regime, constant_input=constant, learning_rate=3e-4, epochs=200))
                for regime in ("FL", "DLGN")
                for constant in (False, True)
            ),
        ),
    ),
    "permuted-gates": Table(
        "Gates given to other layers, CIFAR-10", _DUALITY, "cifar10", "c4gap", 64, None,
        (
            Row(RegimeConfig("ReLU", learning_rate=3e-4, epochs=200)),
            *(
                Row(RegimeConfig(regime, permute=order, learning_rate=3e-4, epochs=200))
                for regime in ("FL", "DLGN")
                for order in (None, (1, 0, 3, 2), (3, 2, 1, 0))
            ),
        ),
    ),
    "dlgn-cifar": Table(
        "DLGN beside the network it is made of, CIFAR-10 and CIFAR-100", _DUALITY, "cifar10", "c4gap", 64, None,
        tuple(
            Row(RegimeConfig(regime, learning_rate=1e-3, epochs=200), network=network, dataset=dataset)
            for dataset in ("cifar10", "cifar100")
            for network in ("c4gap", "vgg16-bn-average", "resnet-bn-110")
            for regime in ("ReLU", "DLGN")
        ),
    ),
    "cob-odt": Table(
        "Points labelled by an oblique decision tree", "Banerjee et al. 2025, SDI", "cob_odt_20", "mlp", 32, 5,
        (
            Row(RegimeConfig("ReLU", learning_rate=1e-2, epochs=40), 90.6),
            Row(RegimeConfig("DLGN", learning_rate=3e-3, **_TREE), 96.1),
            Row(RegimeConfig("DLGN-SF", learning_rate=1e-2, **_TREE), 97.4, width=16),
            *(
                dataclasses.replace(row, dataset="cob_odt_100")
                for row in (
                    Row(RegimeConfig("ReLU", learning_rate=1e-2, weight_decay=1e-4, epochs=40), 82.3),
                    Row(RegimeConfig("DLGN", learning_rate=3e-3, weight_decay=1e-2, **_TREE), 94.3),
                    Row(RegimeConfig("DLGN-SF", learning_rate=1e-2, weight_decay=0.1, **_TREE), 90.3),
                )
            ),
        ),
    ),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Scale:
    """How much smaller than published a table is run.

    Attributes:
        share: of the epochs, of the training samples, and (its square root) of the width.
        epochs: a number of epochs instead of that share.
        samples: a number of training samples (validation included) instead of that share.
        learning_rate: instead of the published one, for runs of far fewer steps.
        seeds: runs with different seeds.
        dataset: another data set in place of the table's, e.g. "cifar10_jpeg"; rows that differed in their
            data set alone are then run once.

    Raises:
        ValueError: a number is out of range.

    Example:
        >>> from npk.reproduce import Scale
        >>> Scale(share=0.1, seeds=2).seeds
        2
    """

    share: float = 1.0
    epochs: int | None = None
    samples: int | None = None
    learning_rate: float | None = None
    seeds: int = 5
    dataset: str | None = None

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"scale must lie in (0, 1], got {self.share}.")
        if self.seeds < 1 or (self.epochs is not None and self.epochs < 1):
            raise ValueError(f"seeds and epochs must be at least 1, got {self.seeds} and {self.epochs}.")
        if self.samples is not None and self.samples < _FEWEST:
            raise ValueError(f"samples must be at least {_FEWEST}, got {self.samples}.")


def reproduce(
    name: str,
    out: str | os.PathLike[str],
    scale: Scale | None = None,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    progress: Callable[[float, str], None] = lambda share, text: None,
) -> dict[str, Any]:
    """Run a published table again; what a folder already holds of the same run is not run twice.

    Every row is selected on a validation split of the training set. The published figures are the largest over
    epochs on the test set: that figure is reported too, by its name.

    Args:
        name: one of `TABLES`.
        out: a folder for the result, the checkpoints of the row that is running, and the finished rows.
        scale: how much smaller to run it; None is in full.
        data_dir: folder prepared by `npk data prepare`.
        progress: called with the share done and a line to show.

    Returns:
        The content of `<name>.json`: title, what was made smaller, and for each row the published and our figures.

    Raises:
        ValueError: the table is unknown, or the folder holds another run.
        FileNotFoundError: the data set has not been prepared.

    Example:
        >>> import tempfile
        >>> from npk.reproduce import Scale, reproduce
        >>> with tempfile.TemporaryDirectory() as out:
        ...     result = reproduce("cob-odt", out, Scale(share=0.01, seeds=1))
        >>> [row["label"] for row in result["rows"]][:3]
        ['ReLU', 'DLGN, constant input', 'DLGN-SF, constant input']

    Source: Lakshminarayanan & Singh 2020, section 6; 2021, section 4.
    """
    if name not in TABLES:
        raise ValueError(f"unknown table {name!r}: choose one of {', '.join(TABLES)}.")
    scale, table, folder = scale or Scale(), TABLES[name], Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    asked = {"table": name, **dataclasses.asdict(scale)}
    path = folder / f"{name}.json"
    result = _begun(path, asked, table, scale)
    source: RegimeRun | None = None
    rows = _rows_of(table, scale)
    for number, row in enumerate(rows):
        later = any(r.config.regime == Regime.FL for r in rows[number + 1 :])
        done = number < len(result["rows"])
        if done and not (row.config.regime == Regime.RELU and later):
            continue  # only a ReLU row is needed again: its gates

        def show(share: float, text: str, number: int = number) -> None:
            progress((number + share) / len(rows), text)

        data = _data(row.dataset or table.dataset, scale, data_dir)
        config = _scaled(row.config, scale)
        network, described = _network(row, table, scale, len(data.class_names))
        checkpoints = folder / "checkpoints" / f"{number}-{digest(asked)}"
        seeds = tuple(range(scale.seeds))
        run = train_regime(network, config, data, seeds, source=source, checkpoints=checkpoints, on_record=show)
        if config.regime == Regime.RELU:
            source = run
        if not done:
            result["rows"].append(_entry(row, run, data, described))
            write_json(path, result)
    progress(1.0, "done")
    return result


def _rows_of(table: Table, scale: Scale) -> tuple[Row, ...]:
    if scale.dataset is None:
        return table.rows
    return tuple(dict.fromkeys(dataclasses.replace(row, dataset=scale.dataset) for row in table.rows))


def _begun(path: Path, asked: dict[str, Any], table: Table, scale: Scale) -> dict[str, Any]:
    if path.exists():
        result = json.loads(path.read_text(encoding="utf-8"))
        if result["asked"] != asked:
            raise ValueError(f"{path} holds another run ({result['asked']}): choose another folder.")
        return result
    smaller = [f"{scale.share:g} of the epochs, samples and (square root) width"] if scale.share < 1 else []
    smaller += [f"{scale.epochs} epochs"] if scale.epochs is not None else []
    smaller += [f"{scale.samples} training samples, validation included"] if scale.samples is not None else []
    smaller += [f"learning rate {scale.learning_rate:g}"] if scale.learning_rate is not None else []
    smaller += [f"{scale.dataset} for {table.dataset}"] if scale.dataset else []
    smaller += [f"{scale.seeds} seeds instead of 5"] if scale.seeds != 5 else []
    return {
        "asked": asked,
        "title": table.title,
        "source": table.source,
        "not as published": smaller,
        "selection": "on a validation split; published: the largest over epochs on the test set",
        **surroundings(),
        "rows": [],
    }


def _data(name: str, scale: Scale, data_dir: Any) -> datasets.Dataset:
    data = datasets.load(name, data_dir=data_dir)
    some = scale.samples or max(_FEWEST, round(scale.share * len(data.x_train)))
    if some < len(data.x_train):
        chosen = np.random.default_rng(0).permutation(len(data.x_train))[:some]
        data = dataclasses.replace(data, x_train=data.x_train[chosen], y_train=data.y_train[chosen])
    return datasets.with_validation(data, VALIDATION)


def _scaled(config: RegimeConfig, scale: Scale) -> RegimeConfig:
    epochs = scale.epochs or max(1, round(scale.share * config.epochs))
    return dataclasses.replace(config, epochs=epochs, learning_rate=scale.learning_rate or config.learning_rate)


def _network(row: Row, table: Table, scale: Scale, outputs: int) -> tuple[Network, str]:
    name, depth = row.network or table.network, table.depth
    width = max(4, round((row.width or table.width) * scale.share**0.5))
    if name == "resnet-bn-110":
        name, width, depth = "resnet-bn", max(4, round(16 * scale.share**0.5)), 110 if scale.share == 1 else 20
    model = networks.build(name, outputs=outputs, width=width, depth=depth)
    described = f"{name}, width {width}" + ("" if depth is None else f", depth {depth}")

    def forward(variables: Any, x: Any) -> tuple[Any, Any]:
        logits, updated = model.apply(variables, x, train=True, mutable=["batch_stats"])
        return logits, {**variables, **updated}

    return Network(model.apply, model.init, forward if "bn" in name else None), described


def _entry(row: Row, run: RegimeRun, data: datasets.Dataset, network: str) -> dict[str, Any]:
    def summary(values: Any) -> dict[str, Any]:
        percent = 100 * np.asarray(values)
        return {"mean": float(percent.mean()), "std": float(percent.std(ddof=min(1, len(percent) - 1)))}

    return {
        "label": run.config.label,
        "network": network,
        "dataset": data.title,
        "training samples": len(data.x_train),
        "epochs": run.config.epochs,
        "seeds": list(run.seeds),
        "published": row.published,
        "published std": row.spread,
        "selected on validation": summary(run.selected),
        "largest on test": summary(run.largest_on_test),
        "last epoch": summary(run.test[-1]),
        "test by epoch": (100 * run.test.mean(1)).tolist(),
        "config": dataclasses.asdict(run.config),
    }


def table_rows(result: dict[str, Any]) -> Sequence[Sequence[str]]:
    """The lines of a result to print: label, network and data, published, ours, ours chosen on the test set.

    Args:
        result: of `reproduce`.

    Returns:
        One sequence of five texts a row.

    Example:
        >>> from npk.reproduce import table_rows
        >>> table_rows({"rows": []})
        []
    """

    def figure(mean: float | None, std: float | None) -> str:
        return "–" if mean is None else f"{mean:.2f}" + ("" if std is None else f" ± {std:.2f}")

    return [
        [
            row["label"],
            f"{row['network']}; {row['dataset']}, {row['epochs']} epochs",
            figure(row["published"], row["published std"]),
            figure(*row["selected on validation"].values()),
            figure(*row["largest on test"].values()),
        ]
        for row in result["rows"]
    ]
