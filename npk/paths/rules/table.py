"""Which rule each primitive has, and the walk of a whole program by them.

An operation without a rule raises `UnsupportedOperation`; all of a model's are reported at once.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp

from npk.paths import terms
from npk.paths.ends import check_end
from npk.paths.normalisations import normalising
from npk.paths.rules.arithmetic import add, multiply, negate
from npk.paths.rules.gates import gate
from npk.paths.rules.moves import POSITIONWISE, SEVERAL
from npk.paths.rules.weights import convolution, dot_general
from npk.paths.terms import Axis, Leaf
from npk.paths.walk import State, Walk
from npk.programs import Equation, Program, Provenance


def _one(rule: Callable[[Walk, Equation], State]) -> Callable[[Walk, Equation], list[State]]:
    return lambda walk, equation: [rule(walk, equation)]


RULES: dict[str, Callable[[Walk, Equation], list[State]]] = {
    "activation": _one(gate),
    "add": _one(add),
    "add_any": _one(add),
    "sub": _one(add),
    "mul": _one(multiply),
    "div": _one(multiply),
    "neg": _one(negate),
    "dot_general": _one(dot_general),
    "conv_general_dilated": _one(convolution),
    **SEVERAL,
}


def output_terms(
    program: Program,
    params: Sequence[Any],
    xs: Sequence[Any],
    gates: Sequence[tuple[Any, ...]],
    *,
    binary: bool,
    dtype: Any,
    rules: Mapping[str, Callable[[Walk, Equation], list[State]]] | None = None,
) -> State:
    """The output of a single-sample program as terms.

    Args:
        program: the program of f for a batch of one, activations found.
        params: values of its parameters.
        xs: the inputs of each side, [n, 1, ...].
        gates: for each activation the gates of each side, [n, *shape of the gate for one sample].
        binary: whether all gates are known to be 0 or 1.
        dtype: of the known factors.
        rules: in place of `RULES`.

    Returns:
        The terms of the output [1, K].
    """
    walk = begun(program, params, xs, gates, binary, dtype, rules or RULES)
    found = walk.run()
    if rules is None:
        check_end(walk, found)
    return found


def begun(
    program: Program,
    params: Sequence[Any],
    xs: Sequence[Any],
    gates: Sequence[tuple[Any, ...]],
    binary: bool,
    dtype: Any,
    rules: Mapping[str, Callable[[Walk, Equation], list[State]]],
) -> Walk:
    """The walk of `output_terms`, before its first step."""
    values = dict(zip(program.params, params, strict=True))
    origins = Provenance(program).constants()
    # What was declared to be fixed replaces what is recognised.
    fixed = normalising(program, origins) if program.fixed is None else set()
    walk = Walk(program, rules, POSITIONWISE, values, list(gates), binary, len(xs), dtype, origins, fixed)
    for number, (var, name) in enumerate(zip(program.params, program.param_paths, strict=True)):
        if number not in (program.fixed or ()):
            leaf = Leaf(tuple(Axis(s, True) for s in var.shape), number, name)
            walk.states[var] = [terms.whole(leaf, var.shape, len(xs), dtype)]
    (x,) = program.x
    source = terms.whole(walk.source, x.shape, len(xs), dtype)
    walk.states[x] = [terms.scale(source, [jnp.asarray(v, dtype) for v in xs])]
    return walk
