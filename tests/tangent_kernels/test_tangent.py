"""The tangent kernel and its split against whole Jacobians in float64, for models with and without layer rules."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from draws import normal as draw
from draws import variables

import npk
from npk import networks

BOUND = {"float64": 1e-10, "float32": 1e-5}


def jacobian(f, params, x):
    """[N, K, number of parameters]."""
    return flat(jax.jit(jax.jacrev(f))(params, x))


def flat(jacobians):
    leaves = jax.tree.leaves({name: part for name, part in jacobians.items() if name != "batch_stats"})
    return np.concatenate([np.asarray(j, np.float64).reshape(*j.shape[:2], -1) for j in leaves], -1)


def gram(j1, j2):
    return np.einsum("nkp,mlp->nmkl", j1, j2)


def traced(kernel):
    return np.einsum("nmkk->nm", kernel)


def close(ours, theirs, scale, dtype="float64"):
    assert np.shape(ours) == np.shape(theirs)
    assert np.abs(np.asarray(ours, np.float64) - theirs).max() <= BOUND[dtype] * scale


def dense():
    return {"a": draw(3, 8), "bias": draw(8), "b": draw(8, 8, seed=1) / 3, "c": draw(8, 2)}


def linen(body, shape):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return body(x)

    net, x = Net(), draw(*shape)
    return net.apply, variables(net, x), x


def cnn(x):
    x = npk.soft_relu(nn.Conv(6, (3, 3))(x))
    x = npk.soft_relu(nn.Conv(4, (3, 3), strides=2, feature_group_count=2)(x))
    return nn.Dense(2)(x.mean((1, 2)))


def residual(x):
    x = nn.Conv(4, (3, 3), padding="CIRCULAR")(x)
    x = x + nn.Conv(4, (3, 3), kernel_dilation=2)(npk.soft_relu(nn.BatchNorm(use_running_average=True)(x)))
    return nn.Dense(3)(npk.soft_relu(x).reshape(x.shape[0], -1))


def attention(x):
    x = x + nn.MultiHeadDotProductAttention(2, qkv_features=4)(nn.LayerNorm()(x))
    return nn.Dense(2)(nn.gelu(nn.Dense(5)(x)).mean(1))


def recurrent(p, x):
    step = lambda h, t: (npk.soft_relu(h @ p["b"] + t @ p["a"]), None)  # noqa: E731
    return jax.lax.scan(step, jnp.zeros((x.shape[0], 8), x.dtype), jnp.swapaxes(x, 0, 1))[0] @ p["c"]


def branching(p, x):
    h = x @ p["a"]
    return jax.lax.cond(p["bias"][0] > 0, lambda h: jnp.tanh(h @ p["b"]), lambda h: h @ p["b"] * 2, h) @ p["c"]


def stacked(p, x):
    return jax.lax.scan(lambda h, w: (npk.soft_relu(h @ w), None), x @ p["a"], p["w"])[0] @ p["c"]


def soft(q):
    return npk.soft_relu(q)


SOFTMAX = ("dot_general", "exp", "div")  # what attention has, and may keep

MODELS = {
    "mlp": lambda: (lambda p, x: soft(soft(x @ p["a"] + p["bias"][None]) @ p["b"]) @ p["c"], dense(), draw(7, 3)),
    "shared weights": lambda: (lambda p, x: soft(soft(x @ p["a"]) @ p["b"]) @ p["b"] @ p["c"], dense(), draw(7, 3)),
    "tied on both sides": lambda: (lambda p, x: soft(x @ p["a"]) @ p["a"].T, dense(), draw(7, 3)),
    "constant factors": lambda: (lambda p, x: soft(x @ (p["a"] / 3**0.5)) @ (p["c"] * 0.5), dense(), draw(7, 3)),
    "weights on the left": lambda: (lambda p, x: (p["c"].T @ soft(p["a"].T @ x.T)).T, dense(), draw(7, 3)),
    "weight norm": lambda: (
        lambda p, x: soft(x @ (p["a"] / jnp.linalg.norm(p["a"], axis=0)[None])) @ p["c"],
        dense(),
        draw(7, 3),
    ),
    "embedding": lambda: (
        lambda p, x: soft(p["e"][x] @ p["a"]).sum(1) @ p["c"],
        {"e": draw(9, 3), "a": draw(3, 8), "c": draw(8, 2)},
        jnp.asarray(np.random.default_rng(0).integers(0, 9, (7, 5))),
    ),
    "recurrent": lambda: (recurrent, dense(), draw(7, 4, 3)),
    "scan over layers": lambda: (stacked, {**dense(), "w": draw(3, 8, 8) / 3}, draw(7, 3)),
    "cnn": lambda: linen(cnn, (7, 5, 5, 3)),
    "residual": lambda: linen(residual, (7, 5, 5, 3)),
    "attention": lambda: linen(attention, (7, 4, 3)),
}


def parts(f, params, x):
    """ψ^V by holding the gates, ψ = ψ^V + ψ^F."""

    @jax.jit
    def both(params, x):
        gates = npk.gates(f, allow=SOFTMAX)(params, x)
        return jax.jacrev(lambda p: npk.gated(f, allow=SOFTMAX)(p, x, gates))(params), jax.jacrev(f)(params, x)

    value, whole = map(flat, both(params, x))
    return value, whole - value


# Beside the split of two batches and the diagonal every second model is asked in turn; one of them everything.
EVERY_QUESTION = ("mlp",)


@pytest.mark.standard_dtypes
@pytest.mark.parametrize("name", MODELS)
def test_split_is_that_of_the_jacobian(name, x64):
    f, params, x = MODELS[name]()
    params = jax.tree.map(lambda a: a.astype(jnp.float64), params)
    x = x.astype(jnp.float64) if jnp.issubdtype(x.dtype, jnp.floating) else x
    (v1, v2), (f1, f2) = ((part[:3], part[3:]) for part in parts(f, params, x))
    total = gram(v1 + f1, v2 + f2)
    expected = {"value": gram(v1, v2), "feature": gram(f1, f2), "cross": gram(v1, f2) + gram(f1, v2), "total": total}
    own, cross = gram(v1 + f1, v1 + f1), traced(gram(v1, f1) + gram(f1, v1))
    scale = np.abs(traced(total)).max()
    split = npk.split_ntk(f, allow=SOFTMAX)
    ours = split(params, x[:3], x[3:])
    for part, kernel in expected.items():
        close(getattr(ours, part), traced(kernel), scale)
        close(sum(getattr(block, part) for block in ours.blocks.values()), traced(kernel), scale)
    close(npk.ntk_diagonal(f)(params, x[:3]), np.diag(traced(own)), scale)

    turn = list(MODELS).index(name) % 2
    if turn == 0 or name in EVERY_QUESTION:
        full = split(params, x[:3], x[3:], outputs="full")
        for part, kernel in expected.items():
            close(getattr(full, part), kernel, scale)
        close(npk.ntk(f)(params, x[:3]), traced(own), scale)
    if turn == 1 or name in EVERY_QUESTION:
        close(npk.ntk(f)(params, x[:3], x[3:]), traced(total), scale)
        close(split(params, x[:3]).cross, cross, scale)
        close(npk.split_ntk_diagonal(f, allow=SOFTMAX)(params, x[:3]).cross, np.diag(cross), scale)
    if name in EVERY_QUESTION:  # a sum over the diagonal
        close(npk.ntk_trace(f)(params, x[:3]), np.trace(traced(own)), 3 * scale)


def test_control_flow_stays_exact(x64):
    params = jax.tree.map(lambda a: a.astype(jnp.float64), dense())
    x = draw(6, 3).astype(jnp.float64)
    j = jacobian(branching, params, x)
    expected = traced(gram(j, j))
    close(npk.ntk(branching)(params, x), expected, np.abs(expected).max())


@pytest.mark.standard_dtypes
@pytest.mark.parametrize("name", ["mlp", "residual"])
def test_single_precision_is_within_its_rounding(name):
    f, params, x = MODELS[name]()
    j = jacobian(f, params, x)
    expected = traced(gram(j, j))
    close(npk.ntk(f)(params, x), expected, np.abs(expected).max(), "float32")
    close(npk.split_ntk(f, allow=SOFTMAX)(params, x).total, expected, np.abs(expected).max(), "float32")


def test_hard_gates_have_no_feature_and_no_cross_part():
    model = networks.MLP(width=16, depth=3, outputs=2)
    x = draw(5, 4)
    params = variables(model, x)
    split = npk.split_ntk(model.apply)(params, x)
    assert not split.feature.any() and not split.cross.any()
    assert (split.value == split.total).all()


def test_soft_gates_have_both():
    model = networks.MLP(width=16, depth=3, outputs=2, activation=npk.soft_relu)
    x = draw(5, 4)
    split = npk.split_ntk(model.apply)(variables(model, x), x)
    assert (jnp.diag(split.feature) > 0).all() and split.cross.any()


def test_a_gated_network_of_two_parameter_sets_has_no_cross_part():
    g = lambda p, x: soft(soft(x @ p["a"]) @ p["b"]) @ p["c"]  # noqa: E731

    def dgn(p, x):
        return npk.gated(g)(p["value"], x, npk.gates(g)(p["feature"], x))

    params, x = {"value": dense(), "feature": jax.tree.map(lambda a: a[::-1], dense())}, draw(5, 3)
    split = npk.split_ntk(dgn)(params, x)
    assert not split.cross.any() and split.feature.any()
    for name, block in split.blocks.items():
        other = block.feature if name.startswith("value/") else block.value
        assert not other.any(), name


def test_blocks_of_samples_give_the_same_kernel(monkeypatch):
    import sys

    f, params, x = MODELS["mlp"]()
    whole = npk.split_ntk(f)(params, x, x[:5])
    monkeypatch.setattr(sys.modules["npk.tangent_kernels.pieces"], "_block_bytes", lambda: 1 << 12)
    blocked = npk.split_ntk(lambda p, x: f(p, x))(params, x, x[:5])  # compiled with the new setting
    for part in ("value", "feature", "cross"):
        a, b = getattr(whole, part), getattr(blocked, part)
        assert jnp.abs(a - b).max() <= 1e-5 * jnp.abs(whole.total).max()


def test_kernel_of_summed_softmax_outputs_vanishes():
    """Why kernels are of logits: probabilities sum to one, so their gradients sum to zero."""
    f = lambda p, x: jax.nn.softmax(jax.nn.relu(x @ p["a"]) @ p["c"])  # noqa: E731
    kernel = npk.ntk(f)(dense(), draw(4, 3), outputs="full")
    assert jnp.abs(kernel.sum((2, 3))).max() < 1e-5 * jnp.abs(kernel).max()
