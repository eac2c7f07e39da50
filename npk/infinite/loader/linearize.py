"""Structured derivatives of neural-tangents (implementation 3) by public API: linearise, transpose, count.

The library takes a network apart at its weights: it linearises f in them, and reads from the linear program
dy/dw of each equation that uses a weight and the cotangents df/dy of its output. It does so with the inside
of an older JAX. `install` gives its module functions of the same meaning: `jax.linearize` for the linear
program, `jax.linear_transpose` and the primitive itself for the derivatives of one equation.
"""

import contextlib
import dataclasses
import types
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.core
import jax.numpy as jnp

from npk.programs import Const, Equation, Program, trace


@jax.tree_util.register_pytree_node_class
@dataclasses.dataclass(frozen=True)
class Zero:
    """A cotangent that is zero, not yet an array."""

    aval: Any

    def tree_flatten(self) -> tuple[tuple[()], Any]:
        return (), self.aval

    @classmethod
    def tree_unflatten(cls, aval: Any, _: Any) -> "Zero":
        return cls(aval)


@jax.tree_util.register_pytree_node_class
@dataclasses.dataclass(frozen=True)
class UndefinedPrimal:
    """An input in which an equation is linear: it has a shape and no value."""

    aval: Any

    def tree_flatten(self) -> tuple[tuple[()], Any]:
        return (), self.aval

    @classmethod
    def tree_unflatten(cls, aval: Any, _: Any) -> "UndefinedPrimal":
        return cls(aval)


@dataclasses.dataclass(frozen=True, eq=False)
class Literal:
    """A value known before any tangent is."""

    val: Any
    aval: Any


@dataclasses.dataclass(frozen=True, eq=False)
class LinearEquation:
    """One output of a primitive that is linear in those of its inputs that are not literals."""

    primitive: Any
    invars: list[Any]
    outvars: list[Any]
    params: dict[str, Any]
    output: int

    def replace(self, **changes: Any) -> "LinearEquation":
        return dataclasses.replace(self, **changes)

    def __call__(self, *values: Any) -> Any:
        return Equation(self.primitive, (), (), self.params, None).bind(*values)[self.output]


@dataclasses.dataclass(frozen=True, eq=False)
class LinearProgram:
    """What the library reads of a jaxpr. Constants are literals, so there are no `constvars`."""

    invars: list[Any]
    outvars: list[Any]
    eqns: list[LinearEquation]
    constvars: tuple[()] = ()


def linear_program(program: Program) -> LinearProgram:
    """Compute all that no tangent reaches and keep the equations that are left, one for each output.

    The library knows equations of one output; those of several (a split) appear once for each that is used: of one
    that is not, no cotangent would come.
    """
    known: dict[Any, Literal] = {}
    used = {atom for equation in program.equations for atom in equation.inputs} | set(program.outputs)

    def read(atom: Any) -> Any:
        if isinstance(atom, Const):
            return Literal(atom.value, jax.core.ShapedArray(atom.shape, atom.dtype))
        return known.get(atom, atom)

    equations = []
    for equation in program.equations:
        inputs = [read(atom) for atom in equation.inputs]
        if all(isinstance(atom, Literal) for atom in inputs):
            values = equation.bind(*(atom.val for atom in inputs))
            known |= {v: Literal(value, v.aval) for v, value in zip(equation.outputs, values, strict=True)}
            continue
        for i, output in enumerate(equation.outputs):
            if output in used:
                equations.append(LinearEquation(equation.primitive, inputs, [output], equation.params, i))
    return LinearProgram(list(program.inputs), [read(atom) for atom in program.outputs], equations)


def _value(given: Any) -> Any:
    """A known input as an array; of one that the library trimmed only the shape is left, and only it counts."""
    abstract = isinstance(given, UndefinedPrimal | jax.core.ShapedArray | jax.ShapeDtypeStruct)
    aval = given.aval if isinstance(given, UndefinedPrimal) else given
    return jnp.zeros(aval.shape, aval.dtype) if abstract else given


