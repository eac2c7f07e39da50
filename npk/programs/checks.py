"""Checks of what users pass in: each failure is a ValueError that says what was expected and what came."""

import functools
import reprlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from npk.programs.functions import PARTITION
from npk.programs.program import Program, Var, is_traced
from npk.programs.tracing import path_name

_PART = 1 << 16

_RANDOM = frozenset(("random_bits", "random_gamma", "rng_bit_generator", "rng_uniform", "threefry2x32"))


def concrete(*values: Any) -> bool:
    """Whether every leaf holds numbers now (it is not being traced)."""
    return not any(is_traced(v) for v in jax.tree_util.tree_leaves(values))


def working_dtype(*values: Any) -> Any:
    """The dtype to compute in: float64 if any value is of it, else float32 (never less)."""
    wide = any(jnp.result_type(v) == jnp.float64 for v in values)
    return jnp.dtype("float64" if wide else "float32")


def known_true(predicate: Callable[..., Any], *values: Any) -> bool:
    """Whether `predicate` holds for all elements of every value; False where the numbers are not known.

    Args:
        predicate: of arrays of NumPy and of JAX alike; a function of a module, not a new lambda.
        values: arrays and numbers, and trees of them.
    """
    if not concrete(values):
        return False
    leaves = jax.tree_util.tree_leaves(values)
    if on_host(leaves):  # nothing to compile for every new shape
        return all(np.all(predicate(part)) for a in leaves for part in _parts(np.asarray(a)))
    with jax.ensure_compile_time_eval():
        return bool(_all_true(predicate, leaves))


def _parts(array: np.ndarray) -> Iterator[np.ndarray]:
    """The numbers of an array, few enough at a time that what is computed of them stays in the cache."""
    flat = array.reshape(-1)
    return (flat[start : start + _PART] for start in range(0, len(flat), _PART))


@functools.partial(jax.jit, static_argnums=0)
def _all_true(predicate: Callable[..., Any], values: Sequence[Any]) -> Any:
    return jnp.all(jnp.stack([predicate(v).all() for v in values])) if values else jnp.array(True)


def on_host(*values: Any) -> bool:
    """Whether all leaves hold numbers in the memory of this host."""
    leaves = jax.tree_util.tree_leaves(values)
    arrays = [a for a in leaves if isinstance(a, jax.Array) and concrete(a)]
    near = all(a.is_fully_addressable and all(d.platform == "cpu" for d in a.devices()) for a in arrays)
    return near and concrete(leaves)


def finite(values: Any) -> Any:
    """Where the numbers of an array are neither NaN nor infinite."""
    return abs(values) < np.inf


def _describe(value: Any) -> str:
    return f"{jnp.result_type(value)}{list(np.shape(value))}"


def _numeric(leaf: Any) -> bool:
    array = hasattr(leaf, "shape") and getattr(getattr(leaf, "dtype", None), "kind", "V") not in "OSU"
    return array or isinstance(leaf, int | float | complex)


def check_arrays(tree: Any, name: str) -> None:
    """Every leaf is an array or a number."""
    if all(map(_numeric, jax.tree_util.tree_leaves(tree))):
        return
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        if not _numeric(leaf):
            place = "/".join(filter(None, (name, path_name(path))))
            raise TypeError(
                f"{place} must be an array, got {type(leaf).__name__} {reprlib.repr(leaf)}: leave out of {name} "
                f"what is none ({PARTITION})."
            )


def check_key(key: Any) -> None:
    """`key` is a JAX key, typed or plain."""
    dtype = getattr(key, "dtype", None)
    if dtype is None or not (jnp.issubdtype(dtype, jax.dtypes.prng_key) or (dtype == jnp.uint32 and np.ndim(key) == 1)):
        raise TypeError(f"key: a JAX key, jax.random.key(0), got {reprlib.repr(key)}.")


def check_finite(value: Any, name: str) -> None:
    """Every leaf is an array, of finite numbers (skipped under tracing, where they are not known)."""
    check_arrays(value, name)
    floats = [a for a in jax.tree_util.tree_leaves(value) if jnp.issubdtype(jnp.result_type(a), jnp.inexact)]
    if not concrete(floats):
        return
    if known_true(finite, *floats):
        return
    for path, leaf in jax.tree_util.tree_flatten_with_path(value)[0]:
        if concrete(leaf) and jnp.issubdtype(jnp.result_type(leaf), jnp.inexact):
            with jax.ensure_compile_time_eval():
                bad = int(jnp.size(leaf) - jnp.isfinite(leaf).sum())
            if bad:
                place = "/".join(filter(None, (name, path_name(path))))
                raise ValueError(f"{place} must be finite; {bad} of its {np.size(leaf)} numbers are NaN or infinite.")


