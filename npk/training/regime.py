"""Training a regime: all seeds of one configuration together, from records to checkpoints.

The parameters of the seeds are stacked. An accelerator takes their steps as one, by `vmap`; on CPU every core
trains a seed, so that five seeds cost less than five runs.
"""

import dataclasses
import operator
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, SupportsIndex

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PyTree

from npk.data import Dataset
from npk.folders import fingerprint, locked, versions
from npk.gating import Function
from npk.programs import program_hash, shown
from npk.training import loops
from npk.training.checkpoints import Checkpoints
from npk.training.regimes import Network, Regime, RegimeConfig, compose, initial_params, loss_of, optimizer_of
from npk.training.seeds import over_seeds

# Training samples that a record's loss and accuracy are of: a hundredth's accuracy chooses stages, and a run with
# stages takes some ninety records before its tenth epoch.
_MEASURED = 2_000


@shown()
@dataclasses.dataclass(frozen=True, eq=False)
class RegimeRun:
    """What training a regime gave; the last axis of all numbers, the first of all parameters, are the seeds.

    Attributes:
        config: of the run.
        seeds: trained.
        epochs: where the records were taken, of shape (R,), in passes over the training set.
        loss: on (a part of) the training set, of shape (R, S).
        train: accuracy there, of shape (R, S).
        validation: accuracy on the validation set, of shape (R, S); NaN without one, and between epochs.
        test: accuracy on the test set, of shape (R, S); NaN between epochs.
        params: the trained parameters; of gated networks {"feature": Θ^F, "value": Θ^V}.
        stages: parameters at the stages, initial first; of the ReLU run that an FL run takes its gates from.

    Example:
        >>> import numpy as np
        >>> from npk.training import RegimeRun
        >>> from npk.training import RegimeConfig
        >>> curve = lambda *values: np.array(values)[:, None]  # one seed
        >>> validation, test = curve(0.5, 0.9, 0.8), curve(0.4, 0.7, 0.8)
        >>> run = RegimeRun(RegimeConfig("ReLU"), (0,), np.arange(3.0), test, test, validation, test, {})
        >>> run.selected.tolist(), run.largest_on_test.tolist()
        ([0.7], [0.8])
    """

    config: RegimeConfig
    seeds: tuple[int, ...]
    epochs: Float[np.ndarray, " r"]
    loss: Float[np.ndarray, "r s"]
    train: Float[np.ndarray, "r s"]
    validation: Float[np.ndarray, "r s"]
    test: Float[np.ndarray, "r s"]
    params: PyTree
    stages: tuple[PyTree, ...] = ()

    @property
    def selected(self) -> Float[np.ndarray, " s"]:
        """Test accuracy of each seed at its best record on the validation set."""
        if np.isnan(self.validation).all():
            raise ValueError("there was no validation set to select by: see npk.data.with_validation.")
        best = np.nanargmax(self.validation, 0)
        return np.take_along_axis(self.test, best[None], 0)[0]

    @property
    def largest_on_test(self) -> Float[np.ndarray, " s"]:
        """The largest test accuracy of each seed over all epochs: chosen on the test set, as papers often do."""
        return np.nanmax(self.test, 0)

    @property
    def test_by_epoch(self) -> Float[np.ndarray, "e s"]:
        """Test accuracy before the first epoch and after each."""
        return self.test[~np.isnan(self.test).any(1)]


def train_regime(
    network: Network,
    config: RegimeConfig,
    data: Dataset,
    seeds: Sequence[SupportsIndex] = (0,),
    *,
    source: RegimeRun | None = None,
    checkpoints: str | os.PathLike[str] | None = None,
    on_record: Callable[[float, str], None] | None = None,
) -> RegimeRun:
    """Train one regime, all seeds together.

    The data stay on the device and the steps between two records are one compiled loop. The same seeds give
    the same numbers on the same machine, also when a run was killed and continued from its checkpoints.

    Args:
        network: the model.
        config: the regime and its options.
        data: with a validation set (`npk.data.with_validation`) the run can be selected by it.
        seeds: of the initial parameters and the order of samples.
        source: for FL the ReLU run (with stages, for FL-k) that the gates are copied from.
        checkpoints: a folder to keep the run's state in after every epoch, and to continue from.
        on_record: called with the share of steps done and a line to show.

    Returns:
        Accuracies of all records and seeds, parameters and stages.

    Raises:
        ValueError: the data do not fit, training diverged, FL has no source, or the checkpoints are of another
            run (other data, network, source, versions: what differs is named) or damaged.
        FileExistsError: another process writes the checkpoints.
        OSError: a checkpoint cannot be written; those before it are whole.

    Example:
        >>> from npk import data, networks
        >>> from npk.training import train_regime
        >>> from npk.training import Network, RegimeConfig
        >>> model = networks.MLP(width=16, depth=3, outputs=10)
        >>> digits = data.with_validation(data.load("digits"), 200)
        >>> run = train_regime(Network(model.apply, model.init), RegimeConfig("FR-II", epochs=8), digits, (0, 1))
        >>> run.test.shape[1], bool(run.selected.mean() > 0.3)
        (2, True)

    Source: Lakshminarayanan & Singh 2020, sections 3 and 6; 2021, sections 3 and 4.
    """
    whole = tuple(map(operator.index, seeds))
    if checkpoints is not None:
        with locked(Path(checkpoints)):
            return _train(network, config, data, whole, source, Path(checkpoints), on_record)
    return _train(network, config, data, whole, source, None, on_record)


