"""`explain`: read f as every transformation reads it, and say what was read."""

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from npk.gating import (
    Function,
    activation_program,
    activations,
    at_lines,
    gate_shapes,
    run_with_gates,
    sample_program,
    value_program,
)
from npk.path_kernels import Engine, path_kernel
from npk.paths import Role, roles_of
from npk.programs import (
    Chosen,
    Equation,
    Program,
    Selection,
    UnsupportedOperation,
    Wanted,
    concrete,
    is_allowed,
    is_declared,
    named,
    option_of,
    remembered,
    some_of,
    transformation,
    wanted,
)
from npk.readings.certifying import measured
from npk.readings.reading import Certificate, GateReading, ParameterReading, Reading, Refusal
from npk.tangent_kernels import counted

# Samples that the certificate is measured on.
_TRIED = 8
# Roundings of a dtype that a deep network may add up to.
_ROUNDINGS, _MOST = 1e4, 0.05
_SAMPLES = "path_kernel, npf, sketch, ntk, split_ntk"  # what needs f to be of single samples


@transformation()
def explain(
    f: Function,
    *,
    fixed: Selection = None,
    allow: Sequence[str] = (),
    wrt: Selection = None,
    gate_at: Sequence[str] = (),
) -> Callable[[PyTree, Any], Reading]:
    """Transform f into the function that says what npk takes f to be.

    What any transformation would refuse is in the reading, with the line in the model and what to do about it. Nothing
    is compiled but f itself and its gated form, on a few samples; on all of x where f is not of single samples.

    Args:
        f: a function of (params, x), x: [N, ...] → [N, K].
        fixed: as of `path_kernel`: which parameters are fixed numbers, in place of what is recognised.
        allow: as of `gates`: what may stay nonlinear.
        gate_at: as of `gates`: source lines whose values are gates.
        wrt: as of `ntk`: which leaves count as parameters of tangent kernels.

    Returns:
        A function (params, x) → `Reading`.

    Raises:
        ValueError: x is empty or no array; x or params are not finite; f does not return [N, K]; `fixed` or `wrt`
            names nothing.

    Example:
        >>> import jax, jax.numpy as jnp, npk
        >>> f = lambda p, x: jax.nn.relu(x @ p["w"]) @ p["v"]
        >>> reading = npk.explain(f)({"w": jnp.ones((2, 3)), "v": jnp.ones((3, 1))}, jnp.ones((4, 2)))
        >>> reading.certified, [(p.name, p.role, p.fan_in) for p in reading.parameters]
        (True, [('v', 'weight', 3), ('w', 'weight', 2)])

    Source: Lakshminarayanan & Singh 2020, section 2 (what gates, features and values are).
    """
    return remembered(_explain, at_lines(f, gate_at), option_of(fixed, "fixed"), wanted(allow), option_of(wrt, "wrt"))


def _explain(f: Function, fixed: Chosen, wants: Wanted, wrt: Chosen) -> Callable[[PyTree, Any], Reading]:
    """`explain`, made once."""

    def explain_f(params: PyTree, x: Any) -> Reading:
        refused: list[Refusal] = []
        program = _tried(lambda: activation_program(f, params, x), refused, "everything")
        if program is None:
            return Reading((), (), (), tuple(refused), (), None, 0.0)
        _ = fixed is None or named(program.param_paths, fixed, "fixed")  # raises for a name that is none
        value = _tried(lambda: sample_program(f, params, x, fixed), refused, _SAMPLES, ValueError)
        alone, roles = value is not None, []
        if not alone:
            value = _tried(lambda: value_program(f, params, x, fixed), [], "", Exception)  # told already
        if value is not None:
            roles, outside = roles_of(value, [g.shape for g in gate_shapes(value)])
            refused += [_refusal(message, "path_kernel, npf, sketch") for message in outside]
        nonlinear = tuple(_nonlinear(program, wants.allow))
        certificate = None
        if concrete(params, x):
            certificate = _certificate(
                f, params, some_of(x, slice(_TRIED)) if alone else x, proven=alone and not nonlinear
            )
        return Reading(
            tuple(_parameters(program, value, roles, counted(params, wrt))),
            tuple(map(_gate, itertools.count(), activations(program), gate_shapes(program))),
            nonlinear,
            tuple(dict.fromkeys(refused)),
            () if refused else _engines(f, fixed, params, x),
            certificate,
            min(_ROUNDINGS * _rounding(program), _MOST),
        )

    return explain_f


def _rounding(program: Program) -> float:
    """Of the narrowest numbers on the way."""
    dtypes = {v.dtype for e in program.equations for v in e.outputs} | {program.outputs[0].dtype}
    return max((float(jnp.finfo(d).eps) for d in dtypes if jnp.issubdtype(d, jnp.floating)), default=1.0)


