"""Programs: a JAX function as one flat list of equations.

`trace` runs `jax.make_jaxpr`, opens every call (`jit`, `remat`, `custom_jvp`, `scan` of known length)
and returns a `Program`. Everything else in npk reads programs, never raw jaxprs, so differences
between JAX versions and the choice of what to open live here and nowhere else.
"""

import concurrent.futures
import dataclasses
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import jax
import jax.core
import jax.experimental
import jax.numpy as jnp
import numpy as np
from jax.extend import core as jex_core
from jax.extend import source_info_util

from npk.programs.functions import explain

OLDEST_JAX = (0, 7, 0)
_T = TypeVar("_T")


class UnsupportedOperation(ValueError):  # noqa: N818 (named for what was met, as in jax.errors)
    """An operation of a model lies outside the rules; the message names it, its place and the remedy."""


def require_supported_jax(version: str = jax.__version__) -> None:
    """Raise `ImportError` when the installed JAX is older than npk supports."""
    found = tuple(int("".join(itertools.takewhile(str.isdigit, part)) or 0) for part in version.split(".")[:3])
    if found < OLDEST_JAX:
        oldest = ".".join(map(str, OLDEST_JAX))
        raise ImportError(f"npk needs jax >= {oldest}, found jax {version}: run `pip install -U 'jax>={oldest}'`.")


def is_traced(value: Any) -> bool:
    """Whether a value stands for numbers that are not known yet."""
    return isinstance(value, jax.core.Tracer)


def now(function: Callable[[], _T]) -> _T:
    """The result of `function()`, computed on numbers at once, whatever is being traced around it.

    `jax.ensure_compile_time_eval` leaves the traces of `jit`, not that of `shard_map`: that is left by another thread.
    """
    with jax.ensure_compile_time_eval():
        result = function()
    if not any(map(is_traced, jax.tree_util.tree_leaves(result))):
        return result
    wide = jax.config.read("jax_enable_x64")

    def alone() -> _T:
        with x64(wide):
            return function()

    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        return thread.submit(alone).result()


def x64(wide: bool) -> Any:
    """A context in which JAX has 64-bit numbers, or has not; of this thread alone."""
    home: Any = jax if hasattr(jax, "enable_x64") else jax.experimental  # the latter before JAX 0.8
    return home.enable_x64(wide)


def _varying_alike(values: Sequence[Any]) -> Sequence[Any]:
    """Operands of one primitive vary over the same axes of a mesh, inside `jax.shard_map`; elsewhere as they are."""
    axes = frozenset().union(*(_varies_over(v) for v in values))
    return [_vary(v, tuple(axes - _varies_over(v))) for v in values] if axes else values


def varying_as(value: Any, tree: Any) -> Any:
    """A value as one that varies over the axes of a mesh that the leaves of `tree` vary over.

    A derivative by what does not vary would be summed over the devices.
    """
    axes = frozenset().union(*map(_varies_over, jax.tree_util.tree_leaves(tree)))
    return jax.tree_util.tree_map(lambda v: _vary(v, tuple(axes - _varies_over(v))), value)


def _varies_over(value: Any) -> frozenset[str]:
    if not is_traced(value):
        return frozenset()
    kind = jax.typeof(value)
    kind = getattr(kind, "mat", kind)  # JAX before 0.10 has `vma` in its place
    return getattr(kind, "varying", None) or getattr(kind, "vma", None) or frozenset()


def _vary(value: Any, axes: tuple[str, ...]) -> Any:
    lax: Any = jax.lax
    if not axes:
        return value
    return lax.pcast(value, axes, to="varying") if hasattr(lax, "pcast") else lax.pvary(value, axes)  # before JAX 0.9


class Var:
    """A value of a program; two variables are equal only when they are the same object."""

    __slots__ = ("aval",)

    def __init__(self, aval: Any):
        self.aval = aval

    @property
    def shape(self) -> tuple[int, ...]:
        return self.aval.shape

    @property
    def dtype(self) -> Any:
        return self.aval.dtype


@dataclasses.dataclass(frozen=True, eq=False)
class Const:
    """A literal or a closed-over array."""

    value: Any

    @property
    def shape(self) -> tuple[int, ...]:
        return np.shape(self.value)

    @property
    def dtype(self) -> Any:
        return jnp.result_type(self.value)


Atom = Var | Const