def push(equation: LinearEquation | None, index: int, tangent: Any, *inputs: Any) -> Any:
    """dy of one equation for the tangent of one input: a linear map at (0, …, tangent, …, 0)."""
    if equation is None:  # the identity
        return tangent
    return equation(*(tangent if i == index else _value(given) for i, given in enumerate(inputs)))


def pull(equation: LinearEquation | None, cotangent: Any, *inputs: Any) -> Sequence[Any]:
    """Cotangents of the undefined inputs of one equation, None for the known ones."""
    if equation is None:  # the identity
        return (cotangent,)
    places = [i for i, given in enumerate(inputs) if isinstance(given, UndefinedPrimal)]
    found: list[Any] = [None] * len(inputs)
    if isinstance(cotangent, Zero):
        return found

    def linear(*undefined: Any) -> Any:
        values = dict(zip(places, undefined, strict=True))
        return equation(*(values[i] if i in values else _value(given) for i, given in enumerate(inputs)))

    avals = [jax.ShapeDtypeStruct(inputs[i].aval.shape, inputs[i].aval.dtype) for i in places]
    cotangent = jax.lax.convert_element_type(cotangent, equation.outvars[0].aval.dtype)
    for i, value in zip(places, jax.linear_transpose(linear, *avals)(cotangent), strict=True):
        found[i] = value
    return found


def _linearizer(backward_pass: Callable[..., Any]) -> Callable[..., Any]:
    """The library's way in: outputs of a function, and a pullback to what `backward_pass` collects."""

    def primals_out_and_pullback(
        fn: Callable[..., Any], mode: Any, j_rules: bool, s_rules: bool, fwd: bool | None, *primals: Any
    ) -> tuple[Any, Callable[..., Any]]:
        primals_out, tangent_map = jax.linearize(fn, *primals)
        program = linear_program(trace(lambda tangents, _: tangent_map(*tangents), primals, ()))
        undefined = [UndefinedPrimal(v.aval) for v in program.invars]

        def pullback(*cotangents: Any) -> Any:
            collected = backward_pass(
                program,
                mode=mode,
                consts=[],
                primals_in=undefined,
                cotangents_in=tuple(jax.tree.leaves(cotangents)),
                _j_rules=j_rules,
                _s_rules=s_rules,
                _fwd=fwd,
            )
            return jax.tree.unflatten(jax.tree.structure(primals), collected)

        return primals_out, pullback

    return primals_out_and_pullback


def count_operations(f: Callable[..., Any], optimize: bool, *args: Any, **kwargs: Any) -> float:
    """Floating-point operations by XLA's count, by which AUTO chooses."""
    lowered = jax.jit(f).lower(*args, **kwargs)
    analysis = (lowered.compile() if optimize else lowered).cost_analysis()
    # A compiled program has answered with one dictionary for each of its parts, and by now with one, or none.
    parts = analysis if isinstance(analysis, list | tuple) else [analysis or {}]
    return sum(part.get("flops", 0.0) for part in parts)


# What the library finds in `jax.interpreters.ad`.
AD_NAMES: dict[str, Any] = {
    "Zero": Zero,
    "UndefinedPrimal": UndefinedPrimal,
    "is_undefined_primal": lambda value: isinstance(value, UndefinedPrimal),
    "add_tangents": jnp.add,
    "config": types.SimpleNamespace(jax_enable_checks=False),
    "source_info_util": types.SimpleNamespace(transform_name_stack=lambda name: contextlib.nullcontext()),
}


def install(empirical: Any) -> None:
    """Put these functions into the library's module `_src.empirical`."""
    names = ("_get_primals_out_and_pullback", "_eqn_jvp_fn", "_eqn_vjp_fn", "_get_flops", "_backward_pass")
    missing = [name for name in names if not hasattr(empirical, name)]
    if missing:
        raise ImportError(f"{empirical.__name__} has no {', '.join(missing)}: npk knows neural-tangents 0.6.5 alone")
    empirical._get_primals_out_and_pullback = _linearizer(empirical._backward_pass)
    empirical._eqn_jvp_fn = push
    empirical._eqn_vjp_fn = pull
    empirical._get_flops = count_operations
