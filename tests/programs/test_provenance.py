"""Of which parameters, and which of their elements, values are made."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import npk
from npk.programs import Provenance, Var, trace


def origin_of(f, *params):
    """The provenance of a function of parameters alone, beside an x that it does not read; and its result."""
    program = trace(lambda p, x: (f(*p), x), params, jnp.ones(1))
    return Provenance(program), program.outputs[0]


@pytest.mark.parametrize(
    "f",
    [
        lambda w: w.T[1:],
        lambda w: jnp.flip(w, 0).reshape(2, 6)[:, 1:4],
        lambda w: jnp.split(w, 2, axis=1)[1],
        lambda w: 3.0 * w[:, None].transpose(2, 1, 0),
        lambda w: -(w / 4.0)[0],
        lambda w: jnp.broadcast_to(w[:1], (5, 4)),
    ],
)
def test_a_rearranged_part_times_a_number(f):
    """The value is number · w[elements], read off one pass, for any w."""
    w = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    known, out = origin_of(f, jnp.asarray(w))
    leaf, elements, number = known.elements(out)
    np.testing.assert_allclose(number * w.reshape(-1)[elements], f(w), rtol=1e-6)
    assert leaf == 0 and known.origin(out).piece


@pytest.mark.parametrize(
    "f",
    [
        lambda a, b: a * b,
        lambda a, b: a[0] + b[0],
        lambda a, b: jnp.exp(a),
        lambda a, b: jnp.concatenate([a, b]),
        lambda a, b: a @ b,
        lambda a, b: a / b,
    ],
)
def test_a_function_of_parameters_is_no_piece(f):
    known, out = origin_of(f, jnp.ones((2, 2)), jnp.ones((2, 2)))
    assert not known.origin(out).piece and known.elements(out) is None
    assert known.origin(out).leaves <= {0, 1} and known.origin(out).from_params


def test_leaves_powers_and_data():
    def f(p, x):
        scale = p["g"] / jnp.sqrt(p["v"] + 1e-5)
        return x * scale, scale, jnp.sqrt(jnp.float32(2.0)) * p["g"]

    program = trace(f, {"g": jnp.ones((1, 2)), "v": jnp.ones((1, 2))}, jnp.ones((3, 2)))
    known = Provenance(program)
    scaled, scale, plain = program.outputs
    assert known.origin(scaled) is None and scaled in known.data
    assert known.origin(scale).leaves == {0, 1} and known.origin(scale).powered
    assert known.origin(plain).leaves == {0} and not known.origin(plain).powered


def test_numbers_that_weights_multiply_are_the_input_of_a_network():
    program = trace(lambda w, x: jax.nn.relu(jnp.ones((1, 2)) @ w) + x, jnp.ones((2, 2)), jnp.ones((1, 2)))
    known = Provenance(program)
    (product,) = [v for e in program.equations if e.name == "dot_general" for v in e.outputs]
    assert known.origin(product).network and product not in known.constants()
    assert isinstance(program.outputs[0], Var) and program.outputs[0] in known.data


CAST = jax.jit(lambda v: jax.lax.convert_element_type(jax.lax.convert_element_type(v, jnp.int32), jnp.float32))


def test_a_number_is_what_a_cast_has_left_of_it():
    """int(2.7) is 2, for the number that multiplies a weight and for the slope of an activation."""
    known, out = origin_of(lambda w: w * CAST(2.7), jnp.ones((2, 2)))
    assert known.elements(out)[2] == 2.0
    w, x = jnp.array([[1.0], [-2.0]]), jnp.array([[3.0, 1.0], [-1.0, 2.0]])
    f = lambda w, x: x @ (w * CAST(2.7))  # noqa: E731
    np.testing.assert_allclose(npk.ntk(f)(w, x), 4 * x @ x.T)
    slope = lambda q: jnp.where(q > 0, q, q * CAST(0.7))  # noqa: E731
    leaky = lambda w, x: slope(x @ w)  # noqa: E731
    np.testing.assert_array_equal(npk.gates(leaky)(w, x)[0], (x @ w > 0).astype(np.float32))


def test_elements_of_long_chains_and_of_divisions_by_zero():
    def moved(w):
        for _ in range(1500):
            w = w.T
        return w

    known, out = origin_of(moved, jnp.ones((2, 3)))
    assert known.elements(out)[1].shape == (2, 3)
    known, out = origin_of(lambda w: w / 0.0, jnp.ones((2, 3)))
    assert known.elements(out) is None


def test_a_power_whose_exponent_is_traced_is_a_power():
    def f(t):
        program = trace(lambda p, x: (p**t, x), jnp.ones(2), jnp.ones(1))
        assert Provenance(program).origin(program.outputs[0]).powered
        return t

    jax.jit(f)(jnp.float32(0.5))


@pytest.mark.parametrize("dtype, number", [(jnp.int32, 1e20), (jnp.uint8, -1.0), (jnp.int32, np.inf)])
def test_what_libraries_cast_in_their_own_ways_is_no_known_number(dtype, number):
    cast = jax.jit(lambda v: jax.lax.convert_element_type(jax.lax.convert_element_type(v, dtype), jnp.float32))
    with np.errstate(invalid="ignore"):
        known, out = origin_of(lambda w: w * cast(number), jnp.ones((2, 2)))
    assert known.origin(out).piece and known.elements(out) is None


def test_complex_numbers_are_none_of_the_reals():
    """The derivative of a spectrum: times 1j."""
    w, x = jnp.ones((2, 4)), jnp.ones((3, 2))
    f = lambda w, x: jax.nn.relu(jnp.fft.irfft(jnp.fft.rfft(x @ w) * 1j, n=4))  # noqa: E731
    (gate,) = npk.gates(f)(w, x)
    np.testing.assert_allclose(npk.gated(f)(w, x, (gate,)), f(w, x))
