"""A program in stages, and which of them compute alike: equal layers are compiled once."""

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from npk.programs.program import Atom, Const, Equation, Program, Var
from npk.programs.tracing import is_custom, trace

Mark = Callable[[Equation | Var], Hashable]


class Kind:
    """One of several things that compute alike, and stands for them all: kinds of one name are equal."""

    def __init__(self, one: Any, name: Hashable):
        self.one, self.name, self.hash = one, name, hash(name)  # names are long

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Kind) and self.hash == other.hash and self.name == other.name)

    def __hash__(self) -> int:
        return self.hash


def stages_of(program: Program, begins: Callable[[Equation], bool]) -> list[Program]:
    """What depends on x, in stages: from the second on they begin with an equation that `begins` one.

    A stage is a program of the parameters that it needs and of what it reads from before (its `x`) to what is read of
    it later. What is made of parameters alone is made in every stage that reads it.
    """
    data = program.reached_from(program.x)
    parts: list[list[Equation]] = [[]]
    for equation in program.equations:
        if not data.isdisjoint(equation.outputs):
            if begins(equation) and any(map(begins, parts[-1])):
                parts.append([])
            parts[-1].append(equation)
    last = {a: len(parts) for a in program.outputs}
    for number, part in reversed(list(enumerate(parts))):
        for equation in part:
            for a in equation.inputs:
                last.setdefault(a, number)
    makers = {v: n for n, e in enumerate(program.equations) for v in e.outputs if v not in data}
    stages = []
    for number, part in enumerate(parts):
        read, made = _variables(part), [v for equation in part for v in equation.outputs]
        constant = _making(program, makers, [v for v in read if v not in data])
        needed = {*read, *_variables(constant)}
        params = tuple(v for v in program.params if v in needed)
        before = tuple(v for v in read if v in data and v not in made)
        outputs = tuple(v for v in made if last.get(v, -1) > number)
        stages.append(Program(params, before, (*constant, *part), outputs, (), None))
    return stages


def _variables(equations: Iterable[Equation]) -> dict[Var, None]:
    """What equations read, in order."""
    return dict.fromkeys(a for equation in equations for a in equation.inputs if isinstance(a, Var))


def _making(program: Program, makers: dict[Var, int], wanted: list[Var]) -> list[Equation]:
    """The equations that make these variables of parameters."""
    found: set[int] = set()
    while wanted:
        number = makers.get(wanted.pop())
        if number is not None and number not in found:
            found.add(number)
            wanted += _variables([program.equations[number]])
    return [program.equations[number] for number in sorted(found)]


def spelled(program: Program, mark: Mark = lambda _: None) -> tuple[Hashable, ...]:
    """A program by what it does and reads, and how its variables and equations are marked, variables by number."""
    numbers: dict[Atom, int] = {var: n for n, var in enumerate(program.inputs)}

    def atom(a: Atom) -> Hashable:
        return _constant(a) if isinstance(a, Const) else numbers[a]

    lines: list[Hashable] = [tuple((v.aval, mark(v)) for v in program.inputs)]
    for equation in program.equations:
        read = tuple(map(atom, equation.inputs))
        numbers |= {v: len(numbers) + n for n, v in enumerate(equation.outputs)}
        made = tuple((v.aval, mark(v)) for v in equation.outputs)
        lines.append((_operation(equation), read, made, mark(equation)))
    return len(program.params), *lines, tuple(map(atom, program.outputs))


def _constant(const: Const) -> Hashable:
    if jnp.issubdtype(const.dtype, jax.dtypes.extended):  # a random key
        return _Itself(const.value)
    value = np.asarray(const.value)
    return str(value.dtype), value.shape, value.tobytes()


def _operation(equation: Equation) -> Hashable:
    """What an equation does, its derivative included."""
    if equation.activation is not None:
        return equation.activation.spelled
    if is_custom(equation):
        return _own_derivative(equation)
    return equation.primitive, tuple((name, _hashable(value)) for name, value in sorted(equation.params.items()))


def _hashable(value: Any) -> Hashable:
    """A parameter of a primitive. What is no number, name or tuple of them is equal to itself alone."""
    if isinstance(value, tuple | list):
        return tuple(map(_hashable, value))
    try:
        hash(value)
    except TypeError:
        return _Itself(value)
    return type(value), repr(value) if isinstance(value, float) else value  # 0.0 and -0.0 are equal


class _Itself:
    """A thing that is equal to itself alone, and kept, so that no other takes its place in memory."""

    def __init__(self, value: Any):
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Itself) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)


def _own_derivative(equation: Equation) -> Hashable:
    """A function with a derivative of its own, traced anew at each call: the program of its value and derivative."""

    def both(inputs: Sequence[Any], cotangents: Sequence[Any]) -> Any:
        out, pull = jax.vjp(lambda *values: equation.bind(*values), *inputs)
        return out, [g for g in pull(list(cotangents)) if g.dtype != jax.dtypes.float0]

    if equation.params.get("symbolic_zeros"):  # its rule may ask what is constant, which differs from place to place
        return _Itself(equation)
    read, made = ([jax.ShapeDtypeStruct(a.shape, a.dtype) for a in own] for own in (equation.inputs, equation.outputs))
    try:
        return spelled(trace(both, read, made))
    except Exception:  # of whatever kind: it has no derivative, and may need none
        return _Itself(equation)
