"""Attention in every spelling."""

import functools
import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from breadth.models.making import MODELS, TOKENS, WIDTH, WORDS, Model, equinox, linen, model, of_nnx, plain, sentences
from flax import nnx
from jax.experimental import pallas as pl

import npk

ATTENTION = "attention"
HEADS, SIZE = 2, 2
PROJECTIONS = {"q": (WIDTH, HEADS, SIZE), "k": (WIDTH, HEADS, SIZE), "v": (WIDTH, HEADS, SIZE)}
PROJECTIONS |= {"o": (HEADS, SIZE, WIDTH), "c": (WIDTH, 1)}
CAUSAL = np.tril(np.ones((TOKENS, TOKENS), bool))


def scores(q, k):
    return jnp.einsum("nphd,nqhd->nhpq", q, k) / math.sqrt(SIZE)


def attending(attend: Callable[[Any, Any, Any], Any], kv_heads: int = HEADS, gates: int | None = 2, **options) -> Model:
    """Heads, given q, k and v [N, T, heads, size]; then the mean over tokens of an MLP's hidden layer."""

    def f(p, x):
        q, k, v = (jnp.einsum("npc,chd->nphd", x, p[name]) for name in "qkv")
        mixed = jnp.einsum("nphd,hdc->npc", attend(q, k, v), p["o"])
        return jax.nn.relu(mixed).mean(1) @ p["c"]

    leaves = PROJECTIONS | {name: (WIDTH, kv_heads, SIZE) for name in "kv"}
    return plain(f, gates, TOKENS, WIDTH, **leaves, **options)


def an_attention(name: str, kv_heads: int = HEADS, **options):
    def enter(attend):
        MODELS.setdefault(ATTENTION, {})[name] = lambda: attending(attend, kv_heads, **options)
        return attend

    return enter


def mixed(a, v):
    return jnp.einsum("nhpq,nqhd->nphd", a, v)


@an_attention("`jax.nn.softmax`")
def _(q, k, v):
    return mixed(jax.nn.softmax(scores(q, k)), v)


@an_attention("softmax by hand, the maximum taken away")
def _(q, k, v):
    e = jnp.exp(scores(q, k) - scores(q, k).max(-1, keepdims=True))
    return mixed(e / e.sum(-1, keepdims=True), v)


@an_attention("softmax by hand, without a maximum")
def _(q, k, v):
    e = jnp.exp(scores(q, k))
    return mixed(e / e.sum(-1, keepdims=True), v)


@an_attention("exp of `log_softmax`")
def _(q, k, v):
    return mixed(jnp.exp(jax.nn.log_softmax(scores(q, k))), v)


@an_attention("exp of scores less `logsumexp`")
def _(q, k, v):
    return mixed(jnp.exp(scores(q, k) - jax.nn.logsumexp(scores(q, k), axis=-1, keepdims=True)), v)


@an_attention("values mixed before the division", gates=3)
def _(q, k, v):
    e = jnp.exp(scores(q, k))
    return mixed(e, v) / e.sum(-1).swapaxes(1, 2)[..., None]


@an_attention("causal mask by -inf")
def _(q, k, v):
    return mixed(jax.nn.softmax(jnp.where(CAUSAL, scores(q, k), -jnp.inf)), v)


@an_attention("causal mask by adding -1e9")
def _(q, k, v):
    return mixed(jax.nn.softmax(scores(q, k) + np.where(CAUSAL, 0, -1e9)), v)


@an_attention("`jax.nn.softmax` with `where`")
def _(q, k, v):
    return mixed(jax.nn.softmax(scores(q, k), where=CAUSAL), v)


@an_attention("temperature and bias of distance (ALiBi)")
def _(q, k, v):
    distance = np.abs(np.arange(TOKENS) - np.arange(TOKENS)[:, None])
    return mixed(jax.nn.softmax((scores(q, k) - 0.5 * distance) / 0.7), v)


@an_attention("sigmoid attention")
def _(q, k, v):
    return mixed(jax.nn.sigmoid(scores(q, k) - math.log(TOKENS)), v)


