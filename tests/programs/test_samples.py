"""Samples of a batch stay apart, or are refused: by what a function does with its batch, whatever the numbers are."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from draws import normal

import npk
from npk.programs import check_independent

relu = jax.nn.relu
P = {"w": normal(3, 4), "v": normal(4, 2, seed=1)}
X = normal(5, 3, seed=2)

MIXING = {
    "the mean of the batch": (lambda p, x: relu((x - x.mean(0, keepdims=True)) @ p["w"]) @ p["v"], "reduce_sum"),
    "batch norm in training": (lambda p, x: relu(jax.nn.standardize(x @ p["w"], axis=0)) @ p["v"], "reduce_sum"),
    "units that are never open": (lambda p, x: relu(x @ p["w"] - 1e3 + relu(x - 1e3).sum(0).sum()) @ p["v"], "sum"),
    "mixing that begins at zero": (
        lambda p, x: relu(x @ p["w"] + 0.0 * x.sum(0, keepdims=True) @ p["w"]) @ p["v"],
        "reduce_sum",
    ),
    "a sorted batch": (lambda p, x: relu(jnp.sort(x, 0) @ p["w"]) @ p["v"], "sort"),
    "a running sum": (lambda p, x: relu(jnp.cumsum(x, 0) @ p["w"]) @ p["v"], "cumsum"),
    "a turned batch": (lambda p, x: relu(x[::-1] @ p["w"]) @ p["v"], "rev"),
    "attention over samples": (lambda p, x: relu(jax.nn.softmax(x @ x.T) @ x @ p["w"]) @ p["v"], "dot_general"),
    "distances between samples": (lambda p, x: relu(jnp.abs(x[:, None] - x[None]).sum(1) @ p["w"]) @ p["v"], "sub"),
    # what is asked of random networks
    "a rolled batch": (lambda p, x: relu((x + jnp.roll(x, 1, 0)) @ p["w"]) @ p["v"], "output of the others"),
    "the size of the batch": (lambda p, x: relu(x @ p["w"] / x.shape[0]) @ p["v"], "alone"),
    "samples that are scanned": (
        lambda p, x: relu(jax.lax.associative_scan(jnp.maximum, x) @ p["w"]) @ p["v"],
        "not independent",
    ),
    "a number a place": (lambda p, x: relu(x @ p["w"]) * jnp.arange(1.0, 1 + x.shape[0])[:, None] @ p["v"], "alone"),
    "weights a place": (lambda p, x: relu(x @ p["w"]) * normal(8, 4)[: x.shape[0]] @ p["v"], "alone"),
    "a sum over ones": (lambda p, x: relu(x @ p["w"]) / jnp.ones(x.shape[0]).sum() @ p["v"], "alone"),
    "a power of the size": (lambda p, x: relu(x @ p["w"]) * p["v"][0, 0] ** x.shape[0] @ p["v"], "alone"),
    "samples cut across": (
        lambda p, x: (x.reshape(3, -1) * jnp.arange(1.0, 4.0)[:, None]).reshape(-1, 3) @ p["w"],
        "alone",
    ),
    "a graph's neighbours": (lambda p, x: relu(normal(5, 5) @ x @ p["w"]) @ p["v"], "not of any other number"),
}
each_mixing = pytest.mark.parametrize(("f", "said"), MIXING.values(), ids=MIXING.keys())


@each_mixing
def test_functions_that_see_the_batch_are_refused_whatever_the_numbers(f, said):
    with pytest.raises(ValueError, match=said):
        check_independent(f, P, X)
    with pytest.raises(ValueError, match=said):  # no number is known
        jax.eval_shape(functools.partial(check_of, f), P, X)


def check_of(f, params, x):
    check_independent(f, params, x)
    return x


@pytest.mark.parametrize("name", ["path_kernel", "npf", "ntk", "split_ntk", "ntk_diagonal"])
def test_every_kernel_asks(name):
    f, _ = MIXING["the mean of the batch"]
    transformed = getattr(npk, name)(f)
    for call in (transformed, jax.jit(transformed)):
        with pytest.raises(ValueError, match=r"reduce_sum.*test_samples"):
            call(P, X)


@pytest.mark.parametrize("transform", [npk.sketch, npk.sketch_ntk])
def test_every_sketch_asks(transform):
    f, _ = MIXING["the mean of the batch"]
    with pytest.raises(ValueError, match=r"reduce_sum.*test_samples"):
        transform(f)(P, X, features=2, key=jax.random.key(0))


def positions(p, x):
    """[N, T, D], the batch first."""
    return relu(x @ p["a"]).mean(1) @ p["b"]


def time_first(p, x):
    h = relu(jnp.swapaxes(x, 0, 1).reshape(-1, x.shape[2]) @ p["a"])
    return h.reshape(x.shape[1], x.shape[0], -1).mean(0) @ p["b"]


def batch_last(p, x):
    h = relu(jnp.einsum("tdn,dk->tkn", jnp.transpose(x, (1, 2, 0)), p["a"]))
    return h.mean(0).T @ p["b"]


def in_the_middle(p, x):
    h = relu(jnp.einsum("tnd,dk->tkn", jnp.swapaxes(x, 0, 1), p["a"]).reshape(x.shape[1], -1))
    return h.reshape(x.shape[1], -1, x.shape[0]).mean(0).T @ p["b"]


@pytest.mark.parametrize("f", [time_first, batch_last, in_the_middle])
def test_the_batch_may_lie_anywhere(f):
    p, x, y = {"a": normal(4, 5), "b": normal(5, 2, seed=1)}, normal(6, 3, 4, seed=2), normal(2, 3, 4, seed=3)
    h = npk.path_kernel(positions)(p, x, y)
    for given in ({}, {"gates1": npk.gates(f)(p, x), "gates2": npk.gates(f)(p, y)}):
        np.testing.assert_allclose(npk.path_kernel(f)(p, x, y, **given), h, rtol=1e-5)
    np.testing.assert_allclose(npk.npf(f)(p, x), npk.npf(positions)(p, x), rtol=1e-5)
    key, gates = jax.random.key(0), npk.gates(f)(p, x)
    features = npk.sketch(positions)(p, x, features=4, key=key).features
    for block, given in itertools.product((None, 4, 1), (None, gates)):
        sketch = npk.sketch(f)(p, x, given, features=4, key=key, block=block)
        np.testing.assert_allclose(sketch.features, features, rtol=1e-5, atol=1e-6)


def test_what_reads_one_place_a_sample_is_asked_and_found_right():
    tokens = lambda p, x: relu(x @ p["a"])[jnp.arange(x.shape[0]), 1] @ p["b"]  # noqa: E731
    p, x = {"a": normal(4, 5), "b": normal(5, 2, seed=1)}, normal(6, 3, 4, seed=2)
    check_independent(tokens, p, x)
    spread = lambda p, x: relu(x[:, 0] @ p["a"] + jnp.broadcast_to(p["b"][:, 0], (x.shape[0], 5))) @ p["b"]  # noqa: E731
    assert not check_independent(spread, p, x).unknown


def test_what_is_computed_of_parameters_is_the_same_for_all_samples():
    def f(p, x):
        q = jnp.swapaxes(jnp.tile(x @ p["a"], (1, 2, 1)), 0, 1)
        q = q / jnp.sqrt(jnp.broadcast_to(p["a"][0], q.shape) ** 2 + 1.0)
        return relu(q.reshape(-1, 5)).reshape(q.shape).sum(0) @ p["b"]

    p, x = {"a": normal(4, 5), "b": normal(5, 2, seed=1)}, normal(3, 2, 4, seed=2)
    assert not check_independent(f, p, x).unknown
    with pytest.raises(ValueError, match="not independent"):
        check_independent(lambda p, x: jnp.tile(relu(x @ p["w"]), (2, 1))[1 : x.shape[0] + 1] @ p["v"], P, X)


def test_operations_that_are_not_known_are_asked_not_believed():
    """A loop is opened by nothing here; its samples stay apart all the same."""

    def looped(p, x):
        return jax.lax.while_loop(lambda c: c[0] < 2, lambda c: (c[0] + 1, jnp.tanh(c[1])), (0, x @ p["w"]))[1] @ p["v"]

    assert check_independent(looped, P, X).unknown
    with pytest.raises(ValueError, match="output of the others"):
        check_independent(lambda p, x: looped(p, x + jnp.roll(x, 1, 0)), P, X)


TWICE = {
    "cut again": lambda y, n: y[:n] - 3 * y[n:],
    "split again": lambda y, n: jnp.subtract(jnp.split(y, 2)[0], 3 * jnp.split(y, 2)[1]),
    "an axis of their own": lambda y, n: y.reshape(2, n, -1)[0] - 3 * y.reshape(2, n, -1)[1],
}


@pytest.mark.parametrize("apart", TWICE.values(), ids=TWICE.keys())
def test_two_batches_one_after_the_other_are_one_of_samples_that_have_both(apart):
    """f(x) - 3 f(2 - x): the gates of both, and their paths through the same weights."""

    def f(p, x):
        return apart(relu(jnp.concatenate([x, 2 - x]) @ p["w"]) @ p["v"], x.shape[0])

    apart_from_start = lambda p, x: relu(x @ p["w"]) @ p["v"] - 3 * relu((2 - x) @ p["w"]) @ p["v"]  # noqa: E731
    features = npk.npf(f)(P, X)
    np.testing.assert_allclose(features @ npk.npv(f)(P), apart_from_start(P, X), rtol=1e-4, atol=1e-4)
    phi = [npk.npf(lambda p, x: relu(x @ p["w"]) @ p["v"])(P, x) for x in (X, 2 - X)]
    np.testing.assert_allclose(features, phi[0] - 3 * phi[1], rtol=1e-5, atol=1e-5)
    counts = npk.path_kernel(f)(P, X, normalize=False)
    np.testing.assert_allclose(counts, features @ features.T, rtol=1e-4, atol=1e-3)


def test_batches_joined_crosswise_are_refused():
    crossed = lambda p, x: relu(jnp.concatenate([x[1:], x[:1]]) @ p["w"]) @ p["v"]  # noqa: E731
    with pytest.raises(ValueError, match="not independent"):
        npk.path_kernel(crossed)(P, X)


def test_one_sample_and_no_gates():
    f = lambda p, x: relu(x @ p["w"]) @ p["v"]  # noqa: E731
    np.testing.assert_allclose(npk.path_kernel(f)(P, X[:1]), npk.path_kernel(f)(P, X)[:1, :1], rtol=1e-6)
    linear = lambda p, x: x @ p["w"]  # noqa: E731
    assert npk.gates(linear)(P, X) == ()
    np.testing.assert_allclose(npk.path_kernel(linear)(P, X), npk.gram(X), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("write", [lambda q: jnp.where(q > 0, q, 0.0), jax.nn.relu], ids=["where", "relu"])
def test_of_one_sample_alone_the_axis_of_the_batch_may_be_left_out(write):
    """`jnp.vectorize` maps over no axis of size one."""
    rng = np.random.default_rng(0)
    p = {name: jnp.asarray(rng.normal(size=shape), jnp.float32) for name, shape in (("a", (3, 4)), ("b", (4, 1)))}
    x = jnp.asarray(rng.normal(size=(5, 3)), jnp.float32)
    f = lambda p, x: jnp.vectorize(write)(x @ p["a"]) @ p["b"]  # noqa: E731
    twin = lambda p, x: jax.nn.relu(x @ p["a"]) @ p["b"]  # noqa: E731
    np.testing.assert_array_equal(npk.gates(f)(p, x)[0], npk.gates(twin)(p, x)[0])
    np.testing.assert_allclose(npk.path_kernel(f)(p, x), npk.path_kernel(twin)(p, x), rtol=1e-6)
    given = (jnp.asarray(rng.normal(size=(5, 4)), jnp.float32),)
    of_given = [npk.path_kernel(g)(p, x, gates1=given) for g in (f, twin)]
    np.testing.assert_allclose(*of_given, rtol=1e-6)
    np.testing.assert_allclose(npk.npf(f)(p, x), npk.npf(twin)(p, x), rtol=1e-6)
