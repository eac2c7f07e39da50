"""What has no infinite-width limit, and bad input: what is said of it."""

import jax
import jax.numpy as jnp
import pytest

import npk
import npk.infinite

PARAMS = {
    "a": jnp.ones((3, 4)),
    "b": jnp.ones((4, 4)),
    "d": jnp.ones((4, 4)),
    "c": jnp.ones((4, 1)),
    "s": jnp.ones((4,)),
    "k": jnp.ones((2, 2, 1, 4)),
}
X = jnp.arange(6.0).reshape(2, 3)
IMAGES = jnp.arange(32.0).reshape(2, 4, 4, 1)


def relu(x):
    return jax.nn.relu(x)


def f(p, x):
    return relu(x @ p["a"]) @ p["c"]


KERNELS = {"nngp": npk.infinite.nngp, "ntk": npk.infinite.ntk, "path_kernel": npk.infinite.path_kernel}
every_kernel = pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS.keys())


def convolved(p, x):
    return jax.lax.conv_general_dilated(x, p["k"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def max_pooled(p, x):
    h = jax.lax.reduce_window(relu(convolved(p, x)), -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    return h.mean((1, 2)) @ p["c"]


def normalised(p, x):
    h = x @ p["a"]
    return relu((h - p["s"][None]) * (p["s"] * jax.lax.rsqrt(p["s"] + 1.0))[None] + p["s"][None]) @ p["c"]


def post_activation(p, x):
    h = relu(x @ p["a"])
    return relu(h + relu(h @ p["b"]) @ p["d"]) @ p["c"]


def own_pre_activation(p, x):
    h = x @ p["a"]
    return (h + relu(h)) @ p["c"]


def twice_activated(p, x):
    h = x @ p["a"]
    return (relu(h) + jax.nn.silu(h + p["s"][None])) @ p["c"]


REFUSED = {
    "max-pooling": (max_pooled, IMAGES, r"max-pooling has no closed form .* use average pooling"),
    "batch norm": (normalised, X, r"holds the input itself or a fixed shift \(a batch norm's\).*leave batch norm out"),
    "activation of the input": (lambda p, x: relu(x) @ p["a"] @ p["c"], X, "Put weights on the input"),
    "two activations in a row": (
        lambda p, x: jax.nn.silu(relu(x @ p["a"]) + p["s"][None]) @ p["c"],
        X,
        "not Gaussian at any width",
    ),
    "post-activation residual": (post_activation, X, r"another activation's output .* x \+ W·relu\(x\)"),
    "activation and its pre-activation": (own_pre_activation, X, "adds an activation to its own pre-activation"),
    "sum of activations": (twice_activated, X, "adds up activations with no weights between them"),
    "elementwise scale": (
        lambda p, x: (relu(x @ p["a"]) * p["s"][None]) @ p["c"],
        X,
        r"parameter `s` at .*elementwise",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_networks_without_a_limit(name):
    g, x, message = REFUSED[name]
    with pytest.raises(npk.UnsupportedOperation, match=rf"(?s){message}") as raised:
        npk.infinite.nngp(g)(PARAMS, x)
    assert "test_infinite_errors.py" in str(raised.value) or "output of f" in str(raised.value)


def test_a_gate_from_outside():
    with pytest.raises(npk.UnsupportedOperation, match="a gate from outside; name the gated network by `regime`"):
        npk.infinite.nngp(lambda p, x: npk.gated(f)(p, x, npk.gates(f)(p, x)))(PARAMS, X)


def test_regimes():
    with pytest.raises(ValueError, match="regime must be one of FR-II, FR-DI, DLGN, DLGN-SF, got 'FL'"):
        npk.infinite.path_kernel(f, regime="FL")
    with pytest.raises(ValueError, match="no constant input"):
        npk.infinite.path_kernel(f, regime="FR-DI", constant_input=True)


@every_kernel
def test_standard_deviations(kernel):
    with pytest.raises(ValueError, match="weight_std must not be negative, got -1.0 for parameter 'a'"):
        kernel(f, weight_std=-1.0)(PARAMS, X)
    with pytest.raises(ValueError, match="weight_std must not be negative, got nan"):
        kernel(f, weight_std=lambda name: float("nan"))(PARAMS, X)
    with pytest.raises(ValueError, match=r"weight_std has no entry for parameter 'a'; it has \['c'\]"):
        kernel(f, weight_std={"c": 1.0})(PARAMS, X)
    biased = lambda p, x: f(p, x) + p["s"][None, :1]  # noqa: E731
    with pytest.raises(ValueError, match="bias_std has no entry for parameter 's'"):
        npk.infinite.nngp(biased, bias_std={"other": 1.0})(PARAMS, X)


def test_orders():
    for order in (0, 513):
        with pytest.raises(ValueError, match=rf"order must lie in 1 … 512, got {order}"):
            npk.infinite.nngp(f, order=order)
    steep = lambda p, x: npk.soft_relu(x @ p["a"], 100.0) @ p["c"]  # noqa: E731
    with pytest.raises(ValueError, match=r"(?s)32 Hermite polynomials leave out .* less steep"):
        npk.infinite.path_kernel(steep, order=32)(PARAMS, X)


@every_kernel
def test_inputs(kernel):
    limit = kernel(f)
    with pytest.raises(ValueError, match="x1 must be finite; 1 of its 6"):
        limit(PARAMS, X.at[0, 0].set(jnp.nan))
    with pytest.raises(ValueError, match="x2 must be finite; 1 of its 6"):
        limit(PARAMS, X, X.at[0, 0].set(jnp.inf))
    with pytest.raises(ValueError, match="params/a must be finite"):
        limit({**PARAMS, "a": PARAMS["a"] * jnp.nan}, X)
    with pytest.raises(ValueError, match=r"x1 must be a batch \[N, ...\] of at least one sample"):
        limit(PARAMS, X[:0])
    with pytest.raises(ValueError, match=r"agree in all axes but the first, got \[2, 3\] and \[2, 2\]"):
        limit(PARAMS, X, X[:, :2])
    with pytest.raises(ValueError, match="must be of a floating dtype, got int32"):
        limit(PARAMS, X.astype(jnp.int32))
    with pytest.raises(ValueError, match="x1 and x2 must have one dtype"):
        limit(PARAMS, X, X.astype(jnp.bfloat16))
