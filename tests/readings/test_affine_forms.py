"""What a linear map is proven and measured by: the affine form of f, under gates held, whatever its derivatives."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from linear_problems import MLP, SIZES, SMALL, X, mlp, normal, of_samples
from tolerances import assert_close

import npk
from npk import networks


def layer_normed(p, x):
    h = jax.nn.relu(x @ p["w"])
    h = h - h.mean(-1, keepdims=True)
    h = h * jax.lax.rsqrt(jnp.square(h).mean(-1, keepdims=True) + 1e-3)
    return h @ p["v"]


def attending(p, x):
    return jax.nn.softmax(x @ p["w"]) @ p["v"]


def test_what_is_not_affine_is_refused_or_named_and_measured():
    with pytest.raises(
        npk.UnsupportedOperation, match=r"(?s)`exp` at .*test_affine_forms\.py.*allow=\('exp', 'div',\)"
    ):
        npk.linear_map(attending)(SMALL, X)
    found = npk.linear_map(attending, allow=("exp", "div"))(SMALL, X)
    assert not found.certificate.proven and found.certificate.affine > 1e-3 and found.certificate.same < 1e-5
    assert_close(found.matrix(), of_samples(attending, SMALL, X))
    assert_close(found @ X + found.offset, attending(SMALL, X))


def swiglu(p, x):
    return (jax.nn.silu(x @ p["w"]) * (x @ p["u"])) @ p["v"]


def mixing(p, x):
    """The features of a sample as its positions, which attend to each other."""
    q, k, v = (x[..., None] * p[leaf][None] for leaf in ("q", "k", "u"))
    pattern = jax.nn.softmax(jnp.einsum("npc,nqc->npq", q, k), -1)
    return jnp.einsum("npq,nqc->npc", pattern, v).reshape(len(x), -1) @ p["o"]


OTHERS = {"u": normal(5, 6)}
MIXING = {"q": normal(5, 2), "k": normal(5, 2), "u": normal(5, 2), "o": normal(10, 3)}


def held(f, p, x, x2):
    """What layers, norms and products make of x2 where the gates are those of x, by hand."""
    hold, p = np.asarray, {name: np.asarray(leaf, np.float64) for name, leaf in p.items()}
    x, x2 = hold(x, np.float64), hold(x2, np.float64)
    if f is swiglu:
        q = x @ p["w"]
        return (q / (1 + np.exp(-q)) * (x2 @ p["u"])) @ p["v"]
    if f is mixing:
        q, k = (x[..., None] * p[leaf] for leaf in ("q", "k"))
        e = np.exp(np.einsum("npc,nqc->npq", q, k))
        mixed = (e / e.sum(-1, keepdims=True)) @ (x2[..., None] * p["u"])
        return mixed.reshape(len(x), -1) @ p["o"]
    active = x @ p["w"] > 0
    h, h2 = x @ p["w"] * active, x2 @ p["w"] * active
    h, h2 = (a - a.mean(-1, keepdims=True) for a in (h, h2))
    return h2 / np.sqrt((h * h).mean(-1, keepdims=True) + 1e-3) @ p["v"]


@pytest.mark.parametrize("f", [layer_normed, swiglu, mixing])
def test_a_norm_a_product_and_a_pattern_are_held_as_gates(f):
    p = MIXING if f is mixing else SMALL | OTHERS
    found, other = npk.linear_map(f)(p, X), normal(*X.shape)
    assert found.certificate.proven and found.certificate.affine < 1e-5 and found.certificate.same < 1e-5
    assert_close(found @ other + found.offset, held(f, p, X, other))
    assert_close(jnp.einsum("noi,ni->no", found.matrix(), other), held(f, p, X, other))


def of_vectors(net):
    tokens = jnp.asarray([[0, 3, 1, 2], [4, 4, 2, 0]])
    params = jax.jit(net.init)(jax.random.key(0), tokens)
    f = functools.partial(net.apply, method="decode")
    return f, params, net.apply(params, tokens, method="embed")


def of_images(net):
    x = normal(2, 4, 4, 2)
    return net.apply, jax.jit(net.init)(jax.random.key(0), x), x


NETWORKS = {
    "ViT": lambda: of_images(networks.ViT(patch=2, width=4, depth=1, heads=2, outputs=2, pooling="cls")),
    "MLPMixer": lambda: of_images(networks.MLPMixer(patch=2, width=4, depth=1, outputs=2)),
    "ConvNeXt": lambda: of_images(networks.ConvNeXt(width=4, depths=(1,), layer_scale=0.5, outputs=2)),
    "GPT": lambda: of_vectors(networks.GPT(vocabulary=5, length=4, width=4, depth=1, heads=2, last=True)),
    "LLaMA": lambda: of_vectors(networks.LLaMA(vocabulary=5, width=8, depth=1, heads=2, kv_heads=1, last=True)),
}


@pytest.mark.standard_dtypes
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS.keys())
def test_networks_of_tokens_are_linear_given_their_gates(make):
    """In either precision; weights as they begin, but larger, so that patterns and scales are far from alike."""
    f, params, x = make()
    for dtype, most in ((jnp.float32, 1e-5), (jnp.float64, 1e-12)):
        here, at = jax.tree.map(lambda a, dtype=dtype: (3 * a).astype(dtype), (params, x))
        found = npk.linear_map(f)(here, at)
        certificate = found.certificate
        assert certificate.proven and certificate.same < most and certificate.affine < most
        assert found.offset.dtype == dtype


def test_without_activations_and_through_gates_alone():
    f = mlp(jax.nn.relu)
    found = npk.linear_map(npk.linear(f))(MLP, X)
    m, c = by_hand_under(MLP, [np.ones((4, n)) for n in SIZES[1:-1]])
    assert_close(found.matrix(), m)
    assert_close(found.offset, c)
    p = {"feature": MLP, "value": MLP}
    found = npk.linear_map(npk.DLGN(f, constant_input=True))(p, X)
    np.testing.assert_array_equal(found.matrix(), 0)
    assert_close(found.offset, npk.DLGN(f, constant_input=True)(p, X))
    np.testing.assert_array_equal(found.singular_values(1), 0)


def test_a_layer_before_what_is_not_affine_needs_no_leave():
    def f(p, x):
        return jax.nn.softmax(jax.nn.relu(x @ p["w"]) @ p["v"])

    found = npk.linear_map(f, layer=0)(SMALL, X)
    assert found.certificate.proven
    assert_close(found.matrix(), jnp.broadcast_to(SMALL["w"].T, (4, 6, 5)))


def test_a_certificate_can_fail():
    """One of a form that is not f's: other gates, or another offset."""
    found = npk.linear_map(mlp(jax.nn.relu))(MLP, X)
    wrong = dataclasses.replace(found, gates=tuple(g + 0.1 for g in found.gates))
    assert wrong.certificate.same > 1e-3
    assert dataclasses.replace(found, offset=found.offset + 1).certificate.same > 1e-3


