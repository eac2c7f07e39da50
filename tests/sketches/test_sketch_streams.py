"""Sketches of streams: samples and draws in parts, as kernel operators; and what is refused."""

import functools
import itertools

import architectures
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from architectures import REGISTRY
from sketch_problems import KEY, as_float, mlp, normal
from tolerances import assert_close

import npk

STREAMS = [(npk.sketch, "mlp with biases"), (npk.sketch, "max pooling"), (npk.sketch_ntk, "mlp with biases")]


@pytest.mark.parametrize(("make", "name"), STREAMS, ids=["dense", "max pooling", "tangent kernel"])
def test_samples_in_parts_are_the_whole(make, name, tmp_path):
    f, params, _ = architectures.case(REGISTRY[name])
    p = as_float(params, jnp.float32)
    x = np.asarray(normal(37, *REGISTRY[name].input))
    gates = tuple(np.asarray(g) for g in npk.gates(f)(p, x))
    stored = np.memmap(tmp_path / "x", "float32", "w+", shape=x.shape)
    stored[:] = x
    features = make(f)
    whole = features(p, jnp.asarray(x), features=20, key=KEY, block=8)
    assert np.array_equal(features(p, stored, features=20, key=KEY, block=8).features, whole.features)
    assert np.array_equal(features(p, x, gates, features=20, key=KEY, block=8).features, whole.features)

    def cut_at(*places):
        return [features(p, x[a:b], features=20, key=KEY, block=8) for a, b in itertools.pairwise(places)]

    first, *rest = cut_at(0, 8, 32, 37)
    np.testing.assert_array_equal(first.with_samples(*rest).features, whole.features)
    parts = cut_at(0, 5, 30, 37)
    elsewhere = parts[0].with_samples(*parts[1:]).features
    if make is npk.sketch:
        np.testing.assert_array_equal(elsewhere, whole.features)
    else:  # at another place in its block a derivative may round differently (JAX 0.7 on a CPU)
        assert_close(elsewhere, whole.features)
    assert_close(features(p, x, features=20, key=KEY).features, whole.features)
    assert_close(parts[1].gram(parts[2]), whole.gram()[5:30, 30:])
    under_jit = jax.jit(lambda p, x, key: features(p, x, features=20, key=key).gram())(p, x, KEY)
    assert_close(under_jit, whole.gram())


def test_draws_depend_on_the_key_and_their_number_alone():
    f, params, x = mlp()
    make = npk.sketch(f)
    whole = make(params, x, features=24, key=KEY)
    first, rest = make(params, x, features=10, key=KEY), make(params, x, features=14, key=KEY, first=5)
    together = first.with_draws(rest)
    assert np.array_equal(together.draws, whole.draws)
    assert_close(together.features, whole.features)
    other = make(params, x, features=24, key=jax.random.fold_in(KEY, 1))
    assert not np.array_equal(other.features, whole.features)
    assert whole.with_draws(other).features.shape == (5, 24, 2)
    raw = make(params, x, features=24, key=jax.random.key_data(KEY))
    assert np.array_equal(raw.features, whole.features)


@pytest.mark.parametrize("generator", ["rbg", "unsafe_rbg"])
def test_draws_of_another_generator_do_not_depend_on_those_beside_them(generator):
    f = lambda w, x: x @ w  # noqa: E731
    draw = functools.partial(npk.sketch(f), jnp.ones((9, 1)), 3 * jnp.eye(9), key=jax.random.key(3, impl=generator))
    whole, some = draw(features=40), draw(features=7, first=5)
    assert np.array_equal(some.draws, whole.draws[5:12])
    assert np.array_equal(some.features, whole.features[:, 5:12])
    assert np.array_equal(np.abs(whole.features), np.ones_like(whole.features))
    assert len(np.unique(whole.features[:, :, 0], axis=1).T) > 30, "of 512 vectors"