def _train(
    network: Network,
    config: RegimeConfig,
    data: Dataset,
    seeds: Sequence[int],
    source: RegimeRun | None,
    checkpoints: Path | None,
    on_record: Callable[[float, str], None] | None,
) -> RegimeRun:
    """`train_regime`, in a folder that nobody else writes."""
    x, y = jnp.asarray(data.x_train), jnp.asarray(data.y_train)
    loops.check_batches(x, y, config.epochs, config.batch_size)
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds must be different whole numbers, at least one, got {tuple(seeds)}.")
    per_epoch = len(x) // config.batch_size
    schedule = list(range(0, config.epochs * per_epoch + 1, per_epoch))
    if config.stages:
        schedule = loops.record_steps(per_epoch, config.epochs)
    apply, forward = compose(network, config)
    optimizer = optimizer_of(config, schedule[-1])
    gates, numbers = _gates_of(config, seeds, source), jnp.asarray(seeds)
    draw = lambda seed, gates: initial_params(network, config, x[:1], seed, gates)  # noqa: E731
    stacked = jax.vmap(draw, in_axes=(0, None if gates is None else 0))
    trained, rest = _parted(jax.jit(stacked)(numbers, gates), config)
    steps = _steps(forward, optimizer, config)
    measure = _measure(apply, config, data)
    standing = _Standing(-1, {"trained": trained, "optimizer": jax.vmap(optimizer.init)(trained)})
    kept = None
    if checkpoints is not None:
        described = {**dataclasses.asdict(config), "seeds": list(seeds), "data": data.name, "samples": len(x)}
        kept = Checkpoints(checkpoints, described | _identity(forward, apply, draw, optimizer, data, gates))
        kept.tidy()
        standing = standing.newest(kept, on_record)

    def after(state: Any, epoch: int, first: int, count: int) -> Any:
        return steps(state, rest, numbers, x, y, epoch, first, count)

    for at, state in loops.course(schedule, per_epoch, standing.state, after, standing.at + 1):
        standing.at, standing.state = at, state
        whole = schedule[at] % per_epoch == 0
        found = measure(_joined(standing.state["trained"], rest), whole)
        standing.record(schedule[at] / per_epoch, found, config.stages > 0)
        if on_record:
            shown = f"test {found[3].mean():.2%}" if whole else f"train {found[1].mean():.2%}"
            on_record(schedule[at] / schedule[-1], f"{config.label}: {shown}")
        if kept is not None and at and whole:
            standing.save(kept)
    epochs, loss, train, validation, test = (np.array(column) for column in zip(*standing.records, strict=True))
    stages = ()
    if config.stages:
        stages = tuple(_joined(kept, rest) for kept in standing.snapshots.stages(config.stages))
    final = _joined(standing.state["trained"], rest)
    return RegimeRun(config, tuple(seeds), epochs, loss, train, validation, test, final, stages)


@dataclasses.dataclass
class _Standing:
    """Where a run stands: the last record taken, the state then, and what was noted on the way."""

    at: int
    state: dict[str, Any]
    records: list[list[Any]] = dataclasses.field(default_factory=list)
    snapshots: loops.Snapshots = dataclasses.field(default_factory=loops.Snapshots)

    def record(self, epoch: float, measured: Sequence[Any], snapshot: bool) -> None:
        if not np.isfinite(measured[0]).all():
            raise ValueError(f"training diverged (loss {measured[0]} in epoch {epoch:g}): lower the learning rate.")
        self.records.append([epoch, *measured])
        if snapshot:
            self.snapshots.keep(float(np.mean(measured[1])), jax.device_get(self.state["trained"]))

    def save(self, kept: Checkpoints) -> None:
        plain = [[epoch, *(np.asarray(v).tolist() for v in rest)] for epoch, *rest in self.records]
        shots = {str(i): tree for i, tree in enumerate(self.snapshots.kept)}
        notes = {"records": plain, "accuracies": self.snapshots.accuracies}
        kept.save(self.at, {"state": self.state, "snapshots": shots}, notes)

    def newest(self, kept: Checkpoints, say: Callable[[float, str], None] | None) -> "_Standing":
        def like(notes: dict[str, Any]) -> Any:
            return {
                "state": self.state,
                "snapshots": {str(i): self.state["trained"] for i in range(len(notes["accuracies"]))},
            }

        found = kept.restore(like, None if say is None else lambda text: say(0.0, text))
        if found is None:
            return self
        at, saved, notes = found
        records = [[epoch, *map(np.array, rest)] for epoch, *rest in notes["records"]]
        shots = [saved["snapshots"][str(i)] for i in range(len(notes["accuracies"]))]
        return _Standing(at, saved["state"], records, loops.Snapshots(notes["accuracies"], shots))


