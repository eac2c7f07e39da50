"""Networks of layers."""

import dataclasses
from collections.abc import Callable

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
from breadth.models.making import equinox, linen, model, of_nnx, plain
from flax import nnx

from npk import networks


class CNN(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(2, (3, 3))(x))
        x = nn.relu(nn.Conv(2, (3, 3), strides=2)(x))
        return nn.Dense(2)(x.mean((1, 2)))


class DenseNet(nn.Module):
    @nn.compact
    def __call__(self, x):
        for _ in range(2):
            x = jnp.concatenate([x, nn.Conv(1, (2, 2))(nn.relu(x))], axis=-1)
        return nn.Dense(1)(x.mean((1, 2)))


class UNet(nn.Module):
    @nn.compact
    def __call__(self, x):
        wide = nn.relu(nn.Conv(1, (2, 2))(x))
        deep = nn.relu(nn.Conv(1, (2, 2))(nn.avg_pool(wide, (2, 2), (2, 2))))
        up = jax.image.resize(deep, (*wide.shape[:-1], 1), "bilinear")
        x = nn.relu(nn.Conv(1, (1, 1))(jnp.concatenate([wide, up], axis=-1)))
        return nn.Dense(1)(x.mean((1, 2)))


class Normed(nn.Module):
    norm: Callable[[], nn.Module]

    @nn.compact
    def __call__(self, x):
        return nn.Dense(1)(nn.relu(self.norm()(nn.Dense(4)(x))).reshape(len(x), -1))


def mlp(p, x):
    return jax.nn.relu(jax.nn.relu(x @ p["a"]) @ p["b"]) @ p["c"]


MLP = {"a": (3, 4), "b": (4, 3), "c": (3, 2)}
LAYERS = "layers"


@model(LAYERS, "MLP")
def _():
    return dataclasses.replace(plain(mlp, 2, 3, **MLP), arc_cosine=True)


@model(LAYERS, "`npk.networks.MLP`, gelu")
def _():
    return linen(networks.MLP(width=3, depth=3, outputs=2, activation=nn.gelu), 2, 3)


@model(LAYERS, "MLP, tanh and leaky ReLU")
def _():
    return plain(lambda p, x: jax.nn.leaky_relu(jnp.tanh(x @ p["a"]) @ p["b"]) @ p["c"], 2, 3, **MLP)


@model(LAYERS, "MLP, softplus")
def _():
    return plain(lambda p, x: jax.nn.softplus(x @ p["a"]) @ p["c"], None, 3, a=(3, 3), c=(3, 2))


@model(LAYERS, "maxout")
def _():
    return plain(lambda p, x: jnp.einsum("ni,ijk->njk", x, p["a"]).max(2) @ p["c"], 1, 3, a=(3, 3, 2), c=(3, 2))


@model(LAYERS, "residual MLP, `lax.scan` over layers")
def _():
    def f(p, x):
        h, _ = jax.lax.scan(lambda h, w: (h + jax.nn.relu(h @ w), None), x @ p["a"], p["layers"])
        return h @ p["c"]

    return plain(f, 2, 3, a=(3, 2), layers=(2, 2, 2), c=(2, 1))


@model(LAYERS, "Equinox MLP")
def _():
    return equinox(lambda key: eqx.nn.MLP(3, 1, width_size=3, depth=2, key=key), 2, 3)


@model(LAYERS, "NNX MLP")
def _():
    return of_nnx(lambda rngs: nnx.Sequential(nnx.Linear(3, 3, rngs=rngs), nnx.relu, nnx.Linear(3, 2, rngs=rngs)), 1, 3)


@model(LAYERS, "CNN of the README")
def _():
    return linen(CNN(), 2, 4, 4, 1)


@model(LAYERS, "`C4GAP`")
def _():
    return linen(networks.C4GAP(channels=2, outputs=1), 4, 2, 2, 1)


@model(LAYERS, "`VCONV`")
def _():
    return linen(networks.VCONV(channels=2, outputs=1), 4, 2, 2, 1)


@model(LAYERS, "`GCONV`")
def _():
    return linen(networks.GCONV(width=1, outputs=1), 6, 2, 2, 1)


@model(LAYERS, "VGG: convolutions, max-pooling, dense layers")
def _():
    class VGG(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.max_pool(nn.relu(nn.Conv(2, (3, 3))(x)), (2, 2), (2, 2))
            x = nn.max_pool(nn.relu(nn.Conv(2, (3, 3))(x)), (2, 2), (2, 2))
            return nn.Dense(1)(nn.relu(nn.Dense(2)(x.reshape(len(x), -1))))

    return linen(VGG(), 5, 4, 4, 1)


@model(LAYERS, "`ResNet`, batch norm in evaluation")
def _():
    return linen(networks.ResNet(depth=8, width=1, outputs=1), 7, 2, 2, 1)


@model(LAYERS, "DenseNet, growth 1")
def _():
    return linen(DenseNet(), 2, 3, 3, 1)


@model(LAYERS, "depthwise and pointwise convolutions")
def _():
    class Separable(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.relu(nn.Conv(2, (3, 3), feature_group_count=2)(x))
            return nn.Dense(1)(nn.relu(nn.Conv(2, (1, 1))(x)).mean((1, 2)))

    return linen(Separable(), 2, 3, 3, 2)


@model(LAYERS, "transposed convolution")
def _():
    class Decoder(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(1)(nn.relu(nn.ConvTranspose(2, (2, 2), strides=(2, 2))(x)).reshape(len(x), -1))

    return linen(Decoder(), 1, 2, 2, 2)


@model(LAYERS, "Deep Sets")
def _():
    def f(p, x):
        return jax.nn.relu(jax.nn.relu(x @ p["a"]).sum(1) @ p["b"]) @ p["c"]

    return plain(f, 2, 2, 3, **MLP)


@model(LAYERS, "SIREN (sines)")
def _():
    return plain(lambda p, x: jnp.sin(30 * jnp.sin(30 * (x @ p["a"])) @ p["b"]) @ p["c"], 2, 3, **MLP, precision=1e-8)
