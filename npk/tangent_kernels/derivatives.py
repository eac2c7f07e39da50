"""Derivatives of a block of samples: what the layers read, and what reaches their outputs from behind.

One forward pass for all samples; one backward pass an output and a mode (gates held fixed, or not). What a
parameter's use needs is read off by nudges: zeros added where parameters enter, whose derivatives are the
cotangents there.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from npk.gating import Function
from npk.programs import (
    Atom,
    Equation,
    Program,
    Selection,
    UnsupportedOperation,
    Var,
    Wanted,
    alone,
    channels_last,
    check_linear,
    check_program,
    evaluate,
    opens_for_gates,
    opens_without_gates,
    resized,
    samples_in,
    trace,
    varies,
    varying_as,
    with_gates,
    working_dtype,
)
from npk.tangent_kernels.checks import check_real_leaves, counted
from npk.tangent_kernels.uses import Uses, find_uses


@dataclasses.dataclass(frozen=True, eq=False)
class Derivatives:
    """Everything a kernel is made of, for a block of samples.

    `inputs[i]` is A of use i, [n, *shape]; `cotangents[m][i]` is B in mode m, [K, n, *shape];
    `gradients[m][j]` are per-sample gradients of leaf j, [n, K, size]. Modes: value, then feature. None is of half
    precision.
    """

    inputs: list[Any]
    cotangents: list[list[Any]]
    gradients: list[list[Any]]


jax.tree_util.register_dataclass(Derivatives, ["inputs", "cotangents", "gradients"], [])


@dataclasses.dataclass(frozen=True, eq=False)
class DerivativePlan:
    """A program of one sample, how it reads its parameters, and the backward passes wanted of it.

    `moving` are values that count as changing with the parameters whatever the uses: the output; of a stage of a
    program, what it reads of what stages before it made and that changes.
    """

    program: Program
    uses: Uses
    fixed: tuple[bool, ...]  # for each backward pass, whether gates are held fixed
    blocks: dict[int, str]  # for each leaf that counts, the block of the kernel that it belongs to
    before_gates: frozenset[Var]  # values that some gate is made of: only what reaches them has a feature part
    moving: frozenset[Var]

    @property
    def modes(self) -> int:
        return len(self.fixed)

    @functools.cached_property
    def places(self) -> dict[Equation, int]:
        """All uses, products first, by their equations."""
        return {e.equation: i for i, e in enumerate((*self.uses.products, *self.uses.reads))}

    @functools.cached_property
    def moved(self) -> set[Var]:
        """The values that change with any parameter that counts."""
        used = {v for e in self.places for v in e.outputs}
        return {v for v in self.program.reached_from(used | self.moving, _passes_derivative) if is_float(v)}

    @property
    def dtype(self) -> Any:
        """Of the kernel: that of f's outputs, of half precision float32."""
        return working_dtype(self.program.outputs[0].dtype)

    def moves_gates(self, *equations: Equation) -> bool:
        """Whether any gate changes with what the equations compute."""
        return any(v in self.before_gates for e in equations for v in e.outputs)

    @property
    def soft(self) -> bool:
        """Whether anything flows through the gates, so that value and feature part are two passes."""
        return self.modes == 2


def plan_of(f: Function, params: PyTree, x: Any, split: bool, wants: Wanted, wrt: Selection) -> DerivativePlan:
    sample = resized(x, 1)
    # Inside shard_map a call that stays closed cannot be bound to values of another kind than it was traced for.
    if split:
        program = with_gates(f, params, sample, wants.kinds)
    else:
        program = trace(f, params, sample, opens_for_gates if varies(x) else opens_without_gates)
    counts = counted(params, wrt)
    check_real_leaves(program, counts)
    parameters = [program.params[n] for n in sorted(counts)]
    _check_real(program, parameters)
    if split:
        check_linear(program, wants.allow)
    check_program(program, 1)
    fixed = (False,) if not split else (True, False) if _has_soft_gates(program, parameters) else (True,)
    blocks = {n: program.param_paths[n] if split else "" for n in sorted(counts)}
    moving = frozenset(a for a in program.outputs if isinstance(a, Var))
    return DerivativePlan(program, find_uses(program, counts), fixed, blocks, _before_gates(program), moving)


def _check_real(program: Program, parameters: Sequence[Var]) -> None:
    """Derivatives are of real numbers, by way of real numbers, of an output that depends on x."""
    reached = program.reached_from(parameters)
    for equation in program.equations:
        if any(v in reached and jnp.issubdtype(v.dtype, jnp.complexfloating) for v in equation.outputs):
            raise UnsupportedOperation(
                f"`{equation.name}` at {equation.source}: parameters become complex numbers, whose derivatives are "
                "not covered; write the operation in real numbers (its real and imaginary part)."
            )
    constant = program.reached_from(program.params) - program.reached_from(program.x)
    if any(isinstance(a, Var) and a in constant for a in program.outputs):
        raise ValueError("the output of f does not depend on x; its tangent kernel is that of no function of x.")


