"""Programs: a JAX function as one flat list of equations.

`tracing` makes them. Everything else in npk reads programs, never raw jaxprs.
"""

import concurrent.futures
import dataclasses
import itertools
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import jax
import jax.core
import jax.experimental
import jax.numpy as jnp
import numpy as np
from jax.extend import source_info_util

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


require_supported_jax()


def is_traced(value: Any) -> bool:
    """Whether a value stands for numbers that are not known yet."""
    return isinstance(value, jax.core.Tracer)


def now(function: Callable[[], _T]) -> _T:
    """The result of `function()`, computed on numbers at once, whatever is being traced around it.

    `jax.ensure_compile_time_eval` leaves the traces of `jit`, not that of `shard_map`: that is left by another thread.
    """
    with jax.ensure_compile_time_eval():
        result = function()
    return apart(function) if any(map(is_traced, jax.tree_util.tree_leaves(result))) else result


def apart(function: Callable[[], _T]) -> _T:
    """The same for a function that compiles: inside it nothing is computed earlier than JAX would.

    Where constants are computed at once, the body of a `shard_map` cannot be traced: they vary over no mesh.
    """
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


def varies(value: Any) -> bool:
    """Whether a value is one device's own, inside `jax.shard_map`."""
    return bool(_varies_over(value))


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
    """One primitive, or (when `activation` is set) one activation, applied to atoms.

    `module` is the place in the model that JAX knows of it (`jax.named_scope`, which Flax sets), joined by "/".
    """

    primitive: Any
    inputs: tuple[Atom, ...]
    outputs: tuple[Var, ...]
    params: dict[str, Any]
    source_info: Any
    activation: Any = None
    module: str = ""

    @property
    def name(self) -> str:
        return "activation" if self.activation is not None else self.primitive.name

    @property
    def source(self) -> str:
        """The user's source line, as `file:line:column (function)`."""
        return source_info_util.summarize(self.source_info)

    def place(self) -> AbstractContextManager[None]:
        """A context in which JAX places what it traces where this equation is."""
        stack = source_info_util.current_name_stack()
        stack = stack + source_info_util.new_name_stack(self.module) if self.module else stack
        return source_info_util.user_context(self.source_info.traceback, name_stack=stack)

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
    equations on the way of the values that are no gate and not linear either, `kept` those that make gates which
    stay in f. `fixed` are the numbers of the
    parameters that were declared to be fixed numbers; None where nothing was declared.
    """

    params: tuple[Var, ...]
    x: tuple[Var, ...]
    equations: tuple[Equation, ...]
    outputs: tuple[Atom, ...]
    param_paths: tuple[str, ...]
    out_tree: Any
    gate_places: tuple[Any, ...] = ()
    nonlinear: tuple[Equation, ...] = ()
    kept: tuple[Equation, ...] = ()
    fixed: frozenset[int] | None = None

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

    A value is let go after its last use, so that an eager run holds no more than the model itself would. What is
    traced keeps the line and the module of the equation that it was made by.
    """
    last_use: dict[Var, int] = {}
    for i, equation in enumerate(program.equations):
        last_use.update({a: i for a in equation.inputs if isinstance(a, Var)})
    last_use.update({a: len(program.equations) for a in program.outputs if isinstance(a, Var)})

    env: dict[Var, Any] = dict(zip(program.inputs, args, strict=True))

    def read(atom: Atom) -> Any:
        return atom.value if isinstance(atom, Const) else env[atom]

    for i, equation in enumerate(program.equations):
        with equation.place():
            outputs = rule(equation, [read(a) for a in equation.inputs])
        env.update(zip(equation.outputs, outputs, strict=True))
        for atom in (*equation.inputs, *equation.outputs):
            if isinstance(atom, Var) and last_use.get(atom, -1) <= i:
                env.pop(atom, None)
    return [read(a) for a in program.outputs]
