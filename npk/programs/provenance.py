"""Provenance: of which parameters, and which of their elements, every value of a program is made.

One pass says it for all who ask: the path rules (what is a weight, what a number), the tangent kernel (which rows of a
parameter a layer reads), the search for activations (which values depend on x), and `explain`, which shows it.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from npk.programs.program import Atom, Const, Equation, Program, Var, evaluate, is_traced, now

# What puts each element in one place, and what else selects elements.
_REARRANGING = frozenset(("reshape", "transpose", "squeeze", "expand_dims", "rev", "slice", "broadcast_in_dim"))
_REARRANGING |= {"split", "unstack"}
_SELECTING = _REARRANGING | {"gather", "dynamic_slice", "pad", "tile", "stop_gradient"}
_SAME = frozenset(("convert_element_type", "reduce_precision", "sharding_constraint"))
_UNIFORM = frozenset(("broadcast_in_dim", "convert_element_type", "neg", "reshape"))
# Where a bias may pass, by constants: what is linear in the values it reads.
_MAPS = _SELECTING | _SAME | {"concatenate", "cumsum", "neg", "reduce_sum", "reduce_window_sum", "stack"}
_SUMS = frozenset(("add", "add_any", "sub"))
_ROOTS = frozenset(("cbrt", "rsqrt", "sqrt"))


@dataclasses.dataclass(frozen=True)
class Origin:
    """What a value that does not depend on x is made of.

    Attributes:
        leaves: the numbers of the parameters.
        fixed: those of parameters that were declared to be fixed numbers; to `leaves` they do not belong.
        powered: a negative or fractional power of a parameter was taken on the way.
        piece: it is a selection of elements of one parameter, times numbers.
        network: it is the output of a network whose input are numbers (a constant input). Weighted means of a parameter
            that are only added to what depends on x are none, but a bias at other places (an interpolated embedding).
    """

    leaves: frozenset[int] = frozenset()
    fixed: frozenset[int] = frozenset()
    powered: bool = False
    piece: bool = False
    network: bool = False

    @property
    def from_params(self) -> bool:
        return bool(self.leaves)


_NUMBER = Origin()


def said(origin: Origin | None, param_paths: Sequence[str]) -> str:
    """What a value depends on, in words."""
    if origin is None:
        return "x"
    leaves = sorted(origin.leaves | origin.fixed)
    names = ", ".join(f"`{param_paths[n]}`" for n in leaves if param_paths[n])  # params may be one array
    made_of = f"params ({names})" if names else "params"
    return made_of if leaves else "numbers that are not known while f is traced"


class Provenance:
    """Where the values of a program come from.

    Attributes:
        data: the variables that depend on x.
        origins: of every other variable.
    """

    def __init__(self, program: Program):
        self.program = program
        alone = [v for e in program.equations if e.activation is not None and e.activation.alone for v in e.outputs]
        self.data = program.reached_from((*program.x, *alone))
        self.origins = {
            var: Origin(fixed=frozenset((n,))) if n in (program.fixed or ()) else Origin(frozenset((n,)), piece=True)
            for n, var in enumerate(program.params)
        }
        self.producer: dict[Var, Equation] = {}
        self.consumers = program.consumers()
        self._added = self._only_added()
        self._numbers: dict[Var, float] = {}
        self._elements: dict[Var, tuple[int, np.ndarray, float] | None] = {}
        for equation in program.equations:
            self.producer.update(dict.fromkeys(equation.outputs, equation))
            self._note(equation)

    def _note(self, equation: Equation) -> None:
        if equation.outputs and equation.outputs[0] in self.data:
            return
        found = [self.origin(a) for a in equation.inputs]
        known = [o for o in found if o is not None]
        if len(known) < len(found):
            return
        made = [o.from_params for o in known]
        # Numbers that weights multiply are the input of a network; a layer's rule is asked for them, not a number's.
        layer = equation.name == "dot_general" or (equation.name == "conv_general_dilated" and not made[0])
        origin = Origin(
            leaves=frozenset().union(*(o.leaves for o in known)),
            fixed=frozenset().union(*(o.fixed for o in known)),
            powered=any(o.powered for o in known) or _takes_a_power(equation, made),
            piece=_selects(equation, known),
            network=any(o.network for o in known)
            or (layer and any(made) and not all(made) and equation.outputs[0] not in self._added),
        )
        self.origins.update(dict.fromkeys(equation.outputs, origin))
        if equation.name in _UNIFORM and (number := self.number(equation.inputs[0])) is not None:
            held = _held(-number if equation.name == "neg" else number, equation.outputs[0].dtype)
            if held is not None:
                self._numbers[equation.outputs[0]] = held

    def _only_added(self) -> set[Var]:
        """What is made of parameters and does nothing but be added to what depends on x, by constant maps between.

        Of matrices only weighted means: numbers that weights multiply are otherwise the input of a network.
        """
        made = self.program.reached_from(self.program.params) - self.data
        found: set[Var] = set()

        def adds(equation: Equation, var: Var) -> bool:
            others = [a for a in equation.inputs if a is not var]
            if equation.name in _SUMS and not self.data.isdisjoint(others):
                return True
            by_numbers = len(others) == 1 and others[0] not in made and others[0] not in self.data
            product = equation.name in ("dot_general", "mul") or (equation.name == "div" and equation.inputs[0] is var)
            linear = equation.name in _MAPS | _SUMS or (product and by_numbers)
            return linear and found.issuperset(equation.outputs)

        for equation in reversed(self.program.equations):
            if made.isdisjoint(equation.outputs) or (equation.name == "dot_general" and not self._averages(equation)):
                continue
            for var in made.intersection(equation.outputs) - set(self.program.outputs):
                readers = self.readers(var)
                if readers and all(adds(reader, var) for reader in readers):
                    found.add(var)
        return found

    def _averages(self, equation: Equation) -> bool:
        """Whether a matrix product takes weighted means of one operand: each row of the other, numbers, sums to one."""
        contracted, _ = equation.params["dimension_numbers"]
        for atom, axes in zip(equation.inputs, contracted, strict=True):
            making = dataclasses.replace(self.program, params=(), x=(), outputs=(atom,)).pruned()
            read = {a for e in making.equations for a in e.inputs} | {atom}
            known = read.isdisjoint(self.program.inputs) and not any(
                isinstance(a, Const) and is_traced(a.value) for a in read
            )
            if known:
                rows = np.asarray(now(lambda making=making: evaluate(making, ())[0])).sum(tuple(axes), dtype=float)
                size, real = math.prod(atom.shape[a] for a in axes), jnp.issubdtype(atom.dtype, jnp.floating)
                return bool((np.abs(rows - 1) <= (size * jnp.finfo(atom.dtype).eps if real else 0)).all())
        return False

    def origin(self, atom: Atom) -> Origin | None:
        """What an atom is made of; None where it depends on x."""
        return _NUMBER if isinstance(atom, Const) else self.origins.get(atom)

    def readers(self, var: Var) -> list[Equation]:
        """The equations that read a variable."""
        return self.consumers.get(var, [])

    def constants(self) -> dict[Var, Origin]:
        """The variables that are numbers or made of parameters, networks of numbers left out."""
        return {var: origin for var, origin in self.origins.items() if not origin.network}

    def number(self, atom: Atom) -> float | None:
        """The one number that an atom holds everywhere, where that is known whatever the parameters are."""
        if isinstance(atom, Var):
            return self._numbers.get(atom)
        if is_traced(atom.value) or np.size(atom.value) == 0:
            return None
        real = jnp.issubdtype(atom.dtype, jnp.floating) or jnp.issubdtype(atom.dtype, jnp.integer)
        if not real and atom.dtype != bool:
            return None
        values = np.asarray(atom.value)
        return float(values.flat[0]) if values.size == 1 or (values == values.flat[0]).all() else None

    def elements(self, var: Var) -> tuple[int, np.ndarray, float] | None:
        """Of a rearranged part of one float parameter, times one number: the parameter, which elements, the number.

        The elements have the shape of the value and count the parameter's in row-major order. None for all else.
        """
        chain = [var]
        while chain[-1] not in self._elements and (before := self._made_of(chain[-1])) is not None:
            chain.append(before)
        for link in reversed(chain):  # not by recursion: a loop may move a parameter thousands of times
            if link not in self._elements:
                self._elements[link] = self._elements_of(link)
        return self._elements[var]

    def _made_of(self, var: Var) -> Var | None:
        """The piece that a piece was made of; None for a parameter and for what is no piece."""
        origin = self.origins.get(var)
        if origin is None or not origin.piece or var not in self.producer:
            return None
        inputs = self.producer[var].inputs
        return next(a for a in inputs if isinstance(a, Var) and self.origins[a].from_params)

    def _elements_of(self, var: Var) -> tuple[int, np.ndarray, float] | None:
        origin = self.origins.get(var)
        if origin is None or not origin.piece or not jnp.issubdtype(var.dtype, jnp.floating):
            return None
        (leaf,) = origin.leaves
        if var not in self.producer:
            return leaf, np.arange(np.prod(var.shape, dtype=int)).reshape(var.shape), 1.0
        equation, operand = self.producer[var], self._made_of(var)
        before = self._elements[operand] if operand is not None else None
        if operand is None or before is None:
            return None
        _, elements, number = before
        if equation.name in _REARRANGING:
            return leaf, _rearranged(elements, equation, equation.outputs.index(var)), number
        if equation.name in _SAME:
            return before
        if equation.name not in ("mul", "div", "neg") or var.shape != operand.shape:
            return None
        others = [self.number(a) for a in equation.inputs if a is not operand]
        if None in others:
            return None
        factor = float(others[0]) if others else -1.0  # type: ignore[arg-type]
        if factor == 0 and equation.name == "div":
            return None
        return leaf, elements, number / factor if equation.name == "div" else number * factor


def _held(number: float, dtype: Any) -> float | None:
    """What a cast leaves of a number; None for what libraries cast in their own ways."""
    if jnp.issubdtype(dtype, jnp.complexfloating):
        return None
    if jnp.issubdtype(dtype, jnp.integer):
        info = jnp.iinfo(dtype)
        if not (math.isfinite(number) and info.min <= math.trunc(number) <= info.max):
            return None
    return float(np.asarray(number).astype(dtype))


def _rearranged(elements: np.ndarray, equation: Equation, output: int) -> np.ndarray:
    """What an operation of `_REARRANGING` does, without a copy where it needs none."""
    name, p, shape = equation.name, equation.params, equation.outputs[output].shape
    if name == "transpose":
        return elements.transpose(p["permutation"])
    if name == "rev":
        return np.flip(elements, p["dimensions"])
    if name == "slice":
        strides = p["strides"] or (1,) * elements.ndim
        return elements[tuple(map(slice, p["start_indices"], p["limit_indices"], strides))]
    if name == "split":
        return np.split(elements, np.cumsum(p["sizes"])[:-1], axis=p["axis"])[output]
    if name == "unstack":
        return np.take(elements, output, axis=p["axis"])
    if name == "broadcast_in_dim":
        sizes = dict(zip(p["broadcast_dimensions"], elements.shape, strict=True))
        return np.broadcast_to(elements.reshape([sizes.get(axis, 1) for axis in range(len(shape))]), shape)
    return elements.reshape(shape)


def _selects(equation: Equation, origins: list[Origin]) -> bool:
    """Whether an equation selects elements of one parameter, or multiplies them by numbers."""
    made = [i for i, o in enumerate(origins) if o.from_params]
    if len(made) != 1 or not origins[made[0]].piece:
        return False
    if equation.name == "convert_element_type":
        return jnp.issubdtype(equation.outputs[0].dtype, jnp.floating)
    if equation.name in ("mul", "neg"):
        return True
    return made == [0] and equation.name in _SELECTING | _SAME | {"div"}


def _takes_a_power(equation: Equation, made: list[bool]) -> bool:
    """Whether an equation takes a negative or fractional power of a value made of parameters."""
    if not made or not made[0]:
        return equation.name in ("div", "pow") and any(made[1:])
    exponent = equation.inputs[1] if equation.name == "pow" else None
    if isinstance(exponent, Const) and not is_traced(exponent.value):
        return not np.all(np.isin(exponent.value, np.arange(1, 9)))
    return (
        equation.name in _ROOTS
        or exponent is not None
        or (equation.name == "integer_pow" and equation.params["y"] < 0)
        or (equation.name == "div" and made[1])
    )
