"""Plain Optax training that keeps the parameters at stages spread over the rise of training accuracy."""

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import ArrayLike, PRNGKeyArray, PyTree

Function = Callable[[Any, Any], Any]

# Snapshots held at once: enough that the chosen stages are near their targets, few enough for large networks.
_SNAPSHOTS = 32
_EVALUATION_BATCH = 1024


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
        epochs: passes over the training set; the samples left over by the last batch wait for the next pass.
        batch_size: samples a step.
        optimizer: any Optax transformation; None is Adam with learning rate 1e-3.
        stages: how many parameters to keep, at least 2.
        forward: the training-time form (params, x) → (logits, params) where it differs from f, e.g. batch
            normalisation by the batch's statistics; what it returns as params carries the new statistics.
        on_record: called with each record, to show progress.

    Returns:
        The stages and the records.

    Raises:
        ValueError: sizes do not match or are not positive, or training diverged.

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
    _check(x, y, epochs, batch_size, stages)
    optimizer = optimizer or optax.adam(1e-3)
    advance = _advance(forward or (lambda p, batch: (f(p, batch), p)), optimizer, batch_size)
    evaluate = _evaluate(f)
    epoch_steps = len(x) // batch_size
    schedule = _schedule(epoch_steps, epochs)
    if len(schedule) < stages:
        raise ValueError(f"{schedule[-1]} steps are too few for {stages} stages: train for more epochs.")

    history: list[Record] = []
    snapshots: list[tuple[Record, Any]] = []
    optimizer_state = optimizer.init(params)
    for step, following in zip(schedule, [*schedule[1:], None], strict=True):
        record = Record(step, step / epoch_steps, *evaluate(params, x, y))
        _check_progress(record)
        history.append(record)
        snapshots.append((record, jax.device_get(params)))
        _thin(snapshots)
        if on_record:
            on_record(record)
        if following is not None:
            epoch, first = divmod(step, epoch_steps)
            order_key = jax.random.fold_in(key, epoch)
            params, optimizer_state = advance(params, optimizer_state, x, y, order_key, first, following - step)
    chosen = [snapshots[i] for i in _choose([record.train_accuracy for record, _ in snapshots], stages)]
    return Trained(tuple(kept for _, kept in chosen), tuple(record for record, _ in chosen), tuple(history))


def _check(x: Any, y: Any, epochs: int, batch_size: int, stages: int) -> None:
    if y.ndim != 1 or x.ndim < 2 or len(x) != len(y) or not jnp.issubdtype(y.dtype, jnp.integer):
        raise ValueError(
            f"training needs inputs [N, ...] and whole-number labels [N], "
            f"got {list(x.shape)} and {y.dtype}{list(y.shape)}."
        )
    if not 1 <= batch_size <= len(x):
        raise ValueError(f"batch_size must lie in 1 … {len(x)} (the training samples), got {batch_size}.")
    if epochs < 1:
        raise ValueError(f"epochs must be at least 1, got {epochs}.")
    if stages < 2:
        raise ValueError(f"stages must be at least 2 (initial and trained), got {stages}.")


def _check_progress(record: Record) -> None:
    if not np.isfinite(record.loss):
        raise ValueError(f"training diverged (loss {record.loss} after {record.step} steps): lower the learning rate.")


def _schedule(epoch_steps: int, epochs: int) -> list[int]:
    """Steps at which to take a record: 0, 1, 2, … growing by a tenth, and the end of every epoch."""
    total = epochs * epoch_steps
    early = itertools.takewhile(lambda step: step < total, (round(1.1**i) for i in itertools.count()))
    return sorted({0, *early, *range(epoch_steps, total + 1, epoch_steps)})


def _advance(forward: Callable[[Any, Any], tuple[Any, Any]], optimizer: Any, batch_size: int) -> Callable[..., Any]:
    """The compiled loop over `count` steps of one epoch, from its step `first` on."""

    def loss(params: Any, x: Any, y: Any) -> tuple[Any, Any]:
        logits, updated = forward(params, x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean(), updated

    @jax.jit
    def advance(params: Any, optimizer_state: Any, x: Any, y: Any, key: Any, first: Any, count: Any) -> Any:
        order = jax.random.permutation(key, len(x))

        def step(i: Any, state: Any) -> Any:
            params, optimizer_state = state
            batch = jax.lax.dynamic_slice(order, (i * batch_size,), (batch_size,))
            gradient, updated = jax.grad(loss, has_aux=True)(params, x[batch], y[batch])
            change, optimizer_state = optimizer.update(gradient, optimizer_state, params)
            return optax.apply_updates(updated, change), optimizer_state

        # Not `scan`: its length would be compiled in, and the distance between records varies.
        return jax.lax.fori_loop(first, first + count, step, (params, optimizer_state))

    return advance


def _evaluate(f: Function) -> Callable[[Any, Any, Any], tuple[float, float]]:
    """Mean loss and accuracy over a set of any size."""

    @jax.jit
    def sums(params: Any, x: Any, y: Any) -> tuple[Any, Any]:
        logits = f(params, x)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, y)
        return losses.sum(), (logits.argmax(axis=-1) == y).sum()

    def evaluate(params: Any, x: Any, y: Any) -> tuple[float, float]:
        parts = [slice(i, i + _EVALUATION_BATCH) for i in range(0, len(x), _EVALUATION_BATCH)]
        totals = np.array([sums(params, x[part], y[part]) for part in parts], dtype=np.float64).sum(axis=0)
        loss, correct = (totals / len(x)).tolist()
        return loss, correct

    return evaluate


def _thin(snapshots: list[tuple[Record, Any]]) -> None:
    """Drop, where there are too many, the snapshot between whose neighbours accuracy changes least."""
    if len(snapshots) > _SNAPSHOTS:
        accuracies = [record.train_accuracy for record, _ in snapshots]
        inner = range(1, len(snapshots) - 1)
        del snapshots[min(inner, key=lambda i: abs(accuracies[i + 1] - accuracies[i - 1]))]


def _choose(accuracies: list[float], stages: int) -> list[int]:
    """Increasing indices, from first to last, whose accuracies come nearest to equal steps."""
    last = len(accuracies) - 1
    # Only new maxima lie on the rise; a later dip to the same accuracy is another thing.
    rising = [i for i in range(last) if i == 0 or accuracies[i] > max(accuracies[:i])]
    if len(rising) < stages - 1:  # no rise to speak of: spread over the records
        return [round(i) for i in np.linspace(0, last, stages).tolist()]
    chosen = [0]
    for stage in range(1, stages - 1):
        target = accuracies[0] + (accuracies[last] - accuracies[0]) * stage / (stages - 1)
        # Leave one index for each stage that is still to come.
        free = rising[rising.index(chosen[-1]) + 1 : len(rising) - (stages - 2 - stage)]
        chosen.append(min(free, key=lambda i: abs(accuracies[i] - target)))
    return [*chosen, last]
