"""Parts of training loops: compiled steps, records, and the stages chosen among them."""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from npk.programs import channels_last, program_hash, statistics
from npk.training.seeds import over_seeds

Function = Callable[[Any, Any], Any]

# Snapshots held at once: enough that the chosen stages are near their targets, few enough for large networks.
SNAPSHOTS = 32
# More can only be a mistake, and the list of records alone would fill the memory.
MOST_EPOCHS = 1_000_000
_EVALUATION_BATCH = 512


def check_batches(x: Any, y: Any, epochs: int, batch_size: int, stages: int = 0) -> None:
    """Raise `ValueError` unless the data can be trained on in such batches, as in `check_course`.

    Args:
        x: inputs.
        y: labels.
        epochs: passes over them.
        batch_size: samples a step.
        stages: how many of the records are to be chosen; 0 for none.
    """
    if y.ndim != 1 or x.ndim < 2 or len(x) != len(y) or not jnp.issubdtype(y.dtype, jnp.integer):
        raise ValueError(
            f"training needs inputs [N, ...] and whole-number labels [N], "
            f"got {list(x.shape)} and {y.dtype}{list(y.shape)}."
        )
    check_course(len(x), epochs, batch_size, stages)


def hash_of_step(forward: Callable[[Any, Any], tuple[Any, Any]], params: Any, x: Any) -> str | None:
    """The hash of what a step computes of a network, which may say itself what its derivative is.

    Args:
        forward: (params, x) → (logits, new params).
        params: of which shapes count alone.
        x: likewise.
    """

    def both(params: Any, x: Any) -> Any:
        logits, pull, updated = jax.vjp(lambda p: forward(p, x), params, has_aux=True)
        gradient = jax.tree_util.tree_leaves(pull(jnp.ones_like(logits)))
        return logits, updated, [g for g in gradient if g.dtype != jax.dtypes.float0]

    return program_hash(both, params, x)