def _tried(
    find: Callable[[], Any], refused: list[Refusal], needed: str, errors: type[Exception] = UnsupportedOperation
) -> Any | None:
    """What is found, or nothing, and then the refusal noted."""
    try:
        return find()
    except errors as error:
        refused.append(_refusal(str(error), needed))
        return None


def _refusal(message: str, needed: str) -> Refusal:
    """A message "what: why and what to do" in its two parts."""
    what, _, remedy = message.partition(": ")
    return Refusal(what, needed, remedy)


def _nonlinear(program: Program, allow: Sequence[str]) -> Iterable[Refusal]:
    needed = "gates, gated, linear, preactivations, DGN, DLGN, split_ntk"
    for equation in program.nonlinear:
        name = equation.primitive.name
        remedy = f"allow=({name!r},) lets it stand as a part of f"
        if is_declared(equation):
            remedy = "a gate multiplies values: let it, or take the mark away"
        yield Refusal(_at(equation), needed, remedy, is_allowed(equation, allow))
    for equation in program.kept:
        yield Refusal(
            f"{_at(equation)} makes a gate", "path_kernel, npf, sketch", "stays in f, which no path has", True
        )


def _at(equation: Equation) -> str:
    if is_declared(equation):
        return f"a value that is declared to be a gate, at {equation.source}"
    return f"`{equation.primitive.name}` at {equation.source}"


# What gates are, in words.
_GATES = {
    "pool": "first largest of a window",
    "given": "from outside",
    "identity": "1",
    "soft": "a(q)/q",
    "scale": "1/σ of a norm",
    "pattern": "mixes positions",
    "product": "a product's nonlinear side",
    "declared": "declared, or from outside",
}


def _gate(number: int, equation: Equation, shape: Any) -> GateReading:
    activation = equation.activation
    function = _GATES.get(activation.kind, "1{q > 0}")
    if activation.kind == "hard" and activation.slopes != (0.0, 1.0):
        below, above = activation.slopes
        function = f"{above:g} above 0, {below:g} below"
    return GateReading(number, activation.kind, function, tuple(shape.shape), equation.source, equation.module)


def _parameters(
    whole: Program, value: Program | None, roles: Sequence[Role], counts: frozenset[int]
) -> Iterable[ParameterReading]:
    """The roles of every leaf: those that paths give it, or why they give it none."""
    readers, readers_of_values = whole.consumers(), value.consumers() if value else {}
    for number, (var, name) in enumerate(zip(whole.params, whole.param_paths, strict=True)):
        size = math.prod(var.shape)
        own = [r for r in roles if r.leaf == number]
        if own:
            for (role, fan_in), found in _grouped(own).items():
                elements = max(r.elements for r in found) if role == "fixed" else sum(r.elements for r in found)
                why = "a normalisation's" if role == "fixed" else ""
                yield ParameterReading(name, var.shape, role, elements, fan_in, found[0].source, why, number in counts)
            continue
        reading = readers_of_values.get(value.params[number], []) if value else []
        source = (reading or readers.get(var, []) or [None])[0]
        if value is None:
            role, why = "unread", "f is refused as it is, see below"
        elif number in (value.fixed or ()):
            role, why = "fixed", "declared"
        elif reading:
            role, why = "function", "no rule of paths covers what is made of it"
        elif var in readers:
            role, why = "feature", "it acts through gates that are given to others"
        else:
            role, why = "unused", ""
        yield ParameterReading(
            name, var.shape, role, size, None, source.source if source else "", why, number in counts
        )


def _grouped(roles: Sequence[Role]) -> dict[tuple[str, int | None], list[Role]]:
    found: dict[tuple[str, int | None], list[Role]] = {}
    for role in roles:
        found.setdefault((role.role, role.fan_in), []).append(role)
    return found


def _engines(f: Function, fixed: Chosen, params: PyTree, x: Any) -> tuple[Engine, ...]:
    return path_kernel(f, fixed=fixed).engines(params, x)  # type: ignore[attr-defined]


def _certificate(f: Function, params: PyTree, x: Any, proven: bool) -> Certificate:
    """f against its gated form under its own gates, and that at x ± a direction with the gates of x."""
    program = activation_program(f, params, x)

    @jax.jit
    def own(params: PyTree, x: Any) -> tuple[Any, Any]:
        return f(params, x), run_with_gates(program, jax.tree_util.tree_leaves((params, x)))[2]

    @jax.jit
    def under(params: PyTree, x: Any, gates: Any) -> Any:
        return run_with_gates(program, jax.tree_util.tree_leaves((params, x)), gates)[0][0]

    out, gates = own(params, x)
    return measured(out, under(params, x, gates), lambda z: under(params, z, gates), x, proven)