@jax.custom_vjp
def reversed_gradient(x):
    return 2 * x


reversed_gradient.defvjp(lambda x: (2 * x, None), lambda _, g: (-g,))


@jax.custom_jvp
def doubled(x):
    return 2 * x


doubled.defjvp(lambda primals, tangents: (2 * primals[0], 0 * tangents[0]))


def in_a_loop(function):
    return lambda x: jax.lax.scan(lambda carry, _: (function(carry), None), x, None, length=2)[0]


@pytest.mark.parametrize(
    "function, factor",
    [
        (jax.lax.stop_gradient, 1),
        (reversed_gradient, 2),
        (doubled, 2),
        (in_a_loop(jax.lax.stop_gradient), 1),
        (in_a_loop(doubled), 4),
        (in_a_loop(reversed_gradient), 4),
    ],
    ids=["stopped", "custom vjp", "custom jvp", "stopped in a loop", "custom jvp in a loop", "custom vjp in a loop"],
)
def test_what_a_model_says_of_its_derivatives_does_not_count(function, factor):
    def f(p, x):
        return (x + function(x)) @ p["w"]

    found = npk.linear_map(f)(SMALL, X)
    expected = jnp.broadcast_to((1 + factor) * SMALL["w"].T, (4, 6, 5))
    assert_close(found.matrix(), expected)
    assert_close(found.rmatvec(jnp.ones((4, 6))), expected.sum(1))
    assert_close(found @ X, f(SMALL, X))
    assert found.certificate.proven and found.certificate.same < 1e-5


def test_derivatives_hidden_in_a_branch_are_refused():
    def f(p, x):
        return jax.lax.cond(p["w"][0, 0] > 0, jax.lax.stop_gradient, lambda x: x, x) @ p["w"]

    with pytest.raises(npk.UnsupportedOperation, match="`cond` at"):
        npk.linear_map(f)(SMALL, X)


def test_gates_of_another_network_are_held():
    f = mlp(jax.nn.relu)
    p = {"feature": jax.tree.map(lambda a: -a, MLP), "value": MLP}
    found = npk.linear_map(npk.DGN(f))(p, X)
    gates = npk.gates(f)(p["feature"], X)
    m, _ = by_hand_under(MLP, gates)
    assert_close(found.matrix(), m)
    assert_close(found @ X + found.offset, npk.DGN(f)(p, X))
    assert found.certificate.proven


def by_hand_under(p, gates):
    """M and c of an MLP under gates from elsewhere."""
    n = len(gates[0])
    m, c = np.broadcast_to(np.eye(SIZES[0]), (n, SIZES[0], SIZES[0])), np.zeros((n, SIZES[0]))
    for w, b, g in zip(p["w"], p["b"], (*gates, None)):
        w, b = np.asarray(w, np.float64), np.asarray(b, np.float64)
        m, c = w.T @ m, c @ w + b
        if g is not None:
            m, c = np.asarray(g)[:, :, None] * m, np.asarray(g) * c
    return m, c


def test_a_held_map_does_not_follow_what_f_reads():
    scale = {"by": 2.0}

    def f(p, x):
        return jax.nn.relu(x @ p["w"]) * scale["by"]

    transform = npk.linear_map(f)
    found = transform(SMALL, X)
    before = f(SMALL, X)
    scale["by"] = 3.0
    assert_close(found @ X + found.offset, before)
    again = npk.linear_map(f)(SMALL, X)
    assert_close(again @ X + again.offset, f(SMALL, X))


def test_f_is_traced_once_for_a_shape():
    count = [0]

    def f(p, x):
        count[0] += 1
        return jax.nn.silu(x @ p["w"])

    transform = npk.linear_map(f)
    transform(SMALL, X)
    traced = count[0]
    for x in (X, 2 * X):
        found = transform(SMALL, x)
        found.matvec(x)
        found.matrix()
    assert count[0] == traced
