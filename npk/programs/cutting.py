"""Gates as values of their own: a program in which whatever is a gate is cut off from what it is made of.

Activations stand for q·γ(q) already. Of any other product of a value and a gate the gate is followed back, through
casts, moves and numbers, to what is nonlinear in x: there it is cut, as one equation, which a gate from outside can
take the place of. What lies between (the γ of a norm, a broadcast, a split) stays on the way of the values, so that
neither the gates nor what is held fixed with them depends on the order in which a product is written.
"""

import dataclasses
from collections.abc import Collection, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive

from npk.programs.activations import Activation
from npk.programs.linearity import MOVES, PRODUCTS, is_declared, is_float, scales_of
from npk.programs.program import Atom, Equation, Var
from npk.programs.samples import samples_of
from npk.programs.streams import Stream
from npk.programs.tracing import written

#: Kinds of gates, as the public names have them.
KINDS = ("activation", "choice", "scale", "pattern", "product")


@dataclasses.dataclass(frozen=True)
class Wanted:
    """Which gates are wanted, and what may stay in f though it is neither linear nor a gate."""

    allow: tuple[str, ...] = ()
    kinds: tuple[str, ...] | None = None


def wanted(allow: Sequence[str] = (), kinds: Sequence[str] | None = None) -> Wanted:
    """Checked: `allow` are names of primitives or parts of source lines, `kinds` some of `KINDS`, None for all.

    Raises:
        ValueError: a kind that is none; the letters of a word.
    """
    if any(len(a) < 2 for a in allow):
        raise ValueError(f"allow must be a sequence of names or source lines, got {tuple(allow)}: ('exp',), not 'exp'.")
    if kinds is None:
        return Wanted(tuple(allow))
    if isinstance(kinds, str) or not set(kinds) <= set(KINDS):
        raise ValueError(f"kinds must be some of {', '.join(KINDS)}, as a tuple; got {kinds!r}.")
    return Wanted(tuple(allow), tuple(kind for kind in KINDS if kind in kinds))


_CUT = Primitive("npk_gate")  # stands in equations alone, and is never bound
_CASTS = frozenset(("convert_element_type", "reduce_precision", "sharding_constraint", "stop_gradient"))
_SUMS = frozenset(("add", "add_any", "sub"))

Parts = list[tuple[Atom, bool]]  # factors, and whether they divide


