"""A tangent kernel is of the derivatives that f has, the user's own included, and of real numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from draws import normal
from surrogates import surrogate

import npk

P = {"w": normal(4, 5), "v": normal(5, 2, seed=1)}
X = normal(3, 4, seed=2)


@jax.custom_vjp
def tripled(q):
    return jnp.tanh(q)


tripled.defvjp(lambda q: (jnp.tanh(q), None), lambda _, g: (3 * g,))


@jax.custom_vjp
def layer(w, x):
    return x @ w


layer.defvjp(lambda w, x: (x @ w, (w, x)), lambda r, g: (2 * r[1].T @ g, g @ r[0].T))

OWN = {
    "an activation's, forward": lambda p, x: surrogate(x @ p["w"]) @ p["v"],
    "an activation's, backward": lambda p, x: tripled(x @ p["w"]) @ p["v"],
    "a layer's": lambda p, x: jax.nn.relu(layer(p["w"], x)) @ p["v"],
    "relu's at zero": lambda p, x: jax.nn.relu(0 * x @ p["w"]) @ p["v"] + x @ p["w"][:, :2],
}


@pytest.mark.parametrize("f", OWN.values(), ids=OWN.keys())
def test_the_users_own_derivatives_count(f):
    j = jax.tree.leaves(jax.jacrev(f)(P, X))
    flat = np.concatenate([np.reshape(part, (3, 2, -1)) for part in j], 2)
    kernel = np.einsum("ikp,jkp->ij", flat, flat)
    np.testing.assert_allclose(npk.ntk(f)(P, X), kernel, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(npk.ntk_diagonal(f)(P, X), np.diag(kernel), rtol=1e-4, atol=1e-4)


@pytest.mark.standard_dtypes
def test_parameters_that_turn_complex_are_refused():
    spectral = lambda p, x: jnp.fft.irfft(jnp.fft.rfft(x) * p["v"][None, :3, 0], 4) @ p["w"]  # noqa: E731
    for transform in (npk.ntk, npk.split_ntk, npk.ntk_diagonal):
        with pytest.raises(npk.UnsupportedOperation, match="complex"):
            transform(spectral)(P, X)


def test_an_output_that_does_not_depend_on_x_has_no_kernel():
    with pytest.raises(ValueError, match="does not depend on x"):
        npk.ntk(lambda p, x: jnp.broadcast_to(p["v"][:1], (x.shape[0], 2)))(P, X)