def check_batch(x: Any, name: str = "x", *, floating: bool = False, finite: bool = True) -> None:
    """`x` is a batch [N, ...] of at least one sample, of finite numbers; or a tree of such, of equal N."""
    if not hasattr(x, "shape") or not hasattr(x, "dtype"):
        found = jax.tree_util.tree_flatten_with_path(x)[0]
        if not found or found[0][1] is x:
            raise ValueError(f"{name} must be an array [N, ...], or a tree of them, got {type(x).__name__}.")
        for path, leaf in found:
            check_batch(leaf, f"{name}/{path_name(path)}", floating=floating, finite=finite)
        counts = {f"{name}/{path_name(path)}": leaf.shape[0] for path, leaf in found}
        if len(set(counts.values())) > 1:
            raise ValueError(f"all of {name} must have the samples first, as many of each: {counts}.")
        return
    if x.ndim == 0 or x.shape[0] == 0:
        raise ValueError(f"{name} must be a batch [N, ...] of at least one sample, got shape {list(x.shape)}.")
    if floating and not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(
            f"{name} must be of a floating dtype, got {_describe(x)}: convert numbers, x.astype('float32'); look "
            "tokens up outside, and pass the embedding's output."
        )
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        raise ValueError(f"{name} must be real, got {_describe(x)}.")
    if finite:
        check_finite(x, name)


def check_pair(x1: Any, x2: Any, *, floating: bool = False, finite: bool = True) -> None:
    """Two batches of one kind of sample; x2 may be None."""
    check_batch(x1, "x1", floating=floating, finite=finite)
    if x2 is None:
        return
    check_batch(x2, "x2", floating=floating, finite=finite)
    one, two = (jax.tree_util.tree_structure(x) for x in (x1, x2))
    if one != two:
        raise ValueError(f"x1 and x2 must be trees of one structure, got {one} and {two}.")
    for a, b in zip(*map(jax.tree_util.tree_leaves, (x1, x2)), strict=True):
        if a.shape[1:] != b.shape[1:]:
            raise ValueError(
                f"x1 and x2 must agree in all axes but the first, got {list(a.shape)} and {list(b.shape)}."
            )
        if a.dtype != b.dtype:
            raise ValueError(f"x1 and x2 must have one dtype, got {a.dtype} and {b.dtype}.")


def check_program(program: Program, n: int) -> None:
    """The program is a deterministic map from a batch of n samples to [n, K]."""
    if len(program.outputs) != 1 or len(program.outputs[0].shape) != 2 or program.outputs[0].shape[0] != n:
        shapes = [list(a.shape) for a in program.outputs]
        raise ValueError(
            f"f(params, x) must return one array [N, K] for x of N = {n} samples, got "
            f"{shapes[0] if len(shapes) == 1 else shapes}. {_remedy(shapes, n)}"
        )
    for equation in program.equations:
        if equation.name in _RANDOM:
            raise ValueError(
                f"f draws random numbers (`{equation.name}` at {equation.source}): gates and kernels are of a "
                "deterministic network. Turn dropout off (deterministic=True, train=False), or draw fixed random "
                "constants outside f."
            )
    for x in program.x:
        if jnp.issubdtype(x.dtype, jnp.integer):
            _check_indices(program, x)


def _remedy(shapes: Sequence[list[int]], n: int) -> str:
    """How a function that returns arrays of other shapes is made one that returns [N, K]."""
    if len(shapes) != 1:
        return "Wrap f so that it returns its logits alone: lambda p, x: f(p, x)[0]."
    (shape,) = shapes
    if shape[:1] != [n]:
        return "If f takes a single sample, pass jax.vmap(f, (None, 0))."
    if len(shape) == 1:
        return "Give it an axis of outputs: lambda p, x: f(p, x)[:, None]."
    places = ", ".join("0" * (len(shape) - 2))
    return (
        f"Select one place, lambda p, x: f(p, x)[:, {places}] (path_kernel: output=({places}, slice(None)), or () for "
        f"each place), or average over them: lambda p, x: f(p, x).mean({tuple(range(1, len(shape) - 1))})."
    )


def _check_indices(program: Program, x: Var) -> None:
    """Integer inputs may index (embeddings); used as numbers they must come as floats."""
    integers = {x}
    for equation in program.equations:
        if not integers.intersection(a for a in equation.inputs if isinstance(a, Var)):
            continue
        for out in equation.outputs:
            if jnp.issubdtype(out.dtype, jnp.integer):
                integers.add(out)
            elif equation.name in ("convert_element_type", "dot_general"):
                raise ValueError(
                    f"x must be of a floating dtype, got {x.dtype}, which f turns into {out.dtype} at "
                    f"{equation.source}: convert it first, e.g. x.astype('float32'). (Integers may only index.)"
                )


def check_gates(gates: Sequence[Any], expected: Sequence[Any], name: str = "gates") -> None:
    """One gate an activation, each of its shape and finite."""
    check_gate_shapes(gates, expected, name)
    for i, gate in enumerate(gates):
        check_finite(gate, f"{name}[{i}]")


def check_gate_shapes(gates: Sequence[Any], expected: Sequence[Any], name: str = "gates") -> None:
    """One gate an activation, each of its shape."""
    if not isinstance(gates, (tuple, list)):
        raise ValueError(f"{name} must be a tuple of {len(expected)} arrays, got {type(gates).__name__}.")
    if len(gates) != len(expected):
        shapes = ", ".join(str(list(e.shape)) for e in expected)
        raise ValueError(
            f"{name} must hold {len(expected)} arrays (of shapes {shapes}), one an activation; got {len(gates)}."
        )
    for i, (gate, want) in enumerate(zip(gates, expected, strict=True)):
        if np.shape(gate) != tuple(want.shape):
            raise ValueError(f"{name}[{i}] must have shape {list(want.shape)}, got {list(np.shape(gate))}.")
