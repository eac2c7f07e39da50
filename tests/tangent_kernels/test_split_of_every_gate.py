"""K = K^V + K^F + K^CROSS of transformers, norms and recurrent networks, by Jacobians with the gates stopped by hand.

Every model is written once, with `hold` around what is a gate: without it it is f, with `stop_gradient` the value part.
"""

import dataclasses
import fnmatch
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import npk

pytestmark = [pytest.mark.standard_dtypes, pytest.mark.usefixtures("x64", "as_users_write")]


@pytest.fixture
def as_users_write():
    with jax.numpy_rank_promotion("allow"):
        yield


P, C, OUT, EPS = 3, 4, 2, 1e-3
KINDS = ("activation", "choice", "scale", "pattern", "product")


class Hold:
    """What is done to a gate of some kinds: its gradient is stopped."""

    def __init__(self, *kinds: str):
        self.kinds = kinds

    def __call__(self, kind: str, gate: Any) -> Any:
        return jax.lax.stop_gradient(gate) if kind in self.kinds else gate


NOTHING = Hold()


# -- models, as functions of (p, x, hold) ----------------------------------------------------------------


def layer_norm(p, h, hold, axes=(-1,)):
    centred = h - h.mean(axes, keepdims=True)
    return centred * hold("scale", jax.lax.rsqrt((centred**2).mean(axes, keepdims=True) + EPS)) * p["γ"] + p["β"]


def rms_norm(p, h, hold):
    return h * hold("scale", 1 / jnp.sqrt((h * h).mean(-1, keepdims=True) + EPS)) * p["γ"]


def silu(q, hold):
    return q * hold("activation", jax.nn.sigmoid(q))


def attention(p, h, hold, mask=False):
    """Heads of queries in groups that share keys and values."""
    q = jnp.einsum("npc,chd->nphd", h, p["query"])
    k, v = (jnp.einsum("npc,cgd->npgd", h, p[leaf]) for leaf in ("key", "value"))
    repeats = q.shape[2] // k.shape[2]
    k, v = jnp.repeat(k, repeats, 2), jnp.repeat(v, repeats, 2)
    scores = jnp.einsum("nphd,nqhd->nhpq", q, k)
    if mask:
        scores = jnp.where(np.tril(np.ones((P, P), bool)), scores, -1e30)
    pattern = hold("pattern", jax.nn.softmax(scores, -1))
    return jnp.einsum("nhpq,nqhd,hdc->npc", pattern, v, p["out"])


def swiglu(p, h, hold):
    return (hold("product", jax.nn.silu(h @ p["gate"])) * (h @ p["up"])) @ p["down"]


def mlp(p, h, hold):
    return silu(h @ p["in"] + p["bias"], hold) @ p["down"]


def pre_norm(p, x, hold):
    h = x @ p["embed"]
    h = h + attention(p["attention"], layer_norm(p["norm1"], h, hold), hold)
    h = h + swiglu(p["mlp"], layer_norm(p["norm2"], h, hold), hold)
    return layer_norm(p["norm3"], h, hold).mean(1) @ p["head"]


def post_norm(p, x, hold):
    h = x @ p["embed"]
    h = layer_norm(p["norm1"], h + attention(p["attention"], h, hold), hold)
    h = layer_norm(p["norm2"], h + mlp(p["mlp"], h, hold), hold)
    return h[:, 0] @ p["head"]


def grouped(p, x, hold):
    h = x @ p["embed"]
    h = h + attention(p["attention"], rms_norm(p["norm1"], h, hold), hold, mask=True)
    return rms_norm(p["norm2"], h, hold)[:, -1] @ p["head"]


def of_tokens(p, x, hold):
    h = p["table"][x] + p["places"]
    h = h + attention(p["attention"], rms_norm(p["norm1"], h, hold), hold, mask=True)
    h = h + mlp(p["mlp"], layer_norm(p["norm2"], h, hold), hold)
    return h.mean(1) @ p["head"]


