"""Biases: parameters that are added to values, as they are or through a constant linear map.

An interpolated positional embedding, a sum or a mean of biases, an embedding of rows plus one of columns: A·b, whose
second moment is A Aᵀ. The map follows the rules that values have, as if the parameters were values.
"""

import dataclasses

from npk.paths.walk import State, Walk
from npk.programs import Atom, Equation, UnsupportedOperation, Var


def bias(walk: Walk, equation: Equation, atom: Atom) -> State:
    """The terms of what an equation adds to a value; every parameter in it is claimed."""
    state = walk.data(atom) if walk.is_leaf(atom) else _mapped(walk, atom)
    if state is None:
        raise walk.refuse(
            equation,
            f"adds a value computed from parameters ({walk.made_of(atom)}); a bias must be a parameter itself, or a "
            "constant linear map of parameters: compute it outside f, and let params hold the result.",
        )
    return walk.biased(state, equation.source)


def _mapped(walk: Walk, atom: Atom) -> State | None:
    """The terms of a constant linear map of parameters; None of what is none."""
    needed: set[Equation] = set()
    todo = [atom]
    while todo:
        var = todo.pop()
        equation = walk.making.get(var) if isinstance(var, Var) and not walk.is_leaf(var) else None
        if equation is not None and equation not in needed:
            needed.add(equation)
            todo += [a for a in equation.inputs if walk.is_parameter(a)]
    found: dict[Atom, State] = {}
    try:
        for equation in (e for e in walk.program.equations if e in needed):
            found.update(zip(equation.outputs, walk.rule(_as_values(walk, equation, found)), strict=True))
    except UnsupportedOperation:
        return None
    return found.get(atom)


def _as_values(walk: Walk, equation: Equation, found: dict[Atom, State]) -> Equation:
    """An equation whose parameters, and what was made of them, are values of a network."""
    values = {a: Var(a.aval) for a in equation.inputs if isinstance(a, Var) and walk.is_parameter(a)}
    for atom, value in values.items():
        walk.states[value] = found[atom] if atom in found else walk.data(atom)
    inputs = tuple(values.get(a, a) for a in equation.inputs)  # type: ignore[call-overload]
    return dataclasses.replace(equation, inputs=inputs)
