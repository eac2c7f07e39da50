"""The normal form of a network: its program for one sample and the terms of its output, found once for each shape."""

import dataclasses
import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax
from jaxtyping import PyTree

from npk.gating import Function, gate_shapes, per_sample, sample_program
from npk.paths import terms
from npk.paths.factors import Numbers
from npk.paths.layers import Layer
from npk.paths.rules import output_terms
from npk.paths.scaling import Magnitude
from npk.paths.terms import Base, Term
from npk.programs import Chosen, Once, Program, Var, evaluate, is_traced, remembered, sample_of


@dataclasses.dataclass(frozen=True, eq=False)
class Form:
    """The terms of the output of a single-sample program, and the shapes of its gates for one sample."""

    program: Program
    gate_shapes: tuple[tuple[int, ...], ...]
    state: tuple[Term, ...]

    def gates(self, gates: Sequence[Any], n: int) -> tuple[Any, ...]:
        """The gates of a batch of n as [n, *shape for one sample]."""
        if len(gates) != len(self.gate_shapes):
            raise ValueError(f"f has {len(gates)} activations for a batch and {len(self.gate_shapes)} for one sample.")
        sides = zip(gates, self.gate_shapes, self.program.gate_places, strict=True)
        return tuple(per_sample(g, shape, n, place) for g, shape, place in sides)

    def at(self, places: tuple[int, ...]) -> "Form":
        """The same for outputs at several places, laid end to end in f: as [1, all places, K]."""
        if not places:
            return self
        count = math.prod(places)
        state = tuple(terms.reshape(t, (1, count, t.shape[-1] // count)) for t in self.state)
        return dataclasses.replace(self, state=tuple(terms.merge(terms.merge(t, 1), 2) for t in state))

    @functools.cached_property
    def fixed_variables(self) -> tuple[Var | Magnitude, ...]:
        """What is made of parameters, and that factors know the numbers of."""
        return fixed_variables(self.state)

    @functools.cached_property
    def traced(self) -> bool:
        """Whether the network closes over numbers that are not known yet, so that only JAX can compute with it."""
        factors = [f for term in self.state for f in term.g.leaves().values()]
        for base in bases_of(self.state):
            factors += [leaf for t in base.inputs for leaf in t.g.leaves().values()]
            factors += base.constant.leaves().values() if isinstance(base, Layer) else []
        return any(leaf.op == "constant" and is_traced(leaf.how) for leaf in factors)

    def fixed(self, params: PyTree) -> dict[Var | Magnitude, Any]:
        """The numbers of these."""
        return fixed_numbers(self.program, self.fixed_variables, params)

    def numbers(self, xp: Any, params: PyTree, x: Any, gates: Sequence[Any], dtype: Any) -> Numbers:
        """The numbers of factors for a batch x [n, ...] and its gates [n, *shape for one sample]."""
        return Numbers(xp, x, gates, self.fixed(params), dtype)


def form_of(f: Function, params: PyTree, x: Any, fixed: Chosen = None, magnitudes: bool = False) -> Form:
    """The normal form of f for a batch of one of x's samples.

    Args:
        f: a function of (params, x).
        params: of f; shapes count alone.
        x: a batch; shapes count alone.
        fixed: the parameters that are declared to be fixed numbers (`option_of`).
        magnitudes: whether weights and biases are as large as their own numbers, in place of one.

    Raises:
        UnsupportedOperation: f is outside the path rules; all that is met is named.
    """
    return remembered(_former, f, fixed, magnitudes)(params, x)


def _former(f: Function, fixed: Chosen, magnitudes: bool) -> Any:
    once = Once()

    def find(params: PyTree, x: Any) -> Form:
        program = sample_program(f, params, x, fixed)
        shapes = tuple(tuple(g.shape) for g in gate_shapes(program))
        return Form(program, shapes, tuple(output_terms(program, shapes, magnitudes=magnitudes)))

    def found(params: PyTree, x: Any) -> Form:
        return once((params, sample_of(x)), "form", lambda: find(params, x))

    return found


def fixed_variables(state: Sequence[Term]) -> tuple[Var | Magnitude, ...]:
    """The values of a program that are made of parameters, and that the factors below an output know the numbers of."""
    factors = [t.g for t in state]
    for base in bases_of(state):
        factors += [*(t.g for t in base.inputs), *([base.constant] if isinstance(base, Layer) else [])]
    leaves = {name: leaf for factor in factors for name, leaf in factor.leaves().items()}
    return tuple(leaf.how for leaf in leaves.values() if leaf.op == "fixed")


def fixed_numbers(program: Program, variables: Sequence[Var | Magnitude], params: PyTree) -> dict[Var | Magnitude, Any]:
    """Values of a program that are made of parameters alone, and how large parameters are."""
    leaves = jax.tree_util.tree_leaves(params)
    made = tuple(v for v in variables if isinstance(v, Var))
    found: dict[Any, Any] = {}
    if made:
        making = dataclasses.replace(program, outputs=made).pruned()
        found = dict(zip(made, evaluate(making, [*leaves, *[None] * len(program.x)]), strict=True))
    return {v: v.number(leaves[v.leaf]) if isinstance(v, Magnitude) else found[v] for v in variables}


def bases_of(state: Sequence[Term]) -> Iterator[Any]:
    """The bases below an output that are made of terms, each after those that it reads."""
    seen: set[Base] = set()
    todo: list[tuple[Base, bool]] = [(t.base, False) for t in reversed(state)]
    while todo:  # no recursion: networks may be deep
        base, below = todo.pop()
        inputs: Sequence[Term] | None = getattr(base, "inputs", None)
        if below:
            yield base
        elif inputs is not None and base not in seen:
            seen.add(base)
            todo += [(base, True), *((t.base, False) for t in reversed(inputs))]
