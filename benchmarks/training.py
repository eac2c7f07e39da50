"""Training: whole epochs in one compiled loop beside plain Flax + Optax with a Python loop over steps.

The same MLP (depth 6, width 128, batch 32) on inputs of MNIST's shape; then what the regimes cost beside
ReLU, and five seeds trained together beside five runs.

Needs about 3 minutes on two cores and 1 GiB.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import harness
from npk import networks
from npk.training import (
    Network,
    Regime,
    RegimeConfig,
    compose,
    initial_params,
    loss_of,
    optimizer_of,
    over_seeds,
    steps_of,
)

SAMPLES, BATCH = 6400, 32


def problem() -> tuple[Network, Any, Any]:
    """(network, inputs, labels)."""
    model = networks.MLP(width=128, depth=6, outputs=10)
    x = jax.random.normal(jax.random.key(0), (SAMPLES, 28, 28, 1))
    return Network(model.apply, model.init), x, jax.random.randint(jax.random.key(1), (SAMPLES,), 0, 10)


def epoch_of(regime: str, seeds: int | None = None) -> Callable[[], Any]:
    """One epoch of a regime in one compiled loop; of several seeds together where `seeds` is given."""
    network, x, y = problem()
    config = RegimeConfig(regime, learning_rate=1e-4, batch_size=BATCH)
    _, forward = compose(network, config)
    optimizer, losses = optimizer_of(config, 1), loss_of(config)
    frozen = Regime(regime).frozen

    def start(seed: Any) -> tuple[Any, Any, Any]:
        gates = network.init(jax.random.key(9), x[:1])
        params = initial_params(network, config, x[:1], seed, gates)
        trained = {"value": params["value"]} if frozen else params
        return trained, optimizer.init(trained), {"feature": params["feature"]} if frozen else {}

    def loss(trained: Any, rest: Any, x: Any, y: Any) -> tuple[Any, Any]:
        logits, updated = forward({**rest, **trained}, x)
        return losses(logits, y).mean(), {k: updated[k] for k in trained}

    def epoch(state: Any) -> Any:
        return steps_of(loss, optimizer, BATCH)(*state, x, y, jax.random.key(2), 0, SAMPLES // BATCH)

    if seeds is None:
        return functools.partial(jax.jit(epoch), start(0))
    return functools.partial(over_seeds(epoch, (0,)), jax.vmap(start)(jnp.arange(seeds)))


def plain(host: bool) -> Callable[[], Any]:
    """The same epoch as it is usually written: a jitted step, called once a batch.

    Batches are cut on the device, or by NumPy on the host, which costs fewer dispatches.
    """
    network, x, y = problem()
    optimizer = optax.adam(1e-4)
    params = network.init(jax.random.key(0), x[:1])
    state = optimizer.init(params)
    data = (np.asarray(x), np.asarray(y)) if host else (x, y)

    @jax.jit
    def step(params: Any, state: Any, x: Any, y: Any) -> Any:
        def loss(params: Any) -> Any:
            return optax.softmax_cross_entropy_with_integer_labels(network.apply(params, x), y).mean()

        updates, state = optimizer.update(jax.grad(loss)(params), state)
        return optax.apply_updates(params, updates), state

    def epoch() -> Any:
        now = params, state
        order = jax.random.permutation(jax.random.key(2), SAMPLES)
        order = np.asarray(order) if host else order
        for i in range(SAMPLES // BATCH):
            batch = order[BATCH * i : BATCH * (i + 1)]
            now = step(*now, *(values[batch] for values in data))
        return now

    return epoch


def main() -> None:
    """Run all parts."""
    parser = harness.parser(__doc__)
    parser.add_argument("--repeats", type=int, default=9)
    args = parser.parse_args()
    harness.begin(__doc__)
    regimes = {regime: epoch_of(regime) for regime in Regime}
    five = {regime: epoch_of(regime, 5) for regime in ("ReLU", "DL")}
    loops = {"Python loop, data on the device": plain(False), "Python loop, batches by NumPy": plain(True)}
    together = {f"{regime}, 5 seeds": call for regime, call in five.items()}
    calls = {**regimes, **loops, **together}
    for name in harness.each(calls, "an epoch of {}".format):
        harness.timed(calls[name])  # compiles
    harness.say(f"{args.repeats} epochs of each, in turns")
    times = harness.side_by_side(calls, args.repeats)
    relu = times["ReLU"]["median"]
    rows = []
    for name, time in times.items():
        ms = time["median"]
        note = f"{ms / relu:.2f}x ReLU"
        if name in loops:
            note = f"the compiled loop is {ms / relu:.1f}x faster"
        elif name in together:
            note = f"five runs cost {5 * times[name.split(',')[0]]['median'] / ms:.2f}x as much"
        count = 5 * SAMPLES if name in together else SAMPLES
        rows.append([name, f"{ms:.0f}", f"{count / ms * 1e3:,.0f}", note])
    columns = ["one epoch of 6,400 samples", "ms", "samples/s", ""]
    harness.report("training", "Training an MLP (depth 6, width 128, batch 32)", columns, rows, {"times": times})


if __name__ == "__main__":
    main()
