"""Gates that are declared: marked in a model, by the line that makes them, or given from outside.

A mark is a call of a name of its own, which survives tracing, `vmap` and `jit`, and so can be found again.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import source_info_util
from jaxtyping import Array, Shaped

from npk.programs import (
    DECLARED,
    GATED,
    GIVEN_SCALE,
    IDENTITY,
    Equation,
    Var,
    evaluate,
    opens_for_gates,
    remembered,
    trace,
)

source_info_util.register_exclusion(__file__)  # a mark is placed on the user's line that makes it


def _named(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A function as a call of that name."""
    function.__name__ = name
    return jax.jit(function)


identity_activation = _named(IDENTITY, lambda q: jnp.multiply(q, jnp.ones((), q.dtype)))
gated_product = _named(GATED, lambda q, gate: jnp.multiply(q, gate))
declared_gate = _named(DECLARED, lambda gate: jnp.multiply(gate, jnp.ones((), gate.dtype)))
given_scale = _named(GIVEN_SCALE, lambda gate: jnp.multiply(gate, jnp.ones((), gate.dtype)))


def as_gate(value: Shaped[Array, "*shape"]) -> Shaped[Array, "*shape"]:
    """Mark a value of a model as a gate: whatever it multiplies is linear given it.

    A product of two values, neither of which holds a nonlinearity (a bilinear layer, linear attention, a state space
    model's B and C), does not say which side is the gate. Nothing is computed by the mark.

    Args:
        value: any shape, of a floating dtype.

    Returns:
        The value.

    Raises:
        ValueError: it is of integers.

    Example:
        >>> import jax.numpy as jnp, npk
        >>> f = lambda p, x: (npk.as_gate(x @ p["u"]) * (x @ p["v"])) @ p["w"]
        >>> p = {"u": jnp.ones((1, 2)), "v": jnp.ones((1, 2)), "w": jnp.ones((2, 1))}
        >>> npk.gates(f)(p, jnp.array([[3.0]]))[0].tolist()
        [[3.0, 3.0]]

    Source: Lakshminarayanan & Singh 2020, section 2 (gates are what values are multiplied by).
    """
    value = jnp.asarray(value)
    if not jnp.issubdtype(value.dtype, jnp.floating):
        raise ValueError(f"as_gate marks values of a floating dtype, got {value.dtype}.")
    return declared_gate(value)


def at_lines(f: Callable[[Any, Any], Any], lines: Sequence[str]) -> Callable[[Any, Any], Any]:
    """f with everything that depends on x and is made at these lines marked as a gate.

    Args:
        f: a function of (params, x).
        lines: parts of source lines ("model.py:12").

    Raises:
        ValueError: the letters of a word. When f is called: nothing is made at a line.
    """
    if any(len(line) < 2 for line in lines):
        raise ValueError(f"gate_at must be a sequence of source lines, got {tuple(lines)}: ('model.py:12',).")
    return remembered(_at_lines, f, tuple(lines)) if lines else f


def _at_lines(f: Callable[[Any, Any], Any], lines: Sequence[str]) -> Callable[[Any, Any], Any]:
    """`at_lines`, made once."""

    @functools.wraps(f, assigned=("__module__",), updated=())
    def marked(params: Any, x: Any) -> Any:
        program = trace(f, params, x, opens_for_gates)
        moving, met = program.reached_from(program.x), set()

        def rule(equation: Equation, values: list[Any]) -> list[Any]:
            outputs = equation.bind(*values)
            here = [line for line in lines if line in equation.source]
            if not here or not any(isinstance(a, Var) and a in moving for a in equation.inputs):
                return outputs
            met.update(here)
            return [declared_gate(v) if jnp.issubdtype(v.dtype, jnp.floating) else v for v in outputs]

        outputs = evaluate(program, jax.tree_util.tree_leaves((params, x)), rule)
        if missed := sorted(set(lines) - met):
            raise ValueError(f"gate_at: f makes nothing of x at {', '.join(missed)}.")
        return jax.tree_util.tree_unflatten(program.out_tree, outputs)

    return marked
