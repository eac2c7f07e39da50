import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from npk import networks, training
from npk.training.loops import (
    SNAPSHOTS,
    Snapshots,
    choose_stages,
    course,
    cross_entropy,
    measure_of,
    record_steps,
)

pytestmark = pytest.mark.standard_dtypes


def problem():
    generator = np.random.default_rng(0)
    y = np.arange(90, dtype=np.int32) % 3
    x = generator.normal(size=(90, 6)).astype(np.float32) + 2 * np.eye(3, 6, dtype=np.float32)[y]
    net = networks.MLP(width=16, depth=3, outputs=3)
    return net, net.init(jax.random.key(0), x[:1]), x, y


def run(**changes):
    net, params, x, y = problem()
    settings = {"key": jax.random.key(1), "epochs": 6, "batch_size": 20, "stages": 5, "optimizer": optax.adam(0.05)}
    return net, params, x, y, training.train(net.apply, params, x, y, **(settings | changes))


def same(a, b):
    return all(np.array_equal(p, q) for p, q in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def test_stages_run_from_the_initial_to_the_trained_parameters_with_their_accuracies():
    net, params, x, y, trained = run()
    assert same(trained.stages[0], params)
    assert [r.step for r in (trained.records[0], trained.records[-1])] == [0, 6 * (90 // 20)]
    steps = [record.step for record in trained.records]
    assert steps == sorted(set(steps)) and len(steps) == 5
    for stage, record in zip(trained.stages, trained.records, strict=True):
        assert record.train_accuracy == pytest.approx(float((net.apply(stage, x).argmax(1) == y).mean()))
    assert trained.records[-1].train_accuracy > 0.8


def test_the_same_key_gives_the_same_parameters_and_another_key_others():
    first, again, other = run()[-1], run()[-1], run(key=jax.random.key(2))[-1]
    assert first.history == again.history
    assert same(first.stages[-1], again.stages[-1])
    assert not same(first.stages[-1], other.stages[-1])


def test_steps_are_those_of_plain_optax():
    net, params, x, y, trained = run(epochs=2, optimizer=optax.sgd(0.1))
    optimizer = optax.sgd(0.1)
    state = optimizer.init(params)

    def loss(p, batch):
        return optax.softmax_cross_entropy_with_integer_labels(net.apply(p, x[batch]), y[batch]).mean()

    for epoch in range(2):
        order = np.asarray(jax.random.permutation(jax.random.fold_in(jax.random.key(1), epoch), 90))
        for i in range(4):
            change, state = optimizer.update(jax.grad(loss)(params, order[20 * i : 20 * i + 20]), state)
            params = optax.apply_updates(params, change)
    for mine, theirs in zip(jax.tree.leaves(params), jax.tree.leaves(trained.stages[-1]), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-6)


def test_batch_statistics_move_and_get_no_gradient():
    class Normalised(nn.Module):
        @nn.compact
        def __call__(self, x, train=False):
            for width in (4, 3):
                x = nn.relu(nn.BatchNorm(use_running_average=not train)(nn.Conv(width, (3, 3))(x)))
            return nn.Dense(2)(x.mean((1, 2)))

    net = Normalised()
    x = np.random.default_rng(0).normal(size=(16, 5, 5, 1)).astype(np.float32)
    y = np.arange(16, dtype=np.int32) % 2
    variables = jax.jit(net.init)(jax.random.key(0), x[:1])

    def forward(v, batch):
        logits, moved = net.apply(v, batch, train=True, mutable=["batch_stats"])
        return logits, {**v, **moved}

    trained = training.train(
        net.apply, variables, x, y, key=jax.random.key(0), epochs=1, batch_size=16, stages=2, forward=forward
    )
    _, expected = forward(
        variables, x[np.asarray(jax.random.permutation(jax.random.fold_in(jax.random.key(0), 0), 16))]
    )
    for mine, theirs in zip(
        jax.tree.leaves(expected["batch_stats"]), jax.tree.leaves(trained.stages[-1]["batch_stats"]), strict=True
    ):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-6)


def test_records_are_reported_as_they_are_taken():
    seen = []
    trained = run(on_record=seen.append)[-1]
    assert tuple(seen) == trained.history
    assert [record.step for record in seen[:4]] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("accuracies", "stages", "expected"),
    [
        ([0.0, 0.25, 0.5, 0.75, 1.0], 5, [0, 1, 2, 3, 4]),
        ([0.0, 0.1, 0.5, 0.9, 0.91, 1.0], 3, [0, 2, 5]),
        ([0.0, 0.6, 0.5, 0.7, 1.0], 3, [0, 1, 4]),  # the dip at 2 is nearest, but not on the rise
        ([0.5, 0.5, 0.5, 0.5], 4, [0, 1, 2, 3]),  # nothing is learned
        ([0.0, 1.0, 1.0, 1.0, 1.0], 3, [0, 1, 4]),  # learned at once
        ([0.1, 0.1, 0.0, 0.1, 0.1], 3, [0, 2, 4]),  # never learned
    ],
)
def test_stages_are_spread_over_the_rise_of_accuracy(accuracies, stages, expected):
    assert choose_stages(accuracies, stages) == expected


def test_snapshots_are_thinned_where_accuracy_changes_least():
    rising = [i / 40 for i in range(SNAPSHOTS)]
    snapshots = Snapshots()
    for accuracy in rising:
        snapshots.keep(accuracy, f"at {accuracy}")
    assert snapshots.accuracies == rising
    snapshots.keep(31.1 / 40, f"at {31.1 / 40}")
    assert snapshots.accuracies == [*rising[:31], 31.1 / 40]
    assert snapshots.kept == [f"at {accuracy}" for accuracy in snapshots.accuracies]
    assert snapshots.stages(2) == [f"at {rising[0]}", f"at {31.1 / 40}"]


def test_a_course_takes_every_step_once_also_from_the_middle():
    schedule, taken = [0, 1, 2, 4, 6, 8], []

    def advance(state, epoch, first, count):
        taken.extend((epoch, step) for step in range(first, first + count))
        return state + count

    assert list(course(schedule, 4, 0, advance)) == list(enumerate(schedule))
    assert taken == [(epoch, step) for epoch in range(2) for step in range(4)]
    assert list(course(schedule, 4, 2, advance, begin=3)) == [(3, 4), (4, 6), (5, 8)]


@pytest.mark.parametrize("n", [1, 511, 512, 513, 1100])
def test_loss_and_accuracy_are_means_over_sets_of_any_size(n):
    """Parts have one shape and no sample twice, as networks whose samples see each other show."""
    rng = np.random.default_rng(n)
    x, y = rng.normal(size=(n, 3)).astype(np.float32), rng.integers(0, 3, n)
    for f in (lambda p, x: p * x, lambda p, x: p * x - x.mean(axis=0, keepdims=True)):
        shapes = []

        def traced(p, x, f=f, shapes=shapes):
            shapes.append(x.shape)
            return f(p, x)

        loss, accuracy = measure_of(traced, cross_entropy)(jnp.float32(2), jnp.asarray(x), jnp.asarray(y))
        size = min(n, 512)
        parts = [x[max(0, min(i, n - size)) :][:size] for i in range(0, n, size)]
        logits = np.concatenate([f(np.float32(2), part)[-min(size, n - i * size) :] for i, part in enumerate(parts)])
        assert set(shapes) == {(size, 3)}
        assert loss == pytest.approx(float(cross_entropy(logits, y).mean()), rel=1e-5)
        assert accuracy == pytest.approx((logits.argmax(1) == y).mean())


@pytest.mark.parametrize("seeds", [False, True])
def test_sets_that_are_parts_of_one_array_are_measured_apart(seeds):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(1700, 3)).astype(np.float32), rng.integers(0, 3, 1700)
    params = jnp.array([2.0, -1.0]) if seeds else jnp.float32(2)
    measure = measure_of(lambda p, x: p * x, cross_entropy, seeds=seeds)
    for first, last in ((0, 700), (700, 701), (701, 1213), (1213, 1700), (0, 1700)):
        loss, accuracy = measure(params, jnp.asarray(x), jnp.asarray(y), first, last)
        part, classes = x[first:last], y[first:last]
        expected = [float(cross_entropy(p * part, classes).mean()) for p in np.atleast_1d(params)]
        correct = [((p * part).argmax(1) == classes).mean() for p in np.atleast_1d(params)]
        assert np.atleast_1d(loss) == pytest.approx(expected, rel=1e-5)
        assert np.atleast_1d(accuracy) == pytest.approx(correct)


