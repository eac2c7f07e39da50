"""Paths against their enumeration, unit by unit and edge by edge, for every architecture; counts exactly."""

import sys

import architectures
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from architectures import REGISTRY
from hypothesis import given, settings
from oracles.enumeration import Enumeration, gram_of, name_of
from tolerances import assert_close

import npk
from npk.path_kernels.engines import dense

pytestmark = pytest.mark.usefixtures("x64")

every_architecture = pytest.mark.parametrize("network", REGISTRY.values(), ids=REGISTRY.keys())
# Average pooling divides by counts that are no powers of two, so that its numbers are not integers.
EXACT = [n for n in REGISTRY if "padded" not in n or "shortcut" in n]


def as_float(tree):
    return jax.tree.map(lambda a: np.asarray(a, np.float64), tree)


def numbers(values):
    return np.asarray(values, float)


def check_paths(network, seed=0):
    f, params, x = architectures.case(network, seed)
    oracle = Enumeration(network, params, x)
    p, xs = as_float(params), as_float(x)
    outputs, gates = jax.jit(lambda p, xs: (f(p, xs), npk.gates(f)(p, xs)))(p, xs)
    for ours, theirs in zip(gates, oracle.gates, strict=True):
        np.testing.assert_array_equal(np.asarray(ours), numbers(theirs))
    np.testing.assert_array_equal(jax.jit(npk.gated(f))(p, xs, gates), outputs)

    features = oracle.features()
    names = npk.path_names(f)(p, xs)
    assert len(set(names)) == len(names) == npk.count_paths(f)(p, xs)
    phi, v = np.asarray(npk.npf(f)(p, xs)), np.asarray(npk.npv(f)(p, xs))
    reached = {name_of(m): (m, numbers(value)) for m, value in features.items()}
    assert set(reached) <= set(names)
    for column, name in enumerate(names):
        if name in reached:  # coordinates that no path reaches (all their offsets fall into padding) are zero
            monomial, value = reached[name]
            assert_close(phi[:, column], value)
            np.testing.assert_array_equal(v[column], numbers(oracle.path_value(monomial)))
        else:
            assert not phi[:, column].any()
    assert_close(phi @ v, outputs)


def check_kernel(network, seed=0):
    f, params, x = architectures.case(network, seed, n=6)
    p, xs = as_float(params), as_float(x)
    oracle = Enumeration(network, params, x)
    rng = np.random.default_rng(seed)
    given_gates = [rng.integers(0, 2, np.shape(g)) for g in oracle.gates]
    drawn = Enumeration(network, params, x, given_gates)

    kernel = npk.path_kernel(f)
    # The second batch is the first one backwards: of one size, own and given gates take the same programs.
    gates = as_float(tuple(given_gates))
    given = {"x1": xs, "x2": xs[::-1], "gates1": gates, "gates2": tuple(g[::-1] for g in gates)}
    counts = {
        "own gates": (kernel(p, xs, normalize=False), gram_of(oracle, oracle, normalize=False)),
        "given gates": (kernel(p, **given, normalize=False), gram_of(drawn, drawn, normalize=False)[:, ::-1]),
    }
    for ours, expected in counts.values():
        if all(isinstance(value, int) for value in expected.ravel()):
            np.testing.assert_array_equal(np.asarray(ours), numbers(expected))
        else:
            assert_close(ours, numbers(expected))
    assert_close(kernel(p, xs), numbers(gram_of(oracle, oracle, normalize=True)))
    assert_close(kernel(p, **given), numbers(gram_of(drawn, drawn, normalize=True)[:, ::-1]))


@every_architecture
def test_features_values_and_names_are_those_of_the_enumeration(network):
    check_paths(network)


@every_architecture
def test_path_kernel_is_the_gram_matrix_of_enumerated_features(network):
    check_kernel(network)


@pytest.mark.slow
@given(architectures.dense_networks())
def test_random_dense_networks(network):
    check_paths(network)
    check_kernel(network)


@pytest.mark.slow
@settings(max_examples=12)
@given(architectures.convolution_networks())
def test_random_convolution_networks(network):
    check_paths(network)
    check_kernel(network)