def test_signs_are_fair_and_independent():
    linear = lambda p, x: x @ p["w"]  # noqa: E731
    z = npk.sketch(linear)({"w": jnp.ones((40, 1))}, 40**0.5 * jnp.eye(40), features=4096, key=KEY)
    signs = z.features[:, :, 0]
    assert np.array_equal(np.abs(signs), np.ones_like(signs))
    correlation = signs @ signs.T / 4096
    assert np.abs(correlation - np.eye(40)).max() < 5 / 4096**0.5
    assert np.abs(signs.mean(1)).max() < 5 / 4096**0.5


# --------------------------------------------------------------------------------------- an operator


def test_a_sketch_is_a_kernel_operator():
    f, params, _ = mlp()
    x = normal(23, 4, seed=5)
    z = npk.sketch(f)(params, x, features=40, key=KEY)
    flat = np.asarray(z.features, np.float64).reshape(23, -1)
    kernel = flat @ flat.T / 20
    v = np.random.default_rng(0).normal(size=(23, 3))
    assert (z.shape, z.dtype) == ((23, 23), np.float64)
    for ours, expected in (
        (z.product(v), kernel @ v),
        (z.columns(np.array([22, 0])), kernel[:, [22, 0]]),
        (z.diagonal(), np.diag(kernel)),
    ):
        assert isinstance(ours, np.ndarray) and ours.dtype == np.float64
        assert_close(ours, expected)
    between = z.of_samples(slice(0, 6)).against(z.of_samples(slice(6, None)))
    assert between.shape == (6, 17)
    assert_close(between.product(v[6:]), kernel[:6, 6:] @ v[6:])
    assert_close(between.columns(np.array([3])), kernel[:6, 9:10])


def test_low_rank_approximation_from_the_operator_alone():
    """Pivoted Cholesky needs a diagonal and columns; the rank of a sketch is its number of features."""
    f, params, _ = mlp(outputs=1)
    z = npk.sketch(f)(params, normal(30, 4, seed=5), features=6, key=KEY)
    rest, factor = z.diagonal(), np.zeros((30, 0))
    for _ in range(6):
        pivot = int(rest.argmax())
        column = z.columns(np.array([pivot]))[:, 0] - factor @ factor[pivot]
        factor = np.c_[factor, column / column[pivot] ** 0.5]
        rest = np.maximum(rest - factor[:, -1] ** 2, 0)
    assert_close(factor @ factor.T, z.columns(np.arange(30)), factor=100)


# ------------------------------------------------------------------------------------------- refusals


def test_what_the_path_rules_refuse_is_refused_in_the_same_words():
    x = normal(2, 3)
    params = {"a": jnp.ones((3, 3)), "c": jnp.ones((3, 2))}
    for f in (
        lambda p, x: jnp.exp(x @ p["a"]) @ p["c"],
        lambda p, x: jax.nn.relu(jax.nn.relu(x @ p["a"]) @ p["a"]) @ p["c"],
        lambda p, x: jax.nn.relu(x @ p["a"]),
        lambda p, x: x @ (p["a"] * jnp.eye(3)) @ p["c"],
    ):
        messages = []
        for transform in (npk.path_kernel(f), lambda p, x, f=f: npk.sketch(f)(p, x, features=4, key=KEY)):
            with pytest.raises(npk.UnsupportedOperation) as error:
                transform(params, x)
            messages.append(str(error.value))
        assert messages[0] == messages[1]


