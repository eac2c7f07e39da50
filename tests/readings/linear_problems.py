"""What the tests of linear maps share: a multilayer perceptron, and the Jacobian of every sample by JAX."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

RNG = np.random.default_rng(7)


def normal(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


@functools.partial(jax.jit, static_argnums=0)
def of_samples(f, params, x):
    """∂f/∂x of every sample, by JAX."""
    return jax.vmap(lambda one: jax.jacrev(lambda z: f(params, z[None])[0])(one))(x)


def mlp(relu):
    def f(p, x):
        for w, b in zip(p["w"][:-1], p["b"][:-1]):
            x = relu(x @ w + b)
        return x @ p["w"][-1] + p["b"][-1]

    return f


SIZES = (5, 7, 6, 3)
MLP = {
    "w": [normal(a, b) for a, b in zip(SIZES, SIZES[1:])],
    "b": [normal(1, b) for b in SIZES[1:]],
}
X = normal(4, 5)
SMALL = {"w": normal(5, 6), "v": normal(6, 3)}