def test_values_need_no_input_when_the_shape_can_be_told():
    f, params, x = architectures.case(REGISTRY["circular"])
    p, xs = as_float(params), as_float(x)
    np.testing.assert_array_equal(npk.npv(f)(p), npk.npv(f)(p, xs))


def test_kernel_of_a_dense_network_without_biases_is_gram_times_overlap():
    f, params, x = architectures.case(REGISTRY["mlp"], n=6)
    p, xs = as_float(params), as_float(x)
    gates = npk.gates(f)(p, xs)
    for scaled in (False, True):
        product = npk.gram(xs, normalize=scaled) * npk.overlap(gates, normalize=scaled)
        assert_close(npk.path_kernel(f)(p, xs, normalize=scaled), product)
    layers = npk.layer_overlaps(gates, normalize=False)
    assert [int(layer[0, 0]) for layer in layers] == [int(g[0].sum()) for g in gates]


@pytest.mark.parametrize("as_array", [np.asarray, jnp.asarray])
@pytest.mark.parametrize("dtype, size", [("float32", 1e30), ("float64", 1e200)])
def test_a_gram_matrix_that_leaves_its_dtype_is_refused(as_array, dtype, size):
    with pytest.raises(ValueError, match=f"leaves the range of {dtype}"):
        npk.gram(as_array(np.full((2, 3), size, dtype)))


def test_the_order_of_units_does_not_matter():
    """Units rolled by `jnp.roll`, whose axis may be a NumPy integer, between layers of given gates."""

    def network(shift):
        def f(p, x):
            h = jnp.roll(jax.nn.relu(x @ p[0]), shift, np.int64(1))
            return jnp.roll(jax.nn.relu(h @ p[1]), (shift,), (1,)) @ p[2]

        return f

    rng = np.random.default_rng(0)
    p = [jnp.asarray(rng.normal(size=s)) for s in ((4, 6), (6, 5), (5, 1))]
    x = jnp.asarray(rng.integers(-3, 4, (3, 4)), jnp.float64)
    gates = [jnp.asarray(rng.integers(0, 2, (3, k)), jnp.float64) for k in (6, 5)]
    kernels = [npk.path_kernel(network(s))(p, x, gates1=gates, normalize=False) for s in (0, 2)]
    np.testing.assert_array_equal(kernels[0], (x @ x.T) * (gates[0] @ gates[0].T) * (gates[1] @ gates[1].T))
    np.testing.assert_array_equal(kernels[1], kernels[0])


def test_an_axis_of_size_one_is_moved_and_joined_as_any_other():
    """Rolled, it is what it was; laid end to end, it is no longer of size one."""
    rng = np.random.default_rng(0)
    x, v, w = (rng.normal(size=s) for s in ((3, 1, 2), (2, 1), (4, 1)))
    features = np.asarray(npk.npf(lambda p, x: (x + jnp.roll(x, 1, axis=1))[:, 0] @ p)(v, x))
    np.testing.assert_array_equal(features, 2 * x[:, 0])

    def f(p, x):
        h = jnp.concatenate([x, 2 * x + jnp.roll(x, 1, axis=1)], axis=1)
        return h.reshape(-1, 4) @ p

    np.testing.assert_allclose(npk.npf(f)(w, x), np.concatenate([x[:, 0], 3 * x[:, 0]], 1))


def test_a_reshape_may_put_axes_in_another_order_first():
    """As `vmap` writes it for a convolution whose batch is not its first axis."""
    x, w = np.arange(1.0, 13).reshape(3, 2, 2), np.ones((4, 1))
    features = npk.npf(lambda p, x: jax.lax.reshape(x, (x.shape[0], 4), dimensions=(0, 2, 1)) @ p)(w, x)
    np.testing.assert_array_equal(features, x.transpose(0, 2, 1).reshape(3, 4))


