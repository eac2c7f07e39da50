"""neural-tangents on current JAX: each part of it against ours or against the mathematics, `jax` left as it is."""

import importlib.metadata
import importlib.util

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
import pytest
from draws import of_key
from tolerances import assert_close

import npk
import npk.infinite

installed = importlib.util.find_spec("neural_tangents") is not None
needs_it = pytest.mark.skipif(not installed, reason="neural-tangents is not installed (pip install --no-deps)")
# Its own remarks: on layers it cannot check, and of a primitive without a rule of its own (which it then derives).
pytestmark = pytest.mark.filterwarnings("ignore:.*FanIn. layers assume", "ignore:No Jacobian rule found")

KEY = jax.random.key(0)
IMPLEMENTATIONS = {"auto": 0, "jacobian contraction": 1, "NTK-vector products": 2, "structured derivatives": 3}


@pytest.fixture
def nt(x64):
    """The library, in float64, with the promotion of ranks that it is written for."""
    if not installed:
        pytest.skip("neural-tangents is not installed (pip install --no-deps)")
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield npk.infinite.neural_tangents()


def draw(*shape, seed=0):
    return of_key(jax.random.fold_in(KEY, seed), shape)


def convolution(x, w):
    return jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


# --------------------------------------------------------------------------------- infinite width


def dense_pair(stax):
    layers = stax.Dense(16, W_std=1.3, b_std=0.2), stax.Relu(), stax.Dense(1, W_std=1.3, b_std=0.2)
    params = {"w": jnp.ones((5, 16)), "b": jnp.ones(16), "v": jnp.ones((16, 1)), "c": jnp.ones(1)}
    ours = {"weight_std": 1.3, "bias_std": 0.2}
    return stax.serial(*layers), lambda p, x: jax.nn.relu(x @ p["w"] + p["b"]) @ p["v"] + p["c"], params, ours, (5,)


def convolution_pair(stax):
    layers = (stax.Conv(8, (3, 3), padding="SAME", W_std=1.2), stax.Relu()) * 2
    params = {"u": jnp.ones((3, 3, 2, 8)), "w": jnp.ones((3, 3, 8, 8)), "v": jnp.ones((8, 1))}

    def f(p, x):
        for name in ("u", "w"):
            x = jax.nn.relu(convolution(x, p[name]))
        return x.mean((1, 2)) @ p["v"]

    theirs = stax.serial(*layers, stax.GlobalAvgPool(), stax.Dense(1, W_std=1.2))
    return theirs, f, params, {"weight_std": 1.2}, (4, 4, 2)


PAIRS = {"dense": dense_pair, "convolutions": convolution_pair}


@pytest.mark.parametrize("pair", PAIRS)
def test_analytic_kernels_are_ours(nt, pair):
    (_, _, kernel), f, params, scales, shape = PAIRS[pair](nt.stax)
    x1, x2 = draw(4, *shape), draw(3, *shape, seed=1)
    for theirs, ours in (("nngp", npk.infinite.nngp), ("ntk", npk.infinite.ntk)):
        assert_close(kernel(x1, x2, theirs), ours(f, **scales)(params, x1, x2), 100)
        assert_close(kernel(x1, None, theirs), ours(f, **scales)(params, x1), 100)


@pytest.mark.parametrize("store_on_device", [True, False])
def test_kernels_in_batches_are_the_kernels(nt, store_on_device):
    (_, _, kernel), f, params, scales, shape = convolution_pair(nt.stax)
    x1, x2 = draw(4, *shape), draw(6, *shape, seed=1)
    in_batches = nt.batch(kernel, batch_size=2, store_on_device=store_on_device)
    assert_close(in_batches(x1, x2, "ntk"), npk.infinite.ntk(f, **scales)(params, x1, x2), 100)
    # On its diagonal a batch does not know that inputs are equal, and rounds their angle.
    assert_close(in_batches(x1, None, "ntk"), npk.infinite.ntk(f, **scales)(params, x1), 1e4)


def test_monte_carlo_kernels_lie_about_the_limit(nt):
    """With one hidden layer the NNGP and the NTK have their limits as means at every width."""
    (init, apply, _), f, params, scales, shape = dense_pair(nt.stax)
    x, samples = draw(3, *shape), np.arange(1, 401)
    means = [*nt.monte_carlo_kernel_fn(init, apply, jax.random.key(5), samples.tolist())(x, None, ("nngp", "ntk"))]
    for get, limit in (("nngp", npk.infinite.nngp), ("ntk", npk.infinite.ntk)):
        sums = samples[:, None, None] * np.stack([getattr(mean, get) for mean in means])
        drawn = np.diff(sums, axis=0, prepend=0)
        deviation = drawn.mean(0) - limit(f, **scales)(params, x)
        assert np.abs(deviation / (drawn.std(0) / np.sqrt(len(samples)))).max() < 4