@dataclasses.dataclass(frozen=True, eq=False)
class Equation:
    """One primitive, or (when `activation` is set) one activation, applied to atoms."""

    primitive: Any
    inputs: tuple[Atom, ...]
    outputs: tuple[Var, ...]
    params: dict[str, Any]
    source_info: Any
    activation: Any = None

    @property
    def name(self) -> str:
        return "activation" if self.activation is not None else self.primitive.name

    @property
    def source(self) -> str:
        """The user's source line, as `file:line:column (function)`."""
        return source_info_util.summarize(self.source_info)

    def bind(self, *values: Any) -> list[Any]:
        params = self.primitive.get_bind_params(self.params)
        subfuns: Sequence[Any] = ()
        if isinstance(params, tuple):  # JAX < 0.10 returns the sub-functions apart.
            subfuns, params = params
        out = self.primitive.bind(*subfuns, *_varying_alike(values), **params)
        return list(out) if self.primitive.multiple_results else [out]


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
    """A function as flat equations. `inputs` are the leaves of `params`, then those of `x`.

    `params` and `x` name the input variables by role; `param_paths` names the leaves of `params`
    (keys joined by "/"); `out_tree` rebuilds the function's result. Of the program of one sample, `gate_places` say
    where each gate of a batch holds its samples (`samples.Place`); with its activations found, `nonlinear` are the
    equations on the way of the values that are no activation and not linear either.
    """

    params: tuple[Var, ...]
    x: tuple[Var, ...]
    equations: tuple[Equation, ...]
    outputs: tuple[Atom, ...]
    param_paths: tuple[str, ...]
    out_tree: Any
    gate_places: tuple[Any, ...] = ()
    nonlinear: tuple[Equation, ...] = ()

    @property
    def inputs(self) -> tuple[Var, ...]:
        return self.params + self.x

    def reached_from(self, sources: Iterable[Var], through: Callable[[Equation], bool] = lambda _: True) -> set[Var]:
        """All variables that depend on any of `sources` (themselves included) by equations of which `through` holds."""
        reached = set(sources)
        for equation in self.equations:
            if any(isinstance(a, Var) and a in reached for a in equation.inputs) and through(equation):
                reached.update(equation.outputs)
        return reached

    def consumers(self) -> dict[Var, list[Equation]]:
        """For each variable the equations that read it."""
        table: dict[Var, list[Equation]] = {}
        for equation in self.equations:
            for atom in set(equation.inputs):
                if isinstance(atom, Var):
                    table.setdefault(atom, []).append(equation)
        return table

    def pruned(self, keep: Iterable[Atom] = ()) -> "Program":
        """The same program without the equations that neither its outputs nor `keep` need."""
        needed = {a for a in (*self.outputs, *keep) if isinstance(a, Var)}
        kept = []
        for equation in reversed(self.equations):
            if needed.intersection(equation.outputs):
                kept.append(equation)
                needed.update(a for a in equation.inputs if isinstance(a, Var))
        return dataclasses.replace(self, equations=tuple(reversed(kept)))


Rule = Callable[[Equation, list[Any]], Any]


def bind_rule(equation: Equation, values: list[Any]) -> list[Any]:
    """The default rule of `evaluate`: the primitive itself."""
    return equation.bind(*values)


def evaluate(program: Program, args: Sequence[Any], rule: Rule = bind_rule) -> list[Any]:
    """Run a program on the values of its inputs; `rule(equation, values)` returns each equation's outputs.

    A value is let go after its last use, so that an eager run holds no more than the model itself would.
    """
    last_use: dict[Var, int] = {}
    for i, equation in enumerate(program.equations):
        last_use.update({a: i for a in equation.inputs if isinstance(a, Var)})
    last_use.update({a: len(program.equations) for a in program.outputs if isinstance(a, Var)})

    env: dict[Var, Any] = dict(zip(program.inputs, args, strict=True))

    def read(atom: Atom) -> Any:
        return atom.value if isinstance(atom, Const) else env[atom]

    for i, equation in enumerate(program.equations):
        outputs = rule(equation, [read(a) for a in equation.inputs])
        env.update(zip(equation.outputs, outputs, strict=True))
        for atom in (*equation.inputs, *equation.outputs):
            if isinstance(atom, Var) and last_use.get(atom, -1) <= i:
                env.pop(atom, None)
    return [read(a) for a in program.outputs]


# ---------------------------------------------------------------------------------------- tracing