@pytest.mark.parametrize("mode", ["edge", "wrap", "reflect"])
def test_parts_that_are_empty_add_nothing(mode):
    """`jnp.pad` on one side alone lays an empty part at the other; so does `jnp.repeat` by 0."""
    x, w = np.arange(1.0, 7).reshape(3, 2), np.ones((3, 1))
    features = npk.npf(lambda p, x: jnp.pad(x, [(0, 0), (1, 0)], mode=mode) @ p)(w, x)
    np.testing.assert_array_equal(features, np.pad(x, [(0, 0), (1, 0)], mode=mode))


@pytest.mark.parametrize(
    "f",
    [
        lambda p, x: jax.nn.relu(x @ p["w"]).sum(1, keepdims=True),
        lambda p, x: x @ p["w"][:, :2] + x @ p["w"][:, 2:],
        lambda p, x: x @ p["w"].reshape(-1).reshape(2, 4),
        lambda p, x: x @ p["row"].reshape(2, 4),
    ],
    ids=["units summed", "parts of a leaf", "a leaf", "a leaf in one row"],
)
def test_no_two_paths_have_one_name(f):
    p = {"w": jnp.ones((2, 4)), "row": jnp.ones(8)}
    names = npk.path_names(f)(p, jnp.ones((1, 2)))
    assert len(set(names)) == len(names) == npk.count_paths(f)(p, jnp.ones((1, 2)))


def test_blocks_and_packed_gates_give_the_same_kernel(monkeypatch):
    f, params, x = architectures.case(REGISTRY["mlp with biases"], n=11)
    p, xs = as_float(params), as_float(x)
    plain = npk.path_kernel(f)(p, xs, normalize=False)
    module = sys.modules["npk.path_kernels.kernel"]
    monkeypatch.setattr(module, "_CPU_BLOCK", 9)
    monkeypatch.setattr(module, "_BLOCK", 9)
    kernel = npk.path_kernel(architectures.afresh(f))
    np.testing.assert_array_equal(kernel(p, xs, normalize=False), plain)
    np.testing.assert_array_equal(kernel(p, xs[:4], xs[4:], normalize=False), plain[:4, 4:])
    packed = npk.path_kernel(f, thresholds=npk.path_kernels.Thresholds(packed_pairs=0))
    np.testing.assert_array_equal(packed(p, xs, normalize=False), plain)


def test_packed_gates_of_one_word_and_of_two_multiply_layer_after_layer():
    """More rows than a task has, more columns than stay in the cache."""
    pytest.importorskip("numba")
    rng = np.random.default_rng(0)
    widths, scales, shifts = (64, 3, 70), (1.0, 0.5, 1.0), (1.0, 0.0, 2.0)
    chain = dense.DenseChain(2.0, (1, 2, 0), scales, shifts, 3.0)
    (x1, gates1), (x2, gates2) = (
        (rng.integers(-2, 3, (n, 3)), [rng.integers(0, 2, (n, w)).astype(float) for w in widths]) for n in (70, 1030)
    )
    one, two = dense.side(chain, x1, gates1, float), dense.side(chain, x2, gates2, float)
    assert one is not None and two is not None
    expected = 2.0 * x1 @ x2.T
    for number, scale, shift in zip(chain.gates, scales, shifts, strict=True):
        expected = (expected + shift) * scale * (gates1[number] @ gates2[number].T)
    np.testing.assert_array_equal(dense.kernel(chain, one, two), expected + 3)


@pytest.mark.parametrize("name", ["same", "flatten head"])  # sums over pairs of positions, and over positions
def test_kernel_can_be_jitted_and_differentiated_in_soft_gates(name):
    network = REGISTRY[name]
    f = architectures.function(network, relu=npk.soft_relu)
    _, params, x = architectures.case(network)
    p, xs = as_float(params), as_float(x)
    kernel = npk.path_kernel(f)
    assert_close(jax.jit(kernel)(p, xs), kernel(p, xs))
    gates = npk.gates(f)(p, xs)

    def total(gates):
        return kernel(p, xs, gates1=gates).sum()

    direction = jax.tree.map(jnp.ones_like, gates)
    _, slope = jax.jvp(total, (gates,), (direction,))
    step = 1e-6
    moved = [total(jax.tree.map(lambda g, s=s: g + s * step, gates)) for s in (-1, 1)]
    assert abs((moved[1] - moved[0]) / (2 * step) - slope) < 1e-6 * abs(slope)