def group_normed(p, x, hold):
    """Convolutions along one axis; groups of two channels over all positions; a maximum at the end."""

    def norm(p, h):
        parts = h.reshape(*h.shape[:2], -1, 2)
        centred = parts - parts.mean((1, 3), keepdims=True)
        r = hold("scale", jax.lax.rsqrt((centred**2).mean((1, 3), keepdims=True) + EPS))
        return (centred * r).reshape(h.shape) * p["γ"] + p["β"]

    def convolved(h, w):
        return jax.lax.conv_general_dilated(h, w, (1,), "SAME", dimension_numbers=("NHC", "HIO", "NHC"))

    h = silu(norm(p["norm1"], convolved(x, p["first"])), hold)
    h = silu(norm(p["norm2"], convolved(h, p["second"])), hold)
    return h.max(1) @ p["head"]


def recurrent(p, x, hold):
    """An LSTM: its gates are logistic; what goes into a cell, and what comes out of it, is tanh."""

    def tanh(q):
        return q * hold("activation", jnp.where(q == 0, 1, jnp.tanh(q) / jnp.where(q == 0, 1, q)))

    def step(carry, x):
        h, c = carry
        i, f, g, o = jnp.split(x @ p["input"] + h @ p["state"] + p["bias"], 4, -1)
        i, f, o = (hold("product", jax.nn.sigmoid(q)) for q in (i, f, o))
        c = f * c + i * (jnp.tanh(g) if hold is NOTHING else tanh(g))
        h = o * (jnp.tanh(c) if hold is NOTHING else tanh(c))
        return (h, c), None

    start = jnp.zeros((len(x), C), x.dtype)
    (h, _), _ = jax.lax.scan(step, (start, start), jnp.moveaxis(x, 1, 0))
    return h @ p["head"]


def squeezed(p, x, hold):
    h = jax.nn.relu(x @ p["embed"])
    s = hold("product", jax.nn.sigmoid(jax.nn.relu(h.mean(1) @ p["squeeze"]) @ p["excite"]))
    return (h * s[:, None]).mean(1) @ p["head"]


NORM = {"γ": (C,), "β": (C,)}
HEADS = {"query": (C, 2, 2), "key": (C, 2, 2), "value": (C, 2, 2), "out": (2, 2, C)}
GROUPED = {**HEADS, "key": (C, 1, 2), "value": (C, 1, 2)}
MLP = {"in": (C, 5), "bias": (5,), "down": (5, C)}
GLU = {"gate": (C, 5), "up": (C, 5), "down": (5, C)}
ENDS = {"embed": (2, C), "head": (C, OUT)}
QUERIES = ("*/query", "*/key")


@dataclasses.dataclass(frozen=True)
class Model:
    """f(p, x, hold), its parameters' shapes, and the leaves that only gates read."""

    run: Callable[[Any, Any, Hold], Any]
    shapes: Any
    only_gates: tuple[str, ...]
    shape: tuple[int, ...] = (P, 2)
    tokens: bool = False

    @functools.cached_property
    def f(self):
        return lambda p, x: self.run(p, x, NOTHING)

    def params(self, seed=0):
        rng = np.random.default_rng([seed, 3])
        return jax.tree.map(lambda s: jnp.asarray(rng.normal(size=s)), self.shapes, is_leaf=lambda s: type(s) is tuple)

    def x(self, n=5, seed=0):
        rng = np.random.default_rng([seed, 4])
        return jnp.asarray(rng.integers(0, 5, (n, P)) if self.tokens else rng.normal(size=(n, *self.shape)))


MODELS = {
    "pre-norm": Model(
        pre_norm,
        {**ENDS, "attention": HEADS, "mlp": GLU, "norm1": NORM, "norm2": NORM, "norm3": NORM},
        (*QUERIES, "*/gate"),
    ),
    "post-norm": Model(post_norm, {**ENDS, "attention": HEADS, "mlp": MLP, "norm1": NORM, "norm2": NORM}, QUERIES),
    "grouped": Model(grouped, {**ENDS, "attention": GROUPED, "norm1": {"γ": (C,)}, "norm2": {"γ": (C,)}}, QUERIES),
    "tokens": Model(
        of_tokens,
        {
            "table": (5, C),
            "places": (P, C),
            "head": (C, OUT),
            "attention": GROUPED,
            "mlp": MLP,
            "norm1": {"γ": (C,)},
            "norm2": NORM,
        },
        QUERIES,
        tokens=True,
    ),
    "group norm": Model(
        group_normed,
        {"first": (3, 2, C), "second": (3, C, C), "head": (C, OUT), "norm1": NORM, "norm2": NORM},
        (),
        shape=(5, 2),
    ),
    "LSTM": Model(recurrent, {"input": (2, 4 * C), "state": (C, 4 * C), "bias": (4 * C,), "head": (C, OUT)}, ()),
    "squeeze and excite": Model(squeezed, {**ENDS, "squeeze": (C, 2), "excite": (2, C)}, ("squeeze", "excite")),
}
SLOW = ("LSTM", "tokens", "post-norm")  # to compile
every_model = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in MODELS]
)


