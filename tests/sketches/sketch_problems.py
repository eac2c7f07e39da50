"""Small networks and inputs whose kernels are sketched."""

import jax
import jax.numpy as jnp
from draws import of_key

from npk import networks

KEY = jax.random.key(20)


def as_float(tree, dtype=jnp.float64):
    return jax.tree.map(lambda a: jnp.asarray(a, dtype), tree)


def normal(*shape, seed=0, dtype=jnp.float32):
    return of_key(jax.random.fold_in(KEY, seed), shape, dtype)


def mlp(outputs=2, **options):
    x = normal(5, 4)
    model = networks.MLP(width=6, depth=3, outputs=outputs, **options)
    return model.apply, jax.jit(model.init)(jax.random.fold_in(KEY, 1), x), x
