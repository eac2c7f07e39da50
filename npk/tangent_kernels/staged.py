"""A tangent kernel of numbers that are known, stage by stage: equal layers are compiled once, however many there are.

A program is cut where its layers begin, and each stage has a plan of its own. One program runs it forward; another
runs it back, with what its uses add to the kernel. Both are compiled once for all stages that compute alike.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from npk.programs import Const, Equation, Kind, Program, Var, evaluate, is_traced, samples_in, spelled, stages_of
from npk.tangent_kernels.derivatives import DerivativePlan, apply, pulled_apart, seeds_of
from npk.tangent_kernels.pieces import added, block_size, parts_of
from npk.tangent_kernels.uses import Uses

# One program, fused, is faster on warm calls: stages repay where each program serves so many of them in the mean.
_ALIKE = 2
# Of a sample, cotangents that a stage must hand on in the mean: fewer take less time than calling its programs.
_NUMBERS = 1 << 11


@dataclasses.dataclass(frozen=True, eq=False)
class _Stage:
    """A plan of its own, what tells it from others, and which parameters of the whole are its own."""

    plan: DerivativePlan
    kind: Kind
    leaves: tuple[int, ...]


def staged(plan: DerivativePlan) -> "Staged | None":
    """A plan in stages; None where few of them are alike, or hand on little, or a leaf is read in several."""
    layers = {use.equation for use in plan.uses.products}
    read = (a for equation in plan.program.equations for a in equation.inputs)
    if len(layers) < _ALIKE or any(isinstance(a, Const) and is_traced(a.value) for a in read):
        return None
    programs = stages_of(plan.program, lambda e: e in layers)
    handed = sum(math.prod(v.shape) for program in programs for v in program.outputs)
    if handed * plan.program.outputs[0].shape[-1] * plan.modes < _NUMBERS * len(programs):
        return None
    stages = [stage for program in programs if (stage := _stage(plan, program)) is not None]
    counted = [stage.leaves[leaf] for stage in stages for leaf in stage.plan.blocks]
    if len(stages) < len(programs) or len(set(counted)) < len(counted):
        return None
    kinds: dict[Kind, Kind] = {}
    alike = [dataclasses.replace(stage, kind=kinds.setdefault(stage.kind, stage.kind)) for stage in stages]
    return Staged(plan, alike) if _ALIKE * len(kinds) <= len(stages) else None


def _stage(plan: DerivativePlan, program: Program) -> _Stage | None:
    """The plan of a stage; None where a bias is added in another, or nothing that changes is handed on."""
    leaves = tuple(n for n, v in enumerate(plan.program.params) if v in program.params)
    own = {leaf: n for n, leaf in enumerate(leaves)}
    equations = set(program.equations)
    uses = [use for use in plan.uses.products if use.equation in equations]
    if any(use.bias is not None and use.bias not in own for use in uses):
        return None
    products = [
        dataclasses.replace(use, leaf=own[use.leaf], bias=None if use.bias is None else own[use.bias]) for use in uses
    ]
    reads = [
        dataclasses.replace(read, leaves=frozenset(own[leaf] for leaf in read.leaves))
        for read in plan.uses.reads
        if read.equation in equations
    ]
    read_leaves = sorted(frozenset().union(*(read.leaves for read in reads)))
    counted = {*read_leaves, *(leaf for use in products for leaf in (use.leaf, use.bias) if leaf is not None)}
    blocks = {leaf: plan.blocks[leaves[leaf]] for leaf in sorted(counted)}
    moving = frozenset(v for v in program.x if v in plan.moved)
    if plan.moved.isdisjoint(program.outputs):
        return None
    found = dataclasses.replace(
        plan, program=program, uses=Uses(products, reads, read_leaves), blocks=blocks, moving=moving
    )
    roles = {use.equation: (use.leaf, use.bias, use.constant, use.data_first) for use in products}
    roles |= {read.equation: (read.made, tuple(sorted(read.leaves))) for read in reads}

    def mark(of: Equation | Var) -> Any:
        if isinstance(of, Var):
            return of in moving
        return roles.get(of), plan.moves_gates(of)

    return _Stage(found, Kind(found, spelled(program, mark)), leaves)


def _forward(plan: DerivativePlan, leaves: Sequence[Any], xs: Sequence[Any]) -> list[Any]:
    """What a stage makes of what it reads, [n, ...]."""

    def single(*xs: Any) -> list[Any]:
        return evaluate(plan.program, [*leaves, *xs], lambda equation, values: apply(equation, values, False))

    return jax.vmap(single)(*xs)


def _back(plan: DerivativePlan, full: bool, diagonal: bool, leaves: Sequence[Any], sides: Sequence[Any]) -> Any:
    """For one batch or two the cotangents that reach what the stage read, and what its leaves add to the kernel."""
    found = [pulled_apart(plan, leaves, xs, seeds) for xs, seeds in sides]
    (one, _), *others = found
    two = others[0][0] if others else None
    return [back for _, back in found], dict(parts_of(plan, one, two, full, diagonal))


class Staged:
    """A plan in stages, and their programs, for `most` samples a side."""

    def __init__(self, plan: DerivativePlan, stages: Sequence[_Stage]):
        self.plan, self.stages, self.most = plan, stages, block_size(plan)
        self.last = {v: n for n, stage in enumerate(stages) for v in stage.plan.program.x}
        # A function for each kind, and no static argument: JAX keeps those for good.
        kinds = {stage.kind: stage.kind.one for stage in stages}
        self.forward = {kind: jax.jit(functools.partial(_forward, one)) for kind, one in kinds.items()}
        self.back = {kind: jax.jit(functools.partial(_back, one), static_argnums=(0, 1)) for kind, one in kinds.items()}

    def pieces(
        self, leaves: Sequence[Any], x1: Any, x2: Any | None, full: bool, diagonal: bool = False
    ) -> dict[str, list[Any]]:
        """`kernel_pieces`, or `diagonal_pieces`, of these numbers."""
        runs = [self.run(leaves, x) for x in (x1, x2) if x is not None]
        pieces: dict[str, list[Any]] = {}
        for stage in reversed(self.stages):
            program, sides = stage.plan.program, []
            for read, cotangents in runs:
                moved = [v for v in program.outputs if v in stage.plan.moved]
                sides.append((read.pop(), [[own.pop(v) for v in moved] for own in cotangents]))
            own = [leaves[n] for n in stage.leaves]
            backs, parts = self.back[stage.kind](full, diagonal, own, sides)
            for (_, cotangents), back in zip(runs, backs, strict=True):
                for reached, new in zip(cotangents, back, strict=True):
                    for v, b in zip([v for v in program.x if v in stage.plan.moving], new, strict=True):
                        reached[v] = reached[v] + b if v in reached else b
            added(pieces, ((stage.plan.blocks[leaf], found) for leaf, found in parts.items()))
        return pieces

    def run(self, leaves: Sequence[Any], x: Any) -> tuple[list[list[Any]], list[dict[Any, Any]]]:
        """Forward through all stages: what each of them read, and the cotangents of the output in each mode."""
        program = self.plan.program
        (end,) = program.outputs
        laid = [jnp.asarray(a)[:, None] for a in jax.tree_util.tree_leaves(x)]
        values: dict[Any, Any] = dict(zip(program.x, laid, strict=True))
        read: list[list[Any]] = []
        for number, stage in enumerate(self.stages):
            own = stage.plan.program
            read.append([values[v] for v in own.x])
            made = self.forward[stage.kind]([leaves[n] for n in stage.leaves], read[-1])
            values.update(zip(own.outputs, made, strict=True))
            values = {v: a for v, a in values.items() if self.last.get(v, 0) > number}
        return read, [{end: seeds_of(self.plan, samples_in(x))} for _ in self.plan.fixed]