# Calls whose body is the computation itself; opening them changes no value and no derivative.
_CALLS = {"jit": "jaxpr", "pjit": "jaxpr", "closed_call": "call_jaxpr", "core_call": "call_jaxpr"}
_CALLS |= {"remat": "jaxpr", "remat2": "jaxpr", "checkpoint": "jaxpr", "custom_lin": "call_jaxpr"}
# Calls that carry a derivative of their own: opened only when the caller asks for it.
_CUSTOM = {"custom_jvp_call": "call_jaxpr", "custom_vjp_call": "call_jaxpr", "custom_vjp_call_jaxpr": "fun_jaxpr"}


# What returns its operands: marks for memory, names and meshes. They are left out, since `bind` makes its own.
_SAME = frozenset(("copy", "copy_p", "name", "optimization_barrier", "pvary"))


def sub_jaxpr(eqn: Any) -> Any | None:
    """The body of a call-like equation as a closed jaxpr, or None."""
    name = eqn.primitive.name
    body = eqn.params.get(_CALLS.get(name) or _CUSTOM.get(name) or "")
    if body is None:
        # custom_vjp_call changed the name of its body's parameter between JAX versions.
        body = next(
            (eqn.params[k] for k in ("call_jaxpr", "fun_jaxpr", "jaxpr") if name in _CUSTOM and k in eqn.params), None
        )
    if body is None or hasattr(body, "consts"):
        return body
    return jex_core.ClosedJaxpr(body, ())


def is_custom(eqn: Any) -> bool:
    """Whether the equation carries a user-defined derivative."""
    return eqn.primitive.name in _CUSTOM


def _scan_parts(eqn: Any) -> tuple[int, int]:
    """How many inputs of a scan are constants and how many are carried: constants, carry, slices are their order.

    JAX 0.11 has changed the parameters that say so. What is sliced has one axis less in the body, in every version.
    """
    body = eqn.params["jaxpr"].jaxpr

    def unsliced(outside: Sequence[Any], inside: Sequence[Any]) -> int:
        return sum(len(a.aval.shape) == len(b.aval.shape) for a, b in zip(outside, inside, strict=True))

    n_carry = unsliced(eqn.outvars, body.outvars)
    return unsliced(eqn.invars, body.invars) - n_carry, n_carry


@dataclasses.dataclass
class _Flattener:
    """Writes jaxprs, calls opened, into one list of equations."""

    opens: Callable[[Any], bool]
    equations: list[Equation] = dataclasses.field(default_factory=list)
    caller: Any = None
    stacks: dict[Atom, tuple[list[Atom], int]] = dataclasses.field(default_factory=dict)  # conditions, along an axis

    def run(self, closed: Any, args: Sequence[Atom]) -> list[Atom]:
        jaxpr = closed.jaxpr
        env: dict[Any, Atom] = dict(zip(jaxpr.invars, args, strict=True))
        env |= {v: Const(c) for v, c in zip(jaxpr.constvars, closed.consts, strict=True)}

        def read(atom: Any) -> Atom:
            if isinstance(atom, jex_core.Literal):
                return Const(np.asarray(atom.val, dtype=jnp.result_type(atom.aval)))
            return env[atom]

        for eqn in jaxpr.eqns:
            inputs = [read(a) for a in eqn.invars]
            env |= dict(zip(eqn.outvars, self.equation(eqn, inputs), strict=True))
        return [read(a) for a in jaxpr.outvars]

    def equation(self, eqn: Any, inputs: list[Atom]) -> list[Atom]:
        if eqn.primitive.name in _SAME:
            return inputs
        if eqn.primitive.name == "argmax" and self.stacks.get(inputs[0], ((), -1))[1] in eqn.params["axes"]:
            return self.first_true(eqn, self.stacks[inputs[0]][0])
        body = sub_jaxpr(eqn)
        # Bodies of library functions carry no line of the user's: they are placed where they are called.
        place = eqn.source_info if source_info_util.summarize(eqn.source_info) else self.caller or eqn.source_info
        opened = self.opens(eqn) if body is not None or eqn.primitive.name == "scan" else False
        if not opened:
            outputs = tuple(Var(v.aval) for v in eqn.outvars)
            self.equations.append(Equation(eqn.primitive, tuple(inputs), outputs, dict(eqn.params), place))
            if eqn.primitive.name == "stack" and outputs[0].dtype == bool:
                self.stacks[outputs[0]] = (inputs, eqn.params["axis"])
            return list(outputs)
        outer, self.caller = self.caller, place
        try:
            return self.unroll(eqn, inputs) if body is None else self.run(body, inputs)
        finally:
            self.caller = outer

    def first_true(self, eqn: Any, conditions: list[Atom]) -> list[Atom]:
        """Which condition holds first, elementwise: as `jnp.select` asks it, by the largest of them all."""

        def first(*values: Any) -> Any:
            found = jnp.zeros(values[0].shape, eqn.outvars[0].aval.dtype)
            for number, value in reversed(list(enumerate(values))):
                found = jnp.where(value, jnp.asarray(number, found.dtype), found)
            return found

        outer, self.caller = self.caller, eqn.source_info
        try:
            return self.call(first, *conditions)
        finally:
            self.caller = outer

    def call(self, function: Callable[..., Any], *atoms: Atom) -> list[Atom]:
        """Write equations of our own, placed on the user's line that made them necessary."""
        avals = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in atoms]
        start = len(self.equations)
        outputs = self.run(jax.make_jaxpr(function)(*avals), atoms)
        ours = self.equations[start:]
        self.equations[start:] = [dataclasses.replace(e, source_info=self.caller) for e in ours]
        return outputs

    def unroll(self, eqn: Any, inputs: list[Atom]) -> list[Atom]:
        """Open a scan: its length is part of the program, so the loop is just a repeated body."""
        p = eqn.params
        n_consts, n_carry, length = *_scan_parts(eqn), p["length"]
        consts, carry, xs = inputs[:n_consts], inputs[n_consts : n_consts + n_carry], inputs[n_consts + n_carry :]
        n_ys = len(eqn.outvars) - n_carry
        rows: list[list[Atom]] = [[] for _ in range(n_ys)]
        for t in reversed(range(length)) if p["reverse"] else range(length):
            step = [self.call(lambda a, t=t: jax.lax.index_in_dim(a, t, keepdims=False), x)[0] for x in xs]
            out = self.run(p["jaxpr"], [*consts, *carry, *step])
            carry = out[:n_carry]
            for row, y in zip(rows, out[n_carry:], strict=True):
                row.append(y)
        ordered = [row[::-1] if p["reverse"] else row for row in rows]
        if length == 0 and n_ys:
            avals = [v.aval for v in eqn.outvars[n_carry:]]
            return carry + [Const(np.zeros(a.shape, a.dtype)) for a in avals]
        return carry + [self.call(lambda *ys: jnp.stack(ys), *row)[0] for row in ordered]


