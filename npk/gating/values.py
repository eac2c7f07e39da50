"""The value network of one sample: what path rules, path kernels and sketches read of f, whatever the batch.

Samples are followed through f to where each gate of a batch holds them; there `per_sample` takes them apart.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from npk.gating.running import Function, activations
from npk.programs import (
    Chosen,
    Equation,
    Once,
    Place,
    Program,
    check_independent,
    check_program,
    named,
    opens_all,
    remembered,
    resized,
    sample_of,
    trace,
    with_activations,
)


def sample_program(f: Function, params: PyTree, x: Any, fixed: Chosen = None) -> Program:
    """The program of f for a batch of one of x's samples, every call opened, activations found.

    It is the value network alone: what makes the gates that are given to it (a feature network) is left out. Samples
    are checked not to see each other, and followed to where each gate of a batch holds them. `fixed` names the
    parameters that are declared to be fixed numbers (`option_of`); None for those that are recognised.
    """
    return remembered(_sampler, f, fixed)(params, x)


def _sampler(f: Function, fixed: Chosen) -> Callable[[PyTree, Any], Program]:
    once = Once()

    def find(params: PyTree, x: Any) -> Program:
        of_batch = functools.cache(lambda n: _of_batch(f, params, x, n))
        samples = check_independent(f, params, x, of_batch)
        program = _declared(of_batch(1), fixed)
        _check_sizes(program)
        found = [len(activations(p)) for p in (program, _values_of(of_batch(2)))]
        if found[0] != found[1]:
            raise ValueError(
                f"f has {found[0]} activations for one sample and {found[1]} for two: it goes over its samples in a "
                "loop (of Python, or `lax.map`), so that each activation has gates of a single sample. Let f take its "
                "samples together: jax.vmap(g, (None, 0)) for a function g of params and one sample."
            )
        return dataclasses.replace(program, gate_places=samples.of_gates)

    def found(params: PyTree, x: Any) -> Program:
        return once((params, sample_of(x)), "sample", lambda: find(params, x))

    return found


def _check_sizes(program: Program) -> None:
    """A path begins at a number, goes through weights and ends at an output: none of them may be empty."""
    read = {a for e in program.equations for a in e.inputs}
    found = [(f"parameter `{name}`", v) for v, name in zip(program.params, program.param_paths) if v in read]
    for name, var in [*found, *(("a sample", x) for x in program.x)]:
        if 0 in var.shape:
            raise ValueError(f"{name} of shape {list(var.shape)} has no numbers, so that no path goes through it.")


def _of_batch(f: Function, params: PyTree, x: Any, n: int) -> Program:
    return with_activations(trace(f, params, resized(x, n), opens_all))


def value_program(f: Function, params: PyTree, x: Any, fixed: Chosen = None) -> Program:
    """As `sample_program`, samples not checked."""
    return _declared(_of_batch(f, params, x, 1), fixed)


def _declared(program: Program, fixed: Chosen) -> Program:
    check_program(program, 1)
    declared = None if fixed is None else named(program.param_paths, fixed, "fixed")
    return dataclasses.replace(_values_of(program), fixed=declared)


def _values_of(program: Program) -> Program:
    """A program without what makes the gates that are given to it."""

    def alone(equation: Equation) -> Equation:
        if equation.activation is None:
            return equation
        return dataclasses.replace(equation, inputs=() if equation.activation.alone else equation.inputs[:1])

    return dataclasses.replace(program, equations=tuple(map(alone, program.equations))).pruned()


def per_sample(gate: Any, one: tuple[int, ...], n: int, place: Place | None = None, rows: slice = slice(None)) -> Any:
    """A gate of a batch as [rows, *its shape for a batch of one], its samples where `place` says.

    Of a gate that has them one after the other only these rows are read. An array of NumPy gives one of NumPy.
    """
    xp: Any = np if isinstance(gate, np.ndarray) else jnp
    gate = xp.asarray(gate)
    axis, outer, inner = place or _grown(gate, one)
    shape = list(np.shape(gate))
    apart = shape[axis] == outer * n * inner if axis < len(shape) else False
    # Of one sample alone f may leave the axis of the batch out (`jnp.vectorize` does).
    if n > 1 and not (apart and _long([*shape[:axis], outer * inner, *shape[axis + 1 :]]) == _long(one)):
        raise ValueError(
            f"a gate of shape {list(gate.shape)} (for one sample {list(one)}) does not hold the batch of {n} samples "
            "along one axis; f must treat its batch alike everywhere."
        )
    start, stop, _ = rows.indices(n)
    if n == 1:
        return xp.reshape(gate, (1, *one))[rows]
    if (axis, outer, inner) == (0, 1, 1):  # as of most models
        rest = gate if stop - start == n else gate[start:stop]
        return xp.reshape(rest, (stop - start, *one))
    if outer == 1:
        gate, n, rows = gate[(slice(None),) * axis + (slice(start * inner, stop * inner),)], stop - start, slice(None)
    split = xp.reshape(gate, (*gate.shape[:axis], outer, n, inner, *gate.shape[axis + 1 :]))
    return xp.reshape(xp.moveaxis(split, axis + 1, 0), (n, *one))[rows]


def _long(shape: Sequence[int]) -> list[int]:
    """The axes of more than one element."""
    return [size for size in shape if size != 1]


def _grown(gate: Any, one: tuple[int, ...]) -> Place:
    """Where operations unknown to `samples` have left the batch: along the one axis that is 1 for one sample."""
    grown = [a for a, (s, t) in enumerate(zip(np.shape(gate), one)) if s != t]
    return Place(grown[0]) if len(grown) == 1 and one[grown[0]] == 1 else Place(0)