def check_course(samples: int, epochs: int, batch_size: int, stages: int = 0) -> None:
    """Raise `ValueError` unless so many samples can be trained on so, and the network be kept at so many stages.

    Args:
        samples: in the training set.
        epochs: passes over them.
        batch_size: samples a step.
        stages: how many of the records are to be chosen; 0 for none.
    """
    if not 1 <= batch_size <= samples:
        raise ValueError(f"batch_size must lie in 1 … {samples} (the training samples), got {batch_size}.")
    if not 1 <= epochs <= MOST_EPOCHS:
        raise ValueError(f"epochs must be at least 1 and at most {MOST_EPOCHS}, got {epochs}.")
    if stages > SNAPSHOTS:
        raise ValueError(f"stages must be at most {SNAPSHOTS}, got {stages}.")
    schedule = record_steps(samples // batch_size, epochs)
    if len(schedule) < stages:
        raise ValueError(
            f"{schedule[-1]} steps are too few for {stages} stages: train for more epochs, or in smaller batches."
        )


def record_steps(epoch_steps: int, epochs: int) -> list[int]:
    """Steps at which to take a record: 0, 1, 2, … growing by a tenth, and the end of every epoch.

    Args:
        epoch_steps: steps an epoch.
        epochs: passes over the training set.

    Returns:
        Steps in order, the first 0 and the last the end of training.
    """
    total = epochs * epoch_steps
    early = itertools.takewhile(lambda step: step < total, (round(1.1**i) for i in itertools.count()))
    return sorted({0, *early, *range(epoch_steps, total + 1, epoch_steps)})


def cross_entropy(logits: Any, y: Any) -> Any:
    """The cross-entropy of every sample.

    Args:
        logits: of shape (N, K).
        y: classes, of shape (N,).

    Returns:
        Losses, of shape (N,).
    """
    return optax.softmax_cross_entropy_with_integer_labels(logits, y)


def steps_of(
    loss: Callable[..., tuple[Any, Any]], optimizer: optax.GradientTransformation, batch_size: int
) -> Callable[..., tuple[Any, Any]]:
    """The loop over steps of one epoch, to be compiled.

    Args:
        loss: (params, rest, x, y) → (loss, new params); the gradient is of params alone, and of those the optimizer
            leaves alone what a framework marks as statistics: they change by `new params` alone.
        optimizer: what makes steps of gradients.
        batch_size: samples a step.

    Returns:
        (params, optimizer state, rest, x, y, key, first, count) → (params, optimizer state) after `count` steps
        from step `first` of the epoch whose order `key` draws.
    """

    def steps(
        params: Any, optimizer_state: Any, rest: Any, x: Any, y: Any, key: Any, first: Any, count: Any
    ) -> tuple[Any, Any]:
        order = jax.random.permutation(key, len(x))
        gradient_of = channels_last(jax.grad(loss, has_aux=True))
        held = statistics(params)

        def step(i: Any, state: Any) -> Any:
            params, optimizer_state = state
            batch = jax.lax.dynamic_slice(order, (i * batch_size,), (batch_size,))
            gradient, updated = gradient_of(params, rest, x[batch], y[batch])
            change, optimizer_state = optimizer.update(_zero_at(held, gradient), optimizer_state, params)
            change = _zero_at(held, change)  # of decay by weight, too
            return optax.apply_updates(updated, change), optimizer_state

        # Not `scan`: its length would be compiled in, and the distance between records varies.
        return jax.lax.fori_loop(first, first + count, step, (params, optimizer_state))

    return steps


def _zero_at(positions: frozenset[int], tree: Any) -> Any:
    """A tree with zeros for the leaves at some positions."""
    leaves, structure = jax.tree_util.tree_flatten(tree)
    held = [jnp.zeros_like(leaf) if i in positions else leaf for i, leaf in enumerate(leaves)]
    return jax.tree_util.tree_unflatten(structure, held)


def measure_of(
    f: Function, losses: Callable[[Any, Any], Any], *, seeds: bool = False
) -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    """Mean loss and accuracy over a set of any size, in one compiled loop over batches.

    Args:
        f: (params, x) → logits.
        losses: (logits, y) → the loss of every sample.
        seeds: whether params have a first axis of seeds, as results have then.

    Returns:
        (params, x, y, first=0, last=None) → (loss, accuracy) over samples first … last - 1; all of x shares what is
        compiled, so sets that are parts of one array do.
    """
    forward = channels_last(f)

    def sums(params: Any, x: Any, y: Any, first: Any, last: Any) -> tuple[Any, Any]:
        size = min(_EVALUATION_BATCH, len(x))

        def of_batch(i: Any) -> tuple[Any, Any]:
            begin = first + i * size
            # The last one reaches back: all have one shape, and no set of a batch or more sees another's samples.
            start = jnp.maximum(jnp.minimum(begin, last - size), 0)
            batch, labels = (jax.lax.dynamic_slice_in_dim(a, start, size) for a in (x, y))
            place = start + jnp.arange(size)
            counted, logits = (place >= begin) & (place < last), forward(params, batch)
            correct = counted & (logits.argmax(axis=-1) == labels)
            return jnp.where(counted, losses(logits, labels), 0).sum(), correct.sum()

        def step(i: Any, found: tuple[Any, Any]) -> tuple[Any, Any]:
            loss, correct = of_batch(i)
            return found[0].at[i].set(loss), found[1].at[i].set(correct)

        # The batches' sums are kept apart, and added by the host in double precision.
        loss, correct = (jnp.zeros(-(-len(x) // size), one.dtype) for one in jax.eval_shape(of_batch, 0))
        return jax.lax.fori_loop(0, (last - first + size - 1) // size, step, (loss, correct))

    compiled = over_seeds(sums, (0, None, None, None, None)) if seeds else jax.jit(sums)

    def measure(params: Any, x: Any, y: Any, first: int = 0, last: int | None = None) -> tuple[Any, Any]:
        last = len(x) if last is None else last
        found = compiled(params, x, y, first, last)
        loss, correct = (np.asarray(one, np.float64).sum(-1) / (last - first) for one in found)
        return loss, correct

    return measure


def course(
    schedule: Sequence[int], epoch_steps: int, state: Any, advance: Callable[..., Any], begin: int = 0
) -> Iterator[tuple[int, Any]]:
    """The states of a run at its records, from number `begin` on.

    Args:
        schedule: steps at which records are taken, none further from the one before than to the end of its epoch.
        epoch_steps: steps an epoch.
        state: at the record before `begin`, or where begin is 0 the initial one.
        advance: (state, epoch, first, count) → the state after `count` steps from step `first` of the epoch.
        begin: the number of the first record to take.

    Yields:
        The number of each record and the state there.
    """
    for at in range(begin, len(schedule)):
        if at:
            epoch, first = divmod(schedule[at - 1], epoch_steps)
            state = advance(state, epoch, first, schedule[at] - schedule[at - 1])
        yield at, state


@dataclasses.dataclass
class Snapshots:
    """What is kept of records along the rise of accuracy: no more than `SNAPSHOTS`, the first and the last among them.

    Attributes:
        accuracies: of the records.
        kept: what was kept of each.
    """

    accuracies: list[float] = dataclasses.field(default_factory=list)
    kept: list[Any] = dataclasses.field(default_factory=list)

    def keep(self, accuracy: float, what: Any) -> None:
        """Keep one more; where there are too many, the one goes between whose neighbours accuracy changes least."""
        self.accuracies.append(accuracy)
        self.kept.append(what)
        if len(self.kept) > SNAPSHOTS:
            rise = [abs(b - a) for a, b in zip(self.accuracies, self.accuracies[2:], strict=False)]
            least = 1 + rise.index(min(rise))
            del self.accuracies[least], self.kept[least]

    def stages(self, count: int) -> list[Any]:
        """What was kept at `count` stages of equal gain in accuracy."""
        return [self.kept[i] for i in choose_stages(self.accuracies, count)]


def choose_stages(accuracies: list[float], stages: int) -> list[int]:
    """Increasing indices, from first to last, whose accuracies come nearest to equal steps.

    Args:
        accuracies: of the snapshots to choose from.
        stages: how many to choose.

    Returns:
        Indices.
    """
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
