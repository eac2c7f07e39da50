"""Networks whose kernels at infinite width are compared, their parameters and inputs."""

import math

import architectures
import jax
import jax.numpy as jnp
import numpy as np
from oracles.language import FLATTEN, AvgPool, Conv, Dense, GlobalAvgPool, Network, Relu, Residual

import npk
import npk.infinite

KERNELS = {"nngp": npk.infinite.nngp, "ntk": npk.infinite.ntk}
STD = {"weight_std": math.sqrt(2), "bias_std": 0.3}


def normal(*shape, seed=0, dtype=None):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype or float)


def deep(depth, bias=False, activation=None):
    body = [layer for _ in range(depth) for layer in (Dense(8, bias), activation or Relu())]
    return Network((7,), (*body, Dense(1, bias)))


POOLED, FLAT = (GlobalAvgPool(), Dense(1, False)), (FLATTEN, Dense(1, False))


def conv_network(*layers, head=POOLED, side=6):
    return Network((side, side, 3), (*layers, *head))


def conv(**options):
    return Conv(8, bias=options.pop("bias", False), **options)


BRANCH = Residual((Relu(), conv(), Relu(), conv()))
NETWORKS = {
    "dense": deep(3),
    "dense with biases": deep(3, bias=True),
    "ten layers": deep(10),
    "leaky": deep(2, activation=Relu(0.1)),
    "gelu": deep(2),
    "flatten": conv_network(conv(), Relu(), conv(), Relu(), head=FLAT),
    "global pooling": conv_network(conv(), Relu(), conv(), Relu()),
    "circular, biases": conv_network(
        *(conv(bias=True, padding="CIRCULAR"), Relu()) * 2, head=(GlobalAvgPool(), Dense(1, True))
    ),
    "strides, valid": conv_network(conv(), Relu(), conv(stride=2, padding="VALID"), Relu(), side=7),
    "average pooling": conv_network(conv(), Relu(), AvgPool((2, 2), 2), conv(), Relu(), head=FLAT),
    "residual": conv_network(conv(), BRANCH, BRANCH, Relu()),
}


def gelu(x):
    return jax.nn.gelu(x, approximate=False)


def function(name):
    return architectures.function(NETWORKS[name], relu=gelu if name == "gelu" else jax.nn.relu)


def parameters(network, dtype=None):
    _, params, _ = architectures.case(network)
    return jax.tree.map(lambda a: jnp.asarray(a, dtype or float), params)
