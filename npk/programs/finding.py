"""Finding the activations of a program: where a value q becomes q·γ(q).

An activation is found by what it computes, not by what it is called. Two forms count:

- hard: a(q) is a different multiple of q on either side of zero (ReLU in any spelling, leaky ReLU,
  absolute value), proven by running the equations once for q > 0 and once for q < 0 on symbols α·q + c;
- soft: any other elementwise function of one value q with a(0) = 0 and a finite slope there: γ is the factor of q where
  a is written as such a product (silu, gelu, soft-ReLU), else a(q)/q (tanh, elu, a clipped ReLU);

and max-pooling, whose gate selects. Whatever is nonlinear in another way stays in the program as it is.
"""

import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from npk.programs.activations import (
    GATED,
    IDENTITY,
    Activation,
    Curve,
    hard_gate_of,
    max_pooling,
    quotient,
    slope_at_zero,
)
from npk.programs.affine import Affine, affine_step
from npk.programs.linearity import (
    DECLARED,
    ELEMENTWISE,
    GIVEN_SCALE,
    POOLS,
    is_declared,
    is_elementwise,
    is_float,
    only_stopped,
)
from npk.programs.program import Atom, Equation, Program, Var
from npk.programs.provenance import Provenance
from npk.programs.tracing import is_custom

# What makes a factor of q a gate rather than a polynomial of q.
_GATE_LIKE = frozenset("clamp erf erfc exp exp2 expm1 log1p logistic max min select_n tanh".split())
# What is affine in the values that depend on x, if it reads no two of them.
_AFFINE = frozenset("add add_any convert_element_type div mul neg reduce_precision stop_gradient sub".split())
_SUMS = frozenset(("add", "add_any", "sub"))


