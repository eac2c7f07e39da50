"""The program of f with all its gates: activations as one equation each, other gates cut off, calls opened for them.

Calls with a derivative of their own, and loops, are opened only where a gate lies inside: elsewhere their derivative
stays what the user says that it is.
"""

import dataclasses
from collections.abc import Callable, Collection
from typing import Any

import jax.numpy as jnp

from npk.programs.activations import Activation, hard_gate_of
from npk.programs.cutting import Cutting
from npk.programs.finding import Finder, is_mark
from npk.programs.linearity import is_elementwise
from npk.programs.program import Atom, Equation, Program, UnsupportedOperation, Var
from npk.programs.provenance import said
from npk.programs.streams import Stream
from npk.programs.tracing import flatten, is_custom, sub_jaxpr, trace, written
from npk.programs.zeros import without_zeros


def is_linear_inside(eqn: Any) -> bool:
    """Whether the bodies of a closed call have nothing that is nonlinear in all that they read."""
    for value in eqn.params.values():
        for body in value if isinstance(value, (tuple, list)) else (value,):
            if hasattr(body, "jaxpr") and hasattr(body, "consts"):
                program = with_activations(flatten(body, lambda e: True, 0, (), None))
                if program.nonlinear or any(e.activation is not None for e in program.equations):
                    return False
    return True


def with_activations(program: Program, kinds: Collection[str] | None = None) -> Program:
    """The same program with every gate found: an activation is one equation, other gates are cut off.

    Args:
        program: any.
        kinds: of gates (`KINDS`), None for all; others stay in f, as what is 1/σ of a whole batch does.

    Raises:
        UnsupportedOperation: an activation lies inside a `cond` or `while`, where it cannot be replaced.
    """
    program = without_zeros(program)
    finder = Finder(program)
    for equation in program.equations:
        finder.look(equation)
    operands = {e: finder.operands[e] for e in finder.found}
    stream = Stream(finder.known, operands, finder.pending | finder.opaque, is_linear_inside)
    cutting = Cutting(stream, kinds)
    equations: list[Equation] = []
    passed = stream.passed()
    on_the_way = frozenset(passed)
    for equation in program.equations:
        if equation in on_the_way and equation in finder.found and _wanted(finder.found[equation], kinds):
            equations += _with_gate(equation, finder.operands[equation], finder.found[equation])
            continue
        if equation in on_the_way and (equation in stream.products or equation in stream.regrouped):
            equations += cutting.of(equation)
            continue
        if equation.name in ("cond", "while") and contains_activation(equation):
            chooser = said(finder.known.origin(equation.inputs[0]), program.param_paths)
            which = f"; which branch is taken depends on {chooser}" if equation.name == "cond" else ""
            raise UnsupportedOperation(
                f"an activation inside `{equation.name}` has no gate of its own (at {equation.source}){which}. Compute "
                "both branches and select, or use lax.scan with a fixed length."
            )
        equations.append(equation)
    found = dataclasses.replace(program, equations=tuple(equations)).pruned()
    bent = tuple(e for e in passed if stream.bends(e))
    return dataclasses.replace(found, nonlinear=bent, kept=tuple(cutting.kept))


def with_gates(f: Callable[..., Any], params: Any, x: Any, kinds: Collection[str] | None = None) -> Program:
    """The program of f with its gates found; what has a derivative of its own is opened where gates lie inside.

    Args:
        f: a function of (params, x).
        params: its parameters, of which shapes count alone.
        x: a batch, likewise.
        kinds: as of `with_activations`.
    """
    opened: set[str] = set()

    def opens(eqn: Any) -> bool:
        return opens_for_gates(eqn) or (bool(opened) and _body(eqn) in opened)

    found = with_activations(trace(f, params, x, opens), kinds)
    while more := {_body(e) for e in found.nonlinear if is_custom(e) or e.name == "scan"} - opened:
        opened |= more
        found = with_activations(trace(f, params, x, opens), kinds)
    return found


