"""Networks of tokens."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from breadth.models.attention import PROJECTIONS, mixed, scores
from breadth.models.making import TOKENS, WIDTH, WORDS, linen, model, plain, sentences

from npk import networks

WORDS_ = "tokens"


@model(WORDS_, "bag of embeddings")
def _():
    class Bag(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(1)(nn.relu(nn.Dense(2)(nn.Embed(WORDS, WIDTH)(x).mean(1))))

    return linen(Bag(), 1, x=sentences())


@model(WORDS_, "embeddings, positions, attention")
def _():
    def f(p, x):
        h = p["table"][x] + p["positions"]
        q, k, v = (jnp.einsum("npc,chd->nphd", h, p[name]) for name in "qkv")
        out = h + jnp.einsum("nphd,hdc->npc", mixed(jax.nn.softmax(scores(q, k)), v), p["o"])
        return out[:, -1] @ p["c"]

    return plain(f, 1, x=sentences(), table=(WORDS, WIDTH), positions=(TOKENS, WIDTH), **PROJECTIONS)


@model(WORDS_, "class token")
def _():
    def f(p, x):
        first = jnp.broadcast_to(p["cls"], (len(x), 1, WIDTH))
        h = jnp.concatenate([first, x @ p["a"]], 1) + p["positions"]
        q, k, v = (jnp.einsum("npc,chd->nphd", h, p[name]) for name in "qkv")
        out = h + jnp.einsum("nphd,hdc->npc", mixed(jax.nn.softmax(scores(q, k)), v), p["o"])
        return out[:, 0] @ p["c"]

    return plain(f, 1, 2, WIDTH, a=(WIDTH, WIDTH), cls=(WIDTH,), positions=(3, WIDTH), **PROJECTIONS)


@model(WORDS_, "tied embeddings")
def _():
    def f(p, x):
        return jax.nn.relu(p["table"][x].mean(1) @ p["a"]) @ p["table"].T

    return plain(f, 1, x=sentences(), table=(WORDS, WIDTH), a=(WIDTH, WIDTH))


@model(WORDS_, "`GPT`, untied")
def _():
    net = networks.GPT(WORDS, TOKENS, 2, 1, 1, hidden=1, last=True, tied=False)
    return linen(net, 5, x=sentences())


@model(WORDS_, "`GPT`, tied")
def _():
    return linen(networks.GPT(WORDS, TOKENS, 2, 1, 1, hidden=1, last=True), 5, x=sentences())


@model(WORDS_, "`LLaMA`")
def _():
    return linen(networks.LLaMA(WORDS, 4, 1, 2, 1, hidden=1, outputs=1, last=True), 5, x=sentences())
