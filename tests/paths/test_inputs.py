"""Inputs that are no single array of numbers, and outputs that are no single vector."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import npk

VOCABULARY, WIDTH = 5, 3


@pytest.fixture(autouse=True)
def in_float64():
    with jax.enable_x64(True):
        yield


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


@functools.cache
def problem():
    """Tokens, numbers and a mask side by side: an embedding, attention among what is not masked, its mean."""
    p = {
        "table": normal(0, VOCABULARY, WIDTH),
        "w": normal(1, 2, WIDTH),
        "qk": normal(2, WIDTH, WIDTH),
        "v": normal(3, WIDTH, WIDTH),
        "out": normal(4, WIDTH, 2),
    }
    rng = np.random.default_rng(5)
    x = {
        "mask": jnp.arange(4)[None] < jnp.array([[4], [2], [3]]),
        "nodes": normal(6, 3, 4, 2),
        "tokens": jnp.asarray(rng.integers(0, VOCABULARY, (3, 4))),
    }
    return p, x


def attention(p, x):
    h = p["table"][x["tokens"]] + x["nodes"] @ p["w"]
    scores = jnp.where(x["mask"][:, None, :], jnp.einsum("npd,de,nqe->npq", h, p["qk"], h), -jnp.inf)
    return jnp.einsum("npq,nqd->npd", jax.nn.softmax(scores), h @ p["v"])


def mean(p, x):
    m = x["mask"].astype(float)[..., None]
    return (attention(p, x) * m).sum(1) / m.sum(1) @ p["out"]


def by_hand(p, x, normalize):
    """H = Σ over pairs of positions of the weights with which they are read, times K of what they hold."""
    h = p["table"][x["tokens"]] + x["nodes"] @ p["w"]
    scores = np.einsum("npd,de,nqe->npq", h, p["qk"], h)
    scores = np.where(np.asarray(x["mask"])[:, None, :], scores, -np.inf)
    pattern = np.exp(scores - scores.max(-1, keepdims=True))
    pattern /= pattern.sum(-1, keepdims=True)
    mask = np.asarray(x["mask"], float)
    weights = np.einsum("np,npq->nq", mask / mask.sum(1, keepdims=True), pattern)
    fan = (2, WIDTH, WIDTH) if normalize else (1, 1, 1)
    same = np.asarray(x["tokens"])[:, :, None, None] == np.asarray(x["tokens"])[None, None]
    k = same + np.einsum("npi,mqi->npmq", x["nodes"], x["nodes"]) / fan[0]
    contracted = 1 if normalize else WIDTH * WIDTH
    return np.einsum("np,mq,npmq->nm", weights, weights, k) * contracted


@pytest.mark.parametrize("normalize", (True, False))
def test_the_kernel_of_a_tree_of_tokens_numbers_and_masks(normalize):
    p, x = problem()
    h = npk.path_kernel(mean)(p, x, normalize=normalize)
    np.testing.assert_allclose(h, by_hand(p, x, normalize), rtol=1e-12)
    some = jax.tree.map(lambda a: a[1:], x)
    np.testing.assert_allclose(npk.path_kernel(mean)(p, some, x, normalize=normalize), h[1:], rtol=1e-12)
    np.testing.assert_allclose(jax.jit(npk.path_kernel(mean))(p, x), by_hand(p, x, True), rtol=1e-12)


def test_features_gates_and_tangents_of_a_tree():
    p, x = problem()
    phi, v = npk.npf(mean)(p, x), npk.npv(mean)(p, x)
    np.testing.assert_allclose(phi @ v, mean(p, x), rtol=1e-10)
    np.testing.assert_allclose(phi @ phi.T, by_hand(p, x, False), rtol=1e-10)
    gates = npk.gates(mean)(p, x)
    np.testing.assert_allclose(npk.gated(mean)(p, x, gates), mean(p, x), rtol=1e-12)
    reading = npk.explain(mean)(p, x)
    assert reading.certified and [g.kind for g in reading.gates] == ["pattern", "product", "product"]
    assert {q.name: q.fan_in for q in reading.parameters if q.role == "weight"}["table"] == 1

    def flat(p):
        return mean(p, x)

    leaves = [a.reshape(3, 2, -1) for a in jax.tree.leaves(jax.jacrev(flat)(p))]
    jacobian = jnp.concatenate(leaves, -1)
    total = jnp.einsum("nki,mki->nm", jacobian, jacobian)
    np.testing.assert_allclose(npk.ntk(mean)(p, x), total, rtol=1e-10)
    np.testing.assert_allclose(npk.split_ntk(mean)(p, x).total, total, rtol=1e-10)


def test_a_position_of_the_output_or_a_function_that_returns_one_number():
    p, x = problem()
    every = lambda p, x: attention(p, x) @ p["out"]  # noqa: E731
    for position in (0, 2):
        one = lambda p, x, position=position: every(p, x)[:, position]  # noqa: E731
        h = npk.path_kernel(every, output=(position, slice(None)))(p, x)
        np.testing.assert_allclose(h, npk.path_kernel(one)(p, x), rtol=1e-12)
    h_first = npk.path_kernel(every, output=(0, slice(None)))(p, x)
    number = lambda p, x: mean(p, x)[:, 0]  # noqa: E731
    np.testing.assert_allclose(npk.path_kernel(number, output=())(p, x), by_hand(p, x, True), rtol=1e-12)
    assert npk.npf(number, output=())(p, x).shape == npk.npf(mean)(p, x).shape
    with pytest.raises(ValueError, match=r"output=\(0, slice\(None\)\)"):
        npk.path_kernel(every)(p, x)
    with pytest.raises(ValueError, match="chooses nothing"):
        npk.path_kernel(every, output=(9, slice(None)))(p, x)
    with pytest.raises(ValueError, match="leave one axis"):
        npk.npf(every, output=slice(2))(p, x)
    np.testing.assert_allclose(npk.path_kernel(every, output=slice(2))(p, x)[..., 0], h_first, rtol=1e-12)


def test_trees_that_are_no_batch_are_refused_with_what_is_wrong():
    p, x = problem()
    short = {**x, "nodes": x["nodes"][:2]}
    with pytest.raises(ValueError, match=r"as many of each: .*x1/nodes': 2"):
        npk.path_kernel(mean)(p, short)
    with pytest.raises(ValueError, match="one structure"):
        npk.path_kernel(mean)(p, x, {k: x[k] for k in ("mask", "nodes")})
    with pytest.raises(ValueError, match="x/nodes must be finite"):
        npk.gates(mean)(p, {**x, "nodes": x["nodes"].at[0].set(jnp.nan)})


def test_a_token_beyond_the_table_has_no_kernel():
    """As f itself has none: where it takes the nearest row, so do paths; where it makes NaN, there is no number."""
    p = {"table": normal(0, VOCABULARY, WIDTH), "out": normal(1, WIDTH, 1)}
    x = jnp.array([[0, 1], [4, 9]])
    near = lambda p, x: jnp.take(p["table"], x, axis=0, mode="clip").mean(1) @ p["out"]  # noqa: E731
    h = npk.path_kernel(near)(p, x)
    np.testing.assert_allclose(h, npk.path_kernel(near)(p, jnp.array([[0, 1], [4, 4]])))
    none = lambda p, x: jnp.take(p["table"], x, axis=0).mean(1) @ p["out"]  # noqa: E731
    with pytest.raises(ValueError, match="leaves the range"):
        npk.path_kernel(none)(p, x)


def test_rows_are_looked_up_as_one_hot_vectors_are_multiplied():
    p = {"table": normal(0, VOCABULARY, WIDTH), "out": normal(1, 4 * WIDTH, 1)}
    x = jnp.asarray(np.random.default_rng(2).integers(0, VOCABULARY, (6, 4)))
    spellings = (
        lambda p, x: p["table"][x],
        lambda p, x: jax.nn.one_hot(x, VOCABULARY, dtype=float) @ p["table"],
        lambda p, x: (x[..., None] == jnp.arange(VOCABULARY)[None, None]).astype(float) @ p["table"],
        lambda p, x: jax.vmap(jax.vmap(lambda t: p["table"][t]))(x),
    )
    same = (np.asarray(x)[:, None] == np.asarray(x)[None]).mean(-1)
    for spelled in spellings:
        f = lambda p, x, spelled=spelled: spelled(p, x).reshape(len(x), -1) @ p["out"]  # noqa: E731
        np.testing.assert_allclose(npk.path_kernel(f)(p, x), same, rtol=1e-12)
