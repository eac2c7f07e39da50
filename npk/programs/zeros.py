"""Products with nothing: what a gate makes of the zeros that a recurrence begins with is no part of the values."""

import dataclasses

import numpy as np

from npk.programs.linearity import MOVES, is_float
from npk.programs.program import Atom, Const, Equation, Program, Var
from npk.programs.provenance import Provenance

_SUMS = frozenset(("add", "add_any", "sub"))
_PASSING = (*_SUMS, "convert_element_type", "neg", "reduce_precision", "stop_gradient")


def without_zeros(program: Program) -> Program:
    """The same program without products with nothing, as of a gate and the zeros that a recurrence begins with."""
    known = Provenance(program)
    nothing: set[Atom] = set()
    same: dict[Atom, Atom] = {}
    equations: list[Equation] = []

    def is_zero(atom: Atom) -> bool:
        return atom in nothing or (not (isinstance(atom, Var) and atom in known.data) and known.number(atom) == 0)

    for e in program.equations:
        out, inputs = e.outputs[0], tuple(same.get(a, a) for a in e.inputs)
        if out in known.data and is_float(out) and len(e.outputs) == 1:
            zeros = [is_zero(a) for a in inputs]
            if (e.name == "mul" and any(zeros)) or (all(zeros) and e.name in (*MOVES, *_PASSING)):
                nothing.add(out)
                continue
            kept = inputs[zeros.index(False)] if e.name in _SUMS and zeros.count(False) == 1 else None
            alike = kept is not None and (kept.shape, kept.dtype) == (out.shape, out.dtype)
            if kept is not None and alike and not (e.name == "sub" and zeros[0]):
                same[out] = kept
                continue
        equations.append(dataclasses.replace(e, inputs=inputs))
    if not nothing:
        return program

    def filled(atom: Atom) -> Atom:
        atom = same.get(atom, atom)
        return Const(np.zeros(atom.shape, atom.dtype)) if atom in nothing else atom

    equations = [dataclasses.replace(e, inputs=tuple(map(filled, e.inputs))) for e in equations]
    outputs = tuple(map(filled, program.outputs))
    return dataclasses.replace(program, equations=tuple(equations), outputs=outputs).pruned()
