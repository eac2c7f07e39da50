"""A ReLU network is a value function and its gates: the two transformations everything is made of.

For any `f(params, x)`, `gates(f)` returns the gates G_i = γ(q_i) of its activations a(q) = q·γ(q), and
`gated(f)` computes the same network with each activation replaced by q_i·G_i for gates given from
outside. So a ReLU network is `gated(f)(Θ, x, gates(f)(Θ, x))`, and a deep gated network is
`gated(f)(Θ_value, x, gates(f)(Θ_feature, x))`; no architecture is written twice.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from npk.gating.declaring import at_lines, declared_gate, gated_product, given_scale, identity_activation
from npk.programs import (
    Activation,
    Const,
    Equation,
    Program,
    UnsupportedOperation,
    Wanted,
    check_batch,
    check_finite,
    check_gates,
    check_linear,
    check_program,
    evaluate,
    is_traced,
    remembered,
    samples_in,
    shapes_of,
    transformation,
    wanted,
    with_gates,
)

#: What every transformation takes: f(params, x), from a batch x [N, ...] to outputs [N, K].
Function = Callable[[Any, Any], Any]


def soft_relu(q: Float[Array, "*shape"], beta: float = 4.0) -> Float[Array, "*shape"]:
    """The soft-ReLU a(q) = q·γ_β(q) with the soft gate γ_β(q) = 1/(1 + e^{-βq}).

    Args:
        q: pre-activations, any shape.
        beta: steepness β > 0 of the gate; β → ∞ gives ReLU.

    Returns:
        q·σ(βq), same shape and dtype as q; at q = 0 the gate is 1/2.

    Example:
        >>> import jax.numpy as jnp, npk
        >>> npk.soft_relu(jnp.array([0.0, 10.0])).tolist()
        [0.0, 10.0]

    Source: Lakshminarayanan & Singh 2020, section 4 (soft-ReLU).
    """
    return q * jax.nn.sigmoid(beta * q)


def activation_program(
    f: Function,
    params: Any,
    x: Any,
    has_aux: bool = False,
    wants: Wanted | None = None,
    kinds: Sequence[str] | None = None,
) -> Program:
    """The program of f with its gates found, checked to be a deterministic map [N, ...] → [N, K].

    With `wants`, it is checked to be linear given its gates, too; without, `kinds` of gates are found.
    """
    check_batch(x)
    check_finite(params, "params")
    program = with_gates(f, params, x, kinds if wants is None else wants.kinds)
    if has_aux and not _is_pair(program.out_tree):
        raise ValueError(f"with has_aux=True f must return a pair (logits, aux), got {program.out_tree}.")
    logits = dataclasses.replace(program, outputs=program.outputs[:1]) if has_aux else program
    check_program(logits, samples_in(x))
    if wants is not None:
        check_linear(program, wants.allow)
    return program


def programs_of(f: Function, has_aux: bool, wants: Wanted) -> Callable[[PyTree, Any], Program]:
    """`activation_program` of f, found once for each shape of arguments that hold numbers on one device."""
    known: dict[Any, Program] = {}

    def found(params: PyTree, x: Any) -> Program:
        if not all(map(_plain, jax.tree_util.tree_leaves((params, x)))):
            return activation_program(f, params, x, has_aux, wants)
        check_batch(x)
        check_finite(params, "params")
        key = shapes_of((params, x))
        if key in known:
            return known[key]
        program = activation_program(f, params, x, has_aux, wants)
        atoms = [*program.outputs, *(a for e in program.equations for a in e.inputs)]
        if not any(isinstance(a, Const) and is_traced(a.value) for a in atoms):  # f may hold what is being traced
            known[key] = program
        return program

    return found


def _plain(leaf: Any) -> bool:
    """Whether a leaf is of numbers, of which no mesh says how they are laid out."""
    if isinstance(leaf, jax.Array):
        return not is_traced(leaf) and isinstance(leaf.sharding, jax.sharding.SingleDeviceSharding)
    return isinstance(leaf, np.ndarray | np.generic)


def _is_pair(tree: Any) -> bool:
    children = tree.children()
    return len(children) == 2 and jax.tree_util.treedef_is_leaf(children[0])


def result_of(program: Program, outputs: Sequence[Any], has_aux: bool) -> Any:
    """What f returns: its logits, or (logits, aux)."""
    return jax.tree_util.tree_unflatten(program.out_tree, outputs) if has_aux else outputs[0]


def activations(program: Program) -> list[Equation]:
    """The activations of a program in call order."""
    return [e for e in program.equations if e.activation is not None]


def run_with_gates(
    program: Program, args: Sequence[Any], gates: Sequence[Any] | None = None
) -> tuple[list, list, list]:
    """Evaluate q·G at every activation; the gates are the program's own where none are given.

    Returns:
        The outputs, the pre-activations and the gates, in call order.
    """
    queue = None if gates is None else iter(gates)
    seen: tuple[list[Any], list[Any]] = ([], [])

    def rule(equation: Equation, values: list[Any]) -> list[Any]:
        activation = equation.activation
        if activation is None:
            return equation.bind(*values)
        q = values[0]
        gate = activation.gate(*values) if queue is None else next(queue)
        seen[0].append(gate if activation.alone else q)
        seen[1].append(gate)
        return [activation.apply(q, gate) if queue is None else _with_given(activation, q, gate)]

    return evaluate(program, args, rule), *seen


def _with_given(activation: Activation, q: Any, gate: Any) -> Any:
    """q·G for a gate from outside; marked when traced, so that the gate can be told from a value."""
    if not (is_traced(q) or is_traced(gate)):
        return activation.apply(q, gate)
    if activation.alone:
        return (given_scale if activation.kind == "scale" else declared_gate)(gate)
    if activation.windows is None:
        return gated_product(q, gate)
    return jnp.sum(gated_product(activation.windows(q, 0), gate), -1)


def gate_shapes(program: Program) -> list[Any]:
    """Shape and dtype of every gate of a program."""
    avals = []
    for equation in activations(program):
        q = equation.outputs[0] if equation.activation.alone else equation.inputs[0]
        q = jax.ShapeDtypeStruct(q.shape, q.dtype)
        given = equation.activation.kind == "given"
        avals.append(q if given else jax.eval_shape(equation.activation.gate, q))
    return avals


def _leaves(params: Any, x: Any) -> list[Any]:
    return jax.tree_util.tree_leaves((params, x))


def own_gates(f: Function, params: PyTree, x: Any) -> tuple[Any, ...]:
    """The gates of f, without the checks of `gates` for what has been checked."""
    program = activation_program(f, params, x)
    return tuple(run_with_gates(program, jax.tree_util.tree_leaves((params, x)))[2])


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
        outputs, _, found = run_with_gates(program, _leaves(params, x))
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
        outputs, found, _ = run_with_gates(program, _leaves(params, x))
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
        return result_of(program, run_with_gates(program, _leaves(params, x), gates)[0], has_aux)

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
                raise UnsupportedOperation(
                    f"max-pooling at {equation.source} has no linear form; use average pooling in a linear network."
                )
            if equation.activation.alone:
                raise UnsupportedOperation(
                    f"the {equation.activation.kind} at {equation.source} has no linear form: kinds=('activation',) "
                    "makes the activations linear, and leaves it in f."
                )
            return [identity_activation(values[0])]

        return result_of(program, evaluate(program, _leaves(params, x), rule), has_aux)

    return linear_f