class Cutting:
    """Writes a program's products of values and gates with the gates cut off.

    Args:
        stream: of the program.
        kinds: of gates that are wanted; None for all.
    """

    def __init__(self, stream: Stream, kinds: Collection[str] | None):
        self.stream, self.known, self.kinds = stream, stream.known, kinds
        self.scales = scales_of(stream.known)
        self.of_batch: set[Var] | None = None
        self.cuts: dict[tuple[Var, bool], Var] = {}
        self.copies: dict[tuple[Equation, Atom], tuple[Var, ...]] = {}
        self.equations: list[Equation] = []
        self.met: list[tuple[str, Var]] = []  # the cuts that a product reads, by kind
        self.kept: dict[Equation, None] = {}  # what makes the gates that stay in f

    def of(self, equation: Equation) -> list[Equation]:
        """The equations in place of one product on the way of the values; itself where a gate of it stays in f."""
        self.equations, self.met = [], []
        before = dict(self.cuts), dict(self.copies)
        if equation in self.stream.regrouped:
            self.regrouped(equation)
        else:
            self.product(equation)
        unwanted = [var for kind, var in self.met if not self.wants(kind, var)]
        if not unwanted:
            return self.equations
        self.cuts, self.copies = before
        self.kept.update(dict.fromkeys(self.known.producer.get(var, equation) for var in unwanted))
        return [equation]

    def wants(self, kind: str, gate: Var) -> bool:
        """Whether a gate is cut."""
        producer = self.known.producer.get(gate)
        if producer is not None and is_declared(producer):
            return True
        return (self.kinds is None or kind in self.kinds) and not self.is_of_batch(gate)

    def is_of_batch(self, var: Var) -> bool:
        """Whether a gate is one of all samples together, as batch norm's 1/σ in training: a part of f."""
        if self.of_batch is None:
            program = self.known.program
            mixing = samples_of(program, program.x[0].shape[0]).mixing if program.x[0].shape else ()
            self.of_batch = program.reached_from(v for equation, _ in mixing for v in equation.outputs)
        return var in self.of_batch

    # -- products --------------------------------------------------------------------------------------

    def product(self, equation: Equation) -> None:
        values, at = self.stream.products[equation]
        gate, mixes = equation.inputs[at], equation.name in PRODUCTS
        assert isinstance(gate, Var)
        if equation.name == "select_n":
            self.chosen(equation, values, gate)
        elif mixes:
            ((part, _),) = self.parts(gate, "pattern", False, True)
            inputs = tuple(part if i == at else a for i, a in enumerate(equation.inputs))
            self.equations.append(dataclasses.replace(equation, inputs=inputs))
        else:
            self.times(equation, equation.inputs[values[0]], self.parts(gate, "product", equation.name == "div", False))

    def times(self, equation: Equation, value: Atom, parts: Parts) -> None:
        """A value times factors, in place of an equation."""
        (last,) = equation.outputs

        def met(function: Any) -> Any:
            return lambda a, b: function(jnp.broadcast_to(a, last.shape), _as(b, a.dtype, last.shape))

        for number, (factor, divides) in enumerate(parts, 1):
            out = last if number == len(parts) else Var(last.aval)
            value = self.write(met(jax.lax.div if divides else jax.lax.mul), equation, value, factor, out=out)

    def regrouped(self, equation: Equation) -> None:
        """A product of several factors as its one value times a gate, the product of the others."""
        value, (gate, *rest) = self.stream.regrouped[equation]
        for factor in rest:
            gate = self.write(jax.lax.mul, equation, gate, factor)
        self.times(equation, value, [(self.cut(gate, False, "product", equation), False)])

    def chosen(self, equation: Equation, values: Sequence[int], condition: Var) -> None:
        """A choice by a condition that depends on x: each case times one where it is chosen, else zero."""
        dtype = equation.outputs[0].dtype
        ((gate, _),) = self.parts(condition, "product", False, True, dtype)
        one = self.write(lambda g, v: jnp.broadcast_to(g, v.shape), equation, gate, equation.inputs[values[0]])
        other = self.write(lambda g: 1 - g, equation, one)
        cases = [
            (case, factor)
            for case, factor in zip(equation.inputs[1:], (other, one), strict=True)
            if self.known.number(case) != 0
        ]
        (out,) = equation.outputs
        made = [
            self.write(
                lambda v, g: jnp.broadcast_to(v, g.shape) * g, equation, *c, out=out if len(cases) == 1 else None
            )
            for c in cases
        ]
        if len(made) > 1:
            self.write(jax.lax.add, equation, *made, out=out)

    # -- gates -----------------------------------------------------------------------------------------

    def inner(self, var: Var) -> Var | None:
        """What a factor is a move, a cast, a multiple of; None where it is cut.

        A move of several operands (a concatenation) is none of one factor: of what lies beside it there is no inverse,
        and it would be met once for each factor.
        """
        equation = self.known.producer.get(var)
        if equation is None or is_declared(equation):
            return None
        data = self.stream.data_inputs(equation)
        if equation.name == "mul" and len(data) == 2 and equation not in self.stream.operands:
            scales = [a for a in data if a in self.scales]  # a scale among other factors stays one
            return scales[0] if len(scales) == 1 else None
        if len(data) != 1 or not self.stream.natures[data[0]].is_gate or equation in self.stream.operands:
            return None
        if equation.name in MOVES:
            fills = equation.params.get("fill_value") is not None
            alone = len(equation.inputs) == 1 or (equation.name == "gather" and data[0] is equation.inputs[0])
            return data[0] if alone and not fills else None
        if equation.name in _CASTS:
            return data[0] if is_float(data[0]) else None
        return data[0] if equation.name in ("mul", "div", "neg", *_SUMS) and is_float(data[0]) else None

    def parts(self, var: Var, kind: str, inverted: bool, whole: bool, dtype: Any = None) -> Parts:
        """A gate as factors on the way of the values, each a cut or what does not depend on x.

        Args:
            var: the gate.
            kind: of the gate.
            inverted: what is divided by it is wanted.
            whole: a single factor is.
            dtype: of a condition, which is cut as numbers.
        """
        inner = self.inner(var)
        if inner is None:
            return [(self.cut(var, inverted, kind, self.known.producer[var], dtype), False)]
        equation = self.known.producer[var]
        if equation.name in MOVES | _CASTS:
            found = self.parts(inner, kind, inverted, whole, dtype)
            return [(self.copied(equation, inner, a, equation.outputs.index(var)), divides) for a, divides in found]
        others = [a for a in equation.inputs if a is not inner]
        made = [o for a in others if (o := self.known.origin(a)) is not None and (o.leaves or o.fixed)]
        if equation.name == "neg":
            (first, divides), *rest = self.parts(inner, kind, inverted, whole)
            return [(self.copied(equation, inner, first, 0), divides), *rest]
        turned = equation.name == "div" and equation.inputs[0] is not inner  # other / inner
        if equation.name in _SUMS or whole:  # a single factor
            if turned and not inverted and self.known.number(others[0]) == 1:
                return self.parts(inner, kind, True, True)
            if made or inverted or turned or any(a in self.known.data for a in others):
                return [(self.cut(var, inverted, kind, equation, dtype), False)]
            ((factor, _),) = self.parts(inner, kind, False, True)
            return [(self.copied(equation, inner, factor, 0), False)]
        found = self.parts(inner, kind, inverted != turned, whole)
        if others and others[0] in self.known.data:
            return [*found, *self.parts(others[0], kind, inverted, whole)]  # type: ignore[arg-type]
        divides = inverted != (equation.name == "div" and not turned)
        return found + [(a, divides) for a in others if self.known.number(a) != 1]

    def cut(self, var: Var, inverted: bool, kind: str, at: Equation, dtype: Any = None) -> Var:
        """A gate as a value of its own."""
        producer = self.known.producer.get(var)
        if var in self.scales:
            kind = "scale"
        elif producer is not None and is_declared(producer):
            kind = "declared"
        self.met.append((kind, var))
        if (var, inverted) in self.cuts:
            return self.cuts[var, inverted]
        source = var
        if dtype is not None:
            source = self.write(lambda a: a.astype(dtype), at, var)
        out = Var(jax.ShapeDtypeStruct(source.shape, source.dtype))
        activation = Activation(kind, jnp.reciprocal if inverted else _itself, _given, alone=True, form=inverted)
        self.equations.append(
            dataclasses.replace(at, primitive=_CUT, inputs=(source,), outputs=(out,), params={}, activation=activation)
        )
        self.cuts[var, inverted] = out
        return out

    def copied(self, equation: Equation, old: Var, new: Atom, output: int) -> Atom:
        """The output of an equation that reads another value; of a number what it is anywhere."""
        if not new.shape and old.shape:
            return new
        if (equation, new) not in self.copies:
            dtype, whole = old.dtype != new.dtype, new
            if new.shape != old.shape:  # one of several factors, which are broadcast against each other
                whole = self.write(lambda a: jnp.broadcast_to(a, old.shape), equation, new)
            outputs = tuple(
                Var(jax.ShapeDtypeStruct(v.shape, new.dtype if dtype else v.dtype)) for v in equation.outputs
            )
            inputs = tuple(whole if a is old else a for a in equation.inputs)
            self.equations.append(dataclasses.replace(equation, inputs=inputs, outputs=outputs))
            self.copies[equation, new] = outputs
        return self.copies[equation, new][output]

    def write(self, function: Any, at: Equation, *atoms: Atom, out: Var | None = None) -> Var:
        """The value of a function of some values, written where an equation is."""
        equations, result = written(function, atoms, at, out)
        self.equations += equations
        assert isinstance(result, Var)
        return result


def _itself(value: Any) -> Any:
    return value


def _given(value: Any, gate: Any) -> Any:
    return gate


def _as(factor: Any, dtype: Any, shape: tuple[int, ...]) -> Any:
    """Numbers as a product of that shape takes them."""
    return jnp.broadcast_to(factor, shape).astype(dtype)
