"""The engine for position pairs: against the plain rules, and against moments taken unit by unit."""

import math

import architectures
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from architectures import REGISTRY
from hypothesis import given, settings
from oracles import position_pairs
from oracles.language import FLATTEN, AvgPool, Conv, Dense, GlobalAvgPool, Network, Relu, Residual
from tolerances import assert_close

import npk
from npk.path_kernels.engines.pairs import kernel as pair_kernel
from npk.path_kernels.engines.pairs import plan

pytest.importorskip("numba")
ALWAYS, NEVER = (npk.path_kernels.Thresholds(paired_seconds=s) for s in (-math.inf, math.inf))

GAP = (GlobalAvgPool(), Dense(2, bias=False))


def network(*layers, image=(5, 6, 2), head=GAP):
    return Network(image, (*layers, *head))


def conv(out, kernel=(3, 3), padding="SAME", **more):
    return Conv(out, kernel, padding=padding, **{"bias": False, **more})


NETWORKS = {
    "same": network(conv(3), Relu(), conv(70), Relu(), conv(2), Relu()),
    "circular": network(*[conv(4, padding="CIRCULAR"), Relu()] * 3),
    "circular, even and long windows": network(
        conv(3, (4, 5), "CIRCULAR"), Relu(), conv(3, (2, 2), "CIRCULAR"), Relu()
    ),
    "valid, three words, two": network(conv(130, padding="VALID"), Relu(), conv(65, (2, 3), "VALID"), Relu()),
    "explicit padding": network(conv(3, (3, 3), ((2, 0), (1, 3))), Relu(), conv(3, (3, 3), ((0, 2), (2, 2))), Relu()),
    "one word, two, three": network(conv(64), Relu(), conv(128), Relu(), conv(130), Relu(), image=(3, 3, 1)),
    "one channel": network(conv(1), Relu(), conv(1), Relu(), image=(4, 4, 1)),
    "many input channels": network(conv(3), Relu(), image=(3, 4, 9)),
    "biases": network(conv(3, bias=True), Relu(), conv(3, bias=True), Relu(), head=(GlobalAvgPool(), Dense(2))),
    "circular, biases": network(
        conv(3, padding="CIRCULAR", bias=True), Relu(), conv(3, padding="CIRCULAR", bias=True), Relu()
    ),
    "strides": network(conv(3, stride=2), Relu(), conv(3, (2, 2), stride=2), Relu(), image=(7, 9, 2)),
    "circular, stride": network(conv(3, padding="CIRCULAR", stride=2), Relu(), conv(3), Relu(), image=(6, 6, 2)),
    "dilation": network(conv(3, dilation=2), Relu(), conv(3, (2, 2), "VALID", dilation=2), Relu()),
    "1x1": network(conv(3, (1, 1)), Relu(), conv(66, (1, 1)), Relu()),
    "pooling": network(conv(3), Relu(), AvgPool((2, 2), 2), conv(3), Relu()),
    "pooling, overlapping and padded": network(conv(3), Relu(), AvgPool((3, 2), 2, "SAME"), conv(3), Relu()),
    "pooling, then the mean": network(conv(3), Relu(), AvgPool((2, 2), 1)),
    "dense layers after the mean": network(
        conv(3), Relu(), head=(GlobalAvgPool(), Dense(66), Relu(), Dense(3, bias=False), Relu(), Dense(2))
    ),
    "dense layers after the mean, in a block": network(
        conv(3), Relu(), head=(GlobalAvgPool(), Dense(3), Residual((Relu(), Dense(3))), Relu(), Dense(2))
    ),
    "fully convolutional": network(conv(3), Relu(), conv(2, (1, 1)), head=(GlobalAvgPool(),)),
    "residual, pre-activation": network(
        conv(3), Residual((Relu(), conv(3))), Residual((Relu(), conv(3, bias=True))), Relu()
    ),
    "residual, post-activation": network(
        conv(3), Relu(), Residual((conv(3), Relu(), conv(3))), Relu(), Residual((conv(3),)), Relu()
    ),
    "residual, projection": network(
        conv(3), Relu(), Residual((conv(4, stride=2), Relu(), conv(4)), (conv(4, (1, 1), stride=2),)), Relu()
    ),
    "one dimension": network(conv(3, (3,)), Relu(), conv(3, (4,), "CIRCULAR"), Relu(), image=(7, 2)),
    "a column": network(conv(3), Relu(), conv(3), Relu(), image=(6, 1, 2)),
    "one position": network(conv(3), Relu(), conv(3), Relu(), image=(1, 1, 2)),
}
every_network = pytest.mark.parametrize("case", NETWORKS.values(), ids=NETWORKS.keys())