# -- the oracle --------------------------------------------------------------------------------------------


def names_of(params):
    flat = jax.tree_util.tree_flatten_with_path(params)[0]
    return ["/".join(str(key.key) for key in path) for path, _ in flat]


@functools.cache
def jacobians(name, kinds=KINDS):
    """ψ^V and ψ^F of every leaf, [N, K, size], of all samples."""
    model = MODELS[name]
    params, x = model.params(), model.x()

    def of(hold):
        return jax.jacrev(lambda p: model.run(p, x, hold))(params)

    def flat(tree):
        return [np.asarray(leaf).reshape(len(x), OUT, -1) for leaf in jax.tree.leaves(tree)]

    whole, value = map(flat, jax.jit(lambda: (of(NOTHING), of(Hold(*kinds))))())
    return [(v, w - v) for v, w in zip(value, whole, strict=True)]


def parts(name, rows=slice(None), columns=slice(None), kinds=KINDS):
    """For every leaf K^V, K^F, K^CROSS and their sum, [N1, N2, K, K]."""
    product = lambda a, b: np.einsum("nkp,mlp->nmkl", a, b)  # noqa: E731
    found = {}
    for leaf, (v, f) in zip(names_of(MODELS[name].params()), jacobians(name, kinds), strict=True):
        (v1, v2), (f1, f2) = (v[rows], v[columns]), (f[rows], f[columns])
        found[leaf] = product(v1, v2), product(f1, f2), product(v1, f2) + product(f1, v2), product(v1 + f1, v2 + f2)
    return found


def close(ours, theirs, size):
    np.testing.assert_allclose(np.asarray(ours), theirs, rtol=0, atol=1e-10 * size)


def assert_split(split, expected, of=lambda a: a):
    size = max(np.abs(p).max() for leaf in expected.values() for p in leaf)
    assert set(split.blocks) == set(expected)
    for name, leaf in expected.items():
        block = split.blocks[name]
        for ours, theirs in zip((block.value, block.feature, block.cross, block.total), leaf, strict=True):
            close(ours, of(theirs), size)
    for number, ours in enumerate((split.value, split.feature, split.cross, split.total)):
        close(ours, of(sum(leaf[number] for leaf in expected.values())), size)


# -- npk ---------------------------------------------------------------------------------------------------


@every_model
def test_the_parts_are_products_of_jacobians_with_the_gates_stopped_by_hand(name):
    model = MODELS[name]
    params, x = model.params(), model.x()
    split = npk.split_ntk(model.f)(params, x[:3], x[3:], outputs="full")
    assert_split(split, parts(name, slice(3), slice(3, None)))
    for leaf, block in split.blocks.items():
        only = any(fnmatch.fnmatch(leaf, pattern) for pattern in model.only_gates)
        assert bool((block.value == 0).all()) == only, leaf
        assert not only or bool((block.cross == 0).all())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tokens", "LSTM"])
def test_the_diagonal_and_the_whole_are_of_the_same_parts(name):
    model = MODELS[name]
    params, x, expected = model.params(), model.x(), parts(name)
    assert_split(npk.split_ntk_diagonal(model.f)(params, x), expected, lambda k: np.einsum("nnkk->n", k))
    whole = sum(leaf[3] for leaf in expected.values()).trace(axis1=2, axis2=3)
    close(npk.ntk(model.f)(params, x), whole, np.abs(whole).max())


@pytest.mark.parametrize("kinds", [("activation",), ("scale", "pattern")])
def test_gates_of_other_kinds_stay_in_the_value_part(kinds):
    model = MODELS["post-norm"]
    split = npk.split_ntk_diagonal(model.f, kinds=kinds)(model.params(), model.x())
    assert_split(split, parts("post-norm", kinds=kinds), lambda k: np.einsum("nnkk->n", k))
    assert bool((split.blocks["attention/query"].value == 0).all()) == ("pattern" in kinds)
