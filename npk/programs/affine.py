"""Elementwise primitives on symbols slope·q + offset, for q of one sign: what makes an activation hard."""

import dataclasses

import numpy as np

from npk.programs.program import Equation


@dataclasses.dataclass(frozen=True)
class Affine:
    """slope·q + offset, for q of one sign (offset alone at q = 0)."""

    slope: float
    offset: float


def _sign(value: Affine, side: int) -> int | None:
    """The sign of slope·q + offset for q on `side` of zero, or None where it depends on |q|."""
    if side == 0 or value.slope == 0 or np.isinf(value.offset):
        return int(np.sign(value.offset))
    if value.offset == 0:
        return int(np.sign(value.slope)) * side
    return None


def _minus(a: Affine, b: Affine) -> Affine:
    return Affine(a.slope - b.slope, a.offset - b.offset)


def _pick(a: Affine, b: Affine, side: int, largest: bool) -> Affine | None:
    order = _sign(_minus(a, b), side)
    if order is None:
        return None
    if order == 0:  # a tie: the flatter branch, so that relu's gate at zero is zero
        return a if abs(a.slope) <= abs(b.slope) else b
    return a if (order > 0) == largest else b


def _product(a: Affine, b: Affine, side: int) -> Affine | None:
    if a.slope and b.slope:
        return Affine(0.0, 0.0) if side == 0 and not (a.offset or b.offset) else None
    flat, other = (a, b) if not a.slope else (b, a)
    return Affine(flat.offset * other.slope, flat.offset * other.offset)


def affine_step(equation: Equation, values: list[Affine], side: int) -> Affine | None:
    """One elementwise primitive on symbols; None where the result is not of the form slope·q + offset."""
    name = equation.name
    first = values[0]
    if name in ("convert_element_type", "stop_gradient", "reduce_precision"):
        if name == "stop_gradient" and first.slope:
            return None
        return first
    if name == "neg":
        return Affine(-first.slope, -first.offset)
    if name in ("add", "add_any"):
        return Affine(first.slope + values[1].slope, first.offset + values[1].offset)
    if name == "sub":
        return _minus(first, values[1])
    if name == "mul":
        return _product(first, values[1], side)
    if name == "div":
        if values[1].slope or not values[1].offset:
            return None
        return _product(first, Affine(0.0, 1 / values[1].offset), side)
    if name in ("max", "min"):
        return _pick(first, values[1], side, name == "max")
    if name == "abs":
        sign = _sign(first, side)
        return None if sign is None else Affine(sign * first.slope, sign * first.offset)
    if name == "sign":
        sign = _sign(first, side)
        return None if sign is None else Affine(0.0, float(sign))
    if name in ("gt", "ge", "lt", "le", "eq", "ne"):
        order = _sign(_minus(first, values[1]), side)
        truth = {"gt": (1,), "ge": (0, 1), "lt": (-1,), "le": (-1, 0), "eq": (0,), "ne": (-1, 1)}[name]
        return None if order is None else Affine(0.0, float(order in truth))
    if name == "not" and not first.slope and equation.outputs[0].dtype == bool:
        return Affine(0.0, 1.0 - first.offset)
    if name in ("and", "or") and equation.outputs[0].dtype == bool and not any(v.slope for v in values):
        return Affine(0.0, (min if name == "and" else max)(first.offset, values[1].offset))
    if name == "select_n":
        return None if first.slope else values[1 + int(first.offset)]
    return None
