"""Sums, differences and products: of values, with biases, with weights, with fixed numbers."""

import jax.numpy as jnp

from npk.paths import sums
from npk.paths.rules.weights import elementwise
from npk.paths.walk import State, Walk
from npk.programs import Atom, Equation


def add(walk: Walk, equation: Equation) -> State:
    shape = equation.outputs[0].shape
    operands = list(equation.inputs)
    states = []
    for i, atom in enumerate(operands):
        other = operands[1 - i]
        state = _addend(walk, equation, atom, other)
        if equation.name == "sub" and i == 1:
            state = walk.scaled(state, -1.0)
        states.append(walk.spread(state, shape))
    return sums.add(states)


def _addend(walk: Walk, equation: Equation, atom: Atom, other: Atom) -> State:
    kind = walk.kind(atom)
    if kind is None or not kind.from_params:
        return walk.state(atom) or []
    # A shift next to a normalisation's factor (batch norm's mean and beta) has a fixed value.
    if other in walk.normalised or _is_centring(walk, equation):
        return walk.known(walk.value(atom), atom.shape)
    if not walk.is_leaf(atom):
        raise walk.refuse(equation, "adds a value computed from parameters; a bias must be a parameter itself.")
    (bias,) = walk.data(atom)
    walk.claim(bias, equation.source)
    return [bias]


def _is_centring(walk: Walk, equation: Equation) -> bool:
    """Whether the sum is read by nothing but a normalisation: (x - mean) · rsqrt(var + ε)."""
    return equation.outputs[0] in walk.centred


def _normalising(walk: Walk, factor: Atom) -> bool:
    kind = walk.kind(factor)
    return kind is not None and kind.rooted


def multiply(walk: Walk, equation: Equation) -> State:
    a, b = equation.inputs
    if walk.is_data(a) and walk.is_data(b):
        raise walk.refuse(
            equation, "a product of two values that both depend on x; as gates they must be an activation q·γ(q)."
        )
    data, factor = (a, b) if walk.is_data(a) else (b, a)
    if equation.name == "div" and data is b:
        raise walk.refuse(equation, "a division by a value that depends on x.")
    shape = equation.outputs[0].shape
    state = walk.spread(walk.data(data), shape)
    kind = walk.kind(factor)
    assert kind is not None
    normalising = _normalising(walk, factor)
    if kind.from_params and not normalising and data not in walk.normalised:
        if not walk.is_leaf(factor) or equation.name == "div":
            raise walk.refuse(equation, "a factor computed from parameters; a weight must be a parameter itself.")
        (weight,) = walk.data(factor)
        return elementwise(walk, equation, state, walk.spread([weight], shape)[0])
    if normalising or data in walk.normalised:
        walk.normalised.add(equation.outputs[0])
    value = jnp.asarray(walk.value(factor))
    value = 1 / value if equation.name == "div" else value
    return walk.scaled(state, jnp.broadcast_to(value, shape) if value.ndim else value)


def negate(walk: Walk, equation: Equation) -> State:
    return walk.scaled(walk.data(equation.inputs[0]), -1.0)