def _before_gates(program: Program) -> frozenset[Var]:
    found: set[Var] = set()
    for equation in reversed(program.equations):
        inputs = equation.inputs if found.intersection(equation.outputs) else ()
        found.update(a for a in (*inputs, *_gate_of(equation)) if isinstance(a, Var))
    return frozenset(found)


def _gate_of(equation: Equation) -> Sequence[Atom]:
    """What a smooth gate is made of."""
    activation = equation.activation
    if activation is None:
        return ()
    if activation.alone or activation.kind == "soft":
        return equation.inputs[:1]
    return equation.inputs[1:] if activation.kind == "given" else ()


def _has_soft_gates(program: Program, parameters: Sequence[Var]) -> bool:
    """Whether any gate changes smoothly with the parameters that count."""
    smooth = program.reached_from(parameters, _passes_derivative)
    return any(a in smooth for e in program.equations for a in _gate_of(e))


def _passes_derivative(equation: Equation) -> bool:
    return equation.name != "stop_gradient" and any(is_float(v) for v in equation.outputs)


def apply(equation: Equation, values: list[Any], fixed: bool) -> list[Any]:
    """The outputs of an equation, with `fixed` those of an activation whose gate stays."""
    if equation.activation is None:
        return equation.bind(*values)
    gate = equation.activation.gate(*values)
    return [equation.activation.apply(values[0], jax.lax.stop_gradient(gate) if fixed else gate)]


def is_float(value: Any) -> bool:
    return jnp.issubdtype(value.dtype, jnp.floating)


def _data_of(plan: DerivativePlan, i: int, values: Sequence[Any]) -> list[Any]:
    """What use i read that depends on x."""
    if i < len(plan.uses.products):
        return [values[0 if plan.uses.products[i].data_first else 1]]
    made = plan.uses.reads[i - len(plan.uses.products)].made
    return [v for j, v in enumerate(values) if j not in made]


def _run(
    plan: DerivativePlan, leaves: Sequence[Any], fixed: bool, xs: Sequence[Any], nudges: Mapping[int, list[Any]]
) -> tuple[list[Any], dict[int, list[Any]]]:
    """For one sample the outputs that move, `nudges` added to what reads parameters; and what was read there."""
    seen: dict[int, list[Any]] = {}

    def rule(equation: Equation, values: list[Any]) -> list[Any]:
        outputs = apply(equation, values, fixed)
        if equation not in plan.places:
            return outputs
        i = plan.places[equation]
        seen[i] = _data_of(plan, i, values)
        return [o + nudge if is_float(o) else o for o, nudge in zip(outputs, nudges[i], strict=True)]

    made = zip(plan.program.outputs, evaluate(plan.program, [*leaves, *xs], rule), strict=True)
    return [value for v, value in made if v in plan.moved], seen


def seeds_of(plan: DerivativePlan, n: int) -> Any:
    """The cotangents of the output that tell one output from another, [K, n, *its shape]."""
    (out,) = plan.program.outputs
    k = out.shape[-1]
    return jnp.broadcast_to(jnp.eye(k, dtype=out.dtype)[:, None], (k, n, k)).reshape(k, n, *out.shape)


def derivatives(plan: DerivativePlan, leaves: Sequence[Any], x: Any) -> Derivatives:
    """Inputs, cotangents and gradients of a block of samples: one forward pass, one backward pass a mode."""
    return pulled(plan, leaves, jax.tree_util.tree_leaves(alone(x)), [[seeds_of(plan, samples_in(x))]] * plan.modes)[0]


