"""A gate times parameters, added to a value: paths begin at these parameters and go through the gate at once.

So begins a gated recurrent unit, tanh(W x + r ⊙ (U·0 + b)); a first state may be learned, a choice may fall on a bias.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import npk

pytestmark = [pytest.mark.standard_dtypes, pytest.mark.usefixtures("x64", "as_users_write")]


def drawn(seed=0, **shapes):
    rng = np.random.default_rng(seed)
    return {name: jnp.asarray(rng.normal(size=shape)) for name, shape in shapes.items()}


def parameters():
    return drawn(w=(3, 4), r=(3, 4), s=(3, 4), a=(4,), b=(4,), o=(4, 1))


def sigmoid(q):
    return 1 / (1 + np.exp(-np.asarray(q)))


# f, and what multiplies x·w, a and b on its paths, by hand: [N, 4] each.
SPELLINGS = {
    "reset gate": (
        lambda p, x: jnp.tanh(x @ p["w"] + jax.nn.sigmoid(x @ p["r"]) * p["b"]),
        lambda p, x: (1, 0, sigmoid(x @ p["r"])),
        True,
    ),
    "two, one taken away": (
        lambda p, x: jnp.tanh(p["a"] * jax.nn.sigmoid(x @ p["s"]) - jax.nn.sigmoid(x @ p["r"]) * p["b"] + x @ p["w"]),
        lambda p, x: (1, sigmoid(x @ p["s"]), -sigmoid(x @ p["r"])),
        True,
    ),
    "sum of a gated and a plain one": (
        lambda p, x: jnp.tanh(x @ p["w"] + (p["a"] - jax.nn.sigmoid(x @ p["r"]) * p["b"])),
        lambda p, x: (1, 1, -sigmoid(x @ p["r"])),
        True,
    ),
    "divided": (
        lambda p, x: jnp.tanh(p["b"] / (1 + jnp.exp(x @ p["r"])) + x @ p["w"]),
        lambda p, x: (1, 0, sigmoid(-x @ p["r"])),
        True,
    ),
    "moved": (
        lambda p, x: jnp.tanh((x @ p["w"])[:, None] + -2 * (jax.nn.sigmoid(x @ p["r"]) * p["b"])[:, None])[:, 0],
        lambda p, x: (1, 0, -2 * sigmoid(x @ p["r"])),
        True,
    ),
    "update from a learned state": (
        lambda p, x: (1 - jax.nn.sigmoid(x @ p["s"])) * (x @ p["w"] + p["a"]) + jax.nn.sigmoid(x @ p["s"]) * p["b"],
        lambda p, x: (sigmoid(-x @ p["s"]), sigmoid(-x @ p["s"]), sigmoid(x @ p["s"])),
        False,
    ),
    "choice of a bias": (
        lambda p, x: jnp.where(x @ p["r"] > 0, x @ p["w"], p["b"]),
        lambda p, x: (np.asarray(x @ p["r"]) > 0, 0, np.asarray(x @ p["r"]) <= 0),
        False,
    ),
}


@pytest.mark.parametrize("f, factors, bent", SPELLINGS.values(), ids=SPELLINGS.keys())
def test_the_kernel_of_a_gated_bias_is_the_product_of_its_gates(f, factors, bent):
    p, x = parameters(), drawn(1, x=(5, 3))["x"]

    def whole(p, x):
        return f(p, x) @ p["o"]

    q = np.asarray(f(p, x))
    q = np.arctanh(q) if bent else q
    slope = np.tanh(q) / q if bent else np.ones_like(q)
    of_x, of_a, of_b = (np.broadcast_to(np.asarray(g, float), q.shape) * slope for g in factors(p, x))
    inputs = np.asarray(x @ x.T)
    expected = np.einsum("nc,mc->nm", of_x, of_x) * inputs + of_a @ of_a.T + of_b @ of_b.T
    np.testing.assert_allclose(npk.path_kernel(whole)(p, x, normalize=False), expected, rtol=1e-9)
    phi, v = npk.npf(whole)(p, x), npk.npv(whole)(p, x)
    np.testing.assert_allclose(phi @ v, whole(p, x), rtol=1e-9)
    np.testing.assert_allclose(phi @ phi.T, expected, rtol=1e-9)
    roles = {q.name: q.role for q in npk.explain(whole)(p, x).parameters}
    assert roles["b"] == "bias" and roles["r"] != "weight"


def test_held_gates_leave_a_gated_bias_its_gradient():
    p, x = parameters(), drawn(1, x=(4, 3))["x"]
    f, *_ = SPELLINGS["reset gate"]

    def held(p, x):
        stopped = jax.lax.stop_gradient
        r = stopped(jax.nn.sigmoid(x @ p["r"]))
        q = x @ p["w"] + r * p["b"]
        return ((q * stopped(jnp.tanh(q) / q)) @ p["o"])[:, 0]

    jacobian = jax.tree_util.tree_leaves(jax.jacrev(held)(p, x))
    expected = sum(np.tensordot(j.reshape(4, -1), j.reshape(4, -1).T, 1) for j in jacobian)
    split = npk.split_ntk(lambda p, x: f(p, x) @ p["o"])(p, x)
    np.testing.assert_allclose(split.value, expected, rtol=1e-10)
    np.testing.assert_allclose(split.value + split.feature + split.cross, npk.ntk(lambda p, x: f(p, x) @ p["o"])(p, x))


def test_a_gated_recurrent_unit_has_path_features_once_its_steps_are_untied():
    class Recurrent(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(1)(nn.RNN(nn.GRUCell(2, param_dtype=jnp.float64))(x)[:, -1])

    x = drawn(x=(3, 3, 2))["x"]
    p = Recurrent().init(jax.random.key(0), x)
    p = jax.tree_util.tree_map(lambda a, k: a + drawn(k, d=a.shape)["d"], p, _numbered(p))
    g = npk.untie(Recurrent().apply)
    q = g.untied(p, x)
    phi = npk.npf(g)(q, x)
    np.testing.assert_allclose(phi @ npk.npv(g)(q, x), Recurrent().apply(p, x), rtol=1e-10)
    np.testing.assert_allclose(npk.path_kernel(g)(q, x, normalize=False), phi @ phi.T, rtol=1e-10)
    begun = {name.partition("[")[0] for name in npk.path_names(g)(q, x)}
    assert "params/GRUCell_0/hn/bias/leaves/0" in begun  # of the first step, times its reset gate


def _numbered(tree):
    leaves, structure = jax.tree_util.tree_flatten(tree)
    return structure.unflatten(list(range(len(leaves))))


REFUSED = {
    "a gate without parameters": lambda p, x: x @ p["w"] + jax.nn.sigmoid(x @ p["r"]),
    "a gated bias that makes a gate, too": lambda p, x: (
        (u := jax.nn.sigmoid(x @ p["r"]) * p["b"]) * 0 + (x @ p["w"] + u) * jnp.exp(u)
    ),
    "a power of a bias": lambda p, x: x @ p["w"] + (jax.nn.sigmoid(x @ p["r"]) * p["b"]) ** 2,
}


@pytest.mark.parametrize("f", REFUSED.values(), ids=REFUSED.keys())
def test_what_is_no_gated_bias_is_refused(f):
    with pytest.raises(npk.UnsupportedOperation, match=r"test_gated_biases.py:\d+"):
        npk.gates(lambda p, x: f(p, x) @ p["o"])(parameters(), drawn(1, x=(4, 3))["x"])
