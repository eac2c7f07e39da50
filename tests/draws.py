"""Numbers at random from NumPy: JAX compiles its generator anew for every shape, for longer than most tests take."""

import math

import jax
import jax.numpy as jnp
import numpy as np


def normal(*shape, seed=0, dtype=None):
    """Standard normal numbers, in the precision that JAX is set to."""
    return jnp.asarray(np.random.default_rng([seed, *shape]).normal(size=shape), dtype or float)


def of_key(key, shape, dtype=None):
    """`jax.random.normal`: its numbers, drawn in one row, which compiles in a tenth of the time of several axes."""
    return jax.random.normal(key, (math.prod(shape),), dtype).reshape(shape)


def variables(module, x, seed=0):
    """Variables of a Flax module for inputs like x, in float32: weights of variance 1 / fan-in, small biases."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        name = path[-1].key
        if name in ("scale", "var"):
            return rng.uniform(0.5, 1.5, leaf.shape)
        size = 0.1 if name in ("bias", "mean") else 1 / math.sqrt(math.prod(leaf.shape[:-1]))
        return size * rng.normal(size=leaf.shape)

    shapes = jax.eval_shape(module.init, jax.random.key(0), x)
    return jax.tree_util.tree_map_with_path(lambda *leaf: jnp.asarray(draw(*leaf), jnp.float32), shapes)