def test_a_set_of_a_batch_or_more_sees_no_samples_of_another():
    """Shown by a network that mixes the samples of a batch: what is beside the set changes nothing."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(1700, 3)).astype(np.float32), rng.integers(0, 3, 1700)
    measure = measure_of(lambda p, x: p * x - x.mean(axis=0, keepdims=True), cross_entropy)
    other = x.copy()
    other[:500], other[1100:] = 100 + other[:500], 100 - other[1100:]
    both = [measure(jnp.float32(2), jnp.asarray(a), jnp.asarray(y), 500, 1100) for a in (x, other)]
    assert both[0] == both[1]


def test_the_schedule_is_dense_at_first_and_ends_every_epoch():
    schedule = record_steps(epoch_steps=100, epochs=5)
    assert schedule[:6] == [0, 1, 2, 3, 4, 5] and schedule[-1] == 500
    assert {100, 200, 300, 400} <= set(schedule)
    assert all(a // 100 == (b - 1) // 100 for a, b in zip(schedule, schedule[1:], strict=False))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 91}, "batch_size must lie in 1 … 90"),
        ({"batch_size": 0}, "batch_size must lie in 1 … 90"),
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"epochs": 10**20}, "epochs must be at least 1 and at most 1000000, got 1000"),
        ({"stages": 1}, "stages must be at least 2"),
        ({"stages": 33}, "stages must be at most 32, got 33"),
        ({"epochs": 1, "batch_size": 90}, "1 steps are too few for 5 stages"),
        ({"optimizer": optax.sgd(1e30)}, "training diverged"),
    ],
)
def test_errors(changes, message):
    with pytest.raises(ValueError, match=message):
        run(**changes)


def test_labels_must_be_whole_numbers():
    with pytest.raises(ValueError, match="whole-number labels"):
        training.train(lambda p, x: x @ p, jnp.eye(2), jnp.eye(2), jnp.array([0.0, 1.0]), key=jax.random.key(0))


@pytest.mark.parametrize("forward", [None, lambda p, x: (batch_normed(p, x), p)], ids=["as it is", "with forward"])
def test_no_optimizer_moves_what_a_framework_marks_as_statistics(forward):
    """Neither by a gradient through evaluation mode, nor by decay of weights."""
    _, _, x, y = problem()
    weights = {"w": 0.1 * np.random.default_rng(1).normal(size=(6, 3)).astype(np.float32)}
    params = {"params": weights, "batch_stats": {"mean": jnp.ones((1, 3)), "var": 2 * jnp.ones((1, 3))}}
    settings = {"key": jax.random.key(1), "epochs": 2, "batch_size": 20, "stages": 2}
    optimizer = optax.adamw(0.05, weight_decay=0.5)
    trained = training.train(batch_normed, params, x, y, optimizer=optimizer, forward=forward, **settings)
    last = trained.stages[-1]
    assert same(last["batch_stats"], params["batch_stats"]) and not same(last["params"], params["params"])


def batch_normed(p, x):
    stats = p["batch_stats"]
    return (x @ p["params"]["w"] - stats["mean"]) * jax.lax.rsqrt(stats["var"] + 1e-3)
