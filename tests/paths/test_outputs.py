"""One kernel for all outputs is one where all have the same features; others are refused by all that reads paths."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import npk


def numbers(*shape):
    return np.random.default_rng(len(shape)).normal(size=shape).astype(np.float32)


def groups(p, x):
    h = jax.nn.relu(x @ p["w"]).reshape(x.shape[0], 2, 3)
    return jnp.einsum("ngi,gio->ngo", h, p["groups"]).reshape(x.shape[0], -1)


def depthwise(p, x):
    h = jax.nn.relu(x @ p["w"]).reshape(x.shape[0], 1, 6)
    dims = ("NWC", "WIO", "NWC")
    return jax.lax.conv_general_dilated(h, p["depthwise"], (1,), "VALID", None, None, dims, 6).reshape(x.shape[0], 6)


def scale_of_gates(p, x):
    return jax.nn.relu(x @ p["w"]) * p["scale"][None]


def scale_of_sums(p, x):
    return (jax.nn.relu(x @ p["w"]) @ p["v"]) * p["own"][None]


SHAPES = {"w": (3, 6), "v": (6, 4), "groups": (2, 3, 2), "depthwise": (1, 1, 6), "scale": (6,), "own": (4,)}
PARAMS, X = {name: numbers(*shape) for name, shape in SHAPES.items()}, numbers(4, 3)
READERS = {
    "kernel": lambda f: npk.path_kernel(f)(PARAMS, X),
    "logarithm": lambda f: npk.log_path_kernel(f)(PARAMS, X),
    "features": lambda f: npk.npf(f)(PARAMS, X),
    "values": lambda f: npk.npv(f)(PARAMS, X),
    "names": lambda f: npk.path_names(f)(PARAMS, X),
    "sketch": lambda f: npk.sketch(f)(PARAMS, X, features=12, key=jax.random.key(0)),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("f", [groups, depthwise, scale_of_gates])
def test_outputs_that_read_other_channels_are_refused(f, reader):
    with pytest.raises(npk.UnsupportedOperation, match="different path features"):
        READERS[reader](f)


@pytest.mark.parametrize("f", [groups, depthwise, scale_of_gates])
def test_one_of_them_has_a_kernel(f):
    def one(p, x):
        return f(p, x)[:, 1:2]

    phi = npk.npf(one)(PARAMS, X)
    np.testing.assert_allclose(phi @ npk.npv(one)(PARAMS, X), one(PARAMS, X), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(npk.path_kernel(one)(PARAMS, X, normalize=False), phi @ phi.T, rtol=1e-4, atol=1e-5)


def test_weights_of_their_own_are_no_features_of_their_own():
    phi = npk.npf(scale_of_sums)(PARAMS, X)
    np.testing.assert_allclose(phi @ npk.npv(scale_of_sums)(PARAMS, X), scale_of_sums(PARAMS, X), rtol=1e-4, atol=1e-5)
    assert READERS["sketch"](scale_of_sums).features.shape[0] == len(X)
