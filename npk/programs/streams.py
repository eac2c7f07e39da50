"""The stream of values through a program, and the factors that meet it: which side of every product is a gate.

A value is affine in x once the gates are given. Whatever multiplies a value and depends on x itself is a gate: an
activation's γ(q), a softmax that mixes positions, the 1/σ of a norm, the nonlinear side of a product. What the gates
are made of (queries and keys, a variance) is on no value's way.

Of a product of two values the side that holds a nonlinearity is the gate, and an affine factor that occurs inside it
belongs to it: u·σ(u)·v is v times the gate silu(u), in whatever order it is written. Where that does not decide it
(bilinear layers, linear attention) nothing is guessed: the product stays, and is told as nonlinear.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from npk.programs.linearity import (
    CHOOSING,
    ELEMENTWISE,
    LINEAR,
    MOVES,
    PLACES,
    POOLS,
    PRODUCTS,
    is_declared,
    is_elementwise,
    is_float,
    only_stopped,
)
from npk.programs.program import Atom, Equation, Var, is_traced
from npk.programs.provenance import Provenance
from npk.programs.tracing import is_custom


class Nature(NamedTuple):
    """What a value that depends on x is, as a product: how many of its factors are affine in x given the gates.

    `plain` count those that occur in no nonlinear factor beside them, `active` those that do (u of u·σ(u)). A value has
    one factor, a gate no plain one. What encodes an input of integers (a mask, a one-hot vector) can be either.
    """

    plain: int
    active: int
    encoded: bool = False

    @property
    def is_value(self) -> bool:
        return self.encoded or self.plain + self.active == 1

    @property
    def is_gate(self) -> bool:
        return self.plain == 0


_VALUE, _ACTIVE, _NONLINEAR, _ENCODED = Nature(1, 0), Nature(0, 1), Nature(0, 0), Nature(0, 0, True)
_SUMS = frozenset(("add", "add_any", "sub"))


def _is_number(var: Var) -> bool:
    return jnp.issubdtype(var.dtype, jnp.inexact)


class Product(NamedTuple):
    """Which operands of a product are values, and which is their gate."""

    values: tuple[int, ...]
    gate: int


class Stream:
    """What every value of a program is, and which products are of a value and a gate.

    Args:
        known: of the program.
        operands: of what are activations, found before.
        bent: the elementwise values that are neither activations nor affine.
        is_linear_inside: of a call that was left closed.
    """

    def __init__(
        self,
        known: Provenance,
        operands: Mapping[Equation, Sequence[Atom]],
        bent: set[Var],
        is_linear_inside: Callable[[Any], bool],
    ):
        self.known, self.operands, self.bent = known, operands, bent
        self.is_linear_inside = is_linear_inside
        self.natures: dict[Var, Nature] = {v: _VALUE if is_float(v) else _ENCODED for v in known.program.x}
        self.products: dict[Equation, Product] = {}
        self.regrouped: dict[Equation, tuple[Var, list[Var]]] = {}  # a value and the factors of its gate
        for equation in known.program.equations:
            if data := self.data_inputs(equation):
                found = self.nature(equation, data)
                self.natures.update(dict.fromkeys(equation.outputs, found))

    def data_inputs(self, equation: Equation) -> list[Var]:
        return [a for a in equation.inputs if isinstance(a, Var) and a in self.known.data]

    def nature(self, equation: Equation, data: list[Var]) -> Nature:
        natures, name = [self.natures[a] for a in data], equation.name
        if is_declared(equation):
            return _NONLINEAR
        if equation in self.operands:
            q = self.operands[equation][0]
            of_value = isinstance(q, Var) and self.natures.get(q, _NONLINEAR).is_value
            return _ACTIVE if of_value and not self.natures[q].encoded else _NONLINEAR  # type: ignore[index]
        if name in ("mul", "div") and len(data) == (1 if equation.inputs[0] is equation.inputs[1] else 2):
            return self.multiplied(equation)
        if name == "div" and data[0] is not equation.inputs[0]:
            return _NONLINEAR
        if name in PRODUCTS and all(a in self.known.data for a in equation.inputs):
            return self.multiplied(equation)
        if name == "select_n" and equation.inputs[0] in self.known.data:
            return self.selected(equation)
        if all(n.encoded for n in natures):
            return self.encoding(equation)
        if name == "gather":
            return natures[0] if len(data) == 1 and equation.inputs[0] is data[0] else _NONLINEAR
        if name in ELEMENTWISE and not self.bent.isdisjoint(equation.outputs):
            return _NONLINEAR
        if name in ELEMENTWISE or name in LINEAR or name in PRODUCTS or name in CHOOSING:
            if not all(map(_is_number, (*data, *equation.outputs))):
                return _NONLINEAR
            if name in _SUMS and self.begins(equation, data):
                return _VALUE
            return self.added(natures, name in MOVES or name in ELEMENTWISE)
        if name in PLACES:
            return self.added(natures, False)
        if (is_custom(equation) or name in ("cond", "scan")) and self.is_linear_inside(equation):
            return self.added(natures, False)
        return _NONLINEAR

    def added(self, natures: Sequence[Nature], elementwise: bool) -> Nature:
        """Of a sum, or of what is linear in one operand."""
        if all(n.is_value for n in natures):
            active = elementwise and all(n.active for n in natures)
            return _ACTIVE if active else _VALUE
        if any(n == _NONLINEAR for n in natures):
            return _NONLINEAR
        return max(natures, key=lambda n: (n.plain, n.active))

    def begins(self, equation: Equation, data: Sequence[Var]) -> bool:
        """Whether an equation adds gates times parameters to a value: these are values, too, paths begin at them.

        So does r ⊙ b in tanh(W x + r ⊙ (U h + b)), a gated recurrent unit before its first step.
        """
        products: dict[Equation, Product] = {}
        values = [self.natures[a].is_value and not self.natures[a].encoded for a in data]
        if all(values) or not any(values) or not all(v or self.begun(a, products) for v, a in zip(values, data)):
            return False
        self.products.update(products)
        return True

    def begun(self, var: Var, products: dict[Equation, Product]) -> bool:
        """Whether a value that one equation reads is made of gates times parameters, and of values; which, is noted."""
        equation = self.known.producer.get(var)
        if equation is None or equation in self.operands or len(self.known.readers(var)) != 1:
            return False
        data, name = self.data_inputs(equation), equation.name
        if name in _SUMS:
            return all(self.natures[a] == _VALUE or self.begun(a, products) for a in data)
        if len(data) != 1 or not (is_float(data[0]) and is_float(var)):
            return False
        others = [a for a in equation.inputs if a is not data[0]]
        origin = self.known.origin(others[0]) if len(others) == 1 else None
        if name in ("mul", "div") and origin is not None and origin.leaves:
            at = 1 if equation.inputs[0] is data[0] else 0
            if self.natures[data[0]] != _NONLINEAR or (name == "div" and at == 1):
                return False
            products[equation] = Product((at,), 1 - at)
            return True
        passes = name in MOVES or name in ("convert_element_type", "neg", "mul")
        return passes and len(equation.outputs) == 1 and self.begun(data[0], products)

    def encoding(self, equation: Equation) -> Nature:
        """Of what is made of an input of integers alone."""
        made_of = [self.known.origin(a) for a in equation.inputs if not (isinstance(a, Var) and a in self.known.data)]
        params = any(o is not None and (o.leaves or o.fixed) for o in made_of)
        if equation.name == "gather" and equation.inputs[0] not in self.known.data:
            return _VALUE
        if params and is_float(equation.outputs[0]):
            return _VALUE if equation.name in ("mul", *PRODUCTS) else _NONLINEAR
        return _ENCODED if not params or is_elementwise(equation) or equation.name in LINEAR else _NONLINEAR

    def multiplied(self, equation: Equation) -> Nature:
        """Of a product of two values that both depend on x; which is the gate is noted, where that is sure."""
        a, b = (self.natures[atom] for atom in equation.inputs)  # type: ignore[index]
        if equation.name == "div":
            if a.is_value and not a.encoded:
                self.products[equation] = Product((0,), 1)
                return _VALUE
            return _ENCODED if a.encoded and b.encoded else _NONLINEAR
        for value, gate, at in ((a, b, (0, 1)), (b, a, (1, 0))):
            if gate.is_gate and (value == _VALUE or (value == _ACTIVE and (gate == _NONLINEAR or gate.encoded))):
                self.products[equation] = Product((at[0],), at[1])
                return _VALUE
        if a.encoded and b.encoded:
            return _ENCODED
        found = Nature(a.plain + b.plain, a.active + b.active)
        if found.plain > 1 and equation.name == "mul" and self.regroup(equation):
            return _VALUE
        return found

    def selected(self, equation: Equation) -> Nature:
        """Of a choice by a condition that depends on x: each case times 1 where it is chosen."""
        at = [i for i, a in enumerate(equation.inputs) if i and isinstance(a, Var) and a in self.known.data]
        natures = [self.natures[equation.inputs[i]] for i in at]  # type: ignore[index]
        condition = equation.inputs[0]
        if not all(map(self.is_finite, (a for a in equation.inputs[1:] if a not in self.known.data))):
            return _NONLINEAR  # nothing times -∞ is not nothing
        if condition.dtype != bool or not at or not all(n.is_value and not n.encoded for n in natures):
            both = (*natures, self.natures[condition])  # type: ignore[index]
            return _ENCODED if all(n.encoded for n in both) else _NONLINEAR
        self.products[equation] = Product(tuple(at), 0)
        return _VALUE

    def is_finite(self, atom: Atom) -> bool:
        """Whether nothing that is known of a value independent of x is infinite."""
        if isinstance(atom, Var):
            number = self.known.number(atom)
            return number is None or math.isfinite(number)
        return is_traced(atom.value) or bool(np.isfinite(np.asarray(atom.value, float)).all())

    # -- products of several factors, in whatever order --------------------------------------------------

    def regroup(self, equation: Equation) -> bool:
        """Whether all plain factors but one occur inside nonlinear ones beside them, as u does in (u·v)·σ(u)."""
        factors = self.factors(equation)
        inside = {self.bare(u) for f in factors if self.natures[f].plain == 0 for u in self.made_of(f)}
        left = [f for f in factors if self.natures[f].plain and self.bare(f) not in inside]
        if len(left) != 1 or not self.natures[left[0]].is_value:
            return False
        self.regrouped[equation] = left[0], [f for f in factors if f is not left[0]]
        return True

    def factors(self, equation: Equation) -> list[Var]:
        """What an elementwise product is made of, all that depends on x."""
        found = []
        for var in self.data_inputs(equation):
            before = self.known.producer.get(var)
            if before is None or before.name != "mul" or before in self.operands:
                found.append(var)
            elif len(self.data_inputs(before)) == 2:
                found += self.factors(before)
            else:
                found.append(var)
        return found

    def made_of(self, var: Var) -> list[Var]:
        """The values that an elementwise function is one of."""
        found, todo, seen = [], [var], set()
        while todo:
            at = todo.pop()
            before = self.known.producer.get(at)
            if at in seen or before is None or not is_elementwise(before):
                continue
            seen.add(at)
            for a in self.data_inputs(before):
                (found if self.natures[a] == _VALUE else todo).append(a)
        return found

    def bare(self, var: Var) -> Var:
        """A value without the numbers that multiply it."""
        while (e := self.known.producer.get(var)) is not None and e.name in ("mul", "div", "neg"):
            data = self.data_inputs(e)
            others = [a for a in e.inputs if a not in data]
            divides = e.name == "div" and e.inputs[0] not in data
            if len(data) != 1 or divides or any(self.known.number(a) is None for a in others):
                break
            var = data[0]
        return var

    # -- the way of the values ---------------------------------------------------------------------------

    def passed(self) -> list[Equation]:
        """The equations on the way of the values to the (first) output, in order: nothing that only makes gates."""
        program, found = self.known.program, []
        needed = {a for a in program.outputs[:1] if isinstance(a, Var)}
        for equation in reversed(program.equations):
            if needed.intersection(equation.outputs):
                found.append(equation)
                needed.update(a for a in self.values_of(equation) if isinstance(a, Var))
        return found[::-1]

    def values_of(self, equation: Equation) -> Sequence[Atom]:
        """What an equation reads that is no gate."""
        if equation in self.operands:
            return self.operands[equation][:1]
        if equation in self.regrouped:
            return self.regrouped[equation][:1]
        if equation in self.products:
            gate = self.products[equation].gate
            return [a for i, a in enumerate(equation.inputs) if i != gate]
        return equation.inputs

    def bends(self, equation: Equation) -> bool:
        """Whether an equation on the way is not linear in the values that it reads."""
        data, name = self.data_inputs(equation), equation.name
        if not data or equation in self.products or equation in self.regrouped or equation in self.operands:
            return False
        if self.natures[equation.outputs[0]].encoded:
            return False
        if is_declared(equation):
            return True
        if name in ELEMENTWISE:
            encodes = name == "convert_element_type" and all(self.natures[a].encoded for a in data)
            return not self.bent.isdisjoint(equation.outputs) and not encodes
        places = set(equation.inputs[PLACES[name]]) if name in PLACES else set()
        if name in PLACES:
            return not set(data).isdisjoint(places)
        if name in CHOOSING:
            others = [a for a in data if a is not equation.inputs[0]]
            return any(not self.natures[a].encoded for a in others) or len(data) > 1
        if name in PRODUCTS:
            return len(data) > 1
        if name in POOLS:
            return not only_stopped(self.known, equation.outputs[0])
        if is_custom(equation) or name in ("cond", "scan", "while"):
            return name == "while" or not self.is_linear_inside(equation)
        return name not in LINEAR
