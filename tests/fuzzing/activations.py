"""Activations in many spellings, each with its gate function as the oracle has it."""

import numpy as np
from scipy import special


def hard(below: float, above: float):
    """At zero that of the flatter side."""
    return lambda q: np.where(q > 0, above, np.where(q < 0, below, min(below, above, key=abs)))


def quotient(function, at_zero: float = 1.0):
    def gate(q):
        safe = np.where(q == 0, 1.0, q)
        return np.where(q == 0, at_zero, function(safe) / safe)

    return gate


# The text, γ(q) and the number that stays outside the gate.
RELU = """jax.nn.relu({h})
jnp.maximum({h}, 0.0)
jnp.maximum(0.0, {h})
jnp.where({h} > 0, {h}, 0.0)
jnp.where({h} <= 0, 0.0, {h})
{h} * ({h} > 0).astype({h}.dtype)
jnp.where({h} > 0, 1.0, 0.0) * {h}
({h} + jnp.abs({h})) / 2.0
0.5 * ({h} + jnp.abs({h}))
-jnp.minimum(-{h}, 0.0)
{h} - jnp.minimum({h}, 0.0)
jnp.clip({h}, 0.0)
lax.max({h}, jnp.zeros_like({h}))
lax.select({h} > 0, {h}, jnp.zeros_like({h}))
jax.jit(lambda u: jnp.maximum(u, 0.0))({h})
jax.checkpoint(jax.nn.relu)({h})
jnp.maximum({h}, 0.0) + 0.0""".splitlines()
HARD = [(text, hard(0.0, 1.0), 1.0) for text in RELU] + [
    ("jax.nn.leaky_relu({h}, 0.25)", hard(0.25, 1.0), 1.0),
    ("jnp.maximum({h}, 0.25 * {h})", hard(0.25, 1.0), 1.0),
    ("jnp.where({h} > 0, {h}, 0.5 * {h})", hard(0.5, 1.0), 1.0),
    ("jnp.maximum({h}, 0.0) - 0.5 * jnp.maximum(-{h}, 0.0)", hard(0.5, 1.0), 1.0),
    ("jnp.abs({h})", hard(-1.0, 1.0), 1.0),
    ("{h} * jnp.sign({h})", hard(-1.0, 1.0), 1.0),
    ("jnp.minimum({h}, 0.0)", hard(1.0, 0.0), 1.0),
    ("-jax.nn.relu(-{h})", hard(1.0, 0.0), 1.0),
    ("jnp.where({h} > 0, 2.0 * {h}, 0.0)", hard(0.0, 1.0), 2.0),
    ("jnp.where({h} > 0, 3.0, -1.0) * {h}", hard(-1 / 3, 1.0), 3.0),
    ("jnp.where({h} > 0, -{h}, 0.5 * {h})", hard(-0.5, 1.0), -1.0),
]
SOFT = [
    ("jax.nn.silu({h})", special.expit, 1.0),
    ("{h} * jax.nn.sigmoid(3.0 * {h})", lambda q: special.expit(3 * q), 1.0),
    ("{h} / (1.0 + jnp.exp(-{h}))", special.expit, 1.0),
    ("jax.nn.gelu({h}, approximate=False)", lambda q: special.ndtr(q), 1.0),
    (
        "jax.nn.gelu({h})",
        lambda q: 0.5 * (1 + np.tanh(np.sqrt(2 / np.pi) * (q + 0.044715 * q**3))),
        1.0,
    ),
    ("jnp.tanh({h})", quotient(np.tanh), 1.0),
    ("jax.nn.elu({h})", quotient(lambda q: np.where(q > 0, q, np.expm1(q))), 1.0),
    ("jax.nn.soft_sign({h})", lambda q: 1 / (1 + np.abs(q)), 1.0),
    ("jnp.clip({h}, 0.0, 1.0)", quotient(lambda q: np.clip(q, 0, 1), 0.0), 1.0),
    ("jnp.sin({h})", quotient(np.sin), 1.0),
]
