"""A network small enough to be trained many times, and whether two trees hold the same numbers."""

import jax
import jax.numpy as jnp
import numpy as np

from npk import networks
from npk.training import Network


def network(**options):
    """Its weights are drawn in one row: Flax's, layer by layer, take twice as long to compile as the training."""
    model = networks.MLP(width=12, depth=4, outputs=10, **options)

    def init(key, x):
        leaves, structure = jax.tree.flatten(jax.eval_shape(model.init, key, x))
        row = jax.random.normal(key, (sum(leaf.size for leaf in leaves),))
        ends = np.cumsum([leaf.size for leaf in leaves])
        drawn = [part.reshape(leaf.shape) for part, leaf in zip(jnp.split(row, ends[:-1]), leaves, strict=True)]
        scaled = [a * (2 / len(a)) ** 0.5 if a.ndim > 1 else jnp.zeros_like(a) for a in drawn]
        return jax.tree.unflatten(structure, scaled)

    return Network(model.apply, init)


def same(a, b):
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.array_equal(x, y) for x, y in pairs)