@pytest.fixture
def engine(monkeypatch):
    """A list of which calls the engine answered."""
    answered = []
    original = pair_kernel.path_kernel

    def spy(*args):
        h = original(*args)
        answered.append(h is not None)
        return h

    monkeypatch.setattr("npk.path_kernels.engines.pairs.path_kernel", spy)
    return answered


def drawn(case, n, seed=0, soft=False):
    """(f, parameters, inputs, gates): whole numbers, gates drawn at random."""
    rng = np.random.default_rng(seed)
    f, params, x = architectures.case(case, seed, n)
    params, x = jax.tree.map(lambda a: jnp.asarray(a, float), params), jnp.asarray(x, float)
    shapes = [g.shape for g in jax.eval_shape(npk.gates(f), params, x)]
    gates = [rng.uniform(0, 1, s) if soft else rng.integers(0, 2, s).astype(float) for s in shapes]
    return f, params, x, [jnp.asarray(g) for g in gates]


def oracle(case, x1, x2, gates1, gates2, normalize):
    one, two = ([np.asarray(g) for g in gates] for gates in (gates1, gates2))
    return position_pairs.kernel(case, np.asarray(x1), np.asarray(x2), one, two, normalize)


def pooled_positions(case):
    """How many positions the mean is over, where it is the only division."""
    if any(isinstance(layer, AvgPool) for layer in case.layers):
        return None
    before = case.layers[: case.layers.index(GlobalAvgPool())]
    f, params, x = architectures.case(Network(case.input, (*before, FLATTEN)), 0, 1)
    units = jax.eval_shape(f, params, jax.ShapeDtypeStruct(x.shape, float)).shape[1]
    return units // channels_after(before)


def channels_after(layers):
    for layer in reversed(layers):
        if isinstance(layer, Conv):
            return layer.out
        if isinstance(layer, Residual):
            return channels_after(layer.branch)
    raise AssertionError


@every_network
def test_counts_are_those_of_the_oracle_exactly(case, engine, x64):
    f, p, x, gates = drawn(case, 4)
    one, two = ([g[part] for g in gates] for part in (slice(3), slice(3, 4)))
    h = npk.path_kernel(f, thresholds=ALWAYS)(p, x[:3], x[3:], gates1=one, gates2=two, normalize=False)
    assert engine == [True]
    expected = oracle(case, x[:3], x[3:], one, two, False)
    positions = pooled_positions(case)
    if positions:  # without the division by the number of positions they are whole numbers
        scaled = expected * positions**2
        assert_close(scaled, np.round(scaled))
        np.testing.assert_array_equal(np.round(np.asarray(h) * positions**2), np.round(scaled))
    assert_close(h, expected)


@pytest.mark.parametrize(
    "name", ["circular, biases", "one word, two, three", "strides", "pooling", "residual, projection"]
)
def test_normalised_kernels_are_those_of_the_oracle(name, engine, x64):
    case = NETWORKS[name]
    f, p, x, gates = drawn(case, 3, seed=1)
    h = npk.path_kernel(f, thresholds=ALWAYS)(p, x, gates1=gates)
    expected = oracle(case, x, x, gates, gates, True)
    assert_close(h, expected)
    single = jax.tree.map(lambda a: a.astype(jnp.float32), (p, x, gates))
    h32 = npk.path_kernel(f, thresholds=ALWAYS)(single[0], single[1], gates1=single[2])
    assert engine == [True, True] and h32.dtype == jnp.float32
    assert_close(h32, expected)


@pytest.mark.parametrize("name", ["same", "circular, biases", "strides", "residual, post-activation"])
def test_soft_gates(name, engine, x64):
    f, p, x, gates = drawn(NETWORKS[name], 3, soft=True)
    h = npk.path_kernel(f, thresholds=ALWAYS)(p, x, gates1=gates)
    assert engine == [True]
    assert_close(h, oracle(NETWORKS[name], x, x, gates, gates, True))


def check_random_network(case):
    f, p, x, gates = drawn(case, 4)
    h, plain = (npk.path_kernel(f, thresholds=when)(p, x, gates1=gates, normalize=False) for when in (ALWAYS, NEVER))
    assert_close(h, plain)


@pytest.mark.usefixtures("x64")
@settings(max_examples=4)
@given(architectures.convolution_networks())
def test_random_networks_give_what_the_plain_rules_give(case):
    check_random_network(case)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@settings(max_examples=25)
@given(architectures.convolution_networks())
def test_more_random_networks_give_what_the_plain_rules_give(case):
    check_random_network(case)


@pytest.mark.parametrize("name", ["max pooling", "residual, padded shortcut", "batch norm", "concatenation"])
def test_other_architectures(name, engine, x64):
    f, p, x, gates = drawn(REGISTRY[name], 4)
    kernel = npk.path_kernel(f, thresholds=ALWAYS)
    h = kernel(p, x, normalize=False)
    np.testing.assert_allclose(h, npk.path_kernel(f, thresholds=NEVER)(p, x, normalize=False), rtol=1e-13)


