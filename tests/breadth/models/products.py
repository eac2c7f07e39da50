"""Products of a value and a gate."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from breadth.models.making import TOKENS, WIDTH, linen, model, plain

import npk

PRODUCTS = "products"
GLU = {"a": (3, 3), "b": (3, 3), "c": (3, 1)}


@model(PRODUCTS, "SwiGLU")
def _():
    return plain(lambda p, x: (jax.nn.silu(x @ p["a"]) * (x @ p["b"])) @ p["c"], 1, 3, **GLU)


@model(PRODUCTS, "GEGLU")
def _():
    return plain(lambda p, x: ((x @ p["b"]) * jax.nn.gelu(x @ p["a"])) @ p["c"], 1, 3, **GLU)


@model(PRODUCTS, "`jax.nn.glu`")
def _():
    return plain(lambda p, x: jax.nn.glu(x @ p["ab"]) @ p["c"], 1, 3, ab=(3, 6), c=(3, 1))


@model(PRODUCTS, "sigmoid gate, highway")
def _():
    def f(p, x):
        open_ = jax.nn.sigmoid(x @ p["a"])
        return (open_ * jax.nn.relu(x @ p["b"]) + (1 - open_) * x) @ p["c"]

    return plain(f, 2, 3, **GLU)


@model(PRODUCTS, "squeeze and excite")
def _():
    class SE(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.relu(nn.Conv(2, (2, 2))(x))
            s = nn.sigmoid(nn.Dense(2)(nn.relu(nn.Dense(1)(x.mean((1, 2))))))
            return nn.Dense(1)((x * s[:, None, None]).mean((1, 2)))

    return linen(SE(), 2, 3, 3, 1)


@model(PRODUCTS, "mixture of two experts")
def _():
    def f(p, x):
        share = jax.nn.softmax(x @ p["router"])
        return jnp.einsum("ne,neo->no", share, jnp.einsum("ni,eio->neo", x, p["experts"])) @ p["c"]

    return plain(f, 1, 3, router=(3, 2), experts=(2, 3, 2), c=(2, 1))


@model(PRODUCTS, "one expert of two, the largest")
def _():
    def f(p, x):
        chosen = jnp.argmax(x @ p["router"], -1)
        first, second = jax.nn.relu(x @ p["a"]), jax.nn.relu(x @ p["b"])
        return jnp.where((chosen == 0)[:, None], first, second) @ p["c"]

    return plain(f, 3, 3, router=(3, 2), **GLU)


@model(PRODUCTS, "bilinear layer")
def _():
    return plain(lambda p, x: ((x @ p["a"]) * (x @ p["b"])) @ p["c"], None, 3, **GLU)


@model(PRODUCTS, "bilinear layer, one side declared by `as_gate`")
def _():
    return plain(lambda p, x: ((x @ p["a"]) * npk.as_gate(x @ p["b"])) @ p["c"], 1, 3, **GLU)


@model(PRODUCTS, "selective state space (S6) in a scan")
def _():
    def f(p, x):
        step = jax.nn.sigmoid(x @ p["step"])
        new = step * (x @ p["in"])

        def move(state, now):
            keep, add = now
            state = keep * state + add
            return state, state

        _, states = jax.lax.scan(move, jnp.zeros_like(new[:, 0]), ((1 - step).swapaxes(0, 1), new.swapaxes(0, 1)))
        return states.mean(0) @ p["c"]

    return plain(f, 1, TOKENS, WIDTH, step=(WIDTH, WIDTH), **{"in": (WIDTH, WIDTH)}, c=(WIDTH, 1))
