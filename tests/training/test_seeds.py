"""All seeds at once: each is what it is alone, whatever the device prefers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tolerances import assert_close

from npk.training import over_seeds


def halfway(params, shift, x, steps):
    """Some steps of gradient descent; a shift of its own for every seed, x for all."""

    def step(_, w):
        return w - 0.1 * jax.grad(lambda w: jnp.mean((jnp.tanh(x @ w) - shift) ** 2))(w)

    return {"w": jax.lax.fori_loop(0, steps, step, params["w"]), "steps": steps}


AXES = (0, 0, None, None)
PARAMS = {"w": jax.random.normal(jax.random.key(0), (5, 4, 3))}
SHIFTS = jnp.linspace(-0.5, 0.5, 5)
X = jax.random.normal(jax.random.key(1), (7, 4))


def alone(seed, steps):
    return jax.jit(halfway)({"w": PARAMS["w"][seed]}, SHIFTS[seed], X, steps)


def test_a_seed_among_others_has_the_bits_of_one_alone():
    together = over_seeds(halfway, AXES)
    for steps in (3, 8):  # the second call compiles nothing
        found = together(PARAMS, SHIFTS, X, steps)
        assert found["steps"].tolist() == [steps] * 5
        for seed in range(5):
            np.testing.assert_array_equal(found["w"][seed], alone(seed, steps)["w"])


def test_accelerators_get_one_vmap(monkeypatch):
    expected = over_seeds(halfway, AXES)(PARAMS, SHIFTS, X, 4)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    found = over_seeds(halfway, AXES)(PARAMS, SHIFTS, X, 4)
    assert_close(found["w"], expected["w"])
    assert found["steps"].shape == (5,)


def test_other_shapes_and_numbers_of_seeds_are_compiled_anew():
    together = over_seeds(lambda w, x: x @ w, (0, None))
    for seeds, samples in ((1, 4), (3, 4), (3, 6)):
        w, x = jnp.ones((seeds, 4, 2)), jnp.ones((samples, 4))
        assert together(w, x).shape == (seeds, samples, 2)


def test_workers_keep_the_precision_of_the_caller(x64):
    w = jnp.linspace(0, 1, 6, dtype="float64").reshape(2, 3)
    found = over_seeds(lambda w, n: w / n, (0, None))(w, 3.0)
    assert found.dtype == "float64"
    np.testing.assert_allclose(found, np.linspace(0, 1, 6).reshape(2, 3) / 3, rtol=1e-15)


def test_an_error_in_one_seed_is_raised():
    def fails(_):
        raise RuntimeError("seed 1")

    def function(w):
        return jax.pure_callback(fails, w, w)

    with pytest.raises(Exception, match="seed 1"):
        over_seeds(function, (0,))(jnp.ones((2, 3)))
