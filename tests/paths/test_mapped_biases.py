"""Biases through constant linear maps: E[f f'] over random signs of every parameter, φ·v = f, every spelling alike."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from draws import normal
from oracles.signs import over_signs
from tolerances import assert_close

import npk

relu = jax.nn.relu
MEAN = np.array([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]])


def constant(value, x):
    return jnp.asarray(value, x.dtype)


def spread(bias, x):
    return jnp.broadcast_to(bias, x.shape)


# What is added to values [N, 3, 2], of the shapes of the parameters.
BIASES = {
    "resized": (lambda p, x: jax.image.resize(p["a"], x.shape[1:], "linear"), {"a": (2, 2)}),
    "by a matrix": (lambda p, x: constant(MEAN, x) @ p["a"], {"a": (2, 2)}),
    "from the other side": (lambda p, x: (p["a"].T @ constant(MEAN.T, x)).T, {"a": (2, 2)}),
    "along two axes": (lambda p, x: jax.image.resize(p["a"], x.shape[1:], "cubic"), {"a": (2, 1)}),
    "a sum": (lambda p, x: p["a"].sum(0), {"a": (2, 2)}),
    "two parameters": (lambda p, x: p["a"][:, None] + p["b"][None], {"a": (3,), "b": (2,)}),
    "one moved and taken away": (lambda p, x: p["a"] - jnp.roll(p["a"], 1, 0), {"a": (3, 1)}),
    "around its mean": (lambda p, x: p["a"] - p["a"].mean(0, keepdims=True), {"a": (3, 1)}),
    "joined": (lambda p, x: jnp.concatenate([p["b"], constant(MEAN[:2], x) @ p["a"]]), {"a": (2, 2), "b": (1, 2)}),
    "cumulative sums": (lambda p, x: jnp.cumsum(p["a"], 0), {"a": (3, 1)}),
    "and a number": (lambda p, x: p["a"].sum() + 1.5, {"a": (2,)}),
}


def drawn(name):
    g, shapes = BIASES[name]
    params = {leaf: normal(*shape, seed=9) for leaf, shape in shapes.items()}
    params |= {"u": normal(1, 2), "v": normal(2, 1, seed=1)}
    return (lambda p, x: relu(x @ p["u"] + spread(g(p, x), jnp.zeros((len(x), 3, 2)))).sum(1) @ p["v"]), params


def by_signs(f, params, x, gates):
    """E[f(s) f(s')] over all signs of the weights, gates held."""
    return over_signs(lambda w: npk.gated(f)(w, x, gates)[:, 0], jax.tree.map(jnp.ones_like, params))


@pytest.mark.parametrize("name", BIASES)
def test_the_kernel_is_the_second_moment_over_signs(name, x64):
    f, p = drawn(name)
    x = normal(3, 3, 1, seed=2)
    gates = tuple(jnp.asarray(np.random.default_rng(3).uniform(size=g.shape)) for g in npk.gates(f)(p, x))
    given = {"gates1": gates, "normalize": False}
    expected = by_signs(f, p, x, gates)
    assert_close(npk.path_kernel(f)(p, x, **given), expected)
    log = npk.log_path_kernel(f)(p, x, **given)
    assert_close(log.sign * jnp.exp(log.log), expected, factor=10)
    assert_close(npk.path_kernel(f)(p, x, normalize=False), by_signs(f, p, x, npk.gates(f)(p, x)))


@pytest.mark.parametrize("name", BIASES)
def test_the_output_is_an_inner_product_over_paths(name, x64):
    f, p = drawn(name)
    x = normal(3, 3, 1, seed=2)
    phi, v = npk.npf(f)(p, x), npk.npv(f)(p, x)
    assert_close(jnp.einsum("np,pk->nk", phi, v), f(p, x))
    assert_close(phi @ phi.T, npk.path_kernel(f)(p, x, normalize=False))
    names = npk.path_names(f)(p, x)
    assert len(names) == len(set(names)) == len(v) == npk.count_paths(f)(p, x)


@pytest.mark.parametrize("name", BIASES)
def test_the_tangent_kernel_and_the_sketch(name, x64):
    f, p = drawn(name)
    x = normal(3, 3, 1, seed=2)
    jacobian = jax.jacobian(lambda p: f(p, x)[:, 0])(p)
    rows = np.concatenate([np.reshape(j, (len(x), -1)) for j in jax.tree.leaves(jacobian)], 1)
    assert_close(npk.ntk(f)(p, x), rows @ rows.T)
    features = npk.sketch(f)(p, x, features=20_000, key=jax.random.key(0), normalize=False).features.reshape(3, -1)
    expected = npk.path_kernel(f)(p, x, normalize=False)
    np.testing.assert_allclose(features @ features.T / 20_000, expected, atol=0.1 * float(jnp.abs(expected).max()))


def test_every_spelling_of_an_interpolation_is_one_bias(x64):
    """K = A Aᵀ whatever the map is written as, under normalised weights too."""
    spellings = [
        BIASES["by a matrix"][0],
        lambda p, x: jnp.stack([p["a"][0], (p["a"][0] + p["a"][1]) / 2, p["a"][1]]),
        lambda p, x: jnp.einsum("pq,qc->pc", constant(MEAN, x), p["a"]),
        lambda p, x: (constant(MEAN, x)[:, :, None] * p["a"][None]).sum(1),
    ]
    x, p = normal(3, 3, 2, seed=2), {"a": normal(2, 2), "v": normal(2, 1, seed=1)}
    expected = (np.asarray(x).reshape(3, -1) @ np.asarray(x).reshape(3, -1).T + 2 * (MEAN @ MEAN.T).trace()) / 6
    for spelling in spellings:
        f = lambda p, x, g=spelling: (x + spread(g(p, x), x)).reshape(len(x), -1) @ p["v"]  # noqa: E731
        found = npk.path_kernel(f)({**p, "v": normal(6, 1)}, x)
        assert_close(found, expected)


def test_what_passes_a_weight_is_a_network_of_numbers(x64):
    """Its weights are weights, of variance 1/fan-in."""
    f = lambda p, x: (x + spread(jnp.full((1, 4), 2.0) @ p["a"] @ p["b"], x)) @ p["v"]  # noqa: E731
    x, p = normal(3, 2), {"a": normal(4, 3), "b": normal(3, 2), "v": normal(2, 1)}
    assert_close(npk.path_kernel(f)(p, x), (x @ x.T + 2 * 4.0) / 2)


def test_other_numbers_that_weights_multiply_are_the_input_of_a_layer(x64):
    """Also where its output is only moved and added."""
    f = lambda p, x: (x + spread((constant(np.array([[1.0, 3.0, 1.0]]), x) @ p["a"])[:, ::-1], x)) @ p["v"]  # noqa: E731
    x, p = normal(3, 2), {"a": normal(3, 2), "v": normal(2, 1)}
    assert_close(npk.path_kernel(f)(p, x), (x @ x.T + 2 * 11 / 3) / 2)


def test_a_bias_read_twice_and_a_bias_that_is_no_linear_map():
    p, x = {"a": normal(2), "u": normal(2, 2)}, normal(3, 2)
    twice = lambda p, x: relu(x @ p["u"] + p["a"][None]) + p["a"].sum()  # noqa: E731
    with pytest.raises(npk.UnsupportedOperation, match="parameter `a` is a weight twice"):
        npk.path_kernel(lambda p, x: twice(p, x)[:, :1])(p, x)
    squared = lambda p, x: relu(x @ p["u"] + p["a"][None] ** 2)[:, :1]  # noqa: E731
    with pytest.raises(npk.UnsupportedOperation, match=r"adds a value computed from parameters \(`a`\)"):
        npk.path_kernel(squared)(p, x)
