"""A ReLU network is a value function and its gates: the two transformations everything is made of.

For any `f(params, x)`, `gates(f)` returns the gates G_i = γ(q_i) of its activations a(q) = q·γ(q), and
`gated(f)` computes the same network with each activation replaced by q_i·G_i for gates given from
outside. So a ReLU network is `gated(f)(Θ, x, gates(f)(Θ, x))`, and a deep gated network is
`gated(f)(Θ_value, x, gates(f)(Θ_feature, x))`; no architecture is written twice.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jaxtyping import PyTree

from npk.gating.declaring import at_lines, declared_gate, identity_activation
from npk.gating.gate_functions import NoLinearForm
from npk.gating.running import Function, gate_shapes, leaves_of, programs_of, result_of, run_with_gates
from npk.programs import (
    Equation,
    Wanted,
    check_gates,
    evaluate,
    remembered,
    transformation,
    wanted,
)


@transformation()
def gates(
    f: Function,
    *,
    has_aux: bool = False,
    allow: Sequence[str] = (),
    kinds: Sequence[str] | None = None,
    gate_at: Sequence[str] = (),
) -> Callable[[PyTree, Any], Any]:
    """Transform f into the function that returns its gates.

    A gate is any factor of the values that depends on x. Kinds:

    - "activation": of a(q) = q·γ(q), G = γ(q): 1{q > 0} for ReLU in any spelling (0 at q = 0), the slope for leaky
      ReLU, σ(βq) for `soft_relu`, a(q)/q for silu, gelu and every other function of one value that is 0 at 0;
    - "choice": of max-pooling the one-hot choice within each window (the first of equals);
    - "scale": the 1/σ of a layer, RMS, group or instance norm (that of a whole batch stays in f);
    - "pattern": what mixes positions and depends on x, as a softmax does;
    - "product": the nonlinear side of a product (GLUs, squeeze and excitation, the gates of an LSTM, a mask).

    Where both sides of a product could be the gate (bilinear layers, linear attention) f is refused: `as_gate` in the
    model, or `gate_at`, says which it is. What gates are made of (queries, keys, variances) may be anything.
    Gates inside `lax.scan` count once a step. Of a network whose gates another network makes (`gated`), these are its
    gates, not those of the other network.

    Args:
        f: a function of (params, x), x: [N, ...] → [N, K].
        has_aux: f returns a pair (logits [N, K], aux), e.g. batch norm's new statistics in training mode; so
            does what is returned: (gates, aux).
        allow: names of primitives ("exp"), or parts of source lines ("model.py:12"), that may stay in f though
            they are neither linear nor gates.
        kinds: of gates that are wanted, None for all; others stay in f.
        gate_at: parts of source lines; what is made of x there is a gate.

    Returns:
        A function (params, x) → tuple of gates in call order, each of the shape of its pre-activation,
        [N, ...] for an ordinary model; for max-pooling of the shape of its result with one more axis,
        last, for the window in row-major order; of the other kinds of the shape that f gives them ([N, T, 1] for
        1/σ, [N, heads, T, T] for a softmax). Dtype: that of the pre-activation, or of the gate in f. It can be jitted,
        vmapped and differentiated (hard gates have derivative zero).

    Raises:
        ValueError: x is empty, not an array, or not finite; no such kinds or lines; f draws random numbers
            (dropout) or does not return [N, K].
        UnsupportedOperation: an activation inside `cond` or `while`; a nonlinear operation that is no gate and not
            allowed.

    Example:
        >>> import jax, jax.numpy as jnp, npk
        >>> f = lambda w, x: jax.nn.relu(x @ w) @ jnp.ones((2, 1))
        >>> w = jnp.array([[1.0, -1.0]])
        >>> npk.gates(f)(w, jnp.array([[3.0], [-3.0]]))[0].tolist()
        [[1.0, 0.0], [0.0, 1.0]]

    Source: Lakshminarayanan & Singh 2020, section 2 (gating property).
    """
    return remembered(_gates, at_lines(f, gate_at), has_aux, wanted(allow, kinds))


def _gates(f: Function, has_aux: bool, wants: Wanted) -> Callable[[PyTree, Any], Any]:
    """`gates`, made once."""
    program_of = programs_of(f, has_aux, wants)

    @functools.wraps(f, assigned=("__module__",), updated=())
    def gates_of_f(params: PyTree, x: Any) -> Any:
        program = program_of(params, x)
        outputs, _, found = run_with_gates(program, leaves_of(params, x))
        return (tuple(found), result_of(program, outputs, True)[1]) if has_aux else tuple(found)

    return gates_of_f


@transformation()
def preactivations(
    f: Function,
    *,
    has_aux: bool = False,
    allow: Sequence[str] = (),
    kinds: Sequence[str] | None = None,
    gate_at: Sequence[str] = (),
) -> Callable[[PyTree, Any], Any]:
    """Transform f into the function that returns its pre-activations q.

    Args:
        f: a function of (params, x), x: [N, ...] → [N, K].
        has_aux: as of `gates`.
        allow: as of `gates`.
        kinds: as of `gates`.
        gate_at: as of `gates`.

    Returns:
        A function (params, x) → tuple of the inputs of its activations, in the order of `gates(f)`; a scale, a
        pattern, a product's gate has no pre-activation and stands itself in its place.
        `preactivations(linear(f))` gives those of the deep linear network (DLGN's gating network).

    Raises:
        ValueError: as `gates`.
        UnsupportedOperation: as `gates`.

    Example:
        >>> import jax, jax.numpy as jnp, npk
        >>> f = lambda w, x: jax.nn.relu(x @ w)
        >>> npk.preactivations(f)(jnp.eye(2), jnp.array([[1.0, -2.0]]))[0].tolist()
        [[1.0, -2.0]]

    Source: Lakshminarayanan & Singh 2021, section 3 (DLGN).
    """
    return remembered(_preactivations, at_lines(f, gate_at), has_aux, wanted(allow, kinds))


def _preactivations(f: Function, has_aux: bool, wants: Wanted) -> Callable[[PyTree, Any], Any]:
    """`preactivations`, made once."""
    program_of = programs_of(f, has_aux, wants)

    @functools.wraps(f, assigned=("__module__",), updated=())
    def preactivations_of_f(params: PyTree, x: Any) -> Any:
        program = program_of(params, x)
        outputs, found, _ = run_with_gates(program, leaves_of(params, x))
        return (tuple(found), result_of(program, outputs, True)[1]) if has_aux else tuple(found)

    return preactivations_of_f


@transformation("params, x, gates")
def gated(
    f: Function,
    *,
    has_aux: bool = False,
    allow: Sequence[str] = (),
    kinds: Sequence[str] | None = None,
    gate_at: Sequence[str] = (),
) -> Callable[[PyTree, Any, Sequence[Any]], Any]:
    """Transform f into the network that is linear given its gates: activation i becomes q_i·gates[i].

    Other gates are put in the place of f's own: a softmax, a norm's 1/σ, the gate of a product.

    Args:
        f: a function of (params, x), x: [N, ...] → [N, K].
        has_aux: as of `gates`; the result is then a pair like f's.
        allow: as of `gates`.
        kinds: as of `gates`.
        gate_at: as of `gates`.

    Returns:
        A function (params, x, gates) → [N, K] with `gated(f)(p, x, gates(f)(p, x)) == f(p, x)`.
        Its own gates may be any numbers: frozen, learned by another network, soft, or permuted.

    Raises:
        ValueError: as `gates`; or the gates differ from f's activations in number or shape.
        UnsupportedOperation: as `gates`.

    Example:
        >>> import jax, jax.numpy as jnp, npk
        >>> f = lambda w, x: jax.nn.relu(x @ w)
        >>> npk.gated(f)(jnp.eye(2), jnp.array([[1.0, -2.0]]), (jnp.array([[1.0, 1.0]]),)).tolist()
        [[1.0, -2.0]]

    Source: Lakshminarayanan & Singh 2020, section 3 (deep gated networks).
    """
    return remembered(_gated, at_lines(f, gate_at), has_aux, wanted(allow, kinds))


def _gated(f: Function, has_aux: bool, wants: Wanted) -> Callable[[PyTree, Any, Sequence[Any]], Any]:
    """`gated`, made once."""
    program_of = programs_of(f, has_aux, wants)

    @functools.wraps(f, assigned=("__module__",), updated=())
    def gated_f(params: PyTree, x: Any, gates: Sequence[Any]) -> Any:
        program = program_of(params, x)
        check_gates(gates, gate_shapes(program))
        return result_of(program, run_with_gates(program, leaves_of(params, x), gates)[0], has_aux)

    return gated_f


@transformation()
def linear(
    f: Function,
    *,
    has_aux: bool = False,
    allow: Sequence[str] = (),
    kinds: Sequence[str] | None = None,
    gate_at: Sequence[str] = (),
) -> Function:
    """Transform f into the deep linear network of the same shape: every activation is the identity.

    The identity activations are still found by `gates` (all ones), `preactivations` and `gated`, so
    `preactivations(linear(f))` is the gating network of a DLGN.

    Args:
        f: a function of (params, x), x: [N, ...] → [N, K].
        has_aux: as of `gates`; the result is then a pair like f's.
        allow: as of `gates`.
        kinds: as of `gates`.
        gate_at: as of `gates`.

    Returns:
        A function (params, x) → [N, K].

    Raises:
        ValueError: as `gates`.
        UnsupportedOperation: f pools by maximum, which has no linear form; average pooling has. A norm, a softmax, a
            gated product, unless `kinds` leaves it in f.

    Example:
        >>> import jax, jax.numpy as jnp, npk
        >>> f = lambda w, x: jax.nn.relu(x @ w)
        >>> npk.linear(f)(jnp.eye(2), jnp.array([[1.0, -2.0]])).tolist()
        [[1.0, -2.0]]

    Source: Lakshminarayanan & Singh 2021, section 3 (DLGN).
    """
    return remembered(_linear, at_lines(f, gate_at), has_aux, wanted(allow, kinds))


def _linear(f: Function, has_aux: bool, wants: Wanted) -> Function:
    """`linear`, made once."""
    program_of = programs_of(f, has_aux, wants)

    @functools.wraps(f, assigned=("__module__",), updated=())
    def linear_f(params: PyTree, x: Any) -> Any:
        program = program_of(params, x)

        def rule(equation: Equation, values: list[Any]) -> list[Any]:
            if equation.activation is None:
                return equation.bind(*values)
            if equation.activation.kind == "pool":
                raise NoLinearForm(
                    f"max-pooling at {equation.source} has no linear form; use average pooling in a linear network.",
                    "pool",
                )
            if equation.activation.alone:
                raise NoLinearForm(
                    f"the {equation.activation.kind} at {equation.source} has no linear form: kinds=('activation',) "
                    "makes the activations linear, and leaves it in f.",
                    equation.activation.kind,
                )
            return [identity_activation(values[0])]

        return result_of(program, evaluate(program, leaves_of(params, x), rule), has_aux)

    return linear_f


@transformation()
def softened(
    f: Function,
    *,
    beta: float = 4.0,
    has_aux: bool = False,
    allow: Sequence[str] = (),
    gate_at: Sequence[str] = (),
) -> Function:
    """Transform f into the same network with soft gates: ReLU becomes soft-ReLU, q·γ_β(q), γ_β(q) = 1/(1 + e^{-βq}).

    Hard gates have no gradient, so that K^F of f is zero; of the same parameters under soft gates it is not. A leaky
    ReLU goes from one slope to the other in the same way. Gates that are smooth already, choices of max-pooling,
    scales, patterns and products stay as they are.

    Args:
        f: a function of (params, x), x: [N, ...] → [N, K].
        beta: steepness β > 0 of the soft gates.
        has_aux: as of `gates`; the result is then a pair like f's.
        allow: as of `gates`.
        gate_at: as of `gates`.

    Returns:
        A function (params, x) → [N, K].

    Raises:
        ValueError: as `gates`; or beta is not positive and finite.
        UnsupportedOperation: as `gates`.

    Example:
        >>> import jax, jax.numpy as jnp, npk
        >>> f = lambda w, x: jax.nn.relu(x @ w)
        >>> w, x = jnp.ones((1, 1)), jnp.array([[0.5]])
        >>> float(npk.softened(f)(w, x)[0, 0]) == float(npk.soft_relu(jnp.array(0.5)))
        True

    Source: Lakshminarayanan & Singh 2020, section 4 (soft-ReLU).
    """
    if not 0 < beta < math.inf:
        raise ValueError(f"beta must be positive and finite, got {beta}.")
    return remembered(_softened, at_lines(f, gate_at), float(beta), has_aux, wanted(allow, ("activation",)))


def _softened(f: Function, beta: float, has_aux: bool, wants: Wanted) -> Function:
    """`softened`, made once."""
    program_of = programs_of(f, has_aux, wants)

    @functools.wraps(f, assigned=("__module__",), updated=())
    def softened_f(params: PyTree, x: Any) -> Any:
        program = program_of(params, x)

        def rule(equation: Equation, values: list[Any]) -> list[Any]:
            activation = equation.activation
            if activation is not None and activation.alone:
                return [declared_gate(activation.gate(*values))]
            if activation is None or activation.kind not in ("hard", "soft"):
                return equation.bind(*values)
            (q,) = values
            if activation.slopes is None:
                return [activation.apply(q, activation.gate(q))]
            below, above = activation.slopes
            return [q * (below + (above - below) * jax.nn.sigmoid(beta * q))]

        return result_of(program, evaluate(program, leaves_of(params, x), rule), has_aux)

    return softened_f
