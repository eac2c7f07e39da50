"""Sums, differences and products: of values, with biases, with weights, with fixed numbers."""

from npk.paths import sums
from npk.paths.factors import Factor, constant
from npk.paths.rules.biases import bias
from npk.paths.rules.weights import elementwise
from npk.paths.walk import DECLARE, State, Walk
from npk.programs import Atom, Equation


def add(walk: Walk, equation: Equation) -> State:
    shape = equation.outputs[0].shape
    states = []
    for i, atom in enumerate(equation.inputs):
        state = _addend(walk, equation, atom)
        if equation.name == "sub" and i == 1:
            state = walk.scaled(state, constant(-1.0))
        states.append(walk.spread(state, shape))
    return sums.add(states)


def _addend(walk: Walk, equation: Equation, atom: Atom) -> State:
    if not walk.is_parameter(atom):
        return walk.state(atom) or []
    if equation in walk.normalising:
        walk.fix(atom, equation)
        return walk.known(walk.unrepeated(atom), atom.shape)
    return bias(walk, equation, atom)


def multiply(walk: Walk, equation: Equation) -> State:
    a, b = equation.inputs
    if walk.is_value(a) and walk.is_value(b):
        raise walk.refuse(equation, f"a product of two values that both depend on x. {DECLARE}")
    data, factor = (b, a) if walk.is_value(b) or not walk.is_data(a) else (a, b)
    if equation.name == "div" and data is b:
        raise walk.refuse(equation, "a division by a value that depends on x.")
    shape = equation.outputs[0].shape
    if walk.is_parameter(factor) and not walk.is_value(data) and equation not in walk.normalising:
        return _begun(walk, equation, walk.factor(data), factor)
    state = walk.spread(walk.data(data), shape)
    if walk.is_parameter(factor):
        if equation in walk.normalising:
            walk.fix(factor, equation)
        else:
            if not walk.is_leaf(factor) or equation.name == "div":
                raise walk.refuse(
                    equation,
                    f"a factor computed from parameters ({walk.made_of(factor)}); a weight must be a parameter itself: "
                    "compute it outside f, and let params hold the result (a temperature may be left out of f).",
                )
            (weight,) = walk.data(factor)
            return elementwise(walk, equation, state, walk.spread([weight], shape)[0], factor)
    numbers = walk.unrepeated(factor)
    return walk.scaled(state, numbers.inverse() if equation.name == "div" else numbers)


def _begun(walk: Walk, equation: Equation, gate: Factor, parameter: Atom) -> State:
    """A gate times parameters: a bias whose paths go through the gate at once."""
    state = walk.spread(bias(walk, equation, parameter), equation.outputs[0].shape)
    return walk.scaled(state, gate.inverse() if equation.name == "div" else gate)


def negate(walk: Walk, equation: Equation) -> State:
    return walk.scaled(walk.data(equation.inputs[0]), constant(-1.0))