class Finder:
    """Looks through a program once, in order; later finds absorb what lies inside them."""

    def __init__(self, program: Program):
        self.program = program
        self.known = Provenance(program)
        self.data, self.scalar = self.known.data, self.known.number
        self.order: dict[Var, int] = {}
        self.producer = self.known.producer
        self.found: dict[Equation, Activation] = {}
        self.operands: dict[Equation, tuple[Atom, ...]] = {}
        self.pending: set[Var] = set()  # nonlinear functions of one value that are no activations as they stand
        self.opaque: set[Var] = set()  # nonlinear values that are functions of several
        for i, equation in enumerate(program.equations):
            self.order.update(dict.fromkeys(equation.outputs, i))

    def data_inputs(self, equation: Equation) -> list[Var]:
        return [a for a in equation.inputs if isinstance(a, Var) and a in self.data]

    def expandable(self, var: Var) -> bool:
        """Whether var is an elementwise function of data and of numbers, nothing else."""
        equation = self.producer.get(var)
        if equation is None or not is_elementwise(equation):
            return False
        numbers = [a for a in equation.inputs if not (isinstance(a, Var) and a in self.data)]
        return all(self.scalar(a) is not None for a in numbers)

    def region(self, exit_equation: Equation, through_found: bool) -> tuple[Var, list[Equation]] | None:
        """The nearest single value q that everything `exit_equation` computes is a function of.

        What is pending is looked through, and with `through_found` activations that nothing else reads. Returns q and
        the equations from q up to and with the exit, in order.
        """
        numbers = [a for a in exit_equation.inputs if not (isinstance(a, Var) and a in self.data)]
        if any(self.scalar(a) is None for a in numbers):
            return None
        inside = [exit_equation]
        open_vars = set(self.data_inputs(exit_equation))
        while open_vars:
            latest = max(open_vars, key=lambda v: self.order.get(v, -1))
            if len(open_vars) == 1 and latest not in self.pending:
                if not (through_found and self.absorbed(latest, inside)):
                    break
            if not self.expandable(latest):
                if len(open_vars) == 1:
                    break
                return None
            open_vars.remove(latest)
            open_vars.update(self.data_inputs(self.producer[latest]))
            inside.append(self.producer[latest])
        inside = sorted(set(inside), key=lambda e: self.order[e.outputs[0]])
        return (open_vars.pop(), inside) if open_vars else None

    def absorbed(self, var: Var, readers: list[Equation]) -> bool:
        """Whether a value is an activation, times a number, that nothing but these equations reads."""
        equation = self.producer.get(var)
        if equation is None or not self.read_by(var, readers):
            return False
        data = self.data_inputs(equation)
        times = equation.name in _AFFINE - _SUMS and len(data) == 1 and self.expandable(var)
        return equation in self.found or (times and self.absorbed(data[0], [equation]))

    def read_by(self, var: Var, equations: list[Equation]) -> bool:
        """Whether nothing but these equations reads a value."""
        return var not in self.program.outputs and all(e in equations for e in self.known.readers(var))

    def slopes(self, root: Var, inside: list[Equation], exit_atom: Atom) -> tuple[float, float, float] | None:
        """The multiples of q that `exit_atom` is for q < 0, q = 0, q > 0; None if it is not piecewise one."""
        result = []
        for side in (-1, 0, 1):
            env: dict[Var, Affine] = {root: Affine(1.0, 0.0)}
            for equation in inside:
                values = [v for atom in equation.inputs if (v := self.symbol(atom, env)) is not None]
                out = affine_step(equation, values, side) if len(values) == len(equation.inputs) else None
                if out is not None:
                    env[equation.outputs[0]] = out
            value = env.get(exit_atom) if isinstance(exit_atom, Var) else None
            if value is None or value.offset != 0 or not math.isfinite(value.slope):
                return None
            result.append(value.slope)
        return result[0], result[1], result[2]

    def symbol(self, atom: Atom, env: dict[Var, Affine]) -> Affine | None:
        if isinstance(atom, Var) and atom in env:
            return env[atom]
        number = self.scalar(atom)
        return None if number is None else Affine(0.0, number)

    def soft_gate(self, root: Var, inside: list[Equation]) -> Callable[[Any], Any] | None:
        """γ of an exit that reads (multiple of q) · g(q) or (multiple of q) / g(q)."""
        last = inside[-1]
        if not _GATE_LIKE.intersection(e.name if e.activation is None else "select_n" for e in inside[:-1]):
            return None
        pairs = [(last.inputs[0], last.inputs[1])]
        if last.name == "mul":
            pairs.append((last.inputs[1], last.inputs[0]))
        for multiple, factor in pairs:
            slopes = (1.0, 1.0, 1.0) if multiple is root else self.slopes(root, inside[:-1], multiple)
            if slopes and len(set(slopes)) == 1 and isinstance(factor, Var) and factor in self.data:
                return self.replay(root, inside[:-1], factor, slopes[0], invert=last.name == "div")
        return None

    def replay(
        self, root: Var, inside: list[Equation], factor: Var, slope: float, invert: bool
    ) -> Callable[[Any], Any]:
        """`factor` (inverted, and times `slope`) as a function of `root`, for values of any shape.

        What `inside` reads besides is one number each, whatever shape f gave it.
        """
        outside = {a for e in inside for a in e.inputs if not (isinstance(a, Var) and a in self.data)}
        numbers = {a: np.asarray(self.scalar(a), a.dtype) for a in outside}

        def gate(q: Any) -> Any:
            env: dict[Atom, Any] = {**numbers, root: q}
            for equation in inside:
                operands = [env[atom] for atom in equation.inputs]
                if equation.name == "select_n":
                    shape = jnp.broadcast_shapes(*map(jnp.shape, operands))
                    operands = [jnp.broadcast_to(value, shape) for value in operands]
                values = equation.bind(*operands)
                env.update(zip(equation.outputs, values, strict=True))
            g = env[factor]
            if invert:
                return jnp.asarray(slope, q.dtype) / g
            return g if slope == 1.0 else jnp.asarray(slope, q.dtype) * g

        return gate

    def spelled(self, root: Var, inside: list[Equation]) -> tuple[Any, ...]:
        """Equations from a root on, told by what they do and read: the same for the same function elsewhere."""
        places: dict[Any, Any] = {}
        lines = []
        for number, equation in enumerate(inside):
            read = tuple(
                # By its text: 0.0 and -0.0 are equal.
                places.get(a) or ("number", repr(self.scalar(a)), str(a.dtype))
                for a in equation.inputs
                if a is not root
            )
            at = tuple(i for i, a in enumerate(equation.inputs) if a is root)
            lines.append((equation.name, at, read, repr(sorted(equation.params.items()))))
            places |= {var: ("value", number, i) for i, var in enumerate(equation.outputs)}
        return tuple(lines)

    def look(self, equation: Equation) -> None:
        name = equation.name
        if name in ("jit", "pjit") and equation.params.get("name") == IDENTITY:
            self.add(equation, self.data_inputs(equation), Activation("identity", jnp.ones_like))
        elif (
            is_mark(equation)
            and not is_declared(equation)
            and len({a.shape for a in (*equation.inputs, *equation.outputs)}) == 1
        ):
            self.found[equation] = Activation("given", lambda q, gate: gate)
            self.operands[equation] = equation.inputs
        elif name in POOLS and equation.outputs[0] in self.data and not only_stopped(self.known, equation.outputs[0]):
            self.add(equation, self.data_inputs(equation), max_pooling(equation))
        elif equation.outputs[0] in self.data and is_custom(equation) and is_elementwise(equation):
            self.opaque.add(equation.outputs[0])
        elif equation.outputs[0] in self.data and name in ELEMENTWISE and is_float(equation.outputs[0]):
            self.look_elementwise(equation)
        elif equation.outputs[0] in self.data and name in ELEMENTWISE and _is_complex(equation.outputs[0]):
            self.opaque.update(() if self.is_affine(equation) else equation.outputs)

    def look_elementwise(self, equation: Equation) -> None:
        data = self.data_inputs(equation)
        affine = self.is_affine(equation)
        if affine and len(data) == 1:
            if equation.name in _SUMS:
                self.shift(equation, data[0])
            if data[0] not in self.pending:
                return
        region = self.region(equation, through_found=not affine)
        if region is None or not is_float(region[0]):
            if not affine or self.pending.intersection(data):
                self.opaque.add(equation.outputs[0])
            return
        root, inside = region
        slopes = self.slopes(root, inside, equation.outputs[0])
        waiting = any(e.outputs[0] in self.pending for e in inside[:-1])
        if slopes is not None and len(set(slopes)) == 1:
            return
        bent = all(v is not root and len(set(self.slopes(root, inside, v) or (0, 1))) > 1 for v in data)
        if affine and not waiting and not bent and (slopes is None or 0 not in (slopes[0], slopes[2])):
            return  # a skip connection
        for interior in inside[:-1]:
            if self.read_by(interior.outputs[0], inside):
                self.found.pop(interior, None)
        if slopes is not None:
            self.add(equation, [root], Activation("hard", hard_gate_of(slopes), slopes=(slopes[0], slopes[2])))
            return
        whole = self.replay(root, inside, equation.outputs[0], 1.0, invert=False)
        form = self.spelled(root, inside)
        at_zero = slope_at_zero(Curve(form, root.dtype, whole))
        if at_zero is None:
            self.pending.add(equation.outputs[0])
        else:
            gate = self.soft_gate(root, inside) if equation.name in ("mul", "div") else None
            self.add(equation, [root], Activation("soft", gate or quotient(whole, at_zero), form=form))

    def is_affine(self, equation: Equation) -> bool:
        """Whether an elementwise equation is affine in what it reads of x."""
        first, *others = equation.inputs
        if equation.name == "select_n":
            return first not in self.data
        if equation.name == "div" and others[0] in self.data:
            return False
        if equation.name == "convert_element_type" and not is_float(first) and not _is_complex(first):
            return not any(map(is_float, self.program.x))  # an input of integers is encoded by that
        return equation.name in _SUMS or (equation.name in _AFFINE and len(self.data_inputs(equation)) == 1)

    def shift(self, equation: Equation, var: Var) -> None:
        """A number added to a smooth activation makes both a part of what follows: 1 + tanh(q)."""
        activation = self.found.get(self.producer[var]) if var in self.producer else None
        numbers = [n for a in equation.inputs if a is not var and (n := self.scalar(a)) is not None]
        if activation is not None and activation.kind == "soft" and numbers != [0.0] and numbers:
            self.pending.add(var)
            if self.read_by(var, [equation]):
                self.found.pop(self.producer[var])

    def add(self, equation: Equation, operands: list[Var], activation: Activation) -> None:
        if operands:
            self.found[equation], self.operands[equation] = activation, (operands[0],)


def _is_complex(atom: Atom) -> bool:
    return jnp.issubdtype(atom.dtype, jnp.complexfloating)


def is_mark(eqn: Any) -> bool:
    return eqn.primitive.name in ("jit", "pjit") and eqn.params.get("name") in (IDENTITY, GATED, DECLARED, GIVEN_SCALE)