# --------------------------------------------------------------------------------- empirical kernels


def mlp(p, x):
    x = jax.nn.relu(x.reshape(len(x), -1) @ p["first"] + p["bias"])
    return jnp.tanh(x @ p["square"]) @ p["last"]


def conv_gap(p, x):
    x = jax.nn.relu(convolution(x, p["kernel"]) + p["bias"])
    return jax.nn.relu(convolution(x, p["kernels"])).mean((1, 2)) @ p["last"]


def residual(p, x):
    x = convolution(x, p["kernel"])
    x = jax.nn.relu(x + convolution(jax.nn.relu(x + p["bias"]), p["kernels"]))
    return x.mean((1, 2)) @ p["last"]


MODELS = {"MLP": mlp, "convolutions, GAP": conv_gap, "residual": residual}


def arguments():
    shapes = {"first": (18, 4), "square": (4, 4), "kernel": (2, 2, 2, 4), "kernels": (2, 2, 4, 4), "last": (4, 2)}
    params = {name: draw(*shape, seed=i) for i, (name, shape) in enumerate(shapes.items())}
    return params | {"bias": draw(4, seed=9)}, draw(3, 3, 3, 2, seed=10), draw(2, 3, 3, 2, seed=11)


@pytest.mark.parametrize("implementation", [name for name in IMPLEMENTATIONS if name != "auto"])
@pytest.mark.parametrize("f", MODELS.values(), ids=MODELS)
def test_empirical_kernels_are_ours(nt, f, implementation):
    params, x1, x2 = arguments()
    options = {"vmap_axes": 0, "implementation": IMPLEMENTATIONS[implementation]}
    trace = jax.jit(nt.empirical_ntk_fn(f, trace_axes=(-1,), **options))
    assert_close(2 * trace(x1, x2, params), npk.ntk(f)(params, x1, x2), 10)  # theirs is a mean over outputs
    full = jax.jit(nt.empirical_ntk_fn(f, trace_axes=(), **options))
    assert_close(full(x1, None, params), npk.ntk(f)(params, x1, outputs="full"), 10)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_empirical_kernels_without_batching_are_ours(nt, implementation):
    params, x1, x2 = arguments()
    kernel = nt.empirical_ntk_fn(mlp, trace_axes=(), implementation=IMPLEMENTATIONS[implementation])
    assert_close(kernel(x1, x2, params), npk.ntk(mlp)(params, x1, x2, outputs="full"), 10)


def of_a_split(p, x):
    """Of three parts of one weight one is used, and another twice."""
    first, _, last = jnp.split(p["w"], 3, axis=1)
    return jnp.tanh(x @ first) @ p["v"] + (x @ first + x @ last) @ p["v"]


def of_calls(p, x):
    """Functions within functions, and a loop."""
    layer = jax.checkpoint(jax.jit(lambda w, x: jnp.tanh(x @ w)))
    x = layer(p["w"], x)
    x, _ = jax.lax.scan(lambda x, _: (x * p["s"] + 1, None), x, None, 2)
    return x @ jnp.concatenate([p["v"]] * 3)


def of_a_parameter(p, x):
    """One weight is the output as it stands, one is not used."""
    return x @ p["w"][:, :2] + p["c"]


@pytest.mark.parametrize("f", [of_a_split, of_calls, of_a_parameter])
def test_structured_derivatives_of_functions_that_are_no_layers(nt, f):
    params = {"w": draw(4, 6), "v": draw(2, 2, seed=1), "s": draw(6, seed=2), "c": draw(1, 2, seed=3)}
    x = draw(3, 4, seed=4)
    kernel = nt.empirical_ntk_fn(f, trace_axes=(), implementation=IMPLEMENTATIONS["structured derivatives"])
    assert_close(kernel(x, None, params), npk.ntk(f)(params, x, outputs="full"), 10)


def test_empirical_nngp_is_the_product_of_outputs(nt):
    params, x1, x2 = arguments()
    assert_close(nt.empirical_nngp_fn(mlp)(x1, x2, params), mlp(params, x1) @ mlp(params, x2).T / 2)


def test_empirical_kernel_function_gives_both(nt):
    params, x1, x2 = arguments()
    both = nt.empirical_kernel_fn(mlp)(x1, x2, ("nngp", "ntk"), params)
    assert_close(both.nngp, mlp(params, x1) @ mlp(params, x2).T / 2)
    assert_close(2 * both.ntk, npk.ntk(mlp)(params, x1, x2), 10)


def test_kernel_vector_products_are_products_with_our_kernel(nt):
    params, x1, x2 = arguments()
    cotangents = draw(2, 2, seed=3)
    product = nt.empirical_ntk_vp_fn(conv_gap, x1, x2, params)(cotangents)
    assert_close(product, jnp.einsum("nmkl,ml->nk", npk.ntk(conv_gap)(params, x1, x2, outputs="full"), cotangents), 10)


