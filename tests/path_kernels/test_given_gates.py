"""A network whose gates another network makes: its values are the network, whatever makes its gates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from draws import normal, variables
from tolerances import assert_close

import npk
from npk import networks


def dense() -> tuple:
    model = networks.MLP(width=5, depth=3, outputs=2)
    x = normal(5, 6)
    params = variables(model, x.astype(jnp.float32))
    return model.apply, jax.tree.map(lambda a: a.astype(jnp.float64), params), x


def pooling() -> tuple:
    """A convolution, max-pooling, a convolution, the mean over positions."""

    def convolution(x, kernel):
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    def f(p, x):
        x = jax.nn.relu(convolution(x, p["a"]) + p["b"][None, None, None])
        x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
        return jax.nn.relu(convolution(x, p["c"])).mean((1, 2)) @ p["d"]

    shapes = {"a": (3, 3, 1, 2), "b": (2,), "c": (2, 2, 2, 3), "d": (3, 2)}
    return f, {name: normal(*shape) for name, shape in shapes.items()}, normal(4, 4, 4, 1)


def composed(case: tuple, constant: bool, soft: bool) -> tuple:
    """(the composition, its parameters, x, what its values start from, its gates)."""
    f, feature, x = case

    def gates(p, x):
        return tuple(jax.nn.sigmoid(4.0 * q) for q in npk.preactivations(f)(p, x)) if soft else npk.gates(f)(p, x)

    def start(x):
        return jnp.ones_like(x) if constant else x

    def g(p, x):
        return npk.gated(f)(p["value"], start(x), gates(p["feature"], x))

    value = jax.tree.map(lambda a: a + 0.1 * normal(*a.shape, seed=1), feature)
    return g, {"feature": feature, "value": value}, x, start(x), gates(feature, x)


CASES = [(dense, False), (dense, True), (pooling, False)]  # soft gates and max-pooling have no common form


def name_of(case: tuple) -> str:
    make, soft, constant = case
    return f"{make.__name__}, {'soft' if soft else 'hard'} gates, values from {'ones' if constant else 'x'}"


@pytest.fixture(params=[(*case, constant) for case in CASES for constant in (False, True)], ids=name_of)
def composition(request, x64):
    make, soft, constant = request.param
    case = make()
    return case[0], *composed(case, constant, soft), soft


def test_gates_are_those_given(composition):
    _, g, params, x, _, gates, _ = composition
    assert all(np.array_equal(a, b) for a, b in zip(npk.gates(g)(params, x), gates, strict=True))
    assert_close(npk.gated(g)(params, x, gates), g(params, x))


def test_kernel_and_paths_are_of_the_value_network_under_the_given_gates(composition):
    f, g, params, x, start, gates, _ = composition
    for normalize in (False, True):
        expected = npk.path_kernel(f)(params["value"], start, gates1=gates, normalize=normalize)
        assert_close(npk.path_kernel(g)(params, x, normalize=normalize), expected)
        assert_close(npk.path_kernel(g)(params, x, gates1=gates, normalize=normalize), expected)
    features = npk.npf(g)(params, x)
    assert_close(features @ npk.npv(g)(params, x), g(params, x))
    assert_close(features @ features.T, npk.path_kernel(g)(params, x, normalize=False))


def test_value_and_feature_part_are_of_the_two_parameter_sets(composition):
    _, g, params, x, _, _, soft = composition

    def kernel(jacobian):
        rows = [j.reshape(len(x), 2, -1) for j in jax.tree.leaves(jacobian)]
        return sum(jnp.einsum("nkp,mkp->nm", r, r) for r in rows)

    jacobian = jax.jacrev(g)(params, x)
    split = npk.split_ntk(g)(params, x)
    assert_close(split.value, kernel(jacobian["value"]))
    assert_close(split.feature, kernel(jacobian["feature"]))
    assert (np.asarray(split.cross) == 0).all()
    assert soft == bool((np.asarray(split.feature) != 0).any())


@pytest.mark.usefixtures("x64")
def test_two_sets_of_gates_of_one_batch_are_two_sides():
    """H of x under gates1 with the same x under gates2, not symmetric: Σ ⊙ ∏ G₁ G₂ᵀ."""
    x, *params = jax.random.normal(jax.random.key(5), (4, 5, 5), jnp.float64)
    one, two = (
        tuple(jax.random.bernoulli(jax.random.key(7 + i), 0.6, (2, 5, 5)).astype(jnp.float64)) for i in range(2)
    )
    f = lambda w, x: jax.nn.relu(jax.nn.relu(x @ w[0]) @ w[1]) @ w[2][:, :1]  # noqa: E731
    found = npk.path_kernel(f)(params, x, gates1=one, gates2=two, normalize=False)
    assert_close(found, (x @ x.T) * (one[0] @ two[0].T) * (one[1] @ two[1].T))
    assert not np.array_equal(found, found.T)