@an_attention("`vmap` over heads")
def _(q, k, v):
    def head(q, k, v):
        return jax.nn.softmax(q @ k.swapaxes(-1, -2) / math.sqrt(SIZE)) @ v

    return jax.vmap(head, in_axes=2, out_axes=2)(q, k, v)


@an_attention("queries one at a time (`lax.map`)", gates=TOKENS + 1)
def _(q, k, v):
    def row(one):
        return jnp.einsum("nhq,nqhd->nhd", jax.nn.softmax(jnp.einsum("nhd,nqhd->nhq", one, k)), v)

    return jax.lax.map(row, q.swapaxes(0, 1)).swapaxes(0, 1)


@an_attention("grouped queries, keys repeated", kv_heads=1)
def _(q, k, v):
    k, v = (jnp.repeat(part, HEADS, axis=2) for part in (k, v))
    return mixed(jax.nn.softmax(scores(q, k)), v)


SINGLE = {"precision": 1e-5}  # scores in float32


@an_attention("`jax.nn.dot_product_attention`", **SINGLE)
def _(q, k, v):
    return jax.nn.dot_product_attention(q, k, v)


@an_attention("`jax.nn.dot_product_attention`, causal", **SINGLE)
def _(q, k, v):
    return jax.nn.dot_product_attention(q, k, v, is_causal=True)


@an_attention("`jax.nn.dot_product_attention`, grouped queries", kv_heads=1, **SINGLE)
def _(q, k, v):
    return jax.nn.dot_product_attention(q, k, v)


@an_attention("linear attention, bare", gates=None)
def _(q, k, v):
    return mixed(scores(q, k), v)


@an_attention("linear attention, bare, declared by `as_gate`")
def _(q, k, v):
    return mixed(npk.as_gate(scores(q, k)), v)


@an_attention("linear attention, elu + 1, keys meet values first", gates=4)
def _(q, k, v):
    q, k = jax.nn.elu(q) + 1, jax.nn.elu(k) + 1
    state, total = jnp.einsum("nqhd,nqhe->nhde", k, v), k.sum(1)
    return jnp.einsum("nphd,nhde->nphe", q, state) / jnp.einsum("nphd,nhd->nph", q, total)[..., None]


def _pallas_kernel(q, k, v, out):
    out[:] = jax.nn.softmax(q[:] @ k[:].T / math.sqrt(SIZE)) @ v[:]


@an_attention("a Pallas kernel", gates=None)
def _(q, k, v):
    call = pl.pallas_call(_pallas_kernel, jax.ShapeDtypeStruct((TOKENS, SIZE), q.dtype), interpret=True)
    return jax.vmap(jax.vmap(call, in_axes=1, out_axes=1))(q, k, v)


@an_attention("a callback to the host", gates=None)
def _(q, k, v):
    def host(q, k, v):
        e = np.exp(np.einsum("nphd,nqhd->nhpq", q, k))
        return np.einsum("nhpq,nqhd->nphd", e / e.sum(-1, keepdims=True), v)

    return jax.pure_callback(host, jax.ShapeDtypeStruct(q.shape, q.dtype), q, k, v, vmap_method="expand_dims")


@an_attention("`while_loop` over keys", gates=None)
def _(q, k, v):
    def step(carry):
        i, top, bottom = carry
        e = jnp.exp(jnp.einsum("nphd,nhd->nph", q, jax.lax.dynamic_index_in_dim(k, i, 1, False)))
        value = jax.lax.dynamic_index_in_dim(v, i, 1, False)[:, None]
        return i + 1, top + e[..., None] * value, bottom + e

    start = (0, jnp.zeros_like(q), jnp.zeros(q.shape[:-1], q.dtype))
    _, top, bottom = jax.lax.while_loop(lambda c: c[0] < TOKENS, step, start)
    return top / bottom[..., None]


@model(ATTENTION, "cross-attention to a second part of the input")
def _():
    def f(p, x):
        to, of = x[:, :2], x[:, 2:]
        q = jnp.einsum("npc,chd->nphd", to, p["q"])
        k, v = (jnp.einsum("npc,chd->nphd", of, p[name]) for name in "kv")
        out = jnp.einsum("nphd,hdc->npc", mixed(jax.nn.softmax(scores(q, k)), v), p["o"])
        return jax.nn.relu(out).mean(1) @ p["c"]

    return plain(f, 2, 5, WIDTH, **PROJECTIONS)


