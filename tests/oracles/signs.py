"""Second moments by definition: over all signs of all weights, 2^n of them."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np


def over_signs(f, magnitudes):
    """E[f(w)_s f(w)_s'] of f: weights → [N], over w = ±magnitudes (a tree), every sign alone."""
    leaves, structure = jax.tree.flatten(magnitudes)
    sizes = [leaf.size for leaf in leaves]
    signs = np.array(list(itertools.product((-1.0, 1.0), repeat=sum(sizes))), leaves[0].dtype)

    def one(signs):
        parts = jnp.split(signs, np.cumsum(sizes)[:-1])
        own = [part.reshape(leaf.shape) * leaf for part, leaf in zip(parts, leaves, strict=True)]
        return f(jax.tree.unflatten(structure, own))

    out = jax.jit(jax.vmap(one))(signs)
    return np.einsum("wn,wm->nm", out, out) / len(out)
