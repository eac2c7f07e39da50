"""A ReLU network under soft gates: the same parameters, q·σ(βq) in place of q·1{q > 0}, and nothing else changed."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from draws import normal, variables
from tolerances import assert_close

import npk

PARAMS = {"a": normal(3, 4), "b": normal(4, 4), "c": normal(4, 2)}
X = normal(5, 3)
IMAGES = normal(4, 6, 6, 2)


def network(activation):
    return lambda p, x: activation(x @ p["a"]) @ p["c"]


def mlp(activation):
    return lambda p, x: activation(activation(x @ p["a"]) @ p["b"]) @ p["c"]


def residual(activation):
    def f(p, x):
        h = activation(x @ p["a"])
        h = h + activation(h @ p["b"]) @ p["b"].T
        return h @ p["c"]

    return f


class Convolutional(nn.Module):
    activation: callable

    @nn.compact
    def __call__(self, x):
        x = self.activation(nn.Conv(3, (3, 3))(x))
        x = self.activation(nn.Conv(4, (3, 3), strides=2)(x)).mean((1, 2))
        return nn.Dense(2)(x)


def convolutional(activation):
    return Convolutional(activation).apply


MODELS = {
    "mlp": (mlp, PARAMS, X),
    "residual": (residual, PARAMS, X),
    "convolutional": (convolutional, variables(Convolutional(jax.nn.relu), IMAGES), IMAGES),
}


@pytest.mark.standard_dtypes
@pytest.mark.parametrize("name", MODELS)
def test_it_is_the_model_that_is_written_with_soft_relu(name):
    """Its values, and every part of its tangent kernel: the feature part above all, which hard gates have not."""
    write, params, x = MODELS[name]
    f, soft = write(jax.nn.relu), write(npk.soft_relu)
    found = npk.softened(f)
    assert_close(found(params, x), soft(params, x))
    assert np.abs(np.asarray(found(params, x) - f(params, x))).max() > 0.01
    ours, expected = npk.split_ntk(found)(params, x), npk.split_ntk(soft)(params, x)
    for part in ("value", "feature", "cross"):
        assert_close(getattr(ours, part), getattr(expected, part), factor=3)
    assert np.asarray(ours.feature).trace() > 0 == np.abs(np.asarray(npk.split_ntk(f)(params, x).feature)).max()


@pytest.mark.parametrize("beta", [0.5, 4.0, 30.0])
def test_beta_is_the_steepness_of_its_gates(beta):
    q = np.asarray(X @ PARAMS["a"], np.float64)
    found = npk.softened(network(jax.nn.relu), beta=beta)
    assert_close(found(PARAMS, X), q / (1 + np.exp(-beta * q)) @ np.asarray(PARAMS["c"], np.float64))
    (gate,) = npk.gates(found)(PARAMS, X)
    assert_close(gate, 1 / (1 + np.exp(-beta * q)))


@pytest.mark.parametrize(
    ("activation", "slopes"),
    [
        (lambda q: jax.nn.leaky_relu(q, 0.1), (0.1, 1)),
        (lambda q: jax.nn.leaky_relu(q, -0.5), (-0.5, 1)),
        (jnp.abs, (-1, 1)),
        (lambda q: jnp.minimum(q, 0), (1, 0)),
        (lambda q: jnp.maximum(0.2 * q, 3 * q), (0.2, 3)),
        (lambda q: 3 * jax.nn.relu(2 * q), (0, 6)),
    ],
)
def test_a_gate_of_other_slopes_goes_smoothly_from_one_to_the_other(activation, slopes):
    """Of 3·ReLU(2q) the pre-activation is 2q: there the gate is as steep as β says."""
    q = np.asarray(X @ PARAMS["a"], np.float64)
    steep, (below, above) = (2 if slopes == (0, 6) else 1), slopes
    expected = q * (below + (above - below) / (1 + np.exp(-4 * steep * q)))
    assert_close(npk.softened(network(activation))(PARAMS, X), expected @ np.asarray(PARAMS["c"], np.float64))


@pytest.mark.parametrize(
    "activation", [npk.soft_relu, jax.nn.silu, jax.nn.gelu, jnp.tanh, jax.nn.elu, jnp.sin], ids=lambda a: a.__name__
)
def test_activations_that_are_smooth_already_stay_as_they_are(activation):
    f = network(activation)
    assert_close(npk.softened(f, beta=0.5)(PARAMS, X), f(PARAMS, X))


@pytest.mark.standard_dtypes
def test_max_pooling_chooses_as_before_among_softer_values():
    def pooled(activation):
        def f(p, x):
            h = activation(x @ p["a"]).reshape(len(x), 2, 2)
            return h.max(2) @ p["c"][:2]

        return f

    assert_close(npk.softened(pooled(jax.nn.relu))(PARAMS, X), pooled(npk.soft_relu)(PARAMS, X))
    images = lambda p, x: nn.max_pool(x, (2, 2), (2, 2)).reshape(len(x), -1)  # noqa: E731
    np.testing.assert_array_equal(npk.softened(images)({}, IMAGES), images({}, IMAGES))


@pytest.mark.standard_dtypes
def test_norms_patterns_and_products_stay_beside_activations_that_are_softened():
    """A layer norm, a softmax over positions, a gated product: in one network with a ReLU after each."""

    def mixed(activation):
        def f(p, x):
            h = jax.nn.standardize(x @ p["a"])
            h = activation(h) + 0.3
            scores = jnp.einsum("nt,ns->nts", h @ p["b"], h)
            h = activation(jnp.einsum("nts,ns->nt", jax.nn.softmax(scores), h @ p["b"]))
            return (h * jax.nn.sigmoid(h @ p["b"])) @ p["c"]

        return f

    f = mixed(jax.nn.relu)
    kinds = [gate.kind for gate in npk.explain(f)(PARAMS, X).gates]
    assert sorted(kinds) == ["hard", "hard", "pattern", "product", "scale"], kinds
    assert_close(npk.softened(f)(PARAMS, X), mixed(npk.soft_relu)(PARAMS, X), factor=3)
    without = lambda p, x: jax.nn.standardize(x @ p["a"]) @ p["c"]  # noqa: E731
    assert_close(npk.softened(without)(PARAMS, X), without(PARAMS, X))


def test_a_function_without_gates_is_unchanged():
    f = lambda p, x: (x @ p["a"] + 1) @ p["c"]  # noqa: E731
    np.testing.assert_array_equal(npk.softened(f, beta=9.0)(PARAMS, X), f(PARAMS, X))


def test_it_can_be_jitted_and_differentiated_and_vmapped_over_parameters():
    found, soft = npk.softened(mlp(jax.nn.relu)), mlp(npk.soft_relu)
    assert_close(jax.jit(found)(PARAMS, X), soft(PARAMS, X))
    ours, expected = (jax.grad(lambda p, g=g: g(p, X).sum())(PARAMS) for g in (found, soft))
    for name in PARAMS:
        assert_close(ours[name], expected[name])
    assert_close(jax.grad(lambda x: found(PARAMS, x).sum())(X), jax.grad(lambda x: soft(PARAMS, x).sum())(X))
    stacked = jax.tree.map(lambda a: jnp.stack([a, 2 * a]), PARAMS)
    assert_close(jax.vmap(found, (0, None))(stacked, X)[1], soft(jax.tree.map(lambda a: 2 * a, PARAMS), X))


def test_what_f_returns_beside_its_logits_comes_as_it_does():
    def f(p, x, activation=jax.nn.relu):
        h = activation(x @ p["a"])
        return h @ p["c"], {"mean": h.mean(0)}

    logits, aux = npk.softened(f, has_aux=True)(PARAMS, X)
    expected, beside = f(PARAMS, X, npk.soft_relu)
    assert_close(logits, expected)
    assert_close(aux["mean"], beside["mean"])


def test_what_is_declared_or_allowed_is_left_alone():
    def f(p, x):
        q = x @ p["a"]
        return jnp.cos(q[:, ::-1]) @ p["c"] + jax.nn.relu(q) @ p["c"]

    with pytest.raises(npk.UnsupportedOperation, match="`cos`"):
        npk.softened(f)(PARAMS, X)
    q = X @ PARAMS["a"]
    assert_close(npk.softened(f, allow=("cos",))(PARAMS, X), (jnp.cos(q[:, ::-1]) + npk.soft_relu(q)) @ PARAMS["c"])

    def bilinear(p, x):
        q = jax.nn.relu(x @ p["a"])
        return (npk.as_gate(x @ p["a"]) * q) @ p["c"]

    assert_close(npk.softened(bilinear)(PARAMS, X), (q * npk.soft_relu(q)) @ PARAMS["c"])


def test_precision_is_that_of_the_network(x64):
    params, x = jax.tree.map(lambda a: jnp.asarray(np.asarray(a, np.float64)), (PARAMS, X))
    found = npk.softened(mlp(jax.nn.relu))(params, x)
    assert found.dtype == jnp.float64
    assert_close(found, mlp(npk.soft_relu)(params, x))
    half = jax.tree.map(lambda a: a.astype(jnp.bfloat16), (params, x))
    assert npk.softened(mlp(jax.nn.relu))(*half).dtype == jnp.bfloat16


@pytest.mark.parametrize("beta", [0.0, -1.0, float("inf"), float("nan")])
def test_a_steepness_that_is_not_positive_and_finite_is_refused(beta):
    with pytest.raises(ValueError, match="beta must be positive and finite, got"):
        npk.softened(mlp(jax.nn.relu), beta=beta)