def flatten(
    closed: Any, opens: Callable[[Any], bool], n_params: int, param_paths: Sequence[str], out_tree: Any
) -> Program:
    """The program of a closed jaxpr whose first `n_params` inputs are parameters."""
    inputs = tuple(Var(v.aval) for v in closed.jaxpr.invars)
    flattener = _Flattener(opens)
    outputs = flattener.run(closed, inputs)
    return Program(
        inputs[:n_params],
        inputs[n_params:],
        tuple(flattener.equations),
        tuple(outputs),
        tuple(param_paths),
        out_tree,
    )


def scaling(var: Var, number: float, out: Var, at: Equation) -> list[Equation]:
    """The equations of `out` = number · `var`, placed where another equation is."""
    flattener = _Flattener(lambda eqn: True, caller=at.source_info)
    (result,) = flattener.call(lambda v: v * jnp.asarray(number, v.dtype), var)
    return [dataclasses.replace(e, outputs=(out,)) if result in e.outputs else e for e in flattener.equations]


def path_name(path: Sequence[Any]) -> str:
    """A leaf's place in a pytree, keys joined by "/"."""
    return jax.tree_util.keystr(tuple(path), simple=True, separator="/")


def trace(f: Callable[..., Any], params: Any, x: Any, opens: Callable[[Any], bool] = lambda eqn: True) -> Program:
    """The flat program of `f(params, x)`; only shapes and dtypes of the arguments are used.

    Args:
        f: a function of parameters and inputs.
        params: any pytree of arrays (or of `jax.ShapeDtypeStruct`).
        x: the input array (or any pytree of them).
        opens: which call-like equations are opened; those left closed are bound as they are.

    Returns:
        The program, unused equations removed.

    Raises:
        TypeError: f is no function of (params, x).
        ValueError: f is one of single samples.
    """
    try:
        closed, out_shape = jax.make_jaxpr(f, return_shape=True)(params, x)
    except Exception:
        explain(f, params, x)
        raise
    leaves, _ = jax.tree_util.tree_flatten_with_path(params)
    names = [path_name(path) for path, _ in leaves]
    out_tree = jax.tree_util.tree_structure(out_shape)
    return flatten(closed, opens, len(names), names, out_tree).pruned()
