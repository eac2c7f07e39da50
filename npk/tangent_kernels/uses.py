"""Where parameters enter a program: products that the rules of `factors` cover, and all other readers."""

import dataclasses
import math
from collections import Counter
from typing import Any

import jax.numpy as jnp
import numpy as np

from npk.programs import Const, Equation, Program, Var, now
from npk.tangent_kernels.factors import Use, sizes_of


@dataclasses.dataclass(frozen=True, eq=False)
class Read:
    """Any other equation of data with values made of parameters.

    `made` are their places among its inputs, `leaves` the numbers of the parameters.
    """

    equation: Equation
    made: tuple[int, ...]
    leaves: frozenset[int]


@dataclasses.dataclass(frozen=True, eq=False)
class Uses:
    """How a program reads its parameters: by layer rules, and in other ways that need leaf gradients."""

    products: list[Use]
    reads: list[Read]
    leaves: list[int]  # the leaves that `reads` depend on


def find_uses(program: Program) -> Uses:
    """Split the equations that read parameters into products with a rule and all others."""
    data = program.reached_from(program.x)
    origin = _selections(program, data)
    made_of = _ingredients(program, data)
    readers = program.consumers()
    rules: dict[int, list[tuple[Use, np.ndarray]]] = {}
    reads: list[Read] = []
    for equation in program.equations:
        inputs = equation.inputs
        made = tuple(i for i, a in enumerate(inputs) if isinstance(a, Var) and a not in data and made_of.get(a))
        if not made or len(made) == len(inputs) or not any(isinstance(a, Var) and a in data for a in inputs):
            continue
        atom = inputs[made[0]]
        use = _as_use(equation, origin.get(atom), data) if len(made) == 1 and isinstance(atom, Var) else None
        if use is None or len(readers[atom]) > 1:  # type: ignore[index]
            ingredients = frozenset().union(*(made_of[inputs[i]] for i in made))  # type: ignore[index]
            reads.append(Read(equation, made, ingredients))
        else:
            rules.setdefault(use.leaf, []).append((use, origin[atom][1]))  # type: ignore[index]
    shared = {n for read in reads for n in read.leaves}
    products = []
    for leaf, found in rules.items():
        elements = np.concatenate([e for _, e in found])
        if leaf in shared or _repeats(elements):
            shared.add(leaf)
            reads += [Read(use.equation, (1 if use.data_first else 0,), frozenset((leaf,))) for use, _ in found]
        else:
            products += [use for use, _ in found]
    order = {e: i for i, e in enumerate(program.equations)}
    uses_of = Counter(n for read in reads for n in read.leaves)
    for at, use in enumerate(products):
        added = _as_bias(use, readers, origin)
        if added is not None and uses_of[added[1]] == 1 and added[1] not in rules:
            products[at] = dataclasses.replace(use, bias=added[1])
            reads = [r for r in reads if r.equation is not added[0]]
            shared.discard(added[1])
    leaves = [n for n in sorted(shared) if jnp.issubdtype(program.params[n].dtype, jnp.floating)]
    return Uses(
        sorted(products, key=lambda u: order[u.equation]), sorted(reads, key=lambda r: order[r.equation]), leaves
    )


def _as_use(equation: Equation, origin: Any, data: set[Var]) -> Use | None:
    if origin is None or equation.name not in ("dot_general", "conv_general_dilated"):
        return None
    first = equation.inputs[0] in data
    if equation.name == "conv_general_dilated" and (not first or equation.params["batch_group_count"] != 1):
        return None
    return Use(equation, origin[0], origin[2], first)


def _as_bias(use: Use, readers: dict[Var, list[Equation]], origin: dict) -> tuple[Equation, int] | None:
    """The equation that adds a leaf, each element once, to a dense layer's product and alone reads it."""
    (out,) = use.equation.outputs
    following = readers.get(out, [])
    if len(following) != 1 or following[0].name not in ("add", "add_any") or sizes_of(use)[:2] != (1, 1):
        return None
    (equation,) = following
    others = [a for a in equation.inputs if a is not out]
    if len(others) != 1 or not isinstance(others[0], Var) or others[0] not in origin:
        return None
    leaf, elements, constant = origin[others[0]]
    whole = others[0].shape == out.shape and elements.size == math.prod(out.shape) and not _repeats(elements)
    return (equation, leaf) if whole and constant == 1 else None


def _repeats(elements: np.ndarray) -> bool:
    """Whether a number comes twice; by counting, since sorting the millions of a wide layer takes seconds."""
    return bool(np.bincount(elements.reshape(-1)).max(initial=0) > 1)


_REARRANGING = frozenset(("reshape", "transpose", "squeeze", "expand_dims", "rev", "slice", "broadcast_in_dim"))


def _selections(program: Program, data: set[Var]) -> dict[Var, tuple[int, np.ndarray, float]]:
    """The values that are a rearrangement of a part of one leaf, times a number: (leaf, its elements, number)."""
    numbered = {
        v: (n, np.arange(math.prod(v.shape)).reshape(v.shape), 1.0)
        for n, v in enumerate(program.params)
        if jnp.issubdtype(v.dtype, jnp.floating)
    }
    found = dict(numbered)
    for equation in program.equations:
        known = [a for a in equation.inputs if isinstance(a, Var) and a in found]
        if len(known) != 1 or any(isinstance(a, Var) and a not in found for a in equation.inputs):
            continue
        leaf, elements, number = found[known[0]]
        out = equation.outputs[0]
        spread = equation.name == "broadcast_in_dim" and math.prod(out.shape) != math.prod(known[0].shape)
        if equation.name in _REARRANGING and len(equation.inputs) == 1 and not spread:
            moved = np.asarray(now(lambda e=equation, n=elements: e.bind(jnp.asarray(n)))[0])
            found[out] = (leaf, moved, number)
        elif equation.name == "convert_element_type" and jnp.issubdtype(out.dtype, jnp.floating):
            found[out] = (leaf, elements, number)
        elif equation.name in ("mul", "div") and out.shape == known[0].shape:
            factor = [a for a in equation.inputs if isinstance(a, Const) and np.size(a.value) == 1]
            if factor and not (equation.name == "div" and equation.inputs[0] is not known[0]):
                value = float(np.asarray(factor[0].value).reshape(()))
                found[out] = (leaf, elements, number * value if equation.name == "mul" else number / value)
    return {v: (n, e.reshape(-1), c) for v, (n, e, c) in found.items() if v not in data}


def _ingredients(program: Program, data: set[Var]) -> dict[Var, set[int]]:
    """For each value made of parameters alone, the leaves it is made of."""
    made: dict[Var, set[int]] = {v: {n} for n, v in enumerate(program.params)}
    for equation in program.equations:
        inputs = [a for a in equation.inputs if isinstance(a, Var)]
        if not any(a in data for a in inputs):
            leaves = set().union(*(made.get(a, set()) for a in inputs)) if inputs else set()
            made.update(dict.fromkeys(equation.outputs, leaves))
    return made
