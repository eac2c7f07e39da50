"""Tracking: what `npk.track` costs a training loop, beside the same loop without it.

An MLP and a small CNN on the digits, under Adam in a Python loop over jitted steps with donated buffers, batches of 32.
The recorder chooses its steps (every=None, budget 5 %) and measures gates, path kernel and tangent kernel of a probe.
It is started before the clock: the first record, which compiles, has a column of its own. Loops take turns; medians
of their times, and of the ratio of neighbours.

Needs about 2 minutes on two cores and 1 GiB.
"""

import functools
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
import optax

import npk
from benchmarks import harness
from npk import data, networks, tracking

BATCH, PROBE = 32, 64


class CNN(nn.Module):
    """Two convolutions with a pool between them, and the mean over positions."""

    @nn.compact
    def __call__(self, x: Any) -> Any:
        x = nn.max_pool(nn.relu(nn.Conv(8, (3, 3))(x)), (2, 2), (2, 2))
        x = nn.relu(nn.Conv(16, (3, 3))(x))
        return nn.Dense(10)(x.mean((1, 2)))


class Problem(NamedTuple):
    """A network, and how many steps are timed."""

    model: Any
    steps: int


PROBLEMS = {
    "MLP, width 128, depth 4": Problem(networks.MLP(width=128, depth=4, outputs=10), 12000),
    "CNN, 8 and 16 channels": Problem(CNN(), 8000),
}


class Loop:
    """A training loop as it is usually written, with or without a recorder in it."""

    def __init__(self, problem: Problem):
        self.digits, self.model, self.steps = data.load("digits"), problem.model, problem.steps
        optimizer = optax.adam(1e-3)

        @functools.partial(jax.jit, donate_argnums=(0, 1))
        def update(params: Any, state: Any, x: Any, y: Any) -> Any:
            def loss(params: Any) -> Any:
                return optax.softmax_cross_entropy_with_integer_labels(self.model.apply(params, x), y).mean()

            updates, state = optimizer.update(jax.grad(loss)(params), state)
            return optax.apply_updates(params, updates), state

        self.update, self.start = update, optimizer.init

    def recorder(self, **options: Any) -> tracking.Recorder:
        return npk.track(self.model.apply, self.digits.x_test[:PROBE], self.digits.y_test[:PROBE], **options)

    def run(self, recorder: tracking.Recorder | None) -> float:
        """Seconds of all steps, from the end of the first record on."""
        x, y = self.digits.x_train, self.digits.y_train
        params = self.model.init(jax.random.key(0), x[:1])
        state, batches = self.start(params), np.random.default_rng(0).integers(0, len(x), (self.steps, BATCH))
        params, state = self.update(params, state, x[batches[0]], y[batches[0]])
        if recorder is not None:
            recorder(0, params)
        jax.block_until_ready(params)
        begun = time.perf_counter()
        for step, batch in enumerate(batches, 1):
            params, state = self.update(params, state, x[batch], y[batch])
            if recorder is not None:
                recorder(step, params)
        jax.block_until_ready(params)
        return time.perf_counter() - begun


def skipped(loop: Loop, calls: int = 100_000) -> float:
    """Microseconds of a call that skips."""
    recorder = loop.recorder(budget=1e-9, measures=("gates",))
    params = loop.model.init(jax.random.key(0), loop.digits.x_test[:1])
    recorder(0, params)
    begun = time.perf_counter()
    for step in range(1, calls + 1):
        recorder(step, params)
    return 1e6 * (time.perf_counter() - begun) / calls


def measured(loop: Loop, repeats: int) -> dict[str, Any]:
    """Both loops in turns, warm: medians of their times, and of what the recorders say of themselves."""
    compiling = loop.recorder()
    loop.run(compiling)
    times: dict[bool, list[float]] = {False: [], True: []}
    ours: list[tracking.Recorder] = []
    for turn in range(repeats):
        for tracked in (turn % 2 == 0, turn % 2 == 1):  # who is first changes too
            ours += [loop.recorder()] * tracked
            times[tracked].append(loop.run(ours[-1] if tracked else None))
    middle: Callable[[list[float]], float] = statistics.median
    ratios = [theirs / own for theirs, own in zip(times[True], times[False], strict=True)]
    return {
        "steps": loop.steps,
        "untracked ms a step": [1e3 * seconds / loop.steps for seconds in times[False]],
        "tracked ms a step": [1e3 * seconds / loop.steps for seconds in times[True]],
        "tracked ÷ untracked": middle(ratios),
        "share by the recorder": middle([recorder.share for recorder in ours]),
        "records": middle([len(recorder.records) for recorder in ours]),
        "record ms": 1e3 * middle([record.seconds for recorder in ours for record in recorder.records[1:]] or [0.0]),
        "first record s": compiling.first_seconds,
        "skipped µs": skipped(loop),
    }


def row(name: str, found: dict[str, Any]) -> list[str]:
    """One problem in the table."""
    plain, tracked = (statistics.median(found[f"{kind} ms a step"]) for kind in ("untracked", "tracked"))
    return [
        name,
        f"{plain:.3f}",
        f"{tracked:.3f}",
        f"{100 * (found['tracked ÷ untracked'] - 1):+.1f} %",
        f"{100 * found['share by the recorder']:.1f} %",
        f"{found['records']:.0f}",
        f"{found['record ms']:.1f}",
        f"{found['first record s']:.1f}",
        f"{found['skipped µs']:.1f}",
    ]


def main() -> None:
    """Run all parts."""
    parser = harness.parser(__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    harness.begin(__doc__)
    found = {name: measured(Loop(PROBLEMS[name]), args.repeats) for name in harness.each(PROBLEMS)}
    columns = ["training on the digits", "untracked ms a step", "tracked", "slower by", "share by the recorder"]
    columns += ["records", "ms a record", "first record s", "µs a skipped call"]
    rows = [row(name, result) for name, result in found.items()]
    title = f"Training with npk.track (a budget of 5 %, a probe of {PROBE} samples, batches of {BATCH})"
    harness.report("tracking", title, columns, rows, {"problems": found})


if __name__ == "__main__":
    main()
