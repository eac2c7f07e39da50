"""Gradient flow in closed form: against matrix exponentials, gradient descent, and real networks."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from hypothesis import given
from hypothesis import strategies as st

import npk
from npk import networks, training
from npk.infinite.loader.loading import load

seeds = st.integers(0, 2**32 - 1)


def problem(seed, n=12, m=5, k=3, features=20):
    generator = np.random.default_rng(seed)
    a = generator.normal(size=(n + m, features)) / np.sqrt(features)
    outputs = generator.normal(size=(n + m, k))
    return a[:n], a[n:], generator.normal(size=(n, k)), outputs[:n], outputs[n:]


def flow_of(x, x_test, y, f0, g0):
    return npk.gradient_flow(x @ x.T, y, test_kernel=x_test @ x.T, initial=f0, test_initial=g0)


@given(seeds, st.floats(0, 50))
def test_it_solves_the_differential_equation(seed, t):
    """Train and test outputs together are one linear equation, whose solution is a matrix exponential."""
    x, x_test, y, f0, g0 = problem(seed)
    flow = flow_of(x, x_test, y, f0, g0)
    every = np.concatenate([x, x_test]) @ x.T  # the derivative of all outputs by the errors on the training samples
    generator = np.zeros((17, 17))
    generator[:, :12] = -every
    moved = scipy.linalg.expm(t * generator) @ np.concatenate([f0 - y, np.zeros((5, 3))])
    np.testing.assert_allclose(flow.train(t), y + moved[:12], atol=1e-9)
    np.testing.assert_allclose(flow.test(t), g0 + moved[12:], atol=1e-9)


def test_times_may_have_any_shape_and_begin_at_the_initial_outputs():
    x, x_test, y, f0, g0 = problem(0)
    flow = flow_of(x, x_test, y, f0, g0)
    times = np.array([[0.0, 1.0], [2.0, np.inf]])
    assert flow.train(times).shape == (2, 2, 12, 3) and flow.test(times).shape == (2, 2, 5, 3)
    assert np.array_equal(flow.train(0.0), f0) and np.array_equal(flow.test(0), g0)
    np.testing.assert_array_equal(flow.test(times)[1, 0], flow.test(2.0))
    np.testing.assert_array_equal(npk.gradient_flow(x @ x.T, y).train([0.0]), np.zeros((1, 12, 3)))


def test_infinite_time_is_regression_without_ridge():
    x, x_test, y, f0, g0 = problem(1)
    flow = flow_of(x, x_test, y, f0, g0)
    np.testing.assert_allclose(flow.train(np.inf), y, atol=1e-12)
    expected = g0 + x_test @ x.T @ np.linalg.solve(x @ x.T, y - f0)
    np.testing.assert_allclose(flow.test(np.inf), expected, atol=1e-9)
    np.testing.assert_allclose(flow.test(1e9), expected, atol=1e-9)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_null_directions_stay_where_they_were(dtype):
    """Fewer features than samples: the limit is the least-squares solution of least norm, at any precision."""
    x, x_test, y, _, _ = problem(2, features=4)
    kernel, cross = (x @ x.T).astype(dtype), (x_test @ x.T).astype(dtype)
    flow = npk.gradient_flow(kernel, y, test_kernel=cross)
    weights = np.linalg.lstsq(x, y, rcond=None)[0]
    for t in (1e12, np.inf):
        np.testing.assert_allclose(flow.train(t), x @ weights, atol=1e-3 if dtype == np.float32 else 1e-10)
        np.testing.assert_allclose(flow.test(t), x_test @ weights, atol=1e-3 if dtype == np.float32 else 1e-10)


def test_small_times_do_not_cancel():
    flow = npk.gradient_flow(np.diag([1.0, 1e-9]), np.ones((2, 1)))
    np.testing.assert_allclose(flow.train(1e-6)[:, 0], [1e-6, 1e-15], rtol=1e-5)


def test_gradient_descent_of_a_linear_model_tends_to_it():
    """The error of finite steps is of first order in the step."""
    x, x_test, y, _, _ = problem(3)
    flow = npk.gradient_flow(x @ x.T, y, test_kernel=x_test @ x.T)
    gaps = []
    for step in (0.02, 0.01):
        weights = np.zeros((20, 3))
        for _ in range(round(4.0 / step)):
            weights -= step * x.T @ (x @ weights - y)
        gaps.append(np.abs(flow.test(4.0) - x_test @ weights).max())
    assert gaps[1] < 3e-3 and gaps[1] == pytest.approx(gaps[0] / 2, rel=0.05)


@pytest.mark.skipif(importlib.util.find_spec("neural_tangents") is None, reason="neural-tangents is not installed")
@pytest.mark.standard_dtypes
@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("x64")
def test_it_agrees_with_neural_tangents():
    nt = load()
    x, x_test, y, f0, g0 = problem(4)
    flow = flow_of(x, x_test, y, f0, g0)
    with jax.numpy_rank_promotion("allow"):
        predict = nt.predict.gradient_descent_mse(jnp.asarray(x @ x.T), jnp.asarray(y))
        for t in (0.0, 0.5, 20.0, None):
            train, test = predict(t, jnp.asarray(f0), jnp.asarray(g0), jnp.asarray(x_test @ x.T))
            # Its loss is the mean over all N·K entries: its time runs N·K times as slowly.
            ours = np.inf if t is None else t / y.size
            np.testing.assert_allclose(flow.train(ours), train, atol=1e-8)
            np.testing.assert_allclose(flow.test(ours), test, atol=1e-8)


def real_gap(width, seed):
    """How far full-batch gradient descent of a real network ends from its kernel's prediction, relative to the way."""
    model = networks.MLP(width=width, depth=3, outputs=1, use_bias=False)
    keys = jax.random.split(jax.random.key(seed), 3)
    x, y = jax.random.normal(keys[0], (20, 6)), jax.random.normal(keys[1], (20, 1))
    params = training.redraw(jax.eval_shape(model.init, keys[2], x), keys[2], "he")
    f = jax.jit(model.apply)
    kernel = np.asarray(npk.ntk(model.apply)(params, x))
    test_kernel, train_kernel = kernel[15:, :15], kernel[:15, :15]
    start = np.asarray(f(params, x))
    flow = npk.gradient_flow(train_kernel, y[:15], test_kernel=test_kernel, initial=start[:15], test_initial=start[15:])
    step, steps = 0.04 / float(np.linalg.eigvalsh(train_kernel)[-1]), 800
    gradient = jax.grad(lambda p: 0.5 * jnp.sum(jnp.square(model.apply(p, x[:15]) - y[:15])))
    descend = jax.jit(
        lambda p: jax.lax.fori_loop(
            0, steps, lambda _, q: jax.tree_util.tree_map(lambda a, g: a - step * g, q, gradient(q)), p
        )
    )
    found = np.asarray(f(descend(params), x))
    predicted = np.concatenate([flow.train(step * steps), flow.test(step * steps)])
    return np.linalg.norm(found - predicted) / np.linalg.norm(found - start)


