"""The program of f with its gates found, and running it: under gates of its own, or given from outside."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from npk.gating.declaring import declared_gate, gated_product, given_scale
from npk.programs import (
    Activation,
    Const,
    Equation,
    Program,
    Wanted,
    check_batch,
    check_finite,
    check_linear,
    check_program,
    evaluate,
    is_traced,
    samples_in,
    shapes_of,
    with_gates,
)

#: What every transformation takes: f(params, x), from a batch x [N, ...] to outputs [N, K].
Function = Callable[[Any, Any], Any]


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


def gate_kinds(f: Function, params: PyTree, x: Any) -> tuple[str, ...]:
    """What the gates of f are, in the order of `gates(f)`; only shapes count.

    Returns:
        "hard" (two values, as of ReLU), "soft" (smooth), "pool" (a choice), "given" (from outside), "identity",
        "scale", "pattern", "product" or "declared".
    """
    return tuple(e.activation.kind for e in activations(activation_program(f, params, x)) if e.activation is not None)


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


def leaves_of(params: Any, x: Any) -> list[Any]:
    return jax.tree_util.tree_leaves((params, x))


def own_gates(f: Function, params: PyTree, x: Any) -> tuple[Any, ...]:
    """The gates of f, without the checks of `gates` for what has been checked."""
    program = activation_program(f, params, x)
    return tuple(run_with_gates(program, jax.tree_util.tree_leaves((params, x)))[2])
