"""A network small enough to be trained many times, and whether two trees hold the same numbers."""

import jax
import numpy as np

from npk import networks
from npk.training import Network


def network(**options):
    model = networks.MLP(width=12, depth=4, outputs=10, **options)
    return Network(model.apply, model.init)


def same(a, b):
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.array_equal(x, y) for x, y in pairs)