def test_a_wide_network_trains_as_its_kernel_predicts():
    narrow, wide = (np.mean([real_gap(width, seed) for seed in range(3)]) for width in (16, 512))
    assert wide < 0.03 and wide < narrow / 3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: npk.gradient_flow(np.diag([1.0, -1e-3]), np.ones((2, 1))), "eigenvalue -1.0e-03 times its largest"),
        (lambda: npk.gradient_flow(np.array([[1.0, 0.5], [0.0, 1.0]]), np.ones((2, 1))), "must be symmetric"),
        (lambda: npk.gradient_flow(np.eye(3), np.ones((2, 1))), r"kernel must be square.*\[2, 2\], got \[3, 3\]"),
        (lambda: npk.gradient_flow(np.eye(2), np.ones(2)), "targets must have two axes"),
        (lambda: npk.gradient_flow(np.eye(2) * np.nan, np.ones((2, 1))), "kernel must be finite"),
        (lambda: npk.gradient_flow(np.eye(2), np.ones((2, 1)), initial=np.ones((2, 2))), "initial must have one row"),
        (lambda: npk.gradient_flow(np.eye(2), np.ones((2, 1)), test_kernel=np.ones((1, 3))), "one column a training"),
        (lambda: npk.gradient_flow(np.eye(2), np.ones((2, 1)), test_initial=np.ones((1, 1))), "needs a test_kernel"),
        (lambda: npk.gradient_flow(np.eye(2), np.ones((2, 1))).train(-1.0), "times must be zero or positive"),
        (lambda: npk.gradient_flow(np.eye(2), np.ones((2, 1))).train(np.nan), "times must be zero or positive"),
        (lambda: npk.gradient_flow(np.eye(2), np.ones((2, 1))).test(1.0), "knows no test samples"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_rounding_may_be_stated():
    flow = npk.gradient_flow(np.diag([1.0, 1e-4, -1e-3]), np.ones((3, 1)), rounding=1e-2)
    assert flow.train(np.inf)[:, 0].tolist() == [1.0, 0.0, 0.0]