def pulled(
    plan: DerivativePlan, leaves: Sequence[Any], xs: Sequence[Any], seeds: Sequence[Sequence[Any]]
) -> tuple[Derivatives, list[list[Any]]]:
    """Derivatives of a block of samples, and what reaches the inputs that move.

    Args:
        plan: the plan.
        leaves: the parameters of its program.
        xs: the inputs of its program, [n, *their shape for one sample].
        seeds: in each mode, for all outputs that move, their cotangents [K, n, ...].

    Returns:
        The derivatives, and in each mode, for all inputs that move, their cotangents.
    """
    leaves = varying_as(list(leaves), xs)
    n, n_products = len(xs[0]), len(plan.uses.products)
    nudges = {
        i: [jnp.zeros((n, *v.shape), v.dtype if is_float(v) else jnp.float32) for v in e.outputs]
        for e, i in plan.places.items()
    }
    nudges = varying_as(nudges, (leaves, xs))
    moves = [v in plan.moving for v in plan.program.x]
    cotangents, gradients, inputs, backs = [], [], [], []
    for fixed, own in zip(plan.fixed, seeds, strict=True):

        def run(moving: Sequence[Any], nudges: Any, fixed: bool = fixed) -> Any:
            rest = iter(moving)
            given = [next(rest) if m else x for m, x in zip(moves, xs, strict=True)]
            return jax.vmap(functools.partial(_run, plan, leaves, fixed))(given, nudges)

        out, pull, seen = jax.vjp(run, [x for m, x in zip(moves, xs, strict=True) if m], nudges, has_aux=True)
        back, b = jax.vmap(pull)(varying_as(list(own), out))  # [K, n, ...]: all samples in one pass an output
        inputs = _wide([seen[i][0] for i in range(n_products)])
        cotangents.append(_wide([b[i][0] for i in range(n_products)]))
        gradients.append(_wide(_leaf_gradients(plan, leaves, seen, b) if plan.uses.reads else []))
        backs.append(back)
    if plan.soft:  # ψ^F = ∇f - ψ^V
        cotangents[1] = [t - v for t, v in zip(cotangents[1], cotangents[0], strict=True)]
        gradients[1] = [t - v for t, v in zip(gradients[1], gradients[0], strict=True)]
    return Derivatives(inputs, cotangents, gradients), backs


def _wide(arrays: Sequence[Any]) -> list[Any]:
    """What a kernel is summed of: of half precision in single."""
    return [a.astype(working_dtype(a)) for a in arrays]


def derivatives_apart(plan: DerivativePlan, leaves: Sequence[Any], x: Any) -> Derivatives:
    """`derivatives`, kept from being fused into the products that read them (which XLA does at their expense)."""
    return jax.lax.optimization_barrier(channels_last(functools.partial(derivatives, plan))(leaves, x))


def pulled_apart(plan: DerivativePlan, *args: Any) -> tuple[Derivatives, list[list[Any]]]:
    """`pulled`, likewise."""
    return jax.lax.optimization_barrier(channels_last(functools.partial(pulled, plan))(*args))


def _leaf_gradients(
    plan: DerivativePlan, leaves: Sequence[Any], seen: Mapping[int, list[Any]], b: Mapping[int, Any]
) -> list[Any]:
    """Gradients [n, K, size] of the leaves that are read in other ways than products, all reads summed."""
    reads, first = plan.uses.reads, len(plan.uses.products)
    read_data = {i: seen[first + i] for i in range(len(reads))}
    read_cotangents = {i: b[first + i] for i in range(len(reads))}
    wanted = [leaves[number] for number in plan.uses.leaves]

    def outputs(chosen: Sequence[Any], data: Mapping[int, list[Any]]) -> list[Any]:
        """What the reads return for given leaves, the data they read taken as given."""
        values = list(leaves)
        for number, leaf in zip(plan.uses.leaves, chosen, strict=True):
            values[number] = leaf
        made = _parameter_values(plan.program, values)
        results = []
        for i, read in enumerate(reads):
            rest = iter(data[i])
            inputs = [_value_of(a, made) if j in read.made else next(rest) for j, a in enumerate(read.equation.inputs)]
            results.append([o for o in read.equation.bind(*inputs) if is_float(o)])
        return results

    def pull_one(data: Any, cotangent: Any) -> Any:
        _, pull = jax.vjp(lambda chosen: outputs(chosen, data), wanted)
        floats = [
            [c for c, v in zip(cotangent[i], read.equation.outputs, strict=True) if is_float(v)]
            for i, read in enumerate(reads)
        ]
        return [g.reshape(-1) for g in pull(floats)[0]]

    over_outputs = jax.vmap(pull_one, in_axes=(None, 0))
    return jax.vmap(over_outputs, in_axes=(0, 1))(read_data, read_cotangents)


def _parameter_values(program: Program, leaves: Sequence[Any]) -> dict[Var, Any]:
    """The values of a program that are made of parameters alone."""
    data = program.reached_from(program.x)
    made = dict(zip(program.params, leaves, strict=True))
    for equation in program.equations:
        if not any(isinstance(a, Var) and a in data for a in equation.inputs):
            made.update(
                zip(equation.outputs, equation.bind(*(_value_of(a, made) for a in equation.inputs)), strict=True)
            )
    return made


def _value_of(atom: Any, made: Mapping[Var, Any]) -> Any:
    return made[atom] if isinstance(atom, Var) else atom.value
