"""ReLU, with other derivatives than its own."""

import jax
import jax.numpy as jnp


@jax.custom_jvp
def surrogate(q):
    return jnp.maximum(q, 0)


surrogate.defjvp(lambda primals, tangents: (surrogate(*primals), 7 * tangents[0]))


@jax.custom_vjp
def clipped(q):
    return jnp.maximum(q, 0)


clipped.defvjp(lambda q: (jnp.maximum(q, 0), q), lambda q, g: (g * jnp.where(q > 0, 0.5, 0.25),))
