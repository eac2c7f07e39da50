"""Convolutions in the one form that is fast everywhere.

XLA for CPU has a fast convolution for channels-last operands alone. It rewrites others into that form, but
not within loops, where the backward pass of a convolution is then some thirty times slower (and a
convolution vmapped over its kernels is slow anywhere). So what npk runs in loops is rewritten here.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from npk.programs.program import Equation, evaluate
from npk.programs.tracing import trace

_F = TypeVar("_F", bound=Callable[..., Any])
_OPENED = frozenset(("jit", "pjit", "closed_call", "core_call"))


def channels_last(function: _F) -> _F:
    """The same function with every convolution [N, spatial.., C] by [spatial.., I, O], transposed as needed.

    Custom derivatives, rematerialisation and loops stay closed, so the result can be differentiated as before.
    """

    def run(*args: Any) -> Any:
        opened = lambda equation: equation.primitive.name in _OPENED  # noqa: E731
        program = trace(lambda args, _: function(*args), args, (), opened)
        outputs = evaluate(program, jax.tree_util.tree_leaves(args), _rule)
        return jax.tree_util.tree_unflatten(program.out_tree, outputs)

    return run  # type: ignore[return-value]


def _rule(equation: Equation, values: list[Any]) -> list[Any]:
    if equation.name != "conv_general_dilated":
        return equation.bind(*values)
    params = dict(equation.params)
    lhs, rhs, out = params.pop("dimension_numbers")
    rank = len(lhs)
    last = (0, rank - 1, *range(1, rank - 1))  # (batch, channels, spatial..) of [N, spatial.., C]
    numbers = jax.lax.ConvDimensionNumbers(last, (rank - 1, rank - 2, *range(rank - 2)), last)
    x = jnp.transpose(values[0], (lhs[0], *lhs[2:], lhs[1]))
    kernel = jnp.transpose(values[1], (*rhs[2:], rhs[1], rhs[0]))
    y = jax.lax.conv_general_dilated(x, kernel, dimension_numbers=numbers, **params)
    axes = (out[0], *out[2:], out[1])
    return [jnp.transpose(y, [axes.index(axis) for axis in range(rank)])]
