"""A parameter that is used more than once, as one leaf for each use."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import npk
from npk.gating import Copies


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def recurrent(p, x):
    def step(h, u):
        return jax.nn.relu(h @ p["w"] + u @ p["u"]), None

    h, _ = jax.lax.scan(step, jnp.zeros((x.shape[0], 3)), jnp.swapaxes(x, 0, 1))
    return h @ p["out"]


def tied(p, x):
    """Embeddings that are read again at the end, through a cast and a transpose."""
    h = jax.nn.relu(p["table"][x].mean(1) @ p["w"])
    return h @ p["table"].astype(h.dtype).T


def test_a_recurrent_network_is_one_of_as_many_layers_as_steps():
    p = {"w": normal(0, 3, 3), "u": normal(1, 2, 3), "out": normal(2, 3, 1)}
    x = normal(3, 4, 3, 2)
    with pytest.raises(npk.UnsupportedOperation, match=r"(?s)`w` is a weight twice.*npk.untie"):
        npk.path_kernel(recurrent)(p, x)
    g = npk.untie(recurrent)
    q = g.untied(p, x)
    assert len(q["u"].leaves) == 3
    np.testing.assert_allclose(g(q, x), recurrent(p, x), rtol=1e-6)

    def layers(r, x):
        h = jax.nn.relu(x[:, 0] @ r["u0"])
        h = jax.nn.relu(h @ r["w1"] + x[:, 1] @ r["u1"])
        return jax.nn.relu(h @ r["w2"] + x[:, 2] @ r["u2"]) @ r["out"]

    r = {"u0": p["u"], "u1": p["u"], "u2": p["u"], "w1": p["w"], "w2": p["w"], "out": p["out"]}
    np.testing.assert_allclose(npk.path_kernel(g)(q, x), npk.path_kernel(layers)(r, x), rtol=1e-5)
    np.testing.assert_allclose(npk.ntk(g)(q, x), npk.ntk(layers)(r, x), rtol=1e-5)


def test_copies_of_their_own_are_weights_of_their_own():
    p, x = {"table": normal(0, 5, 3), "w": normal(1, 3, 3)}, jnp.array([[0, 1], [4, 2], [0, 0]])
    g = npk.untie(tied)
    q = g.untied(p, x)
    assert len(q["table"].leaves) == 2 and q["w"] is p["w"]
    np.testing.assert_allclose(g(q, x), tied(p, x), rtol=1e-6)
    other = {**q, "table": Copies((p["table"], normal(2, 5, 3)))}
    h = jax.nn.relu(p["table"][x].mean(1) @ p["w"])
    np.testing.assert_allclose(g(other, x), h @ other["table"].leaves[1].T, rtol=1e-5)
    same = (np.asarray(x)[:, None, :, None] == np.asarray(x)[None, :, None, :]).mean((2, 3))
    gates = np.asarray(h > 0, float)
    np.testing.assert_allclose(npk.path_kernel(g)(q, x), same * (gates @ gates.T) / 3, rtol=1e-5)


def test_a_function_of_weights_used_once_stays_as_it_is_and_wrong_copies_are_refused():
    p, x = {"w": normal(0, 2, 3)}, normal(1, 4, 2)
    f = lambda p, x: jax.nn.relu(x @ p["w"])  # noqa: E731
    assert npk.untie(f).untied(p, x) == p
    pair = (p["w"], normal(2, 3, 1))  # a tuple of a user's own is no copy
    two = lambda p, x: jax.nn.relu(x @ p[0]) @ p[1]  # noqa: E731
    g = npk.untie(two)
    np.testing.assert_array_equal(g(g.untied(pair, x), x), two(pair, x))
    q = {"table": Copies((normal(0, 5, 3),) * 3), "w": normal(1, 3, 3)}
    with pytest.raises(ValueError, match="params/table has 3 copies, and f uses it 2 times"):
        npk.untie(tied)(q, jnp.array([[0, 1]]))
