"""Which operations are linear in what they read, and which roots are a normalisation's."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from npk.programs.program import Atom, Const, Equation, Program, UnsupportedOperation, Var, is_traced
from npk.programs.provenance import Provenance
from npk.programs.tracing import is_custom, sub_jaxpr

# The name of a call that npk leaves in a traced function: its value is a gate.
DECLARED = "npk_declared_gate"
# Likewise, of a gate from outside that takes the place of a norm's 1/σ.
GIVEN_SCALE = "npk_given_scale"
# What acts on every element by itself.
ELEMENTWISE = frozenset(
    """abs acos acosh add add_any and asin asinh atan atan2 atanh cbrt ceil clamp convert_element_type cos cosh
    digamma div eq erf erf_inv erfc exp exp2
    expm1 floor ge gt integer_pow is_finite le lgamma log log1p logistic lt max min mul ne neg not or pow
    reduce_precision rem round rsqrt select_n sign sin sinh sqrt square stop_gradient sub tan tanh xor""".split()
)
_ROOTS = frozenset(("rsqrt", "sqrt"))
PRODUCTS = frozenset(("conv_general_dilated", "dot_general"))
# What puts every element, as it is, in other places.
MOVES = frozenset(
    "broadcast_in_dim concatenate expand_dims gather reshape rev slice split squeeze stack transpose unstack".split()
)
# What is linear in its first operand; what else it reads must not depend on x.
CHOOSING = frozenset("dynamic_slice gather pad".split())
LINEAR = frozenset(
    """broadcast_in_dim complex concatenate conj copy cumsum expand_dims fft imag real reduce_sum
    reduce_window_sum reshape rev sharding_constraint slice split squeeze stack tile
    transpose unstack""".split()
)
# Where an operation that is linear in values reads the places they go to.
PLACES = {
    "dynamic_update_slice": slice(2, None),
    **dict.fromkeys(("scatter", "scatter-add", "scatter_add"), slice(1, 2)),
}
POOLS = frozenset(("reduce_max", "reduce_window_max"))


def scales_of(known: Provenance) -> set[Var]:
    """What is made of a normalisation's root alone, with numbers and parameters: 1/σ.

    The root is of what was summed over positions, channels or samples. What is given from outside in its place is one.
    """
    summed: set[Var] = set()
    found: set[Var] = set()
    for equation in known.program.equations:
        data = [a for a in equation.inputs if isinstance(a, Var) and a in known.data]
        moved = equation.name in ("broadcast_in_dim", "reshape", "squeeze") or is_declared(equation)
        spread = equation.name in ELEMENTWISE or moved
        if data and _is_call(equation, GIVEN_SCALE):
            found.update(equation.outputs)
        if data and spread and found.issuperset(data):
            found.update(equation.outputs)
        if data and spread and summed.issuperset(data):
            summed.update(equation.outputs)
            found.update(equation.outputs if _is_root(equation) else ())
        elif data and (equation.name.startswith("reduce_") or (equation.name in PRODUCTS and len(data) > 1)):
            summed.update(equation.outputs)
    return found


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


def is_declared(equation: Equation) -> bool:
    """Whether an equation is the mark of what was declared, or given from outside, to be a gate."""
    return _is_call(equation, DECLARED, GIVEN_SCALE)


def _is_call(equation: Equation, *names: str) -> bool:
    return equation.primitive.name in ("jit", "pjit") and equation.params.get("name") in names


def is_allowed(equation: Equation, allow: Sequence[str]) -> bool:
    """Whether an equation may stay as it is: by the name of its primitive, or a part of its source line."""
    return any(a == equation.primitive.name or a in equation.source for a in allow)


def _told(equation: Equation) -> str:
    if is_declared(equation):
        return f"a value that is declared to be a gate, at {equation.source}, and multiplies nothing"
    data = [a for a in equation.inputs if isinstance(a, Var)]
    both = equation.name in (*PRODUCTS, "mul") and len(data) > 1
    return f"`{equation.primitive.name}` at {equation.source}{_EITHER if both else opaque(equation.primitive.name)}"


def opaque(name: str) -> str:
    """What to do about a primitive that hides what it computes; nothing of any other."""
    if name == "shard_map":
        return f", {_INSIDE_OUT}"
    return f", {OPAQUE}" if name in _CLOSED or name.startswith("dot_product_attention") else ""


# Kernels and calls of other programs; those of attention by cuDNN begin with dot_product_attention.
_CLOSED = frozenset("custom_call ffi_call io_callback pallas_call pure_callback triton_kernel_call".split())
OPAQUE = (
    "a call that npk cannot look into: write what it computes plainly (attention as softmax(QKᵀ)V, or "
    "jax.nn.dot_product_attention(…, implementation='xla'))"
)


_INSIDE_OUT = (
    "which npk does not look into: take f without it, and put it around what npk returns, "
    "jax.shard_map(npk.path_kernel(f), mesh=…)"
)
_EITHER = ", of which either side could be the gate: mark one, npk.as_gate(value), or by its line, gate_at=(…,)"


def check_linear(program: Program, allow: Sequence[str]) -> None:
    """Given its gates a program is linear in its values, but for what is allowed.

    Args:
        program: with its activations found.
        allow: names of primitives, or parts of source lines ("model.py:12"), that may stay as they are.

    Raises:
        UnsupportedOperation: other nonlinear operations are on the way of the values; each is named with its line.
    """
    left = [e for e in program.nonlinear if not is_allowed(e, allow)]
    if left:
        names = ", ".join(dict.fromkeys(repr(e.primitive.name) for e in left))
        raise UnsupportedOperation(
            "given its gates f is not linear: gates are what multiplies values (activations a(q) = q·γ(q), norms, "
            "softmax patterns, the nonlinear side of a product), and outside them lie\n  - "
            + "\n  - ".join(dict.fromkeys(_told(e) for e in left))
            + f"\nTo let them stand as a part of f, name them or their lines: allow=({names},)."
        )
