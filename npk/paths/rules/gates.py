"""Gates: that of an activation q·γ(q) multiplies the terms of q; one that stands alone is a known number."""

import math

from npk.paths import terms
from npk.paths.rules.moves import window_axes
from npk.paths.terms import Term
from npk.paths.walk import State, Walk
from npk.programs import Equation


def activation(walk: Walk, equation: Equation) -> State:
    gate = walk.gates.pop(0)
    if equation.activation.alone:
        return walk.known(gate.reshape(equation.outputs[0].shape), equation.outputs[0].shape)
    state = walk.data(equation.inputs[0])
    if equation.activation.windows is None:
        return [terms.scale(t, gate, True) for t in state]
    # max-pooling: lay the window out as a last axis, gate it, sum it away
    laid = [terms.scale(_pool_windows(t, equation), gate, True) for t in state]
    return [terms.sum_axes(t, [len(t.shape) - 1]) for t in laid]


def _pool_windows(term: Term, equation: Equation) -> Term:
    """The value with one more axis, last: the elements each output of a max-pooling chooses from."""
    if equation.primitive.name == "reduce_window_max":
        return window_axes(term, equation)
    axes = equation.params["axes"]
    kept = [a for a in range(len(term.shape)) if a not in axes]
    size = math.prod(term.shape[a] for a in axes)
    return terms.reshape(terms.transpose(term, (*kept, *axes)), (*(term.shape[a] for a in kept), size))
