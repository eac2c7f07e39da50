"""The study's last part: the regimes side by side, on the same data, with the gates of the study's own stages."""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from npk import solving
from npk.data import Dataset
from npk.gating import NoLinearForm
from npk.programs import in_parts
from npk.studies.correct import packed
from npk.training import Network, RegimeConfig, RegimeRun, compose, train_regime


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
        apply = functools.partial(jax.jit(compose(network, config)[0]), jax.tree_util.tree_map(_first, run.params))
        correct = solving.hits(in_parts(apply, data.x_test), data.y_test)
        yield {
            "label": config.label,
            "regime": regime,
            "test_accuracy": float(correct.mean()),
            "train_accuracy": float(run.train[-1, 0]),
            "correct": packed(correct),
        }


def _first(seeds: Any) -> Any:
    return seeds[0]


def _why(kind: str) -> str:
    """Why no linear network can make gates of a kind."""
    if kind == "pool":
        return "the maximum over a window has no linear form"
    return "the gates of norms, attention and gated products, as those of max-pooling, have no linear form"
