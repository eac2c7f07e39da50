"""A recorder in a training loop: it records what lists of bits say, when it was asked to, and ends no training."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import OUTPUTS, WIDTH, Linen, N, X, Y, steps_of

import npk
from npk.tracking import Recorder

PAIRS = list(itertools.combinations(range(N), 2))


def params_of(seed):
    random = np.random.default_rng(seed)
    shapes = {"a": (3, WIDTH), "b": (WIDTH, WIDTH), "c": (WIDTH, OUTPUTS)}
    params = {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    params["a"][:, 0] = 0  # a unit that is dead
    return params


def network(activation=jax.nn.relu):
    return lambda p, x: activation(activation(x @ p["a"]) @ p["b"]) @ p["c"]


def bits(params, apply, opens):
    """Which units of either layer are open, by NumPy: q is opened by `opens`, and goes on through `apply`."""
    first = X @ params["a"]
    second = apply(first) @ params["b"]
    return [[[bool(opens(q)) for q in row] for row in layer] for layer in (first, second)]


def mean(values):
    return sum(values) / len(values)


def expected(now, first, last):
    """Every number of a record of two layers, from lists of bits."""
    told = {}
    for i, (layer, start, before) in enumerate(zip(now, first, last, strict=True), 1):
        columns, cells = list(zip(*layer, strict=True)), list(itertools.chain(*layer))
        told[f"flips/layer {i}"] = mean([a != b for a, b in zip(cells, itertools.chain(*start), strict=True)])
        told[f"flips_since_last/layer {i}"] = mean(
            [a != b for a, b in zip(cells, itertools.chain(*before), strict=True)]
        )
        told[f"dead/layer {i}"] = mean([not any(column) for column in columns])
        told[f"always_open/layer {i}"] = mean([all(column) for column in columns])
        shared = [mean([a and b for a, b in zip(layer[s], layer[t], strict=True)]) for s, t in PAIRS]
        told[f"overlap/layer {i}"] = mean(shared)
    codes = [list(itertools.chain(*parts)) for parts in zip(*now, strict=True)]
    differ = {pair: mean([a != b for a, b in zip(*(codes[s] for s in pair), strict=True)]) for pair in PAIRS}
    told["distance_within"] = mean([d for (s, t), d in differ.items() if Y[s] == Y[t]])
    told["distance_between"] = mean([d for (s, t), d in differ.items() if Y[s] != Y[t]])
    sizes = [len(list(itertools.chain(*layer))) for layer in now]
    for name in ("flips", "flips_since_last"):
        told[name] = sum(told[f"{name}/layer {i}"] * size for i, size in enumerate(sizes, 1)) / sum(sizes)
    return told


TIMES = ("step", "seconds", "elapsed", "note")


def numbers(record):
    return {name: value for name, value in record.columns().items() if name not in TIMES}


ACTIVATIONS = {
    "relu": (jax.nn.relu, lambda q: np.maximum(q, 0), lambda q: q > 0),
    "leaky": (lambda q: jax.nn.leaky_relu(q, 0.1), lambda q: np.where(q > 0, q, np.float32(0.1) * q), lambda q: q > 0),
    "absolute": (jnp.abs, np.abs, lambda q: q > 0),
    "below zero": (lambda q: jnp.minimum(q, 0), lambda q: np.minimum(q, 0), lambda q: q < 0),
    "steeper below zero": (lambda q: jnp.where(q > 0, q, 2 * q), lambda q: np.where(q > 0, q, 2 * q), lambda q: q < 0),
}


@pytest.mark.parametrize(("activation", "apply", "opens"), ACTIVATIONS.values(), ids=ACTIVATIONS.keys())
def test_hard_gates_are_what_lists_of_bits_say(activation, apply, opens):
    recorder = npk.track(network(activation), X, Y, every=1, measures=("gates",))
    seen = [bits(params_of(seed), apply, opens) for seed in range(3)]
    for step, now in enumerate(seen):
        record = recorder(step, params_of(step))
        assert numbers(record) == pytest.approx(expected(now, seen[0], seen[max(step - 1, 0)]), abs=1e-12)
        assert record.note == "" and record.alignment is None and record.trace == {}
    assert record.flips_since_last != record.flips > 0 < record.dead["layer 1"]
    assert list(recorder.layers) == ["layer 1", "layer 2"] and recorder.layers["layer 1"].startswith("hard [7] at ")


def test_samples_are_found_along_another_axis():
    f, turned = network(), lambda p, x: (p["c"].T @ jax.nn.relu(p["b"].T @ jax.nn.relu(p["a"].T @ x.T))).T  # noqa: E731
    ours, theirs = (npk.track(g, X, Y, every=1, measures=("gates",)) for g in (turned, f))
    for step in range(2):
        assert numbers(ours(step, params_of(step))) == pytest.approx(numbers(theirs(step, params_of(step))))


def test_gates_that_do_not_switch_have_changes_by_kind():
    def f(p, x):
        h = jax.nn.silu(x @ p["a"])
        h = jax.nn.relu(h @ p["b"])
        return (h * jax.lax.rsqrt((h * h).mean(-1, keepdims=True) + 1e-3)) @ p["c"]

    def gates(p):
        q = (X @ p["a"]).astype(np.float64)
        h = np.maximum((q / (1 + np.exp(-q))) @ p["b"], 0)
        return 1 / (1 + np.exp(-q)), 1 / np.sqrt((h * h).mean(-1) + 1e-3)

    def change(a, b):
        return np.abs(a - b).sum() / (a + b).sum()

    recorder = npk.track(f, X, every=1, measures=("gates",))
    first, last, now = (gates(params_of(seed)) for seed in range(3))
    for step in range(3):
        record = recorder(step, params_of(step))
    for found, before in ((record.changes, first), (record.changes_since_last, last)):
        told = {kind: change(a, b) for kind, a, b in zip(("soft", "scale"), now, before, strict=True)}
        assert found == pytest.approx(told, rel=1e-4)
    assert list(recorder.layers) == list(record.flips_by_layer) == list(record.dead) == ["layer 1"]
    assert record.distance_within is record.distance_between is None


def test_choices_of_pooling_flip_and_are_neither_dead_nor_always_open():
    f = lambda p, x: jax.nn.relu(x @ p["a"])[:, :6].reshape(-1, 3, 2).max(-1) @ p["c"][:3]  # noqa: E731
    recorder = npk.track(f, X, Y, every=1, measures=("gates",))

    def chosen(p):
        pooled = np.maximum(X @ p["a"], 0)[:, :6].reshape(N, 3, 2)
        return np.eye(2, dtype=bool)[pooled.argmax(-1)].reshape(N, -1)

    first, now = chosen(params_of(0)), chosen(params_of(1))
    recorder(0, params_of(0))
    record = recorder(1, params_of(1))
    assert record.flips_by_layer["layer 2"] == pytest.approx((first != now).mean())
    assert record.overlap["layer 2"] == pytest.approx(mean([(now[s] & now[t]).mean() for s, t in PAIRS]))
    assert list(record.dead) == list(record.always_open) == ["layer 1"]


def test_gates_from_outside_switch_as_long_as_they_are_zero_or_one():
    def f(p, x):
        gate = jnp.clip(p["steep"] * (x @ p["a"]), 0, 1)
        return npk.gated(lambda v, x: jax.nn.relu(x @ v["a"]) @ v["c"])(p, x, (gate,))

    recorder = npk.track(f, X, Y, every=1, measures=("gates",))
    sharp, soft = ({**params_of(seed), "steep": np.float32(steep)} for seed, steep in ((0, 1e9), (1, 0.1)))
    first = recorder(0, sharp)
    opened = X @ sharp["a"] > 0
    assert first.dead == {"layer 1": pytest.approx((~opened).all(0).mean())} and first.changes == {}
    record = recorder(1, soft)
    gate = np.clip(np.float32(0.1) * (X @ soft["a"]), 0, 1)
    assert record.changes == {"given": pytest.approx(np.abs(gate - opened).sum() / (gate + opened).sum(), rel=1e-5)}
    assert record.flips is None and recorder.layers == {}
    assert "layer 1 (given [7]" in record.note and "counts among changes from here on" in record.note
    assert np.isnan(recorder.table()["flips"][1])


def test_kernels_are_those_of_their_definitions():
    def f(p, x):
        return jax.nn.relu(x @ p["a"]) @ p["c"]

    beta, p = 3.0, params_of(1)
    record = npk.track(f, X, Y, beta=beta).record(0, p)
    q, v = (X @ p["a"]).astype(np.float64), p["c"].astype(np.float64)
    gate = (q > 0).astype(float)
    h = (X @ X.T / 3) * (gate @ gate.T / WIDTH)
    eigenvalues = np.maximum(np.linalg.eigvalsh(h), 1e-300)
    shares = eigenvalues / eigenvalues.sum()
    assert record.trace["npk"] == pytest.approx(np.trace(h), rel=1e-5)
    assert record.effective_rank == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-4)
    target = (Y[:, None] == Y).astype(float)
    middle = np.eye(N) - 1 / N
    a, b = middle @ h @ middle, middle @ target @ middle
    assert record.alignment == pytest.approx((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()), rel=1e-4)
    soft = 1 / (1 + np.exp(-beta * q))
    moved = q * beta * soft * (1 - soft)  # q γ'(q)
    size, weight = (X**2).sum(1, keepdims=True), (v**2).sum(1)
    value = OUTPUTS * ((q * soft) ** 2).sum() + (weight * soft**2 * size).sum()
    told = {
        "value": value,
        "feature": (weight * moved**2 * size).sum(),
        "cross": 2 * (weight * soft * moved * size).sum(),
    }
    assert {name: record.trace[name] for name in told} == pytest.approx(told, rel=1e-4)
    hard = npk.track(f, X, beta=None, measures=("ntk",)).record(0, p)
    assert hard.trace["feature"] == hard.trace["cross"] == 0 < hard.trace["value"] and hard.alignment is None


# ------------------------------------------------------------------------------------------- when it records


class Taking:
    """A measure that takes seconds of a clock, more when it compiles."""

    known = {"flips": np.nan}

    def __init__(self):
        self.now, self.costs = 0.0, iter(())

    def fields(self, params):
        self.now += next(self.costs)
        return {"flips": 0.0}

    def commit(self):
        pass


def test_records_stay_within_the_budget_as_their_cost_changes():
    measure = Taking()
    recorder = Recorder({"gates": measure}, None, 0.1, clock=lambda: measure.now)
    measure.costs = iter([100.0, 2.0, 5.0, 2.0, 6.0, *[2.0] * 99])  # compiles, warm twice, then as records go
    for step in range(400):
        recorder(step, {})
        measure.now += 1.0
        if step > 0:
            assert recorder.spent <= 0.1 * recorder._elapsed() + 6.0
    # A record is expected to cost 2, so the next ones come after 20 s and 40 s, 2 of which were in a record. The second
    # costs 6: with the 8 that are spent that makes 14, of 140 s. Then one every 20 s, or 18 steps.
    assert steps_of(recorder)[:7] == [0, 20, 38, 132, 150, 168, 186]
    assert recorder.first_seconds == 107.0 and recorder.records[0].seconds == 107.0
    assert recorder.records[1].elapsed == 107 + 20 + 2
    assert 0.08 < recorder.share <= 0.1
    assert recorder.spent == sum(record.seconds for record in recorder.records[1:])
    count, last = len(recorder.records), steps_of(recorder)[-1]
    assert repr(recorder) == f"Recorder({count} records up to step {last}, {recorder.share:.1%} of the time)"


def test_the_wait_for_params_is_no_cost_of_a_record(monkeypatch):
    measure = Taking()
    recorder = Recorder({"gates": measure}, 1, 0.1, clock=lambda: measure.now)

    def wait(params):
        measure.now += 50.0

    monkeypatch.setattr(jax, "block_until_ready", wait)
    measure.costs = iter([3.0, 2.0])
    assert [recorder(step, {}).seconds for step in range(2)] == [3.0, 2.0]
    assert recorder.spent == 2.0 and recorder.share == 2.0 / 102.0


@pytest.mark.parametrize(
    ("every", "recorded"),
    [(4, [0, 4, 8]), (np.int64(4), [0, 4, 8]), ((1, 7, 99), [1, 7]), ({3}, [3]), (range(2, 99, 5), [2, 7]),
     (np.array([0, 9]), [0, 9])],
)  # fmt: skip
def test_steps_are_those_that_were_asked_for_and_the_others_touch_no_params(every, recorded):
    recorder = npk.track(network(), X, every=every, measures=("gates",))
    for step in range(10):
        record = recorder(step, params_of(0) if step in recorded else None)
        assert (record is not None) == (step in recorded)
    assert steps_of(recorder) == recorded
    assert recorder.record(10, params_of(0)).step == 10
    assert recorder.record(10, params_of(0)) is recorder.records[-1]


def test_the_step_that_was_skipped_can_be_recorded_after_the_loop():
    recorder = npk.track(network(), X, every=4, measures=("gates",))
    for step in range(3):
        recorder(step, params_of(0))
    assert recorder.record(2, params_of(0)).step == 2 and steps_of(recorder) == [0, 2]
    with pytest.raises(ValueError, match="steps must increase, but step 2 comes after step 2"):
        recorder(2, params_of(0))
    with pytest.raises(ValueError, match="steps must increase, but step 1 comes after step 2"):
        recorder.record(1, params_of(0))
    for step in (jnp.array(3), 3.0, "3"):
        with pytest.raises(TypeError, match="step must be an int, got .* count steps in Python"):
            recorder(step, params_of(0))


# ------------------------------------------------------------------------------------------- what goes wrong


def test_training_that_diverges_is_recorded_and_goes_on():
    recorder = npk.track(network(), X, Y, every=1)
    good, bad = params_of(0), {**params_of(0), "b": np.full((WIDTH, WIDTH), np.nan, np.float32)}
    first = recorder(0, good)
    lost = recorder(1, bad)
    assert lost.note == "params are not finite" and numbers(lost).keys() == numbers(first).keys()
    assert np.isnan(list(numbers(lost).values())).all()
    again = recorder(2, good)
    assert again.note == "" and again.flips == again.flips_since_last == 0.0 and numbers(again) == numbers(first)
    large = recorder(3, {name: np.float32(1e12) * value for name, value in good.items()})
    assert "ntk: the tangent kernel leaves the range of float32" in large.note
    assert np.isnan(list(large.trace.values())).tolist() == [False, True, True, True] and large.flips == 0.0
    huge = recorder(4, {name: np.float32(1e25) * value for name, value in good.items()})
    assert huge.note == "f is not finite on the probe" and np.isnan(list(numbers(huge).values())).all()
    closed = recorder(5, {**good, "a": 0 * good["a"]})
    assert closed.note == "every path is closed at every sample"
    assert closed.trace["npk"] == 0 == closed.alignment and np.isnan(closed.effective_rank)
    assert closed.dead == {"layer 1": 1.0, "layer 2": 1.0}


def test_what_compiles_late_is_no_part_of_the_budget():
    measure = Taking()
    recorder = Recorder({"gates": measure}, None, 0.1, clock=lambda: measure.now)
    recorder(0, {"a": np.array([np.inf])})
    measure.now, measure.costs = 10.0, iter([100.0, 2.0, 2.0, 2.0])
    assert recorder(1, {}).flips == 0.0 and recorder.first_seconds == 104.0 and recorder.spent == 0.0
    assert np.isnan(recorder.records[0].flips) and recorder(2, {}) is None


def test_what_one_measure_refuses_the_others_take():
    def twice(p, x):
        return jax.nn.relu(jax.nn.relu(x @ p["a"]) @ p["b"]) @ p["b"]

    with pytest.raises(npk.UnsupportedOperation, match=r"track\(…, measures=\('gates', 'ntk'\)\) leaves 'npk' out"):
        npk.track(twice, X)(0, params_of(0))
    record = npk.track(twice, X, measures=("ntk", "gates")).record(0, params_of(0))
    assert list(record.trace) == ["value", "feature", "cross"] and record.flips == 0.0
    with pytest.raises(npk.UnsupportedOperation) as refused:
        npk.track(twice, X, measures=("npk",))(0, params_of(0))
    assert "track(" not in str(refused.value)


def test_samples_that_see_each_other_are_refused():
    f = lambda p, x: network()(p, x - x.mean(0, keepdims=True))  # noqa: E731
    with pytest.raises(ValueError, match="the samples of a batch are not independent"):
        npk.track(f, X, measures=("gates",))(0, params_of(0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"y": Y[:4]}, r"y must be class numbers \[9\], one a sample of x, got int64\[4\]"),
        ({"y": np.eye(9)}, r"got float64\[9, 9\]: of one-hot labels"),
        ({"y": Y.astype(float)}, r"got float64\[9\]"),
        ({"x": X[:0]}, "at least one sample"),
        ({"x": X * np.nan}, "x must be finite"),
        ({"every": 0}, "every must be a number of steps from 1 on, a collection of steps, or None, got 0"),
        ({"every": True}, "every must be"),
        ({"every": 2.5}, "every must be"),
        ({"every": ()}, "every must be"),
        ({"every": "all"}, "every must be"),
        ({"budget": 0.0}, "budget must be a share"),
        ({"budget": np.nan}, "budget must be a share"),
        ({"beta": -1.0}, "beta must be positive"),
        ({"measures": ()}, "measures must be some of gates, npk, ntk"),
        ({"measures": "npk"}, "measures must be some of"),
        ({"measures": ("ntk", "flips")}, "measures must be some of"),
        ({"kinds": ("relu",)}, "kinds must be some of"),
        ({"allow": "exp"}, "allow must be a sequence"),
    ],
)
def test_options_are_checked_before_the_loop(options, message):
    with pytest.raises(ValueError, match=message):
        npk.track(network(), **({"x": X} | options))


def test_a_model_and_a_trace_are_told_what_to_be():
    with pytest.raises(TypeError, match=r"pass its `apply`, track\(model.apply, x\)"):
        npk.track(Linen(), X)
    recorder = npk.track(network(), X, measures=("gates",))
    with pytest.raises(TypeError, match=r"call recorder\(step, params\) outside jit"):
        jax.jit(lambda p: (recorder(0, p), p)[1])(params_of(0))
    with pytest.raises(TypeError, match="call track outside jit"):
        jax.jit(lambda x: npk.track(network(), x).record(0, params_of(0)).flips)(X)
