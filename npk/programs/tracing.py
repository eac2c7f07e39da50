"""Tracing: from a JAX function to its program.

`trace` runs `jax.make_jaxpr` and opens every call (`jit`, `remat`, `custom_jvp`, `scan` of known length, the branch of
a `cond` that constants choose). What differs between JAX versions, and the choice of what to open, live here and in
`program`, nowhere else.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core as jex_core
from jax.extend import source_info_util

from npk.programs.functions import diagnose
from npk.programs.program import Atom, Const, Equation, Program, Var, is_traced, now

# Calls whose body is the computation itself; opening them changes no value and no derivative.
_CALLS = {"jit": "jaxpr", "pjit": "jaxpr", "closed_call": "call_jaxpr", "core_call": "call_jaxpr"}
_CALLS |= {"remat": "jaxpr", "remat2": "jaxpr", "checkpoint": "jaxpr", "custom_lin": "call_jaxpr"}
_CALLS |= {"custom_vmap_call": "call"}
# Calls that carry a derivative of their own: opened only when the caller asks for it.
_CUSTOM = {"custom_jvp_call": "call_jaxpr", "custom_vjp_call": "call_jaxpr", "custom_vjp_call_jaxpr": "fun_jaxpr"}


# What returns its operands: marks for memory, names and meshes. They are left out, since `bind` makes its own.
_SAME = frozenset(("copy", "copy_p", "device_put", "name", "optimization_barrier", "pvary"))


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
    module: str = ""
    stacks: dict[Atom, tuple[list[Atom], int]] = dataclasses.field(default_factory=dict)  # conditions, along an axis
    making: dict[Atom, Equation] = dataclasses.field(default_factory=dict)  # of what is made of constants alone
    numbers: dict[Atom, Any] = dataclasses.field(default_factory=dict)  # of those that were asked for

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
        if eqn.primitive.name == "reshape" and eqn.params.get("dimensions") is not None:
            return self.reshaped(eqn, inputs)
        if eqn.primitive.name == "select_n" and (chosen := self.choice(inputs)) is not None:
            return [chosen]
        body, operands = sub_jaxpr(eqn), inputs
        if eqn.primitive.name == "cond" and (index := self.number(inputs[0])) is not None:
            branches = eqn.params["branches"]
            body, operands = branches[max(0, min(int(index), len(branches) - 1))], inputs[1:]
        # Bodies of library functions carry no line of the user's: they are placed where they are called.
        place = eqn.source_info if source_info_util.summarize(eqn.source_info) else self.caller or eqn.source_info
        module = "/".join(filter(None, (self.module, str(getattr(eqn.source_info, "name_stack", "")))))
        opened = self.opens(eqn) if body is not None or eqn.primitive.name == "scan" else False
        if not opened:
            outputs = tuple(Var(v.aval) for v in eqn.outvars)
            made = Equation(eqn.primitive, tuple(inputs), outputs, dict(eqn.params), place, module=module)
            self.equations.append(made)
            if all(a in self.making if isinstance(a, Var) else not is_traced(a.value) for a in inputs):
                self.making.update(dict.fromkeys(outputs, made))
            if eqn.primitive.name == "stack" and outputs[0].dtype == bool:
                self.stacks[outputs[0]] = (inputs, eqn.params["axis"])
            return list(outputs)
        outer = self.caller, self.module
        self.caller, self.module = place, module
        try:
            return self.unroll(eqn, inputs) if body is None else self.run(body, operands)
        finally:
            self.caller, self.module = outer

    def number(self, atom: Atom) -> Any | None:
        """The numbers of a value made of constants alone (the count of a loop's steps), computed; None for others."""
        todo = [atom]
        while todo:  # no recursion: a count is made of all those before it
            last = todo[-1]
            if isinstance(last, Const) or last in self.numbers:
                todo.pop()
                continue
            if last not in self.making:
                return None
            equation = self.making[last]
            before = [a for a in equation.inputs if isinstance(a, Var) and a not in self.numbers]
            if not before:
                values = [self.numbers[a] if isinstance(a, Var) else a.value for a in equation.inputs]
                results = now(lambda values=values, equation=equation: equation.bind(*values))
                self.numbers.update(zip(equation.outputs, results, strict=True))
            todo += before
        found = self.numbers[atom] if isinstance(atom, Var) else atom.value
        return None if is_traced(found) else found

    def choice(self, inputs: list[Atom]) -> Atom | None:
        """The case that one number chooses for all elements of a `select_n`."""
        which, *cases = inputs
        while which.shape and which in self.making and self.making[which].name == "broadcast_in_dim":
            which = self.making[which].inputs[0]
        if which.shape or (number := self.number(which)) is None:
            return None
        return cases[max(0, min(int(number), len(cases) - 1))]

    def reshaped(self, eqn: Any, inputs: list[Atom]) -> list[Atom]:
        """A reshape that puts the axes in another order first, as `vmap` writes it: both steps by themselves."""
        order, shape = eqn.params["dimensions"], eqn.params["new_sizes"]
        outer, self.caller = self.caller, eqn.source_info
        try:
            return self.call(lambda a: jnp.reshape(jnp.transpose(a, order), shape), *inputs)
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
        self.equations[start:] = [dataclasses.replace(e, source_info=self.caller or e.source_info) for e in ours]
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


def written(
    function: Callable[..., Any], atoms: Sequence[Atom], at: Equation, out: Var | None = None
) -> tuple[list[Equation], Atom]:
    """The equations of a function of some values, placed where another equation is, and what it returns.

    With `out` that is the variable of the result.
    """
    flattener = _Flattener(lambda eqn: True, caller=at.source_info)
    (result,) = flattener.call(function, *atoms)
    equations = [dataclasses.replace(e, module=at.module) for e in flattener.equations]
    if out is None:
        return equations, result
    return [dataclasses.replace(e, outputs=(out,)) if result in e.outputs else e for e in equations], out


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
        diagnose(f, params, x)
        raise
    leaves, _ = jax.tree_util.tree_flatten_with_path(params)
    names = [path_name(path) for path, _ in leaves]
    out_tree = jax.tree_util.tree_structure(out_shape)
    return flatten(closed, opens, len(names), names, out_tree).pruned()