UNCOVERED = {
    "groups": "a layer with groups",
    "depthwise": "a layer with groups",
    "flatten head": "values that are flattened",
    "channel shuffle": "a layer with groups",
    "max pooling, overlapping": "a sum over places",
    "mlp": "no convolutions",
}


@pytest.mark.parametrize("name", UNCOVERED)
def test_what_the_engine_does_not_cover_is_said_and_computed_as_before(name, engine, x64):
    f, p, x, _ = drawn(REGISTRY[name], 3)
    kernel = npk.path_kernel(f, thresholds=ALWAYS)
    h, said = kernel(p, x), {e.name: e for e in kernel.engines(p, x)}
    assert engine == [] and UNCOVERED[name] in said["pairs"].why and said["rules"].runs
    np.testing.assert_array_equal(h, npk.path_kernel(f, thresholds=NEVER)(p, x))


def test_blocks_and_tasks_do_not_change_a_bit(engine, monkeypatch, x64):
    f, p, x, gates = drawn(NETWORKS["circular, biases"], 9)
    kernel = npk.path_kernel(f, thresholds=ALWAYS)
    h = kernel(p, x, gates1=gates)
    np.testing.assert_array_equal(h, h.T)
    monkeypatch.setattr(pair_kernel, "_BLOCK_BYTES", 1 << 14)
    monkeypatch.setattr(pair_kernel, "_CHUNK_NUMBERS", 1 << 9)
    monkeypatch.setattr(pair_kernel, "_TASK", 2)
    np.testing.assert_array_equal(kernel(p, x, gates1=gates), h)
    # Mirrored pairs of two batches are both computed, and add up in different orders.
    both = kernel(p, x, x, gates1=gates, gates2=gates)
    np.testing.assert_array_equal(np.triu(both), np.triu(h))
    assert_close(both, h)
    assert engine == [True] * 3


def test_circular_shifts_do_not_change_the_kernel(engine, x64):
    f, p, x, gates = drawn(NETWORKS["circular"], 3)
    moved = jnp.roll(x, (2, 3), (1, 2))
    turned = [jnp.roll(g, (2, 3), (1, 2)) for g in gates]
    kernel = npk.path_kernel(f, thresholds=ALWAYS)
    h = kernel(p, x, gates1=gates, normalize=False)
    again = kernel(p, moved, x, gates1=turned, gates2=gates, normalize=False)
    counts = np.round(np.stack([h, again]) * 30**2)  # the mean is over 30 positions on either side
    np.testing.assert_array_equal(counts[0], counts[1])
    assert_close(again, h)


def test_checks_are_made_as_before(engine):
    f, p, x, gates = drawn(NETWORKS["same"], 3)
    broken = [gates[0].at[0, 0, 0, 0].set(jnp.nan), *gates[1:]]
    with pytest.raises(ValueError, match="gates1/0 must be finite; 1 of its 270 numbers"):
        npk.path_kernel(f, thresholds=ALWAYS)(p, x, gates1=broken)
    with pytest.raises(ValueError, match="path counts reach"):
        npk.path_kernel(f, thresholds=ALWAYS)(p, 1000 * x, gates1=gates, normalize=False)
    with pytest.raises(ValueError, match="leaves the range of float32"):
        npk.path_kernel(f, thresholds=ALWAYS)(p, 1e19 * x, gates1=gates)


def test_traced_values_take_the_plain_rules(engine, x64):
    f, p, x, gates = drawn(NETWORKS["same"], 3)
    kernel = npk.path_kernel(f, thresholds=ALWAYS)
    assert_close(jax.jit(lambda g: kernel(p, x, gates1=g))(gates), kernel(p, x, gates1=gates))
    assert engine == [True]


def test_little_work_is_left_to_the_plain_rules():
    assert pair_kernel.saving([1, 1]) < 0 < pair_kernel.saving([256])


@pytest.mark.parametrize("wrap", [False, True])
def test_axes_are_found_from_what_they_read(wrap):
    for size, taps, stride, dilation, offset in [(6, 3, 1, 1, 1), (7, 2, 2, 1, 0), (9, 3, 2, 2, 2), (5, 1, 1, 1, 0)]:
        axis = plan.Axis(size, (size - 1) // stride + 1, taps, stride, dilation, offset, wrap)
        reads = np.array(axis.reads)
        places = reads % size if wrap else np.where((reads >= 0) & (reads < size), reads, -1)
        found = plan.fitted_axis(places, size, stride, dilation)
        assert found is not None and found.taps == taps
        again = np.array(found.reads)
        again = again % size if found.wrap else np.where((again >= 0) & (again < size), again, -1)
        np.testing.assert_array_equal(again, places)
