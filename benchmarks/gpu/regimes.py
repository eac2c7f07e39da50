"""Training regimes, five seeds together, on points labelled by a decision tree."""

import functools
import time
from typing import Any

import numpy as np

from benchmarks.gpu.record import Part
from benchmarks.gpu.sizes import Sizes
from npk import networks
from npk.data import cob_odt
from npk.training import Network, RegimeConfig, RegimeRun, train_regime

SEEDS = (0, 1, 2, 3, 4)


def measure(sizes: Sizes, regime: str, runs: dict[str, RegimeRun]) -> dict[str, Any]:
    """Seconds of the whole run and of a warm epoch, its record included; keeps the run in `runs`."""
    data = cob_odt(0, sizes.samples, 20, test_samples=max(100, sizes.samples // 10))
    width, depth = sizes.trained
    model = networks.MLP(width=width, depth=depth, outputs=2)
    config = RegimeConfig(regime, epochs=sizes.epochs, batch_size=64)
    start = time.perf_counter()
    ends = [start]
    run = runs[regime] = train_regime(
        Network(model.apply, model.init),
        config,
        data,
        SEEDS,
        source=runs.get("ReLU") if regime == "FL" else None,
        on_record=lambda share, line: ends.append(time.perf_counter()),
    )
    epoch = float(np.median(np.diff(ends)[2:]))  # the first record and the first epoch compile
    return {
        "seconds": ends[-1] - start,
        "s an epoch": epoch,
        "samples/s": len(SEEDS) * sizes.samples / epoch,
        "test accuracy": float(run.test[-1].mean()),
    }


def run(sizes: Sizes, part: Part) -> None:
    """Every regime; FL takes its gates from the ReLU run before it."""
    runs: dict[str, RegimeRun] = {}
    for regime in sizes.regimes:
        name = f"{regime}, {len(SEEDS)} seeds, {sizes.samples:,} samples, {sizes.epochs} epochs"
        part.case(name, functools.partial(measure, sizes, regime, runs))