def _body(eqn: Any) -> str:
    """What a call computes, as text; of no call nothing."""
    return str(eqn.params["jaxpr"] if eqn.primitive.name == "scan" else sub_jaxpr(eqn) if is_custom(eqn) else "")


def _wanted(activation: Activation, kinds: Collection[str] | None) -> bool:
    kind = "choice" if activation.kind == "pool" else "activation"
    return kinds is None or kind in kinds or activation.kind == "given"


def _with_gate(equation: Equation, operands: tuple[Atom, ...], activation: Activation) -> list[Equation]:
    """An activation as one equation; a hard one has gates of 0 and 1, or 1 above zero, and a number apart."""
    below, above = activation.slopes or (0.0, 1.0)
    number = above or below
    if number == 1.0 or activation.kind != "hard":
        return [dataclasses.replace(equation, inputs=operands, activation=activation)]
    gate = hard_gate_of((below / number, 0.0, above / number))
    unit = Activation("hard", gate, slopes=(below / number, above / number))
    (out,) = equation.outputs
    inner = Var(out.aval)
    times, _ = written(lambda v: v * jnp.asarray(number, v.dtype), [inner], equation, out)
    return [dataclasses.replace(equation, inputs=operands, outputs=(inner,), activation=unit), *times]


def contains_activation(eqn: Any) -> bool:
    """Whether the body of an equation (a jaxpr's or a program's) holds an activation of its inputs."""
    bodies = []
    for value in eqn.params.values():
        for item in value if isinstance(value, (tuple, list)) else (value,):
            if hasattr(item, "jaxpr") and hasattr(item, "consts"):
                bodies.append(item)
    own = sub_jaxpr(eqn)
    for body in bodies or ([own] if own is not None else []):
        program = flatten(body, lambda e: True, 0, (), None)
        finder = Finder(program)
        for equation in program.equations:
            finder.look(equation)
            if equation.name in ("cond", "while") and contains_activation(equation):
                return True
        if any(a.kind != "pool" for a in finder.found.values()) or (not is_custom(eqn) and finder.found):
            return True
        if eqn.primitive.name == "scan" and (finder.pending or finder.opaque):
            return True
        if finder.pending and is_elementwise(eqn) and eqn.primitive.name == "custom_jvp_call":
            return True
    return False


def opens_for_gates(eqn: Any) -> bool:
    """Open every plain call; open custom derivatives and loops only where they hold an activation."""
    if is_custom(eqn) or eqn.primitive.name == "scan":
        return contains_activation(eqn)
    return not is_mark(eqn)


def opens_without_gates(eqn: Any) -> bool:
    """As `opens_for_gates`, but for derivatives of the user's own, which a tangent kernel is of."""
    return not is_custom(eqn) and opens_for_gates(eqn)


def opens_loops(eqn: Any) -> bool:
    """Open every plain call and every loop, but no derivative of the user's own."""
    return not is_custom(eqn) and not is_mark(eqn)


def opens_all(eqn: Any) -> bool:
    """Open everything but the marks that npk itself leaves."""
    return not is_mark(eqn)


def opens_derivatives(eqn: Any) -> bool:
    """As `opens_for_gates`, and open what says what its derivative is: what is left has that of what it computes."""
    return is_custom(eqn) or opens_for_gates(eqn) or (eqn.primitive.name == "scan" and says_derivative(eqn))


def says_derivative(eqn: Any) -> bool:
    """Whether something in the bodies of a closed call says what its derivative is, or that it has none."""
    for value in eqn.params.values():
        for body in value if isinstance(value, (tuple, list)) else (value,):
            if hasattr(body, "jaxpr") and hasattr(body, "consts"):
                inside = flatten(body, lambda e: not is_custom(e), 0, (), None).equations
                if any(is_custom(e) or e.name == "stop_gradient" or says_derivative(e) for e in inside):
                    return True
    return False
