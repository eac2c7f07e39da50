"""NNX modules with jitted methods, split into a graph and parameters: as modules without, and usable afterwards."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import npk

X = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)


class Plain(nnx.Module):
    def __init__(self, rngs):
        self.a, self.c = nnx.Linear(3, 4, rngs=rngs), nnx.Linear(4, 2, rngs=rngs)

    def __call__(self, x):
        return self.c(jax.nn.relu(self.a(x)))


class Jitted(Plain):
    __call__ = nnx.jit(Plain.__call__)


def function_of(module):
    graph, params = nnx.split(module)
    return lambda p, x: nnx.merge(graph, p)(x), params


TRANSFORMS = {
    "gates": npk.gates,
    "path_kernel": npk.path_kernel,
    "npf": npk.npf,
    "ntk": npk.ntk,
}


@pytest.mark.standard_dtypes
@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS.keys())
def test_jitted_modules_are_as_plain_ones_and_stay_usable(transform):
    jitted, plain = Jitted(nnx.Rngs(0)), Plain(nnx.Rngs(0))
    f, params = function_of(jitted)
    before = np.asarray(jitted(X))
    expected = jax.tree.leaves(transform(function_of(plain)[0])(function_of(plain)[1], X))

    @nnx.jit
    def inside(module, x):
        g, p = function_of(module)
        return transform(g)(p, x)

    for found in (transform(f)(params, X), nnx.jit(transform(f))(params, X), inside(jitted, jnp.asarray(X))):
        for one, two in zip(jax.tree.leaves(found), expected, strict=True):
            np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(jitted(X), before)
        assert not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(nnx.state(jitted)))
