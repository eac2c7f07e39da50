"""The published tables, run again: each figure beside ours, with what was made smaller said in the output."""

import dataclasses
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from npk import networks
from npk.data import NAMES, Dataset, load, with_validation
from npk.folders import differences, digest, locked, tidy
from npk.studies.fitting import TRAINED, check_network
from npk.studies.published import TABLES, Row, Table
from npk.studies.run_folder import FORMAT, Progress, Run, check_identity, identity_of, read_content, surroundings
from npk.studies.samples import check_suited
from npk.studies.settings import MOST, MOST_RATE, check_ranges, configuration, setting
from npk.studies.studied_network import learning_step
from npk.training import (
    MOST_EPOCHS,
    SNAPSHOTS,
    Network,
    Regime,
    RegimeConfig,
    RegimeRun,
    check_course,
    train_regime,
)

_FEWEST = 200  # training samples
_NARROWEST = 4  # units or channels
_SMALL_BATCH = 32  # samples; larger batches are smaller where there are fewer samples
VALIDATION = 1 / 12  # of the training set: 5,000 of MNIST's 60,000


@configuration
class Scale:
    """How much smaller than published a table is run.

    The samples include the validation part. Where another data set takes the place of the table's, rows that differed
    in their data set alone are run once.

    Raises:
        ValueError: a number is out of range, or the data set unknown.

    Example:
        >>> from npk.studies import Scale
        >>> Scale(share=0.1, seeds=2).seeds
        2
    """

    share: float = setting(
        1.0, "Share of the epochs, samples and (square root) width; 1 is in full.", flag="scale", above=0, most=1
    )
    epochs: int | None = setting(
        None, "Epochs, instead of that share of them.", none="the published number", least=1, most=MOST_EPOCHS
    )
    samples: int | None = setting(
        None, "Training samples, instead of that share of them.", none="all, or the share", least=_FEWEST
    )
    learning_rate: float | None = setting(
        None, "For runs of far fewer steps.", none="the published one", above=0, most=MOST_RATE
    )
    pool: int = setting(1, "Average images over squares of so many pixels a side.", least=1)
    networks: tuple[str, ...] | None = setting(
        None, "Only this network of the table; may be repeated.", none="all", flag="network"
    )
    seeds: int = setting(5, "Runs, trained together.", least=1, most=MOST)
    dataset: str | None = setting(
        None,
        "Of a table of several, only this one; or another in their place, e.g. cifar10_jpeg.",
        none="the published ones",
        among=NAMES,
        parts=True,
    )

    def __post_init__(self) -> None:
        check_ranges(self)


