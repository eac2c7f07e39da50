"""Where the samples of a batch are in every value of a program, and whether they stay apart.

The batch is followed by its place, not by its size: an axis of a value is `outer · N · inner`, and every operation
moves that place, or mixes samples. So the same is found for any numbers, under `jit` as well, and for functions that
reshape their batch away or bring time first.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from npk.programs.linearity import is_elementwise
from npk.programs.program import Atom, Equation, Program, Var, is_traced


class Place(NamedTuple):
    """The batch within one axis of a value: its size is outer · N · inner, in this order."""

    axis: int
    outer: int = 1
    inner: int = 1


class Mixed(Exception):  # noqa: N818 (what was met)
    """An operation brings samples together."""


class Lost(Exception):  # noqa: N818
    """An operation that is not known here."""


@dataclasses.dataclass(frozen=True)
class Samples:
    """Where the batch is in the gates, None for not known, and what brings samples together or is not known."""

    of_gates: tuple[Place | None, ...]
    of_values: tuple[Place | None, ...]
    mixing: tuple[tuple[Equation, str], ...]
    unknown: tuple[Equation, ...]


def samples_of(program: Program, n: int) -> Samples:
    """Follow the first axis of x, n samples, through a program."""
    places: dict[Var, Place] = {x: Place(0) for x in program.x}
    even: dict[Var, set[int]] = {}  # axes along which a value independent of x is the same
    gone: set[Var] = set()
    mixing: list[tuple[Equation, str]] = []
    unknown: list[Equation] = []
    for equation in program.equations:
        inputs = [a for a in equation.inputs if isinstance(a, Var)]
        if any(a in gone for a in inputs):
            gone.update(equation.outputs)
            continue
        if all(0 in v.shape for v in equation.outputs):  # holds no numbers: the same for all samples
            even.update((v, set(range(len(v.shape)))) for v in equation.outputs)
            continue
        if not any(a in places for a in inputs):
            even[equation.outputs[0]] = _even_axes(equation, even)
            continue
        try:
            if equation.activation is None and (is_elementwise(equation) or equation.name == "concatenate"):
                _alike_for_all(equation, places, even)
            found = _moved(equation, [places.get(a) if isinstance(a, Var) else None for a in equation.inputs], n)
            for var, place in zip(equation.outputs, found, strict=True):
                if var.shape[place.axis] != place.outer * n * place.inner:
                    raise Lost
            places.update(zip(equation.outputs, found, strict=True))
        except Mixed as why:
            mixing.append((equation, str(why)))
            gone.update(equation.outputs)
        except (Lost, IndexError, KeyError, ValueError):
            unknown.append(equation)
            gone.update(equation.outputs)
    for output in program.outputs[:1]:
        if isinstance(output, Var) and output in places and places[output] != Place(0):
            mixing.append((program.equations[-1], "the samples are not along the first axis of the result"))
    gates = [
        e.outputs[0] if e.activation.windows else e.inputs[0] for e in program.equations if e.activation is not None
    ]
    of_gates = tuple(places.get(g) if isinstance(g, Var) else None for g in gates)
    of_values = tuple(places.get(v) for e in program.equations for v in e.outputs)
    return Samples(of_gates, of_values, tuple(mixing), tuple(unknown))


def _even_axes(equation: Equation, even: dict[Var, set[int]]) -> set[int]:
    """The axes along which a value independent of x is the same, as far as that is seen."""
    name, axes, p = equation.primitive.name, range(len(equation.outputs[0].shape)), equation.params
    if name == "iota":
        return set(axes) - {p["dimension"]}
    if is_elementwise(equation):
        return {i for i in axes if all(len(a.shape) == 0 or _is_even(a, i, even) for a in equation.inputs)}
    if name == "broadcast_in_dim":
        kept = list(p["broadcast_dimensions"])
        return {a for a in axes if a not in kept or _is_even(equation.inputs[0], kept.index(a), even)}
    if name == "transpose":
        return {a for a in axes if _is_even(equation.inputs[0], int(p["permutation"][a]), even)}
    if name in ("reshape", "squeeze", "expand_dims"):
        before = [a for a, size in enumerate(equation.inputs[0].shape) if size > 1]
        after = [a for a in axes if equation.outputs[0].shape[a] > 1]
        odd = [a for a in before if not _is_even(equation.inputs[0], a, even)]
        if not odd:
            return set(axes)
        if [equation.inputs[0].shape[a] for a in before] == [equation.outputs[0].shape[a] for a in after]:
            return set(axes) - {after[before.index(a)] for a in odd}
    return set()


def _alike_for_all(equation: Equation, places: dict[Var, Place], even: dict[Var, set[int]]) -> None:
    """What an elementwise operation reads besides must not differ from sample to sample."""
    (place, *_) = (places[a] for a in equation.inputs if isinstance(a, Var) and a in places)
    rank = len(equation.outputs[0].shape) if equation.outputs else 0
    for atom in equation.inputs:
        if (isinstance(atom, Var) and atom in places) or len(atom.shape) != rank or place.axis >= rank:
            continue
        if not _is_even(atom, place.axis, even):
            raise Lost


def _is_even(atom: Atom, axis: int, even: dict[Var, set[int]]) -> bool:
    """Whether a value independent of x is known to be the same along an axis."""
    if not atom.shape or atom.shape[axis] == 1:
        return True
    if isinstance(atom, Var):
        return axis in even.get(atom, ())
    if is_traced(atom.value):
        return False
    value = np.asarray(atom.value)
    return bool((value == value.take([0], axis)).all())


def _moved(equation: Equation, places: Sequence[Place | None], n: int) -> list[Place]:
    name = equation.primitive.name
    rule = _RULES.get(name)
    if rule is None and (equation.activation is not None or is_elementwise(equation)):
        rule = _elementwise
    if rule is None:
        raise Lost
    place = rule(equation, places, n)
    return [place] * len(equation.outputs)


def _the_place(places: Sequence[Place | None]) -> Place:
    """Of operations on several values: that of all those that depend on x."""
    known = {p for p in places if p is not None}
    if len(known) > 1:
        raise Mixed("reads values whose samples lie along different axes")
    return next(iter(known))


def _one_of_data(places: Sequence[Place | None]) -> tuple[int, Place]:
    (found,) = ((i, p) for i, p in enumerate(places) if p is not None)
    return found


def _elementwise(equation: Equation, places: Sequence[Place | None], n: int) -> Place:
    rank = len(equation.outputs[0].shape)
    if any(p is not None and len(a.shape) != rank for a, p in zip(equation.inputs, places, strict=True)):
        raise Lost
    return _the_place(places)


def _reshape(equation: Equation, places: Sequence[Place | None], n: int) -> Place:
    """Row-major order keeps how many numbers come before a sample and after it."""
    place, old, new = _the_place(places), equation.inputs[0].shape, equation.outputs[0].shape
    before = math.prod(old[: place.axis]) * place.outer
    outer = before
    for axis, size in enumerate(new):
        if outer * n <= size and size % (outer * n) == 0 and (outer == 1 or size != 1):
            return Place(axis, outer, size // (outer * n))
        if size == 0 or outer % size:
            break
        outer //= size
    raise Lost


def _transpose(equation: Equation, places: Sequence[Place | None], n: int) -> Place:
    place = _the_place(places)
    return place._replace(axis=tuple(equation.params["permutation"]).index(place.axis))


def _broadcast_in_dim(equation: Equation, places: Sequence[Place | None], n: int) -> Place:
    place = _the_place(places)
    return place._replace(axis=equation.params["broadcast_dimensions"][place.axis])


def _reduced(equation: Equation, places: Sequence[Place | None], n: int) -> Place:
    place, axes = _the_place(places), tuple(equation.params["axes"])
    if place.axis in axes:
        raise Mixed("reduces the axis of the samples")
    return place._replace(axis=place.axis - sum(a < place.axis for a in axes))


def _along(*names: str) -> Callable[..., Place]:
    """Operations along one axis, or several, that `names` of their parameters say."""

    def rule(equation: Equation, places: Sequence[Place | None], n: int) -> Place:
        place = _the_place(places)
        along = next(equation.params[name] for name in names if name in equation.params)
        if place.axis in (along if isinstance(along, tuple | list) else (int(along),)):
            raise Mixed("works along the axis of the samples")
        return place

    return rule


def _stacked(equation: Equation, places: Sequence[Place | None], n: int) -> Place:
    place, axis = _the_place(places), int(equation.params["axis"])
    return place._replace(axis=place.axis + (axis <= place.axis))


def _unstacked(equation: Equation, places: Sequence[Place | None], n: int) -> Place:
    place, axis = _the_place(places), int(equation.params["axis"])
    if axis == place.axis:
        raise Mixed("takes the axis of the samples apart")
    return place._replace(axis=place.axis - (axis < place.axis))


def _joined(equation: Equation, places: Sequence[Place | None], n: int) -> Place:
    along = int(equation.params["dimension"])
    known = [p for p in places if p is not None]
    if len(known) < len(places) or any(p.axis != along or p.inner != known[0].inner for p in known):
        place = _the_place(places)
        if place.axis == along:
            raise Lost
        return place
    return Place(along, sum(p.outer for p in known), known[0].inner)  # batches one after the other


def _tiled(equation: Equation, places: Sequence[Place | None], n: int) -> Place:
    place = _the_place(places)
    if equation.params["reps"][place.axis] != 1:
        raise Lost
    return place


def _kept_whole(equation: Equation, places: Sequence[Place | None], n: int) -> Place:
    """Slices and padding, of other axes."""
    number, place = _one_of_data(places)
    shape = equation.inputs[number].shape
    if number != 0 or equation.outputs[0].shape[place.axis] != shape[place.axis]:
        raise Lost
    padding = equation.params.get("padding_config")
    if padding is not None and tuple(padding[place.axis]) != (0, 0, 0):
        raise Lost
    return place


def _slice(equation: Equation, places: Sequence[Place | None], n: int) -> Place:
    """Of other axes, or of whole batches that stand one after the other."""
    place, p = _the_place(places), equation.params
    start, stop = p["start_indices"][place.axis], p["limit_indices"][place.axis]
    if p["strides"] is not None and p["strides"][place.axis] != 1:
        raise Lost
    return _whole_batches(place, start, stop, n)


def _split(equation: Equation, places: Sequence[Place | None], n: int) -> Place:
    """Likewise, in pieces of one size."""
    place, sizes = _the_place(places), set(equation.params["sizes"])
    if place.axis != int(equation.params["axis"]):
        return place
    if len(sizes) > 1 and place.outer > 1:
        raise Lost
    if min(sizes) % (n * place.inner):
        raise Mixed("takes the axis of the samples apart")
    return _whole_batches(place, 0, sizes.pop(), n)


def _whole_batches(place: Place, start: int, stop: int, n: int) -> Place:
    batch = n * place.inner
    if start % batch or stop % batch:
        raise Lost
    return place._replace(outer=(stop - start) // batch)


def _windows(equation: Equation, places: Sequence[Place | None], n: int) -> Place:
    p, place = equation.params, _the_place(places)
    low_high = p.get("padding") or ((0, 0),) * len(p["window_dimensions"])
    if p["window_dimensions"][place.axis] != 1 or tuple(low_high[place.axis]) != (0, 0):
        raise Mixed("has windows over samples")
    return place


def _dot_general(equation: Equation, places: Sequence[Place | None], n: int) -> Place:
    (contract, batch) = equation.params["dimension_numbers"]
    found = set()
    rank_batch = len(batch[0])
    free = [
        [d for d in range(len(a.shape)) if d not in (*contract[i], *batch[i])] for i, a in enumerate(equation.inputs)
    ]
    for i, place in enumerate(places):
        if place is None:
            continue
        if place.axis in contract[i]:
            raise Mixed("contracts the axis of the samples")
        if place.axis in batch[i] and places[1 - i] is None:
            raise Lost  # weights of every sample's own
        at = (
            list(batch[i]).index(place.axis)
            if place.axis in batch[i]
            else rank_batch + free[i].index(place.axis) + (len(free[0]) if i else 0)
        )
        found.add(place._replace(axis=at))
    if len(found) != 1:
        raise Mixed("multiplies every sample with every other")
    return found.pop()


def _convolution(equation: Equation, places: Sequence[Place | None], n: int) -> Place:
    number, place = _one_of_data(places)
    numbers = equation.params["dimension_numbers"]
    if number != 0 or equation.params["batch_group_count"] != 1 or place.axis == numbers.lhs_spec[1]:
        raise Lost
    if place.axis != numbers.lhs_spec[0]:
        raise Mixed("has windows over samples")
    return place._replace(axis=numbers.out_spec[0])


def _gather(equation: Equation, places: Sequence[Place | None], n: int) -> Place:
    operand, indices = places
    numbers = equation.params["dimension_numbers"]
    rank = len(equation.outputs[0].shape)
    lookup = [d for d in range(rank) if d not in numbers.offset_dims]  # the axes of the indices
    found = set()
    if indices is not None:
        found.add(indices._replace(axis=lookup[indices.axis]))
    if operand is not None:
        batched, axis = tuple(numbers.operand_batching_dims), operand.axis
        if axis in batched:
            at = lookup[numbers.start_indices_batching_dims[batched.index(axis)]]
        elif axis in (*numbers.collapsed_slice_dims, *numbers.start_index_map):
            raise Lost
        else:
            shape = equation.inputs[0].shape
            kept = [d for d in range(len(shape)) if d not in (*numbers.collapsed_slice_dims, *batched)]
            if equation.params["slice_sizes"][axis] != shape[axis]:
                raise Lost
            at = numbers.offset_dims[kept.index(axis)]
        found.add(operand._replace(axis=at))
    return _the_place(list(found))


def _transformed(equation: Equation, places: Sequence[Place | None], n: int) -> Place:
    place = _the_place(places)
    if place.axis >= len(equation.inputs[0].shape) - len(equation.params["fft_lengths"]):
        raise Mixed("transforms the axis of the samples")
    return place


def _squeezed(equation: Equation, places: Sequence[Place | None], n: int) -> Place:
    place, gone = _the_place(places), tuple(equation.params["dimensions"])
    if place.axis in gone:
        raise Lost
    return place._replace(axis=place.axis - sum(a < place.axis for a in gone))


_RULES: dict[str, Callable[[Equation, Sequence[Place | None], int], Place]] = {
    "reshape": _reshape,
    "squeeze": _squeezed,
    "transpose": _transpose,
    "broadcast_in_dim": _broadcast_in_dim,
    **{f"reduce_{kind}": _reduced for kind in ("and", "max", "min", "or", "prod", "sum", "xor")},
    **dict.fromkeys(("argmax", "argmin"), _reduced),
    **{f"reduce_window_{kind}": _windows for kind in ("max", "min", "sum")},
    **{f"cum{kind}": _along("axis") for kind in ("logsumexp", "max", "min", "prod", "sum")},
    **dict.fromkeys(("rev", "sort"), _along("dimensions", "dimension")),
    "split": _split,
    "slice": _slice,
    "stack": _stacked,
    "tile": _tiled,
    "unstack": _unstacked,
    "concatenate": _joined,
    **dict.fromkeys(("dynamic_slice", "pad"), _kept_whole),
    "dot_general": _dot_general,
    "conv_general_dilated": _convolution,
    "gather": _gather,
    "fft": _transformed,
    **dict.fromkeys(("sharding_constraint", "real", "imag", "conj", "complex"), _elementwise),
}