@pytest.mark.parametrize("degree", [1, 2])
def test_taylor_expansions_are_forward_derivatives(nt, degree):
    params, moved = ({"w": draw(5, 8, seed=s), "v": draw(8, 2, seed=s + 1)} for s in (0, 2))
    x = draw(3, 5, seed=4)
    f = lambda p: jnp.tanh(x @ p["w"]) @ p["v"]  # noqa: E731
    step = jax.tree.map(jnp.subtract, moved, params)
    slope = lambda p: jax.jvp(f, (p,), (step,))[1]  # noqa: E731
    expected = f(params) + slope(params) + (degree == 2) * jax.jvp(slope, (params,), (step,))[1] / 2
    assert_close(nt.taylor_expand(lambda p, x: f(p), params, degree)(moved, x), expected, 10)
    if degree == 1:
        assert_close(nt.linearize(lambda p, x: f(p), params)(moved, x), expected, 10)


# --------------------------------------------------------------------------------------- prediction


@pytest.fixture
def problem(nt):
    """Kernels NNGP and NTK of 5 training and 3 test points, with targets."""
    (_, _, kernel), _, _, _, shape = dense_pair(nt.stax)
    return kernel, draw(5, *shape), draw(3, *shape, seed=1), draw(5, 2, seed=2)


def learned(kernel, time):
    """I - exp(-K t), and K⁻¹ times it."""
    values, vectors = np.linalg.eigh(kernel)
    shares = -np.expm1(-values * time)
    return (vectors * shares) @ vectors.T, (vectors * (shares / values)) @ vectors.T


TIMES = [0.0, 3.0, 100.0]


@pytest.mark.parametrize("time", TIMES)
def test_gradient_descent_follows_the_eigenvectors(nt, problem, time):
    kernel, x, x_test, y = problem
    k, k_test = kernel(x, None, "ntk"), kernel(x_test, x, "ntk")
    start, start_test = draw(5, 2, seed=3), draw(3, 2, seed=4)
    # The loss is a mean over all targets.
    share, inverse = learned(k, time / y.size)
    expected = start + share @ (y - start), start_test + k_test @ inverse @ (y - start)
    exact = nt.predict.gradient_descent_mse(k, y)(time, start, start_test, k_test)
    for ours, theirs in zip(expected, exact, strict=True):
        assert_close(theirs, ours, 1e3)
    loss = lambda fx, y: 0.5 * jnp.mean((fx - y) ** 2)  # noqa: E731
    by_steps = nt.predict.gradient_descent(loss, k, y)(time, start, start_test, k_test)
    for ours, theirs in zip(expected, by_steps, strict=True):
        assert np.abs(theirs - ours).max() < 1e-5  # an integrator's tolerance


@pytest.mark.parametrize("time", [*TIMES[1:], None])
def test_the_ensemble_is_gaussian_with_the_kernels_moments(nt, problem, time):
    kernel, x, x_test, y = problem
    predict = nt.predict.gradient_descent_mse_ensemble(kernel, x, y)
    found = predict(time, x_test, ("nngp", "ntk"), compute_cov=True)
    prior, cross, own = (kernel(*pair, "nngp") for pair in ((x, None), (x_test, x), (x_test, None)))
    for get, theirs in (("nngp", found.nngp), ("ntk", found.ntk)):
        _, inverse = learned(kernel(x, None, get), np.inf if time is None else time / y.size)
        operator = kernel(x_test, x, get) @ inverse
        assert_close(theirs.mean, operator @ y, 1e3)
        mixed = operator @ cross.T
        if get == "nngp" and time is None:
            assert_close(theirs.covariance, own - mixed, 1e3)
        assert_close(theirs.covariance, own + operator @ prior @ operator.T - mixed - mixed.T, 1e3)


def test_inference_is_the_gaussian_posterior(nt, problem):
    kernel, x, x_test, y = problem
    k, k_test, k_own = (kernel(*pair, ("nngp", "ntk")) for pair in ((x, None), (x_test, x), (x_test, None)))
    ridge = 0.1
    predict = nt.predict.gp_inference(k, y, diag_reg=ridge, diag_reg_absolute_scale=True)
    found = predict("nngp", k_test, k_own.nngp)
    solved = np.linalg.solve(k.nngp + ridge * np.eye(5), np.concatenate([y, k_test.nngp.T], 1))
    assert_close(found.mean, k_test.nngp @ solved[:, :2], 1e3)
    assert_close(found.covariance, k_own.nngp - k_test.nngp @ solved[:, 2:], 1e3)


def test_the_largest_learning_rate_is_two_over_the_largest_eigenvalue(nt, problem):
    kernel, x, _, _ = problem
    k = kernel(x, None, "ntk")
    assert_close(nt.predict.max_learning_rate(k, eps=0.0), 2 * 5 / np.linalg.eigvalsh(k)[-1], 10)
