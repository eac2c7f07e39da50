"""The walk: every value of a program as terms, from the input to the output; their factors are names, not numbers.

A weight layer ends the terms of its input and begins a new base, a `Layer`; `path_kernel` reads a layer
as the second moment of its output, `paths` as its list of path coordinates. What each primitive does to
terms is in `rules`; here is what they share: which values depend on x, which parameter is a weight
where, and which belong to a normalisation.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from npk.paths import terms
from npk.paths.encodings import Encoding
from npk.paths.factors import Factor, constant, ones
from npk.paths.layers import Role
from npk.paths.scaling import Magnitude
from npk.paths.terms import Axis, Base, Leaf, Source, Term
from npk.programs import (
    Atom,
    Const,
    Equation,
    Origin,
    Program,
    UnsupportedOperation,
    Var,
    is_declared,
    is_traced,
    now,
    opaque,
)

State = list[Term]
COMPLEX = "complex numbers"  # the name of their rule

DECLARE = (
    "Which side is the gate cannot be told: mark it in the model, npk.as_gate(value), or by the line that makes it, "
    "gate_at=('model.py:12',)."
)
ELSEWHERE = "npk.gates, npk.linear_map and npk.ntk take f as it is."


@dataclasses.dataclass
class Walk:
    """One pass over a program, of shapes alone. `values` are those of constants, of which indices are made."""

    program: Program
    rules: Mapping[str, Callable[["Walk", Equation], list[State]]]
    moves: Mapping[str, Callable[["Walk", Equation, list[State]], State]]
    gates: list[Factor]
    origins: dict[Var, Origin]
    normalising: set[Equation]
    magnitudes: bool = False  # whether weights and biases are as large as their numbers, in place of one
    values: dict[Var, Any] = dataclasses.field(default_factory=dict)
    source: Source = dataclasses.field(default_factory=lambda: Source(()))
    states: dict[Var, State] = dataclasses.field(default_factory=dict)
    given: set[Var] = dataclasses.field(default_factory=set)  # gates that stand alone, and what is made of them
    encoded: set[Var] = dataclasses.field(default_factory=set)  # an input of integers, and what encodes it
    scalars: dict[Var, Factor] = dataclasses.field(default_factory=dict)
    constants: dict[Var, Factor] = dataclasses.field(default_factory=dict)  # what multiplies a piece, but for declared
    imaginary: dict[Var, State] = dataclasses.field(default_factory=dict)  # of complex values; `states` are the real
    used: dict[int, tuple[np.ndarray, str]] = dataclasses.field(default_factory=dict)
    roles: list[Role] = dataclasses.field(default_factory=list)
    poisoned: set[Var] = dataclasses.field(default_factory=set)
    errors: dict[str, None] = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def making(self) -> dict[Atom, Equation]:
        """What makes each value of the program."""
        return {var: equation for equation in self.program.equations for var in equation.outputs}

    # -- values that do not depend on x ------------------------------------------------------------

    def origin(self, atom: Atom) -> Origin | None:
        return Origin() if isinstance(atom, Const) else self.origins.get(atom)

    def value(self, atom: Atom) -> Any:
        """Of a constant."""
        return atom.value if isinstance(atom, Const) else self.values[atom]

    def factor(self, atom: Atom) -> Factor:
        """A value that does not depend on x, or depends on it by gates alone."""
        if atom in self.given:
            state = self.data(atom)
            if len(state) != 1:
                why = "a gate that is a sum of several: mark it in the model, npk.as_gate(value)."
                raise self.refuse(self.making[atom], why)
            return terms.factor_of(state[0])
        if isinstance(atom, Var) and atom not in self.values:
            return Factor("fixed", (), atom, tuple(atom.shape))
        return constant(self.value(atom))

    def unrepeated(self, atom: Atom) -> Factor:
        """The same, of size one along what a broadcast repeats: γ of a norm [C], not at every position."""
        made = self.making.get(atom)
        known = isinstance(atom, Const) or atom in self.values or atom in self.given
        if known or made is None or made.name != "broadcast_in_dim":
            return self.factor(atom)
        found, shape = self.unrepeated(made.inputs[0]), [1] * len(atom.shape)
        for axis, size in zip(made.params["broadcast_dimensions"], found.shape, strict=True):
            shape[axis] = size
        return found.reshape(shape)

    def note_constant(self, equation: Equation) -> None:
        """Remember how a value of constants and parameters was made; of constants alone it is computed."""
        origin = self.origins[equation.outputs[0]]
        if not (origin.leaves or origin.fixed):
            values = [self.value(a) for a in equation.inputs]
            # Numbers stay numbers while something is traced, so that indices can be read.
            traced = any(map(is_traced, values))
            outputs = equation.bind(*values) if traced else now(lambda: equation.bind(*values))
            self.values.update(zip(equation.outputs, outputs, strict=True))
        if equation.name == "broadcast_in_dim":
            number = self.uniform(equation.inputs[0])
            self.scalars.update({} if number is None else {equation.outputs[0]: number})
        self.states.update(zip(equation.outputs, self.leaf_states(equation), strict=False))

    def uniform(self, atom: Atom) -> Factor | None:
        """The one number that a value independent of x holds everywhere, where that is known."""
        if isinstance(atom, Var) and atom in self.scalars:
            return self.scalars[atom]
        return self.factor(atom).reshape(()) if math.prod(atom.shape) == 1 else None

    def is_leaf(self, atom: Atom) -> bool:
        """Whether a value independent of x is a selection of one parameter, times a constant."""
        return isinstance(atom, Var) and atom in self.origins and atom in self.states

    def leaf_states(self, equation: Equation) -> list[State]:
        """The terms of a selection of one parameter times numbers; none of what is no such piece."""
        leaves = [a for a in equation.inputs if self.is_leaf(a)]
        if not self.origins[equation.outputs[0]].piece or not leaves:
            return []
        (leaf,) = leaves
        self.constants.update(dict.fromkeys(equation.outputs, self.constants.get(leaf, ones(0))))  # type: ignore[arg-type]
        state = self.states[leaf]  # type: ignore[index]
        try:
            if equation.name in self.rules and equation.name not in ("mul", "div", "neg"):
                return self.rules[equation.name](self, equation)  # of several results
            if equation.name in self.moves:
                moved = self.moves[equation.name]
                return [moved(self, equation, [state if a is leaf else [] for a in equation.inputs])]
        except UnsupportedOperation:
            return []
        factor, own = constant(-1.0), True
        if equation.name != "neg":
            (other,) = (a for a in equation.inputs if a is not leaf)
            number = self.uniform(other)
            factor = self.factor(other) if number is None else number
            own = number is not None and not self.is_declared(other)
        factor = factor.inverse() if equation.name == "div" else factor
        if own:
            self.constants[equation.outputs[0]] = self.constants[equation.outputs[0]].times(factor)
        return [self.scaled(self.spread(state, equation.outputs[0].shape), factor)]

    # -- helpers of the rules ----------------------------------------------------------------------

    def spread(self, state: State, shape: tuple[int, ...]) -> State:
        return [t if t.shape == shape else terms.broadcast(t, shape, list(range(len(t.shape)))) for t in state]

    def scaled(self, state: State, factor: Factor) -> State:
        """Times numbers that are broadcast from the right."""
        rank = len(state[0].shape) if state and factor.shape else 0
        factor = factor.reshape((*(1,) * (rank - len(factor.shape)), *factor.shape))
        return [terms.scale(t, factor) for t in state]

    def known(self, factor: Factor, shape: tuple[int, ...]) -> State:
        """A known value as a multiple of one."""
        return self.scaled([terms.whole(self.source, shape)], factor)

    def refuse(self, equation: Equation, why: str) -> UnsupportedOperation:
        return UnsupportedOperation(f"`{equation.name}` at {equation.source}: {why}")

    def named(self, atom: Atom) -> tuple[str, ...]:
        """The names of the parameters that a value is computed from."""
        return tuple(self.program.param_paths[n] for n in sorted(self.origins[atom].leaves))  # type: ignore[index]

    def made_of(self, atom: Atom) -> str:
        """The same in a sentence."""
        return ", ".join(f"`{name}`" for name in self.named(atom))

    def fix(self, atom: Atom, equation: Equation) -> None:
        """Note that a normalisation reads parameters as fixed numbers."""
        for leaf in sorted(self.origins[atom].leaves):  # type: ignore[index]
            size = math.prod(self.program.params[leaf].shape)
            if self.is_leaf(atom):
                size = int(sum(elements(term).sum() for term in self.states[atom]))  # type: ignore[index]
            self.roles.append(Role(leaf, "fixed", size, equation.source))

    def claim(self, weight: Term, source: str, fan_in: int | None = None) -> None:
        """Every element of a parameter may be a weight, or a bias (without fan-in), only once."""
        leaf = weight.base
        assert isinstance(leaf, Leaf)
        mask = elements(weight)
        if leaf.number in self.used and (self.used[leaf.number][0] & mask).any():
            raise UnsupportedOperation(
                f"parameter `{leaf.name}` is a weight twice, at {self.used[leaf.number][1]} and at {source}: paths "
                "through shared weights are not independent, so neither the NPF nor the NPK is defined by these rules; "
                "npk.untie(f) is the same function with a leaf for each use."
            )
        before = self.used[leaf.number][0] if leaf.number in self.used else np.zeros_like(mask)
        self.used[leaf.number] = (before | mask, source)
        self.roles.append(Role(leaf.number, "bias" if fan_in is None else "weight", int(mask.sum()), source, fan_in))

    def magnitude(self, weight: Term) -> Factor:
        """How large a weight or a bias is, a single number."""
        leaf = weight.base
        assert isinstance(leaf, Leaf)
        if not self.magnitudes:
            return ones(0)
        return Factor("fixed", (), Magnitude.of(leaf.number, elements(weight)), ())

    def biased(self, state: State, source: str) -> State:
        """Terms of parameters that become biases, each claimed."""
        for term in state:
            if isinstance(term.base, Leaf):
                self.claim(term, source)
        return [self.scaled([t], self.magnitude(t))[0] if isinstance(t.base, Leaf) else t for t in state]

    # -- the walk ----------------------------------------------------------------------------------

    def state(self, atom: Atom) -> State | None:
        """The terms of an operand that may be data, a bias, or a known value."""
        if isinstance(atom, Var) and atom in self.states:
            return self.states[atom]
        kind = self.origin(atom)
        if kind is None or kind.from_params:
            return None
        return self.known(self.unrepeated(atom), atom.shape)

    def data(self, atom: Atom) -> State:
        """The terms of a value that depends on x (or of a parameter)."""
        assert isinstance(atom, Var)
        return self.states[atom]

    def is_parameter(self, atom: Atom) -> bool:
        kind = self.origin(atom)
        return kind is not None and kind.from_params

    def is_known(self, atom: Atom) -> bool:
        """Whether a value is made of constants and gates alone."""
        if atom in self.given:
            return True
        kind = self.origin(atom)
        return kind is not None and not kind.from_params

    def is_declared(self, atom: Atom) -> bool:
        """Whether a value is made of parameters that were declared to be fixed numbers."""
        origin = self.origin(atom)
        return origin is not None and bool(origin.fixed)

    def constant_of(self, atom: Atom) -> Factor | None:
        """The constants that multiply a piece of which declared numbers are a factor; None for any other piece."""
        return self.constants[atom] if self.is_declared(atom) else None  # type: ignore[index]

    def is_data(self, atom: Atom) -> bool:
        """Whether an atom is a value, or a gate that multiplies values."""
        return isinstance(atom, Var) and atom not in self.origins

    def is_value(self, atom: Atom) -> bool:
        """Whether an atom is a value on the way from x to the output."""
        return self.is_data(atom) and atom not in self.given

    def run(self) -> State:
        """The terms of the output.

        Raises:
            UnsupportedOperation: what lies outside the rules, all of it.
        """
        state = self.go()
        if self.errors:
            raise UnsupportedOperation(
                "the path rules cover weights, biases, gates, pooling, sums and positionwise operations; outside them "
                "lie\n  - " + "\n  - ".join(self.errors)
            )
        if state is None:
            raise UnsupportedOperation("the output of f does not depend on x.")
        return state

    def go(self) -> State | None:
        """Walk to the end, whatever is refused on the way; the terms of the output where it depends on x."""
        for equation in self.program.equations:
            if all(v in self.origins for v in equation.outputs):
                self.note_constant(equation)
            else:
                self.step(equation)
        return self.state(self.program.outputs[0])

    def step(self, equation: Equation) -> None:
        if (
            all(0 in v.shape for v in equation.outputs) and equation.activation is None
        ):  # a part that jnp.pad left empty
            self.states.update({v: [] for v in equation.outputs})
            return
        if self.encodes(equation):
            self.encoded.update(equation.outputs)
            for var in equation.outputs:
                if jnp.issubdtype(var.dtype, jnp.floating):
                    self.states[var] = self.known(
                        Factor("encoded", (), Encoding(self.program, var), tuple(var.shape)), var.shape
                    )
            return
        if not self.poisoned.intersection(a for a in equation.inputs if isinstance(a, Var)):
            try:
                states = self.rule(equation)
                self.states.update(zip(equation.outputs, states, strict=True))
                if all(term.base is self.source for state in states for term in state) and (
                    not any(map(self.is_value, equation.inputs)) and (equation.inputs or equation.activation.alone)
                ):
                    self.given.update(equation.outputs)
                return
            except UnsupportedOperation as error:
                self.errors[str(error)] = None
        # What follows is walked as if some base stood there, so that all refusals are found at once.
        for var in equation.outputs:
            if jnp.issubdtype(var.dtype, jnp.floating):
                base = Base(tuple(Axis(s, True) for s in var.shape))
                self.states[var] = [terms.whole(base, var.shape)]
            else:
                self.poisoned.add(var)

    def encodes(self, equation: Equation) -> bool:
        """Whether an equation makes something of an input of integers and of constants alone."""
        read = [a for a in equation.inputs if self.is_data(a)]
        if not read or not self.encoded.issuperset(read):
            return False
        return all(a in self.encoded or (self.is_known(a) and not self.is_declared(a)) for a in equation.inputs)

    def rule(self, equation: Equation) -> list[State]:
        # What reads or makes complex values is of one kind, whatever its primitive.
        rule = self.rules.get(COMPLEX if has_complex(equation) else equation.name)
        if rule is not None:
            return rule(self, equation)
        moved = self.moves.get(equation.name)
        if is_declared(equation):
            raise self.refuse(equation, "a value that is declared to be a gate must multiply.")
        if moved is None and (closed := opaque(equation.name)):
            raise self.refuse(equation, f"{closed.removeprefix(', ')}.")
        if moved is None:
            raise self.refuse(
                equation,
                "not linear in the values it is given, or not positionwise. Gates must come from an activation q·γ(q); "
                "apply npk to the logits, in evaluation mode.",
            )
        return [moved(self, equation, [self.state(a) or [] for a in equation.inputs])]


def has_complex(equation: Equation) -> bool:
    """Whether an equation reads or makes complex values."""
    return any(jnp.issubdtype(a.dtype, jnp.complexfloating) for a in (*equation.inputs, *equation.outputs))


def elements(selection: Term) -> np.ndarray:
    """Which elements of its parameter a selection holds, as a mask."""
    leaf = selection.base
    shape = tuple(a.size for a in leaf.axes)
    dims = tuple(range(len(selection.sizes)))
    places = [terms.over(selection, i, dims) for i in selection.index]
    mask = np.zeros(max(math.prod(shape), 1), bool)
    mask[np.ravel_multi_index(places, shape).reshape(-1) if shape else 0] = True
    return mask
