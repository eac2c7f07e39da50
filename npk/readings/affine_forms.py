"""The affine form of f: what it computes under gates held fixed, read once more, so that what is multiplied is proven.

The gated form is traced with its gates as inputs, and read as f was: no activation is left in it, and no operation that
is not affine in x. Derivatives that a model declares (`custom_jvp`, `custom_vjp`, `stop_gradient`) are opened or left
out, so that the derivative of the form is that of what it computes.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from npk.gating import Function, Place, activation_program, activations, check_place, index_of, run_with_gates
from npk.programs import (
    Equation,
    Program,
    check_independent,
    check_linear,
    evaluate,
    opens_derivatives,
    says_derivative,
    trace,
    with_activations,
)

# Samples that one product of a materialised matrix is of, about.
_TOGETHER = 256


@dataclasses.dataclass(frozen=True, eq=False)
class AffineForm:
    """What f computes of x under given gates; the leaves of params and the gates are `given`.

    Attributes:
        program: of (given, x).
        proven: every operation of it is affine in x.
        begin: (params, x) → f(x), or of it what was chosen, and the gates.
    """

    program: Program
    proven: bool
    begin: Callable[[Any, Any], tuple[Any, Any]]

    def at(self, given: Sequence[Any], x: Any) -> Any:
        def rule(equation: Equation, values: list[Any]) -> list[Any]:
            return values if equation.name == "stop_gradient" else equation.bind(*values)

        return evaluate(self.program, [*given, x], rule)[0]

    @functools.cached_property
    def value(self) -> Callable[..., Any]:
        """(given, x) → the form at x."""
        return jax.jit(self.at)

    @functools.cached_property
    def product(self) -> Callable[..., Any]:
        """(given, x, v) → M v; of an affine form the way of x itself is not computed."""
        return jax.jit(self._product)

    def _product(self, given: Sequence[Any], x: Any, v: Any) -> Any:
        return jax.jvp(functools.partial(self.at, given), (x,), (v,))[1]

    @functools.cached_property
    def transposed(self) -> Callable[..., Any]:
        """(given, x, u) → Mᵀ u."""
        return jax.jit(self._transposed)

    def _transposed(self, given: Sequence[Any], x: Any, u: Any) -> Any:
        return jax.vjp(functools.partial(self.at, given), x)[1](u)[0]

    @functools.cached_property
    def products(self) -> Callable[..., Any]:
        """As `product`, of several v at once, along a first axis of their own."""
        return jax.jit(jax.vmap(self._product, (None, None, 0)))

    @functools.cached_property
    def transposeds(self) -> Callable[..., Any]:
        return jax.jit(jax.vmap(self._transposed, (None, None, 0)))

    @functools.cached_property
    def matrix(self) -> Callable[..., Any]:
        """(given, x) → M [N, *output, *input], by products with the unit vectors of its shorter side."""
        return jax.jit(self._matrix)

    def _matrix(self, given: Sequence[Any], x: Any) -> Any:
        out = self.program.outputs[0]
        n, row, column = x.shape[0], out.shape[1:], x.shape[1:]
        rows, columns = np.prod(row, dtype=int), np.prod(column, dtype=int)
        by_rows = rows <= columns
        shape, dtype = (row, out.dtype) if by_rows else (column, x.dtype)
        multiply = self._transposed if by_rows else self._product

        def of_unit(number: Any) -> Any:
            unit = jax.nn.one_hot(number, rows if by_rows else columns, dtype=dtype).reshape(1, *shape)
            return multiply(given, x, jnp.broadcast_to(unit, (n, *shape))).reshape(n, -1)

        found = jax.lax.map(of_unit, jnp.arange(min(rows, columns)), batch_size=max(1, _TOGETHER // n))
        return jnp.moveaxis(found, 0, 1 if by_rows else 2).reshape(n, *row, *column)


def affine_form(f: Function, params: Any, x: Any, allow: Sequence[str], place: Place, layer: int | None) -> AffineForm:
    """The affine form of f for arguments of these shapes.

    Args:
        f: a function of (params, x).
        params: its parameters.
        x: a batch.
        allow: what may stay though it is not affine.
        place: which outputs (`place_of`).
        layer: the number of an activation, whose pre-activation is the output.

    Returns:
        An `AffineForm`.

    Raises:
        ValueError: samples see each other; there is no such activation or output.
        UnsupportedOperation: given its gates f is not affine in x.
    """
    program = activation_program(f, params, x)
    number = _numbered(layer, len(activations(program)))

    def of_f(params: Any, x: Any) -> Any:
        """Of any batch what the map is to, before a place of it is chosen."""
        if number is None:
            return f(params, x)
        return run_with_gates(activation_program(f, params, x), _leaves(params, x))[1][number]

    whole = jax.eval_shape(of_f, params, x).shape
    if number is not None and whole[:1] != x.shape[:1]:
        raise ValueError(
            f"pre-activation {layer} of shape {list(whole)} does not have the {x.shape[0]} samples as its first axis: "
            "let f keep them there."
        )
    check_independent(f if number is None else lambda p, x: of_f(p, x).reshape(x.shape[0], -1), params, x)
    check_place(place, whole)

    def begin(params: Any, x: Any) -> tuple[Any, Any]:
        _, q, gates = run_with_gates(program, _leaves(params, x))
        return (f(params, x) if number is None else q[number])[index_of(place)], tuple(gates)

    def under(given: Any, x: Any) -> Any:
        leaves, gates = given
        outputs, q, _ = run_with_gates(program, [*leaves, x], gates)
        return (outputs[0] if number is None else q[number])[index_of(place)]

    _, gates = jax.eval_shape(begin, params, x)
    held = trace(under, (jax.tree_util.tree_leaves(params), gates), x, opens_derivatives)
    read = with_activations(held)
    left = tuple(dict.fromkeys((*read.nonlinear, *read.kept, *filter(_bends, read.equations))))
    check_linear(dataclasses.replace(read, nonlinear=left), allow)
    return AffineForm(held, not left, jax.jit(begin))


def _leaves(params: Any, x: Any) -> list[Any]:
    return [*jax.tree_util.tree_leaves(params), x]


def _bends(equation: Equation) -> bool:
    """Whether an equation is an activation that was not replaced, or hides a derivative that is not its own."""
    if equation.activation is not None:
        return equation.activation.kind not in ("given", "identity")
    return equation.name in ("cond", "while") and says_derivative(equation)


def _numbered(layer: int | None, count: int) -> int | None:
    """The number of an activation, counted from the end if it is negative."""
    if layer is None:
        return None
    if not -count <= layer < count:
        raise ValueError(f"layer={layer}: f has {count} activations, numbered from 0 as `npk.preactivations` has them.")
    return layer % count
