"""Convolutions rewritten channels-last are the same functions, and stay fast where loops would make them slow."""

import jax
import jax.numpy as jnp
import pytest
from draws import of_key
from jax import lax
from tolerances import assert_close

from npk.programs.layouts import channels_last

LAYOUTS = [("NHWC", "HWIO", "NHWC"), ("NCHW", "OIHW", "NCHW"), ("NHWC", "OIHW", "NCHW"), ("HWNC", "IOHW", "CHNW")]


def _draw(layout, sizes, key):
    return of_key(key, [sizes[letter] for letter in layout])


@pytest.mark.parametrize("layout", LAYOUTS, ids=" ".join)
@pytest.mark.parametrize("groups", [1, 2])
def test_every_layout_and_its_derivatives_stay_what_they_are(layout, groups):
    x = _draw(layout[0], {"N": 2, "H": 5, "W": 6, "C": 4}, jax.random.key(0))
    kernel = _draw(layout[1], {"H": 3, "W": 2, "I": 4 // groups, "O": 6}, jax.random.key(1))

    def loss(x, kernel):
        y = lax.conv_general_dilated(
            x, kernel, (2, 1), [(1, 1), (0, 2)], (1, 1), (1, 2), layout, feature_group_count=groups
        )
        return jnp.sum(jnp.sin(y))

    assert_close(channels_last(loss)(x, kernel), loss(x, kernel))
    expected = jax.grad(loss, argnums=(0, 1))(x, kernel)
    for found in (
        channels_last(jax.grad(loss, argnums=(0, 1)))(x, kernel),
        jax.grad(channels_last(loss), argnums=(0, 1))(x, kernel),
    ):
        for a, b in zip(found, expected, strict=True):
            assert_close(a, b)


def test_all_that_is_left_is_channels_last():
    x, kernel = jnp.ones((2, 5, 5, 3)), jnp.ones((3, 3, 3, 4))
    conv = lambda x, k: lax.conv_general_dilated(x, k, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))  # noqa: E731
    gradient = jax.grad(lambda x, k: jnp.sum(conv(x, k) ** 2), argnums=(0, 1))

    def numbers(function):
        equations = jax.make_jaxpr(function)(x, kernel).eqns
        return [e.params["dimension_numbers"] for e in equations if e.primitive.name == "conv_general_dilated"]

    last = jax.lax.ConvDimensionNumbers((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))
    assert set(numbers(gradient)) != {last}  # what JAX writes for a backward pass
    assert len(numbers(channels_last(gradient))) == 3
    assert set(numbers(channels_last(gradient))) == {last}


def test_custom_derivatives_survive():
    relu = channels_last(jax.nn.relu)
    assert jax.grad(relu)(0.0) == jax.grad(jax.nn.relu)(0.0) == 0
