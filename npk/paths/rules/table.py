"""Which rule each primitive has, and the walk of a whole program by them.

An operation without a rule raises `UnsupportedOperation`; all of a model's are reported at once.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from npk.paths import terms
from npk.paths.normalisations import normalising
from npk.paths.rules.arithmetic import add, multiply, negate
from npk.paths.rules.gates import gate
from npk.paths.rules.moves import POSITIONWISE, SEVERAL
from npk.paths.rules.weights import convolution, dot_general
from npk.paths.terms import Axis, Leaf
from npk.paths.walk import Role, State, Walk
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
    walk = _begun(program, params, xs, gates, binary, dtype, rules or RULES)
    found = walk.run()
    if rules is None:
        _check_end(walk, found)
    return found


def roles_of(program: Program, gate_shapes: Sequence[Any]) -> tuple[list[Role], list[str]]:
    """What each parameter of a single-sample program is to its paths, and everything that the rules refuse.

    Args:
        program: the program of f for a batch of one, activations found.
        gate_shapes: shape and dtype of every gate of one sample.

    Returns:
        The roles in the order in which values meet them, and the refusals. Nothing is computed.
    """
    walks = []

    def walked(params: Any, x: Any, gates: Any) -> None:
        walk = _begun(program, params, (x[None],), [(g[None],) for g in gates], False, jnp.float32, RULES)
        walk.go()
        walks.append(walk)

    abstract = [jax.ShapeDtypeStruct(v.shape, v.dtype) for v in program.inputs]
    jax.eval_shape(walked, abstract[:-1], abstract[-1], list(gate_shapes))
    return walks[0].roles, list(walks[0].errors)


def _begun(
    program: Program,
    params: Sequence[Any],
    xs: Sequence[Any],
    gates: Sequence[tuple[Any, ...]],
    binary: bool,
    dtype: Any,
    rules: Mapping[str, Callable[[Walk, Equation], list[State]]],
) -> Walk:
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


def _check_end(walk: Walk, output: State) -> None:
    """Of a normalisation that ends f, a bias is a fixed number, which is each output's own."""
    source = [t for t in output if t.base is walk.source and t.shape[-1] > 1]
    if not any(g.shape[1 + d] > 1 for t in source for g in t.g for d in t.dims(len(t.shape) - 1)):
        return
    made_by: dict[Any, Equation] = {v: e for e in walk.program.equations for v in e.outputs}
    at, met = walk.program.outputs[0], []
    while at in made_by and (made_by[at] in walk.normalising or made_by[at].name in POSITIONWISE):
        met.append(made_by[at])
        at = next(a for a in met[-1].inputs if walk.is_data(a))
    reading = [(e, a) for e in met for a in e.inputs if walk.is_parameter(a)]
    if len(reading) > 1:
        equation, scale = next(((e, a) for e, a in reading if e.name == "div"), reading[0])
        others = sorted({walk.made_of(a) for _, a in reading} - {walk.made_of(scale)})
        raise walk.refuse(
            equation,
            f"{walk.made_of(scale)} scales the outputs as a normalisation does, whose parameters are fixed numbers: "
            f"{', '.join(others)} then adds a number of its own to each output, and there is no one NPK. Leave a "
            "temperature out of f (it multiplies H by a number), or select one output: lambda p, x: f(p, x)[:, k:k+1].",
        )
