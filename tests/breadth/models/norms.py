"""Norms."""

import math
from typing import Any

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
from breadth.models.layers import Normed
from breadth.models.making import MODELS, equinox, linen, model, of_nnx, plain
from flax import nnx

NORMS = "norms"


def a_norm(name: str, norm, gates: int | None = 2, *shape: int):
    MODELS.setdefault(NORMS, {})[name] = lambda: linen(Normed(norm), gates, *(shape or (3,)))


def an_nnx_norm(name: str, norm, *shape: int, gates: int = 2):
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.a, self.norm = nnx.Linear(3, 4, rngs=rngs), norm(rngs)
            self.b = nnx.Linear(4 * math.prod(shape), 1, rngs=rngs)

        def __call__(self, x):
            return self.b(nnx.relu(self.norm(self.a(x))).reshape(len(x), -1))

    MODELS.setdefault(NORMS, {})[name] = lambda: of_nnx(Net, gates, *shape, 3)


def an_equinox_norm(name: str, norm):
    class Net(eqx.Module):
        a: Any
        norm: Any
        b: Any

        def __init__(self, key):
            self.a, self.norm, self.b = eqx.nn.Linear(3, 4, key=key), norm(), eqx.nn.Linear(4, 1, key=key)

        def __call__(self, x):
            return self.b(jax.nn.relu(self.norm(self.a(x))))

    MODELS.setdefault(NORMS, {})[name] = lambda: equinox(Net, 2, 3)


def layer_norm(p, x):
    mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / jnp.sqrt(var + 1e-5) * p["scale"] + p["shift"]


def rms_norm(p, x):
    return x * jax.lax.rsqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-5) * p["scale"]


@model(NORMS, "layer norm by hand")
def _():
    def f(p, x):
        return jax.nn.relu(layer_norm(p, x @ p["a"])) @ p["c"]

    return plain(f, 2, 3, a=(3, 3), scale=(3,), shift=(3,), c=(3, 1))


a_norm("layer norm, Linen", nn.LayerNorm)
an_nnx_norm("layer norm, NNX", lambda rngs: nnx.LayerNorm(4, rngs=rngs))
an_equinox_norm("layer norm, Equinox", lambda: eqx.nn.LayerNorm(4))


@model(NORMS, "RMS norm by hand")
def _():
    return plain(lambda p, x: jax.nn.relu(rms_norm(p, x @ p["a"])) @ p["c"], 2, 3, a=(3, 3), scale=(3,), c=(3, 1))


a_norm("RMS norm, Linen", nn.RMSNorm)
an_nnx_norm("RMS norm, NNX", lambda rngs: nnx.RMSNorm(4, rngs=rngs))
an_equinox_norm("RMS norm, Equinox", lambda: eqx.nn.RMSNorm(4))
a_norm("group norm, Linen", lambda: nn.GroupNorm(2), 2, 2, 3)
an_nnx_norm("group norm, NNX", lambda rngs: nnx.GroupNorm(4, 2, rngs=rngs), 2)
an_equinox_norm("group norm, Equinox", lambda: eqx.nn.GroupNorm(2, 4))
a_norm("instance norm, Linen", nn.InstanceNorm, 2, 2, 3)
an_nnx_norm("instance norm, NNX", lambda rngs: nnx.InstanceNorm(4, rngs=rngs), 2)
a_norm("batch norm in evaluation, Linen", lambda: nn.BatchNorm(True), 1)
an_nnx_norm(
    "batch norm in evaluation, NNX", lambda rngs: nnx.BatchNorm(4, use_running_average=True, rngs=rngs), gates=1
)


@model(NORMS, "batch norm in training")
def _():
    def f(p, x):
        h = x @ p["a"]
        h = (h - h.mean(0, keepdims=True)) / jnp.sqrt(h.var(0, keepdims=True) + 1e-5) * p["scale"] + p["shift"]
        return jax.nn.relu(h) @ p["c"]

    return plain(f, 1, 3, a=(3, 3), scale=(3,), shift=(3,), c=(3, 1), affine=False)
