"""Whether the samples of a batch stay apart: by what f does with its batch, else by a probe at random numbers."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from npk.programs.batches import resized, samples_in, some_of
from npk.programs.checks import check_program
from npk.programs.program import Const, Program, Var, apart, evaluate, is_traced
from npk.programs.samples import Samples, samples_of
from npk.programs.tracing import trace


def check_independent(
    f: Callable[..., Any], params: Any, x: Any, program_of: Callable[[int], Program] | None = None
) -> Samples:
    """The samples of a batch must not see each other, whatever the numbers: by structure, else by a probe.

    Args:
        f: a function of (params, x).
        params: its parameters, of which only shapes are used.
        x: a batch, or its shape.
        program_of: the program of f for a batch of so many samples; None to trace it.

    Returns:
        Where the samples are in a batch.

    Raises:
        ValueError: an operation brings samples together, or f takes batches of one size alone.
    """

    def of_batch(n: int) -> Program:
        if program_of is not None:
            return program_of(n)
        return trace(f, params, resized(x, n))

    try:
        two, three = of_batch(2), of_batch(3)
    except (TypeError, ValueError) as error:
        of_batch(samples_in(x))  # what fails for the batch itself is told of that
        told = error.__context__ or error  # for a single sample f may well work: that is not its trouble
        n = samples_in(x)
        raise ValueError(
            f"f takes a batch of {n} samples, but not of any other number ({told}). npk asks for batches of "
            "one, two and three, since kernels and path features are of single samples: f must take any number of "
            f"them, each by itself. What f holds for {n} samples together (a table of the batch's positions, "
            "the adjacency matrix of a graph) belongs to x, or to the one sample that a graph with all its nodes is."
        ) from error
    check_program(two, 2)
    found = samples_of(two, 2)
    if found.mixing:
        equation, why = found.mixing[0]
        raise ValueError(_MIXED.format(f"`{equation.primitive.name}` at {equation.source} {why}"))
    other = samples_of(three, 3)
    if found.unknown or found.of_values != other.of_values or not _same_numbers(two, three):
        _probe(f, params, x)
    alike = (a if a == b else None for a, b in zip(found.of_gates, other.of_gates))
    return dataclasses.replace(found, of_gates=tuple(alike))


_MIXED = (
    "the samples of a batch are not independent: {}. Kernels and path features are of single samples: use evaluation "
    "mode (batch norm with running statistics), and compute what belongs to a whole batch outside f."
)


# Operations on values independent of x that take the size of the batch for a number.
_SIZED = frozenset(("dynamic_slice", "gather", "integer_pow", "iota", "pad", "slice"))


def _same_numbers(one: Program, other: Program) -> bool:
    """Whether the same numbers stand in two programs: none of them is the size of the batch."""
    if [e.primitive for e in one.equations] != [e.primitive for e in other.equations]:
        return False
    data = one.reached_from(one.x)
    for e, o in zip(one.equations, other.equations, strict=True):
        own = not any(isinstance(a, Var) and a in data for a in e.inputs)
        if (own or e.name == "integer_pow") and e.name in _SIZED and str(e.params) != str(o.params):
            return False
        for a, b in zip(e.inputs, o.inputs, strict=True):
            if isinstance(a, Const) and isinstance(b, Const) and not (is_traced(a.value) or is_traced(b.value)):
                if not np.array_equal(a.value, b.value):
                    return False
        if own and e.name == "reduce_sum" and e.inputs[0].shape != o.inputs[0].shape:
            return False
    return True


def _probe(f: Callable[..., Any], params: Any, x: Any) -> None:
    """Ask random networks and inputs, all units of some of which are open, whether one sample moves another."""
    three = resized(x, 3)
    rng = np.random.default_rng(0)

    def numbers(leaf: Any, size: tuple[int, ...], positive: bool) -> Any:
        dtype = jax.numpy.result_type(leaf)
        if isinstance(leaf, jax.ShapeDtypeStruct) and jax.numpy.issubdtype(dtype, jax.numpy.integer):
            return rng.integers(0, 2, size).astype(dtype)  # tokens
        if not jax.numpy.issubdtype(dtype, jax.numpy.floating):
            return np.zeros(size, dtype) if is_traced(leaf) or np.shape(leaf) != size else leaf
        drawn = rng.uniform(0.5, 1.5, size) if positive else rng.standard_normal(size)
        return np.asarray(drawn / (math.prod(size[:-1]) if len(size) > 1 else 1), dtype)

    def outputs(p: Any, batch: Any, other: Any) -> tuple[Any, Any, Any]:
        return f(p, batch), f(p, other), f(p, some_of(batch, slice(1, 2)))

    program = trace(lambda p, batches: outputs(p, *batches), params, (three, three), _none)
    run = jax.jit(lambda *values: evaluate(program, values))
    for positive in (True, False):

        def answers(positive: bool = positive) -> Any:
            p = jax.tree_util.tree_map(lambda a, positive=positive: numbers(a, np.shape(a), positive), params)
            batch = jax.tree_util.tree_map(lambda a, positive=positive: numbers(a, a.shape, positive), three)
            other = jax.tree_util.tree_map(_first_moved, batch)
            return run(*jax.tree_util.tree_leaves((p, batch, other)))

        whole, moved, alone = (np.asarray(v, np.float64) for v in apart(answers))
        size = np.abs(whole[1]).max()
        for change, why in (
            (np.abs(moved[1:] - whole[1:]).max(), "changing the first changes the output of the others"),
            (np.abs(alone[0] - whole[1]).max(), "a sample has another output alone than in a batch"),
        ):
            if change > 1e-3 * size:  # false where numbers are not finite
                raise ValueError(_MIXED.format(why))


def _first_moved(batch: Any) -> Any:
    """The same samples but for the first."""
    real = np.issubdtype(batch.dtype, np.floating)
    moved = np.flip(batch[:1]) * np.asarray(1.5, batch.dtype) + batch[2:] if real else 1 - batch[:1]
    return np.concatenate([moved, batch[1:]])


def _none(eqn: Any) -> bool:
    return False
