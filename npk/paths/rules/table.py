"""Which rule each primitive has, and the walk of a whole program by them.

An operation without a rule raises `UnsupportedOperation`; all of a model's are reported at once.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp

from npk.paths import terms
from npk.paths.ends import check_end
from npk.paths.factors import Factor
from npk.paths.normalisations import normalising
from npk.paths.rules.arithmetic import add, multiply, negate
from npk.paths.rules.complexes import complex_values
from npk.paths.rules.gates import activation
from npk.paths.rules.moves import POSITIONWISE, SEVERAL, selection
from npk.paths.rules.weights import convolution, dot_general, lookup
from npk.paths.terms import Axis, Leaf
from npk.paths.walk import COMPLEX, State, Walk
from npk.programs import Equation, Program, Provenance

Rules = Mapping[str, Callable[[Walk, Equation], list[State]]]
Moves = Mapping[str, Callable[[Walk, Equation, list[State]], State]]


def _one(rule: Callable[[Walk, Equation], State]) -> Callable[[Walk, Equation], list[State]]:
    return lambda walk, equation: [rule(walk, equation)]


def gather(walk: Walk, equation: Equation) -> State:
    """Indexing by constants, or by an input of integers."""
    if equation.inputs[1] in walk.encoded:
        return lookup(walk, equation)
    return selection(walk, equation, [walk.state(a) or [] for a in equation.inputs])


RULES: dict[str, Callable[[Walk, Equation], list[State]]] = {
    "activation": _one(activation),
    "add": _one(add),
    "add_any": _one(add),
    "sub": _one(add),
    "mul": _one(multiply),
    "div": _one(multiply),
    "neg": _one(negate),
    "dot_general": _one(dot_general),
    "conv_general_dilated": _one(convolution),
    "gather": _one(gather),
    COMPLEX: complex_values,
    **SEVERAL,
}


def output_terms(
    program: Program,
    gate_shapes: Sequence[Any],
    rules: Rules | None = None,
    moves: Moves = POSITIONWISE,
    magnitudes: bool = False,
) -> State:
    """The output of a single-sample program as terms.

    Args:
        program: the program of f for a batch of one, activations found.
        gate_shapes: of every activation the shape of its gate for one sample.
        rules: in place of `RULES`.
        moves: in place of `POSITIONWISE`.
        magnitudes: whether weights and biases are as large as their own numbers (`Magnitude`), in place of one.

    Returns:
        The terms of the output [1, K]; no numbers of parameters, inputs or gates are asked for.
    """
    walk = begun(program, gate_shapes, rules or RULES, moves)
    walk.magnitudes = magnitudes
    found = walk.run()
    if rules is None:
        check_end(walk, found)
    return found


def begun(program: Program, gate_shapes: Sequence[Any], rules: Rules, moves: Moves = POSITIONWISE) -> Walk:
    """The walk of `output_terms`, before its first step."""
    origins = Provenance(program).constants()
    # What was declared to be fixed replaces what is recognised.
    fixed = normalising(program, origins) if program.fixed is None else set()
    gates = [Factor("gate", (), number, tuple(shape)) for number, shape in enumerate(gate_shapes)]
    walk = Walk(program, rules, moves, gates, origins, fixed)
    for number, (var, name) in enumerate(zip(program.params, program.param_paths, strict=True)):
        if number not in (program.fixed or ()):
            leaf = Leaf(tuple(Axis(s, True) for s in var.shape), number, name)
            walk.states[var] = [terms.whole(leaf, var.shape)]
    for number, x in enumerate(program.x):
        if jnp.issubdtype(x.dtype, jnp.floating):
            walk.states[x] = walk.known(Factor("input", (), number, tuple(x.shape)), x.shape)
        else:
            walk.encoded.add(x)
    return walk