def _identity(forward: Any, apply: Function, draw: Any, optimizer: Any, data: Dataset, gates: Any) -> dict[str, Any]:
    """What the numbers of a run are of, beside its configuration."""
    seed, x = jax.ShapeDtypeStruct((), jnp.int32), jax.ShapeDtypeStruct((1, *data.x_train.shape[1:]), jnp.float32)
    one = None if gates is None else jax.tree_util.tree_map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), gates)
    params = jax.eval_shape(draw, seed, one)
    return {
        "fingerprint": data.fingerprint,
        "programs": {
            "training": loops.hash_of_step(forward, params, x),
            "evaluation": program_hash(apply, params, x),
            "initialisation": program_hash(draw, seed, one),
            "optimizer": program_hash(lambda g, p: optimizer.update(g, optimizer.init(p), p), params, params),
        },
        "source": None if gates is None else fingerprint(gates),
        "versions": versions(jax.default_backend()),
    }


def _gates_of(config: RegimeConfig, seeds: Sequence[int], source: RegimeRun | None) -> Any:
    """The parameters, one set a seed, of the network whose gates an FL run freezes."""
    if config.regime != Regime.FL:
        return None
    if source is None or source.config.regime != Regime.RELU:
        raise ValueError("the regime FL takes its gates from a ReLU run: give it as source.")
    if not set(seeds) <= set(source.seeds):
        raise ValueError(f"the source has seeds {source.seeds}, asked for were {tuple(seeds)}.")
    if config.stage is not None and not 0 <= config.stage < len(source.stages):
        raise ValueError(f"the source has {len(source.stages)} stages (0 first), asked for was {config.stage}.")
    params = source.params if config.stage is None else source.stages[config.stage]
    places = np.array([source.seeds.index(s) for s in seeds])
    return jax.tree_util.tree_map(lambda a: a[places], params)


def _parted(params: Any, config: RegimeConfig) -> tuple[Any, Any]:
    """What is trained, and what stays."""
    if not Regime(config.regime).frozen:
        return params, None
    return {"value": params["value"]}, {"feature": params["feature"]}


def _joined(trained: Any, rest: Any) -> Any:
    return trained if rest is None else {**rest, **trained}


def _steps(forward: Any, optimizer: Any, config: RegimeConfig) -> Callable[..., Any]:
    """`count` steps of every seed from step `first` of an epoch on, compiled."""
    losses = loss_of(config)

    def loss(trained: Any, rest: Any, x: Any, y: Any) -> tuple[Any, Any]:
        logits, updated = forward(_joined(trained, rest), x)
        return losses(logits, y).mean(), updated if rest is None else {k: updated[k] for k in trained}

    advance = loops.steps_of(loss, optimizer, config.batch_size)

    def one(state: Any, rest: Any, seed: Any, x: Any, y: Any, epoch: Any, first: Any, count: Any) -> Any:
        key = jax.random.fold_in(jax.random.split(jax.random.key(seed), 4)[3], epoch)
        trained, optimizer_state = advance(state["trained"], state["optimizer"], rest, x, y, key, first, count)
        return {"trained": trained, "optimizer": optimizer_state}

    return over_seeds(one, (0, 0 if Regime(config.regime).frozen else None, 0, None, None, None, None, None))


def _measure(apply: Function, config: RegimeConfig, data: Dataset) -> Callable[[Any, bool], tuple[Any, ...]]:
    """Loss and accuracy on (a part of) the training set; on request accuracy on validation and test set; all seeds."""
    part = slice(min(_MEASURED, len(data.x_train)))
    sets = [(data.x_train[part], data.y_train[part]), (data.x_test, data.y_test)]
    if data.x_validation is not None and data.y_validation is not None:
        sets.append((data.x_validation, data.y_validation))
    ends = np.cumsum([0, *(len(y) for _, y in sets)]).tolist()
    # One array, whose parts share what is compiled.
    x, y = (jnp.concatenate(list(map(jnp.asarray, one))) for one in zip(*sets, strict=True))
    mean = loops.measure_of(apply, loss_of(config), seeds=True)

    def measure(params: Any, held_out: bool) -> tuple[Any, ...]:
        of_set = lambda i: mean(params, x, y, ends[i], ends[i + 1])  # noqa: E731
        loss, train = of_set(0)
        unknown = np.full(np.shape(loss), np.nan)
        test, validation = (of_set(i)[1] if held_out and i < len(sets) else unknown for i in (1, 2))
        return loss, train, validation, test

    return measure
