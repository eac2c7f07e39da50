"""The study's last part: the regimes side by side, on the same data, with the gates of the study's own stages."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from npk.data import Dataset
from npk.gating import NoLinearForm
from npk.training import Network, RegimeConfig, RegimeRun, train_regime


def regime_names(stages: int) -> list[tuple[str, int | None]]:
    """(regime, stage): random gates, the gates of each stage, gates that are trained too."""
    learned: list[tuple[str, int | None]] = [("FL", k) for k in range(stages)]
    return [("FR-II", None), ("FR-DI", None), *learned, ("DL", None), ("DLGN", None), ("DLGN-SF", None)]


def compared(
    network: Network,
    stages: Sequence[Any],
    data: Dataset,
    seed: int,
    options: dict[str, Any],
    begin: int,
    on_record: Callable[[int, str], None],
) -> Iterator[dict[str, Any]]:
    """Train the regimes from number `begin` on; each comes with its test accuracy, or with why it cannot be."""
    stacked = [jax.tree_util.tree_map(lambda a: jnp.asarray(a)[None], params) for params in stages]
    none = np.zeros((1, 1))
    source = RegimeRun(RegimeConfig("ReLU"), (seed,), np.zeros(1), none, none, none, none, stacked[-1], tuple(stacked))
    names = regime_names(len(stages))
    for number, (regime, stage) in enumerate(names[begin:], begin):
        config = RegimeConfig(regime, stage=stage, **options)
        on_record(number, f"regime {config.label}")
        try:
            run = train_regime(network, config, data, (seed,), source=source)
        except NoLinearForm as error:
            yield {"label": config.label, "regime": regime, "test_accuracy": None, "why": _why(error.kind)}
            continue
        accuracy = {"test_accuracy": float(run.test[-1, 0]), "train_accuracy": float(run.train[-1, 0])}
        yield {"label": config.label, "regime": regime, **accuracy}


def _why(kind: str) -> str:
    """Why no linear network can make gates of a kind."""
    if kind == "pool":
        return "the maximum over a window has no linear form"
    return "the gates of norms, attention and gated products, as those of max-pooling, have no linear form"
