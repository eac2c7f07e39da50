"""Plain Optax training that keeps the parameters at stages spread over the rise of training accuracy."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import ArrayLike, PRNGKeyArray, PyTree

from npk.programs import shown
from npk.training.loops import Snapshots, check_batches, course, cross_entropy, measure_of, record_steps, steps_of

Function = Callable[[Any, Any], Any]


@shown()
@dataclasses.dataclass(frozen=True)
class Record:
    """The state of training after a number of steps.

    Attributes:
        step: gradient steps taken.
        epoch: the same in passes over the training set.
        loss: mean cross-entropy on the training set.
        train_accuracy: fraction of the training set classified correctly.

    Example:
        >>> from npk.training import Record
        >>> Record(step=0, epoch=0.0, loss=2.3, train_accuracy=0.1).step
        0
    """

    step: int
    epoch: float
    loss: float
    train_accuracy: float


@shown()
@dataclasses.dataclass(frozen=True, eq=False)
class Trained:
    """The outcome of `train`.

    Attributes:
        stages: parameters at the stages, the initial ones first, the final ones last.
        records: the record of each stage.
        history: every record taken, by step.

    Example:
        >>> from npk.training import Trained
        >>> Trained(stages=(), records=(), history=()).stages
        ()
    """

    stages: tuple[PyTree, ...]
    records: tuple[Record, ...]
    history: tuple[Record, ...]


def train(
    f: Function,
    params: PyTree,
    x: ArrayLike,
    y: ArrayLike,
    *,
    key: PRNGKeyArray,
    epochs: int = 20,
    batch_size: int = 64,
    optimizer: optax.GradientTransformation | None = None,
    stages: int = 7,
    forward: Callable[[Any, Any], tuple[Any, Any]] | None = None,
    on_record: Callable[[Record], None] | None = None,
) -> Trained:
    """Minimise the cross-entropy of `f` and keep its parameters at stages of equal gain in training accuracy.

    The data stay on the device, and the steps between two records are one compiled loop. Records (and snapshots of
    the parameters) are taken after 0, 1, 2, … steps, ever further apart up to once an epoch, since accuracy rises in
    the first few steps. The same key gives the same numbers on the same machine.

    Args:
        f: a function of (params, x), x: [N, ...] → logits [N, K].
        params: its initial parameters.
        x: training inputs, of shape (N, ...).
        y: their classes, of shape (N,).
        key: orders the samples.
        epochs: passes over the training set, at most a million; the samples left over by the last batch wait for the
            next pass.
        batch_size: samples a step.
        optimizer: any Optax transformation; None is Adam with learning rate 1e-3.
        stages: how many parameters to keep, at least 2 and at most 32.
        forward: the training-time form (params, x) → (logits, params) where it differs from f, e.g. batch
            normalisation by the batch's statistics; what it returns as params carries the new statistics.
        on_record: called with each record, to show progress.

    Returns:
        The stages and the records.

    Raises:
        ValueError: sizes do not match or are out of range, the steps are too few for the stages, or training diverged.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from npk.training import train
        >>> x, y = jnp.eye(4), jnp.array([0, 1, 0, 1])
        >>> f = lambda w, x: x @ w
        >>> trained = train(f, jnp.zeros((4, 2)), x, y, key=jax.random.key(0), epochs=5, batch_size=2, stages=3)
        >>> len(trained.stages), trained.records[-1].train_accuracy, trained.records[-1].step
        (3, 1.0, 10)
    """
    x, y = jnp.asarray(x), jnp.asarray(y)
    check_batches(x, y, epochs, batch_size, stages)
    if stages < 2:
        raise ValueError(f"stages must be at least 2 (initial and trained), got {stages}.")
    optimizer = optimizer or optax.adam(1e-3)
    loss_of = _cross_entropy_of(forward or (lambda p, batch: (f(p, batch), p)))
    advance = jax.jit(steps_of(loss_of, optimizer, batch_size))
    evaluate = measure_of(f, cross_entropy)
    epoch_steps = len(x) // batch_size
    schedule = record_steps(epoch_steps, epochs)

    history: list[Record] = []
    snapshots = Snapshots()

    def after(state: Any, epoch: int, first: int, count: int) -> Any:
        return advance(*state, None, x, y, jax.random.fold_in(key, epoch), first, count)

    for at, (reached, _) in course(schedule, epoch_steps, (params, optimizer.init(params)), after):
        loss, accuracy = evaluate(reached, x, y)
        record = Record(schedule[at], schedule[at] / epoch_steps, float(loss), float(accuracy))
        _check_progress(record)
        history.append(record)
        snapshots.keep(record.train_accuracy, (record, jax.device_get(reached)))
        if on_record:
            on_record(record)
    chosen = snapshots.stages(stages)
    return Trained(tuple(kept for _, kept in chosen), tuple(record for record, _ in chosen), tuple(history))


def _cross_entropy_of(forward: Callable[[Any, Any], tuple[Any, Any]]) -> Callable[..., tuple[Any, Any]]:
    def loss(params: Any, rest: Any, x: Any, y: Any) -> tuple[Any, Any]:
        logits, updated = forward(params, x)
        return cross_entropy(logits, y).mean(), updated

    return loss


def _check_progress(record: Record) -> None:
    if not np.isfinite(record.loss):
        raise ValueError(f"training diverged (loss {record.loss} after {record.step} steps): lower the learning rate.")
