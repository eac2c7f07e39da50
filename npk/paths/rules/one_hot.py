"""Which values are one-hot vectors: the input of a table of embeddings, of which they choose a row."""

import numpy as np

from npk.paths.walk import Walk
from npk.programs import Atom, is_traced


def is_one_hot(walk: Walk, atom: Atom, axis: int) -> bool:
    """Whether along an axis one element at most is not zero: integers are compared with numbers that all differ."""

    def numbers(side: Atom) -> np.ndarray | None:
        if walk.is_data(side) or walk.is_parameter(side) or walk.is_declared(side) or is_traced(walk.value(side)):
            return None
        return np.asarray(walk.value(side))

    equation = walk.making.get(atom) if atom in walk.encoded else None  # type: ignore[arg-type]
    while equation is not None and equation.name in ("convert_element_type", "select_n"):
        if equation.name == "select_n":  # where(same, 1, 0)
            zero = numbers(equation.inputs[1])
            if zero is None or zero.any() or len(equation.inputs) != 3 or numbers(equation.inputs[2]) is None:
                return False
        equation = walk.making.get(equation.inputs[0])  # type: ignore[arg-type]
    if equation is None:
        return False
    if equation.name == "gather":  # of the rows of the identity
        rows, p = numbers(equation.inputs[0]), equation.params["dimension_numbers"]
        whole = tuple(equation.params["slice_sizes"]) == (1, len(rows.T) if rows is not None else 0)
        taken = tuple(p.offset_dims) == (axis,) and tuple(p.collapsed_slice_dims) == (0,)
        return rows is not None and rows.ndim == 2 and whole and taken and bool((np.sum(rows != 0, 1) <= 1).all())
    if equation.name != "eq":
        return False

    def is_same(side: Atom) -> bool:
        before = walk.making.get(side)  # type: ignore[arg-type]
        spread = before is not None and before.name == "broadcast_in_dim"
        made = spread and axis not in before.params["broadcast_dimensions"]  # type: ignore[union-attr]
        return side.shape[axis] == 1 or bool(made)

    def differ(side: Atom) -> bool:
        values = numbers(side)
        if values is None:
            return False
        lines = np.sort(np.moveaxis(values, axis, 0).reshape(side.shape[axis], -1), 0)
        return bool((lines[1:] != lines[:-1]).all())

    one, two = equation.inputs
    return (is_same(one) and differ(two)) or (is_same(two) and differ(one))