def test_a_kernel_may_first_be_used_under_jit():
    f, params, x = architectures.case(REGISTRY["same"])
    f = architectures.afresh(f)
    p, xs = as_float(params), as_float(x)
    assert_close(jax.jit(lambda a, b: npk.path_kernel(f)(p, a, b))(xs, xs), npk.path_kernel(f)(p, xs))


@pytest.mark.parametrize("head", ["pooled", "flat"])
@pytest.mark.parametrize("padding, spread", [((-1, 2), 2), ((2, -1), 1)])
def test_transposed_convolutions_and_padding_that_cuts_off(padding, spread, head):
    def convolution(x, w):
        numbers = ("NHC", "HIO", "NHC")
        return jax.lax.conv_general_dilated(x, w, (1,), [padding], (spread,), dimension_numbers=numbers)

    def f(p, x):
        h = jax.nn.relu(convolution(jax.nn.relu(convolution(x, p[0])), p[1]))
        return (h.sum(1) if head == "pooled" else h.reshape(len(h), -1)) @ p[2]

    rng = np.random.default_rng(0)
    x, w = (rng.integers(-3, 4, s).astype(float) for s in ((3, 7, 2), (3, 2, 2)))
    length = jax.eval_shape(lambda: convolution(convolution(x, w), w)).shape[1]
    p = [w, w[::-1], rng.integers(-3, 4, (2 if head == "pooled" else 2 * length, 1)).astype(float)]
    features = np.asarray(npk.npf(f)(p, x))
    np.testing.assert_array_equal(features @ np.asarray(npk.npv(f)(p, x)), f(p, x))
    np.testing.assert_array_equal(npk.path_kernel(f)(p, x, normalize=False), features @ features.T)


def test_values_may_be_spread_and_cut_by_padding():
    def f(p, x):
        h = jax.nn.relu(x @ p["w"])
        return jax.lax.pad(h, jnp.zeros((), h.dtype), [(0, 0, 0), (-1, 2, 1)]) @ p["v"]

    keys = jax.random.split(jax.random.key(0), 3)
    p = {"w": jax.random.normal(keys[0], (4, 3)), "v": jax.random.normal(keys[1], (6, 2))}
    x = jax.random.normal(keys[2], (5, 4))
    features = npk.npf(f)(p, x)
    assert_close(features @ npk.npv(f)(p), f(p, x))
    assert_close(features @ features.T, npk.path_kernel(f)(p, x, normalize=False))


def test_too_many_paths_are_counted_not_listed():
    f = lambda p, x: jax.nn.relu(jax.nn.relu(x @ p["a"]) @ p["b"]) @ p["c"]  # noqa: E731
    p = {"a": jnp.ones((300, 300)), "b": jnp.ones((300, 300)), "c": jnp.ones((300, 1))}
    assert npk.count_paths(f)(p) == 300**3
    with pytest.raises(ValueError, match=str(300**3)):
        npk.npf(f)(p, jnp.ones((1, 300)))


def test_values_may_be_stacked_unstacked_and_tiled():
    def f(p, x):
        a, b = jnp.unstack(jax.nn.relu(x @ p["w"]).reshape(-1, 2, 3), axis=1)
        return jnp.einsum("nij,ijk->nk", jnp.tile(jnp.stack([a, b, 2 * a], axis=1), (1, 2, 1)), p["v"])

    keys = jax.random.split(jax.random.key(0), 3)
    p = {"w": jax.random.normal(keys[0], (4, 6)), "v": jax.random.normal(keys[1], (6, 3, 2))}
    x = jax.random.normal(keys[2], (5, 4))
    features = npk.npf(f)(p, x)
    assert_close(features @ npk.npv(f)(p), f(p, x))
    assert_close(features @ features.T, npk.path_kernel(f)(p, x, normalize=False))
