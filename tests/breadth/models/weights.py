"""Weights that are none, or that are used twice."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from breadth.models.making import TOKENS, WIDTH, linen, model, plain

REUSE = "weights twice, made, masked"


@model(REUSE, "one layer applied twice")
def _():
    return plain(lambda p, x: jax.nn.relu(jax.nn.relu(x @ p["w"]) @ p["w"]) @ p["c"], 2, 2, w=(2, 2), c=(2, 1))


@model(REUSE, "weight normalisation")
def _():
    def f(p, x):
        return jax.nn.relu(x @ (p["w"] / jnp.linalg.norm(p["w"], axis=0, keepdims=True) * p["g"])) @ p["c"]

    return plain(f, 1, 2, w=(2, 3), g=(3,), c=(3, 1))


@model(REUSE, "pruning mask")
def _():
    mask = np.arange(6).reshape(2, 3) % 2.0
    return plain(lambda p, x: jax.nn.relu(x @ (p["w"] * mask)) @ p["c"], 1, 2, w=(2, 3), c=(3, 1))


@model(REUSE, "low-rank adaptation (W + BA)")
def _():
    def f(p, x):
        return jax.nn.relu(x @ p["w"] + x @ p["a"] @ p["b"]) @ p["c"]

    return plain(f, 1, 2, w=(2, 3), a=(2, 1), b=(1, 3), c=(3, 1))


class Recurrent(nn.Module):
    cell: nn.Module

    @nn.compact
    def __call__(self, x):
        return nn.Dense(1)(nn.RNN(self.cell)(x)[:, -1])


@model(REUSE, "GRU in a scan")
def _():
    return linen(Recurrent(nn.GRUCell(2, param_dtype=jnp.float64)), 9, TOKENS, WIDTH)


@model(REUSE, "LSTM in a scan")
def _():
    return linen(Recurrent(nn.LSTMCell(2, param_dtype=jnp.float64)), 14, TOKENS, WIDTH)