def test_numbers_out_of_range():
    f, params, x = mlp()
    make = npk.sketch(f)
    for options, message in (
        ({"features": 0}, "features must be a number of features, at least 1, got 0"),
        ({"features": 4, "first": -1}, "first must be the number of a draw, at least 0, got -1"),
        ({"features": 4, "block": 0}, "block must be a number of samples, at least 1, got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            make(params, x, key=KEY, **options)
    z = make(params, x, features=40, key=KEY)
    with pytest.raises(ValueError, match="relative_error must lie between 0 and 1, got 2.0"):
        z.features_for(2.0)
    with pytest.raises(ValueError, match="confidence must be at least 1/2 and below 1, got 1.0"):
        z.features_for(0.1, confidence=1.0)
    with pytest.raises(ValueError, match="a pilot needs at least 8 independent draws, got 2"):
        make(params, x, features=4, key=KEY).features_for(0.1)
    with pytest.raises(ValueError, match="a standard error needs at least 2 independent draws, got 1"):
        make(params, x, features=2, key=KEY).standard_error()
    with pytest.raises(ValueError, match=r"v must be of shape \[5, K\], one row a column, got \[5\]"):
        z.product(np.ones(5))
    with pytest.raises(ValueError, match="places must lie between 0 and 4, got 0 … 5"):
        z.columns(np.array([0, 5]))
    with pytest.raises(ValueError, match="places must be whole numbers"):
        z.columns(np.array([0.5]))
    with pytest.raises(ValueError, match="part must be one of 'value', 'feature', 'total', got 'cross'"):
        npk.sketch_ntk(f, part="cross")


def test_sketches_that_do_not_go_together():
    f, params, x = mlp()
    make = npk.sketch(f)
    z = make(params, x, features=8, key=KEY)
    with pytest.raises(ValueError, match="different draws, so that their products mean nothing"):
        z.gram(make(params, x, features=8, key=KEY, first=1))
    with pytest.raises(ValueError, match=r"numbers of draws and outputs, got \[4, 2\] and \[3, 2\]"):
        z.with_samples(make(params, x, features=6, key=KEY))
    with pytest.raises(ValueError, match="share draws, which would count twice"):
        z.with_draws(make(params, x, features=8, key=KEY, first=3))
    with pytest.raises(ValueError, match=r"numbers of samples and outputs, got \[5, 2\] and \[4, 2\]"):
        z.with_draws(make(params, x[:4], features=8, key=KEY, first=9))


def test_bad_inputs():
    f, params, x = mlp()
    for make in (npk.sketch(f), npk.sketch_ntk(f)):
        with pytest.raises(ValueError, match="x must be finite; 1 of its 20"):
            make(params, x.at[0, 0].set(jnp.nan), features=4, key=KEY)
        with pytest.raises(ValueError, match=r"gates\[1\] must have shape \[5, 6\], got \[5, 5\]"):
            make(params, x, (jnp.ones((5, 6)), jnp.ones((5, 5))), features=4, key=KEY)
        with pytest.raises(ValueError, match="gates/0 must be finite; 30"):
            make(params, x, (jnp.nan * jnp.ones((5, 6)), jnp.ones((5, 6))), features=4, key=KEY)
    with pytest.raises(ValueError, match="only part='value' is of them, not 'total'"):
        npk.sketch_ntk(f, part="total")(params, x, npk.gates(f)(params, x), features=4, key=KEY)
    zero = lambda w, x: x @ (0.0 * w)  # noqa: E731
    with pytest.raises(ValueError, match="is multiplied by zero"):
        npk.sketch(zero)(jnp.ones((4, 1)), x, features=4, key=KEY)
    assert not npk.sketch(zero)(jnp.ones((4, 1)), x, features=4, key=KEY, normalize=False).features.any()
    with pytest.raises(ValueError, match="all features are zero"):
        npk.sketch(zero)(jnp.ones((4, 1)), x, features=8, key=KEY, normalize=False).relative_error()


def test_numbers_beyond_the_range():
    def deep(p, x):
        for _ in range(10):
            x = x * 1e3
        return x @ p["w"]

    make = functools.partial(npk.sketch(deep), {"w": jnp.ones((4, 1))}, features=8, key=KEY)
    with pytest.raises(ValueError, match="features leave the range of float32; use normalize=True or enable x64"):
        make(1e10 * jnp.ones((2, 4)))
    with pytest.raises(ValueError, match="the estimate leaves the range of float32; use normalize=True or enable x64"):
        make(jnp.ones((2, 4))).gram()


@pytest.mark.parametrize("transform", [npk.sketch, npk.sketch_ntk])
def test_an_output_that_does_not_depend_on_x_is_refused(transform):
    f = lambda p, x: jnp.broadcast_to(p[None], (x.shape[0], 2))  # noqa: E731
    with pytest.raises(ValueError, match="does not depend on x"):
        transform(f)(jnp.ones(2), normal(3, 4), features=4, key=KEY)