def reproduce(
    name: str,
    out: str | os.PathLike[str],
    scale: Scale | None = None,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    progress: Progress = lambda share, text: None,
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
        ValueError: the table is unknown or has no such network, the images cannot be pooled so, or the folder
            holds another run.
        FileNotFoundError: the data set has not been prepared.

    Example:
        >>> import tempfile
        >>> from npk.studies import Scale, reproduce
        >>> with tempfile.TemporaryDirectory() as out:
        ...     result = reproduce("cob-odt", out, Scale(share=0.01, seeds=1, dataset="cob_odt_20"))
        >>> [row["label"] for row in result["rows"]]
        ['ReLU', 'DLGN, constant input', 'DLGN-SF, constant input']

    Source: Lakshminarayanan & Singh 2020, section 6; 2021, section 4.
    """
    if name not in TABLES:
        raise ValueError(f"unknown table {name!r}: choose one of {', '.join(TABLES)}.")
    scale, table, folder = scale or Scale(), TABLES[name], Path(out)
    rows = _rows_of(table, scale)
    datasets = dict.fromkeys(row.dataset or table.dataset for row in rows)
    identity = identity_of({data: _suited(data, rows, table, scale, data_dir).fingerprint for data in datasets})
    # As JSON gives it back, so that it can be compared.
    asked = json.loads(json.dumps({"table": name, **dataclasses.asdict(scale)}))
    path = folder / f"{name}.json"
    with locked(folder):
        tidy(folder)
        run = Run(path, _begun(path, asked, identity, table, scale), progress)
        if not run.content["finished"]:
            _fill(run, rows, table, scale, data_dir)
            run.set(finished=True)
    progress(1.0, "done")
    return run.content


def _fill(run: Run, rows: Sequence[Row], table: Table, scale: Scale, data_dir: Any) -> None:
    """Train the rows that are not done."""
    asked, source = run.content["asked"], None
    for number, row in enumerate(rows):
        later = any(r.config.regime == Regime.FL for r in rows[number + 1 :])
        done = number < len(run.content["rows"])
        if done and not (row.config.regime == Regime.RELU and later):
            continue  # only a ReLU row is needed again: its gates

        def show(share: float, text: str, number: int = number) -> None:
            run.progress((number + share) / len(rows), text)

        show(0.0, row.config.label)
        data = _data(row.dataset or table.dataset, scale, data_dir)
        config = _scaled(row.config, scale, len(data.x_train))
        network, described = _network(row, table, scale, len(data.class_names))
        seeds = tuple(range(scale.seeds))
        # Named by what is trained: tables that share a folder share a row (the network whose gates both freeze).
        what = {"row": dataclasses.asdict(config), "network": described, "data": row.dataset or table.dataset}
        smaller = {key: asked[key] for key in ("share", "samples", "pool", "seeds", "dataset")}
        checkpoints = run.folder / "checkpoints" / digest(what | smaller)[:16]
        trained = train_regime(network, config, data, seeds, source=source, checkpoints=checkpoints, on_record=show)
        if config.regime == Regime.RELU:
            source = trained
        if not done:
            run.add("rows", _entry(row, trained, data, described))


def _rows_of(table: Table, scale: Scale) -> tuple[Row, ...]:
    rows = table.rows
    if scale.networks is not None:
        rows = tuple(row for row in rows if (row.network or table.network) in scale.networks)
        known = dict.fromkeys(row.network or table.network for row in table.rows)
        if not set(scale.networks) <= set(known):
            raise ValueError(f"the table has the networks {', '.join(known)}; asked for were {list(scale.networks)}.")
    if scale.dataset is None:
        return rows
    if scale.dataset in _datasets(table):
        return tuple(row for row in rows if (row.dataset or table.dataset) == scale.dataset)
    return tuple(dict.fromkeys(dataclasses.replace(row, dataset=scale.dataset) for row in rows))


def _datasets(table: Table) -> tuple[str, ...]:
    return tuple(dict.fromkeys(row.dataset or table.dataset for row in table.rows))


def _begun(path: Path, asked: dict[str, Any], identity: dict[str, Any], table: Table, scale: Scale) -> dict[str, Any]:
    """The content of the run that is there, or of one of which nothing is done."""
    if path.exists():
        result = read_content(path, ("asked", "identity", "finished", "rows"))
        if differ := differences(result.get("asked", {}), asked):
            raise ValueError(f"{path} holds another run ({'; '.join(differ)}): choose another folder.")
        check_identity(path, {"finished": False, **result}, identity)
        return result
    known = _datasets(table)
    other = scale.dataset is not None and scale.dataset not in known
    fewer = scale.share < 1 or scale.samples is not None or other
    large = any(row.config.batch_size > _SMALL_BATCH for row in _rows_of(table, scale))
    # What was given in numbers is no share.
    parts = {"epochs (at least 1)": scale.epochs is None, f"samples (at least {_FEWEST})": scale.samples is None}
    shared = [*(part for part, holds in parts.items() if holds), f"(square root) width (at least {_NARROWEST})"]
    said = {
        f"{scale.share:g} of the {' and '.join(shared)}": scale.share < 1,
        f"{scale.epochs} epochs": scale.epochs is not None,
        f"{scale.samples} training samples, validation included": scale.samples is not None,
        f"learning rate {scale.learning_rate}": scale.learning_rate is not None,
        f"images averaged over {scale.pool} × {scale.pool} pixels": scale.pool > 1,
        f"only {', '.join(() if scale.networks is None else scale.networks)}": scale.networks is not None,
        f"{scale.dataset} for {' and '.join(known)}": other,
        f"only {scale.dataset}": scale.dataset in known and len(known) > 1,
        f"batches of at most a tenth of the samples, or {_SMALL_BATCH}": fewer and large,
        f"{scale.seeds} seed{'s' * (scale.seeds > 1)} instead of 5": scale.seeds != 5,
    }
    return {
        "format": FORMAT,
        "finished": False,
        "asked": asked,
        "identity": identity,
        "title": table.title,
        "source": table.source,
        "not as published": [text for text, holds in said.items() if holds],
        "selection": "on a validation split; published: the largest over epochs on the test set",
        **surroundings(),
        "rows": [],
    }


def _data(name: str, scale: Scale, data_dir: Any) -> Dataset:
    data = load(name, data_dir=data_dir)
    count = len(data.x_train)
    some = min(count, max(_FEWEST, round(scale.share * count))) if scale.samples is None else scale.samples
    fewest = math.ceil(len(data.class_names) / VALIDATION)  # of each class one to validate with
    if not fewest <= some <= count:
        raise ValueError(f"samples must be at least {fewest} and at most {count} of {data.title}, got {some}.")
    if some < count:
        chosen = np.random.default_rng(0).permutation(len(data.x_train))[:some]
        data = dataclasses.replace(data, x_train=data.x_train[chosen], y_train=data.y_train[chosen])
    if scale.pool > 1:
        pooled = _pooled(data.x_train, scale.pool), _pooled(data.x_test, scale.pool)
        data = dataclasses.replace(data, x_train=pooled[0], x_test=pooled[1])
    return with_validation(data, VALIDATION)


def _suited(name: str, rows: Sequence[Row], table: Table, scale: Scale, data_dir: Any) -> Dataset:
    """A data set of the table, or a ValueError where a row cannot be trained on it so."""
    data = _data(name, scale, data_dir)
    for row in (row for row in rows if (row.dataset or table.dataset) == name):
        check_suited(row.network or table.network, data)
        config = _scaled(row.config, scale, len(data.x_train))
        check_course(len(data.x_train), config.epochs, config.batch_size, config.stages)
        network, _ = _network(row, table, scale, len(data.class_names))
        copies = scale.seeds * (TRAINED + SNAPSHOTS * (config.stages > 0))
        check_network("seeds", scale.seeds, network.init, data.x_train[:1], copies)
    return data


def _pooled(x: np.ndarray, size: int) -> np.ndarray:
    if x.ndim != 4 or x.shape[1] % size or x.shape[2] % size:
        raise ValueError(f"pool = {size} must divide the images' sides, got inputs of shape {list(x.shape[1:])}.")
    n, height, width, channels = x.shape
    return x.reshape(n, height // size, size, width // size, size, channels).mean((2, 4))


def _scaled(config: RegimeConfig, scale: Scale, samples: int) -> RegimeConfig:
    epochs = max(1, round(scale.share * config.epochs)) if scale.epochs is None else scale.epochs
    # Large batches become smaller with the data (the validation part taken off): an epoch keeps its ten steps.
    batch_size = min(config.batch_size, max(_SMALL_BATCH, samples // 10))
    rate = config.learning_rate if scale.learning_rate is None else scale.learning_rate
    return dataclasses.replace(config, epochs=epochs, batch_size=batch_size, learning_rate=rate)


def _network(row: Row, table: Table, scale: Scale, outputs: int) -> tuple[Network, str]:
    name, depth = row.network or table.network, table.depth
    width = max(_NARROWEST, round((row.width or table.width) * scale.share**0.5))
    if name == "resnet-bn-110":
        name, width, depth = "resnet-bn", max(_NARROWEST, round(16 * scale.share**0.5)), 110 if scale.share == 1 else 20
    model = networks.build(name, outputs=outputs, width=width, depth=depth, use_bias=row.use_bias)
    described = f"{name}, width {width}" + ("" if depth is None else f", depth {depth}")
    described += "" if row.use_bias is not False else ", no biases"
    return Network(model.apply, model.init, learning_step(model.apply) if "bn" in name else None), described


def _entry(row: Row, run: RegimeRun, data: Dataset, network: str) -> dict[str, Any]:
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
        "test by epoch": (100 * run.test_by_epoch.mean(1)).tolist(),
        "config": dataclasses.asdict(run.config),
    }


def table_rows(result: dict[str, Any]) -> Sequence[Sequence[str]]:
    """The lines of a result to print: label, network and data, published, ours, ours chosen on the test set.

    Args:
        result: of `reproduce`.

    Returns:
        One sequence of five texts a row.

    Example:
        >>> from npk.studies import table_rows
        >>> table_rows({"rows": []})
        []
    """

    def figure(mean: float | None, std: float | None) -> str:
        return "–" if mean is None else f"{mean:.2f}" + ("" if std is None else f" ± {std:.2f}")

    def ours(row: dict[str, Any], which: str) -> str:
        return figure(row[which]["mean"], row[which]["std"] if len(row["seeds"]) > 1 else None)

    return [
        [
            row["label"],
            f"{row['network']}; {row['dataset']}, {row['epochs']} epochs",
            figure(row["published"], row["published std"]),
            ours(row, "selected on validation"),
            ours(row, "largest on test"),
        ]
        for row in result["rows"]
    ]
