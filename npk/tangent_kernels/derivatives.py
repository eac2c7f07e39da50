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
    Equation,
    Program,
    Selection,
    UnsupportedOperation,
    Var,
    channels_last,
    check_linear,
    check_program,
    evaluate,
    opens_for_gates,
    opens_without_gates,
    trace,
    varies,
    varying_as,
    with_activations,
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
    """A single-sample program, how it reads its parameters, and the backward passes wanted of it."""

    program: Program
    uses: Uses
    fixed: tuple[bool, ...]  # for each backward pass, whether gates are held fixed
    blocks: dict[int, str]  # for each leaf that counts, the block of the kernel that it belongs to
    before_gates: frozenset[Var]  # values that some gate is made of: only what reaches them has a feature part

    @property
    def modes(self) -> int:
        return len(self.fixed)

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


def plan_of(f: Function, params: PyTree, x: Any, split: bool, allow: Sequence[str], wrt: Selection) -> DerivativePlan:
    sample = jax.ShapeDtypeStruct((1, *x.shape[1:]), x.dtype)
    # Inside shard_map a call that stays closed cannot be bound to values of another kind than it was traced for.
    program = trace(f, params, sample, opens_for_gates if split or varies(x) else opens_without_gates)
    counts = counted(params, wrt)
    check_real_leaves(program, counts)
    parameters = [program.params[n] for n in sorted(counts)]
    _check_real(program, parameters)
    if split:
        program = with_activations(program)
        check_linear(program, allow)
    check_program(program, 1)
    fixed = (False,) if not split else (True, False) if _has_soft_gates(program, parameters) else (True,)
    blocks = {n: program.param_paths[n] if split else "" for n in sorted(counts)}
    return DerivativePlan(program, find_uses(program, counts), fixed, blocks, _before_gates(program))


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
        kind = equation.activation and equation.activation.kind
        inputs = equation.inputs if found.intersection(equation.outputs) else ()
        gates = equation.inputs[:1] if kind == "soft" else equation.inputs[1:] if kind == "given" else ()
        found.update(a for a in (*inputs, *gates) if isinstance(a, Var))
    return frozenset(found)


def _has_soft_gates(program: Program, parameters: Sequence[Var]) -> bool:
    """Whether any gate changes smoothly with the parameters that count."""
    smooth = program.reached_from(parameters, _passes_derivative)

    def is_soft(equation: Equation) -> bool:
        kind = equation.activation.kind
        return kind in ("soft", "given") and equation.inputs[0 if kind == "soft" else 1] in smooth

    return any(e.activation is not None and is_soft(e) for e in program.equations)


def _passes_derivative(equation: Equation) -> bool:
    return equation.name != "stop_gradient" and any(_is_float(v) for v in equation.outputs)


def _forward(plan: DerivativePlan, leaves: Sequence[Any], x: Any, nudges: Mapping[int, list[Any]], fixed: bool) -> Any:
    """The outputs [K] for one sample, `nudges` added to what reads parameters; and what was read there."""
    places = {e.equation: i for i, e in enumerate((*plan.uses.products, *plan.uses.reads))}
    seen: dict[int, list[Any]] = {}

    def rule(equation: Equation, values: list[Any]) -> list[Any]:
        if equation.activation is None:
            outputs = equation.bind(*values)
        else:
            gate = equation.activation.gate(*values)
            outputs = [equation.activation.apply(values[0], jax.lax.stop_gradient(gate) if fixed else gate)]
        if equation not in places:
            return outputs
        i = places[equation]
        seen[i] = values
        return [o + nudge if _is_float(o) else o for o, nudge in zip(outputs, nudges[i], strict=True)]

    (out,) = evaluate(plan.program, [*leaves, x[None]], rule)
    kept = {i: _data_of(plan, i, values) for i, values in seen.items()}
    return out.reshape(-1), kept


def _is_float(value: Any) -> bool:
    return jnp.issubdtype(value.dtype, jnp.floating)


def _data_of(plan: DerivativePlan, i: int, values: Sequence[Any]) -> list[Any]:
    """What equation i read that depends on x."""
    if i < len(plan.uses.products):
        return [values[0 if plan.uses.products[i].data_first else 1]]
    made = plan.uses.reads[i - len(plan.uses.products)].made
    return [v for j, v in enumerate(values) if j not in made]


def derivatives(plan: DerivativePlan, leaves: Sequence[Any], x: Any) -> Derivatives:
    """Inputs, cotangents and gradients of a block of samples: one forward pass, one backward pass a mode."""
    leaves = varying_as(list(leaves), x)
    equations = [e.equation for e in (*plan.uses.products, *plan.uses.reads)]
    n, n_products = x.shape[0], len(plan.uses.products)
    nudges = {
        i: [jnp.zeros((n, *v.shape), v.dtype if _is_float(v) else jnp.float32) for v in e.outputs]
        for i, e in enumerate(equations)
    }
    nudges = varying_as(nudges, (leaves, x))
    cotangents, gradients, inputs = [], [], []
    for fixed in plan.fixed:
        run = jax.vmap(functools.partial(_forward, plan, leaves, fixed=fixed))
        out, pull, seen = jax.vjp(lambda v, run=run: run(x, v), nudges, has_aux=True)
        k = out.shape[1]
        seeds = jnp.broadcast_to(jnp.eye(k, dtype=out.dtype)[:, None], (k, n, k))
        (b,) = jax.vmap(pull)(varying_as(seeds, out))  # [K, n, ...]: all samples in one backward pass an output
        inputs = _wide([seen[i][0] for i in range(n_products)])
        cotangents.append(_wide([b[i][0] for i in range(n_products)]))
        gradients.append(_wide(_leaf_gradients(plan, leaves, seen, b) if plan.uses.reads else []))
    if plan.soft:  # ψ^F = ∇f - ψ^V
        cotangents[1] = [t - v for t, v in zip(cotangents[1], cotangents[0], strict=True)]
        gradients[1] = [t - v for t, v in zip(gradients[1], gradients[0], strict=True)]
    return Derivatives(inputs, cotangents, gradients)


def _wide(arrays: Sequence[Any]) -> list[Any]:
    """What a kernel is summed of: of half precision in single."""
    return [a.astype(working_dtype(a)) for a in arrays]


def derivatives_apart(plan: DerivativePlan, leaves: Sequence[Any], x: Any) -> Derivatives:
    """`derivatives`, kept from being fused into the products that read them (which XLA does at their expense)."""
    derive = channels_last(functools.partial(derivatives, plan))
    return jax.lax.optimization_barrier(derive(leaves, x))


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
            results.append([o for o in read.equation.bind(*inputs) if _is_float(o)])
        return results

    def pull_one(data: Any, cotangent: Any) -> Any:
        _, pull = jax.vjp(lambda chosen: outputs(chosen, data), wanted)
        floats = [
            [c for c, v in zip(cotangent[i], read.equation.outputs, strict=True) if _is_float(v)]
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
