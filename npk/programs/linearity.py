"""What values pass through besides activations: what is linear there, a normalisation's 1/σ, and what is neither."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from npk.programs.program import Atom, Const, Equation, Program, UnsupportedOperation, Var, is_traced
from npk.programs.provenance import Provenance
from npk.programs.tracing import is_custom, sub_jaxpr

# What acts on every element by itself.
ELEMENTWISE = frozenset(
    """abs acos acosh add add_any and asin asinh atan atan2 atanh cbrt ceil clamp convert_element_type cos cosh
    digamma div eq erf erf_inv erfc exp exp2
    expm1 floor ge gt integer_pow is_finite le lgamma log log1p logistic lt max min mul ne neg not or pow
    reduce_precision rem round rsqrt select_n sign sin sinh sqrt square stop_gradient sub tan tanh xor""".split()
)
_ROOTS = frozenset(("rsqrt", "sqrt"))
_PRODUCTS = frozenset(("conv_general_dilated", "dot_general"))
# What is linear in its first operand; what else it reads must not depend on x.
_CHOOSING = frozenset("dynamic_slice gather pad".split())
_LINEAR = frozenset(
    """broadcast_in_dim complex concatenate conj copy cumsum expand_dims fft imag real reduce_sum
    reduce_window_sum reshape rev sharding_constraint slice split squeeze stack tile
    transpose unstack""".split()
)
# Where an operation that is linear in values reads the places they go to.
_PLACES = {
    "dynamic_update_slice": slice(2, None),
    **dict.fromkeys(("scatter", "scatter-add", "scatter_add"), slice(1, 2)),
}
POOLS = frozenset(("reduce_max", "reduce_window_max"))


class Values:
    """The way of the values of a program, from x to its (first) output.

    What only makes gates that are given to others (a feature network) is not on it, nor is what ends under a root: a
    normalisation's variance, clipped at zero.

    Attributes:
        passed: the equations on the way, in order.
        norms: the roots at which it ends.
    """

    def __init__(self, known: Provenance, operands: Mapping[Equation, Sequence[Atom]], bent: set[Var]):
        """Given the operands of what are activations, and the elementwise values that are neither those nor affine."""
        self.known, self.program, self.bent = known, known.program, bent
        roots = self.roots_of_sums()
        self.scales = self.scales_of(roots)
        needed = {a for a in self.program.outputs[:1] if isinstance(a, Var)}
        passed, norms = [], []
        for equation in reversed(self.program.equations):
            if not needed.intersection(equation.outputs):
                continue
            if equation in roots:
                norms.append(equation)
                continue
            passed.append(equation)
            inputs = operands[equation][:1] if equation in operands else equation.inputs
            needed.update(a for a in inputs if isinstance(a, Var))
        self.passed, self.norms = passed[::-1], norms[::-1]

    def data_inputs(self, equation: Equation) -> list[Var]:
        return [a for a in equation.inputs if isinstance(a, Var) and a in self.known.data]

    def roots_of_sums(self) -> set[Equation]:
        """The roots that are a normalisation's σ: of what was summed over positions, channels or samples."""
        summed: set[Var] = set()
        found = set()
        for equation in self.program.equations:
            data = self.data_inputs(equation)
            spread = equation.name in ELEMENTWISE or equation.name in ("broadcast_in_dim", "reshape", "squeeze")
            if data and spread and summed.issuperset(data):
                summed.update(equation.outputs)
                found.update([equation] if _is_root(equation) else [])
            elif data and (equation.name.startswith("reduce_") or (equation.name in _PRODUCTS and len(data) > 1)):
                summed.update(equation.outputs)
        return found

    def scales_of(self, roots: set[Equation]) -> dict[Var, Equation]:
        """Values made of a root alone, with numbers and parameters: a normalisation's 1/σ; and the root of each."""
        found: dict[Var, Equation] = {}
        for equation in self.program.equations:
            data = self.data_inputs(equation)
            plain = equation.name in ELEMENTWISE or equation.name in ("broadcast_in_dim", "reshape", "squeeze")
            if equation in roots:
                found.update(dict.fromkeys(equation.outputs, equation))
            elif data and plain and all(a in found for a in data):
                found.update(dict.fromkeys(equation.outputs, found[data[0]]))
        return found

    def nonlinear(self, equations: Sequence[Equation], is_linear_inside: Callable[[Any], bool]) -> tuple[Equation, ...]:
        """Those that are not linear in the values and scales that they read; of what reads a scale, its root."""
        found = []
        for equation in equations:
            if self.bends(equation, is_linear_inside):
                found.append(next((self.scales[a] for a in self.data_inputs(equation) if a in self.scales), equation))
        found += [self.scales[a] for a in self.program.outputs[:1] if isinstance(a, Var) and a in self.scales]
        return tuple(dict.fromkeys(found))

    def bends(self, equation: Equation, is_linear_inside: Callable[[Any], bool]) -> bool:
        """Whether an equation is not linear in the values that it reads; one of them may meet its scale."""
        data = self.data_inputs(equation)
        if not any(map(is_float, self.program.x)):  # an input of integers looks up, or masks
            data = [a for a in data if is_float(a)]
        values = [a for a in data if a not in self.scales]
        if not data or all(v in self.scales for v in equation.outputs):
            return False
        if len(values) < len(data):  # one value times, or divided by, its scale
            divided = equation.name == "div" and equation.inputs[0] in values
            return len(values) != 1 or not (divided or equation.name == "mul")
        if equation.name in ELEMENTWISE:
            return not self.bent.isdisjoint(equation.outputs)
        if equation.name in _PLACES:
            return not set(data).isdisjoint(equation.inputs[_PLACES[equation.name]])
        if equation.name in _CHOOSING:
            return equation.inputs[0] not in data or len(data) > 1
        if equation.name in _PRODUCTS:
            return len(data) > 1
        if equation.name in POOLS:
            return not only_stopped(self.known, equation.outputs[0])
        if is_custom(equation) or equation.name in ("cond", "scan", "while"):
            return equation.name == "while" or not is_linear_inside(equation)
        return equation.name not in _LINEAR


