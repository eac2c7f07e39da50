"""Where parameters enter a program: products that the rules of `factors` cover, and all other readers."""

import dataclasses
import math
from collections import Counter

import numpy as np

from npk.programs import Equation, Program, Provenance, Var
from npk.tangent_kernels.factors import Use, sizes_of


@dataclasses.dataclass(frozen=True, eq=False)
class Read:
    """Any other equation of data with values made of parameters, some of which count.

    `made` are their places among its inputs, `leaves` the numbers of the parameters that count.
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


def find_uses(program: Program, counted: frozenset[int]) -> Uses:
    """Split the equations that read parameters that count into products with a rule and all others."""
    known = Provenance(dataclasses.replace(program, fixed=frozenset(range(len(program.params))) - counted))
    readers = program.consumers()
    rules: dict[int, list[tuple[Use, np.ndarray]]] = {}
    reads: list[Read] = []
    for equation in program.equations:
        inputs = equation.inputs
        origins = [known.origin(a) for a in inputs]
        made = tuple(i for i, o in enumerate(origins) if o is not None and isinstance(inputs[i], Var))
        ingredients = frozenset().union(*(o.leaves for o in origins if o is not None))
        if not ingredients or None not in origins:
            continue
        atom = inputs[made[0]]
        use = _as_use(equation, known) if len(made) == 1 else None
        if use is None or len(readers[atom]) > 1:  # type: ignore[index]
            reads.append(Read(equation, made, ingredients))
        else:
            rules.setdefault(use.leaf, []).append((use, known.elements(atom)[1]))  # type: ignore[index,arg-type]
    shared = {n for read in reads for n in read.leaves}
    products = []
    for leaf, found in rules.items():
        elements = np.concatenate([e.reshape(-1) for _, e in found])
        if leaf in shared or _repeats(elements):
            shared.add(leaf)
            reads += [Read(use.equation, (1 if use.data_first else 0,), frozenset((leaf,))) for use, _ in found]
        else:
            products += [use for use, _ in found]
    order = {e: i for i, e in enumerate(program.equations)}
    uses_of = Counter(n for read in reads for n in read.leaves)
    for at, use in enumerate(products):
        added = _as_bias(use, readers, known)
        if added is not None and uses_of[added[1]] == 1 and added[1] not in rules:
            products[at] = dataclasses.replace(use, bias=added[1])
            reads = [r for r in reads if r.equation is not added[0]]
            shared.discard(added[1])
    return Uses(
        sorted(products, key=lambda u: order[u.equation]),
        sorted(reads, key=lambda r: order[r.equation]),
        sorted(shared),
    )


def _as_use(equation: Equation, known: Provenance) -> Use | None:
    """A product of a value with a part of a parameter, where there is a rule for it."""
    if equation.name not in ("dot_general", "conv_general_dilated"):
        return None
    first = equation.inputs[0] in known.data
    if equation.name == "conv_general_dilated" and (not first or equation.params["batch_group_count"] != 1):
        return None
    weight = equation.inputs[1 if first else 0]
    piece = known.elements(weight) if isinstance(weight, Var) else None
    return Use(equation, piece[0], piece[2], first) if piece else None


def _as_bias(use: Use, readers: dict[Var, list[Equation]], known: Provenance) -> tuple[Equation, int] | None:
    """The equation that adds a leaf, each element once, to a dense layer's product and alone reads it."""
    (out,) = use.equation.outputs
    following = readers.get(out, [])
    if len(following) != 1 or following[0].name not in ("add", "add_any") or sizes_of(use)[:2] != (1, 1):
        return None
    (equation,) = following
    others = [a for a in equation.inputs if a is not out]
    piece = known.elements(others[0]) if len(others) == 1 and isinstance(others[0], Var) else None
    if piece is None:
        return None
    leaf, elements, constant = piece
    whole = others[0].shape == out.shape and elements.size == math.prod(out.shape) and not _repeats(elements)
    return (equation, leaf) if whole and constant == 1 else None


def _repeats(elements: np.ndarray) -> bool:
    """Whether a number comes twice; by counting, since sorting the millions of a wide layer takes seconds."""
    return bool(np.bincount(elements.reshape(-1)).max(initial=0) > 1)
