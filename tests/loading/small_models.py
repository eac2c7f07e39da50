"""Tiny models of every framework, with what checkpoints must bring along: statistics, dropout, lists of layers."""

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

X = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)


class Dense(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(2)(nn.relu(nn.Dense(4)(x)))


class Normed(nn.Module):
    @nn.compact
    def __call__(self, x, train: bool = False):
        x = nn.BatchNorm(use_running_average=not train)(nn.Dense(4)(x))
        return nn.Dense(2)(nn.Dropout(0.5, deterministic=not train)(nn.relu(x)))


class Graph(nnx.Module):
    def __init__(self, seed=0):
        rngs = nnx.Rngs(seed)
        self.a, self.b = nnx.Linear(3, 4, rngs=rngs), nnx.Linear(4, 2, rngs=rngs)
        self.norm, self.drop = nnx.BatchNorm(4, rngs=rngs), nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        return self.b(self.drop(jax.nn.relu(self.norm(self.a(x)))))


class Single(eqx.Module):
    layers: list
    drop: eqx.nn.Dropout

    def __init__(self, seed=0):
        a, b = jax.random.split(jax.random.key(seed))
        self.layers = [eqx.nn.Linear(3, 4, key=a), eqx.nn.Linear(4, 2, key=b)]
        self.drop = eqx.nn.Dropout(0.5)

    def __call__(self, x, *, key=None):
        return self.layers[1](self.drop(jax.nn.relu(self.layers[0](x)), key=key))


MODELS = {"linen": Dense, "linen with statistics": Normed, "NNX": Graph, "Equinox": Single}


def trained(params, seed=1):
    """Other numbers in the same structure, as training would leave; positive, since variances must be."""
    rng = np.random.default_rng(seed)
    return jax.tree_util.tree_map(lambda a: jnp.asarray(rng.uniform(0.5, 1.5, a.shape), a.dtype), params)