def only_stopped(known: Provenance, var: Var) -> bool:
    """Whether nothing but a stopped gradient comes of var: the shift inside softmax or logsumexp."""
    readers = known.readers(var)
    passing = [e for e in readers if e.name != "stop_gradient"]
    if not all(_shifts(known, e.outputs[0]) for e in readers if e not in passing):
        return False  # a part of the network that is not trained
    if var in known.program.outputs or any(not is_elementwise(e) and e.name != "broadcast_in_dim" for e in passing):
        return False
    return bool(readers) and all(only_stopped(known, e.outputs[0]) for e in passing)


def _shifts(known: Provenance, var: Var) -> bool:
    """Whether a value is taken away from another one."""
    spread = ("broadcast_in_dim", "expand_dims", "reshape", "select_n", "squeeze")
    return any(
        (e.name == "sub" and e.inputs[1] is var) or (e.name in spread and _shifts(known, e.outputs[0]))
        for e in known.readers(var)
    )


def _is_root(equation: Equation) -> bool:
    """Whether an equation takes a negative or fractional power."""
    exponent = equation.inputs[1] if equation.name == "pow" else None
    if isinstance(exponent, Const) and np.size(exponent.value) == 1 and not is_traced(exponent.value):
        return float(np.reshape(exponent.value, ())) not in (1.0, 2.0, 3.0)
    return equation.name in _ROOTS or (equation.name == "integer_pow" and equation.params["y"] < 0)


def is_elementwise(equation: Any) -> bool:
    """Whether an equation, of a program or of a jaxpr, acts on every element by itself."""
    if equation.primitive.name in ELEMENTWISE:
        return True
    body = sub_jaxpr(equation) if is_custom(equation) else None
    return body is not None and all(e.primitive.name in ELEMENTWISE for e in body.jaxpr.eqns)


def is_float(var: Atom) -> bool:
    return jnp.issubdtype(var.dtype, jnp.floating)


def is_allowed(equation: Equation, allow: Sequence[str]) -> bool:
    """Whether an equation may stay as it is: by the name of its primitive, or a part of its source line."""
    return any(a == equation.primitive.name or a in equation.source for a in allow)


def check_linear(program: Program, allow: Sequence[str]) -> None:
    """Given its gates a program is linear in its values, but for what is allowed.

    Args:
        program: with its activations found.
        allow: names of primitives, or parts of source lines ("model.py:12"), that may stay as they are.

    Raises:
        UnsupportedOperation: other nonlinear operations are on the way of the values; each is named with its line.
    """
    if any(len(a) < 2 for a in allow):  # the letters of a word
        raise ValueError(f"allow must be a sequence of names or source lines, got {tuple(allow)}: ('exp',), not 'exp'.")
    left = [e for e in program.nonlinear if not is_allowed(e, allow)]
    if left:
        names = ", ".join(dict.fromkeys(repr(e.primitive.name) for e in left))
        raise UnsupportedOperation(
            "given its gates f is not linear: gates are of activations a(q) = q·γ(q) of one value, zero at zero, and "
            "outside them lie\n  - "
            + "\n  - ".join(dict.fromkeys(f"`{e.primitive.name}` at {e.source}" for e in left))
            + f"\nTo let them stand as a part of f, name them or their lines: allow=({names},)."
        )