@model(ATTENTION, "one matrix of queries, keys and values")
def _():
    def f(p, x):
        q, k, v = jnp.split((x @ p["qkv"]).reshape(*x.shape[:2], HEADS, 3 * SIZE), 3, axis=-1)
        out = mixed(jax.nn.softmax(scores(q, k)), v).reshape(*x.shape[:2], HEADS * SIZE)
        return jax.nn.relu(out @ p["o"]).mean(1) @ p["c"]

    return plain(f, 2, TOKENS, WIDTH, qkv=(WIDTH, 12), o=(4, WIDTH), c=(WIDTH, 1))


@model(ATTENTION, "padding mask")
def _():
    def f(p, x):
        seen, h = x != 0, p["table"][x]
        q, k, v = (jnp.einsum("npc,chd->nphd", h, p[name]) for name in "qkv")
        a = jax.nn.softmax(jnp.where(seen[:, None, None], scores(q, k), -jnp.inf))
        out = jnp.einsum("nphd,hdc->npc", mixed(a, v), p["o"])
        return ((out * seen[..., None]).sum(1) / seen.sum(1, keepdims=True)) @ p["c"]

    return plain(f, 3, x=sentences(), table=(WORDS, WIDTH), **PROJECTIONS)


class Linen(nn.Module):
    causal: bool = False
    cross: bool = False

    @nn.compact
    def __call__(self, x):
        mask = nn.make_causal_mask(jnp.ones(x.shape[:2])) if self.causal else None
        attend = nn.MultiHeadDotProductAttention(num_heads=2, qkv_features=2)
        x = attend(x[:, :1], x[:, 1:]) if self.cross else attend(x, mask=mask)
        return nn.Dense(1)(x.mean(1))


@model(ATTENTION, "Linen multi-head")
def _():
    return linen(Linen(), 1, TOKENS, WIDTH)


@model(ATTENTION, "Linen multi-head, causal")
def _():
    return linen(Linen(causal=True), 1, TOKENS, WIDTH)


@model(ATTENTION, "Linen multi-head, cross")
def _():
    return linen(Linen(cross=True), 1, TOKENS, WIDTH)


class NNX(nnx.Module):
    def __init__(self, rngs, causal=False, cross=False, kv_heads=None):
        self.attend = nnx.MultiHeadAttention(
            2, WIDTH, 4, num_kv_heads=kv_heads, decode=False, deterministic=True, rngs=rngs
        )
        self.head, self.causal, self.cross = nnx.Linear(WIDTH, 1, rngs=rngs), causal, cross

    def __call__(self, x):
        mask = nnx.make_causal_mask(jnp.ones(x.shape[:2])) if self.causal else None
        x = self.attend(x[:, :1], x[:, 1:]) if self.cross else self.attend(x, mask=mask)
        return self.head(x.mean(1))


@model(ATTENTION, "NNX multi-head")
def _():
    return of_nnx(NNX, 1, TOKENS, WIDTH, **SINGLE)


@model(ATTENTION, "NNX multi-head, causal")
def _():
    return of_nnx(functools.partial(NNX, causal=True), 1, TOKENS, WIDTH, **SINGLE)


@model(ATTENTION, "NNX multi-head, cross")
def _():
    return of_nnx(functools.partial(NNX, cross=True), 1, TOKENS, WIDTH, **SINGLE)


@model(ATTENTION, "NNX grouped queries")
def _():
    return of_nnx(functools.partial(NNX, kv_heads=1), 1, TOKENS, WIDTH, **SINGLE)


@model(ATTENTION, "Equinox multi-head")
def _():
    class Net(eqx.Module):
        attend: Any
        head: Any

        def __init__(self, key):
            self.attend, self.head = eqx.nn.MultiheadAttention(2, WIDTH, key=key), eqx.nn.Linear(WIDTH, 1, key=key)

        def __call__(self, x):
            return self.head(self.attend(x, x, x).mean(0))

    return equinox(Net, 1, TOKENS, WIDTH)
