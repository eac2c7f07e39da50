"""What moves values about: each primitive is a selection, or a sum, of elements of its operands."""

import itertools
import math
from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np

from npk.paths import sums, terms
from npk.paths.factors import constant
from npk.paths.layers import Window
from npk.paths.rules import maps
from npk.paths.terms import Term
from npk.paths.walk import State, Walk
from npk.programs import Equation, is_traced, now, said


def window_axes(term: Term, equation: Equation) -> Term:
    """Lay out the windows of a `reduce_window`: [out..., flattened window], row-major."""
    p = equation.params
    base = p.get("base_dilation") or (1,) * len(term.shape)
    places = []
    at = 0
    rank = len(term.shape)
    for axis in range(rank):
        size, stride, dilation = p["window_dimensions"][axis], p["window_strides"][axis], p["window_dilation"][axis]
        low, high = p["padding"][axis]
        window = Window(size, stride, dilation, low, high, base[axis])
        trivial = size == 1 and stride == 1 and low == high == 0 and base[axis] == 1
        if trivial:
            at += 1
            continue
        term = terms.windows(term, at, window.chosen(term.shape[at]))
        places.append(at + 1)
        at += 2
    order = [a for a in range(len(term.shape)) if a not in places] + places
    term = terms.transpose(term, order)
    out = term.shape[:rank]
    return terms.reshape(term, (*out, math.prod(p["window_dimensions"])))


def _same(walk: Walk, equation: Equation, states: list[State]) -> State:
    return states[0]


def _convert(walk: Walk, equation: Equation, states: list[State]) -> State:
    if not jnp.issubdtype(equation.outputs[0].dtype, jnp.floating):
        raise walk.refuse(equation, f"a conversion to {equation.outputs[0].dtype}, which is not linear.")
    return states[0]


def _split(walk: Walk, equation: Equation) -> list[State]:
    """`lax.split`: the one positionwise operation of several results."""
    starts = np.cumsum([0, *equation.params["sizes"]])
    state, axis = walk.data(equation.inputs[0]), equation.params["axis"]
    pieces = itertools.pairwise(starts.tolist())
    return [[terms.take(t, axis, np.arange(*piece)) for t in state] for piece in pieces]


def _cond(walk: Walk, equation: Equation) -> list[State]:
    """A branch that no constant chooses: `tracing` opens all others."""
    chooser = said(walk.origin(equation.inputs[0]), walk.program.param_paths)
    raise walk.refuse(
        equation, f"which branch is taken depends on {chooser}: compute both branches and select, or choose outside f."
    )


def _unstack(walk: Walk, equation: Equation) -> list[State]:
    """Likewise `unstack`: an axis taken apart."""
    state, axis = walk.data(equation.inputs[0]), equation.params["axis"]
    return [
        [terms.reshape(terms.take(t, axis, np.array([i])), out.shape) for t in state]
        for i, out in enumerate(equation.outputs)
    ]


def _reshape(walk: Walk, equation: Equation, states: list[State]) -> State:
    return [terms.reshape(t, equation.outputs[0].shape) for t in states[0]]


def _transpose(walk: Walk, equation: Equation, states: list[State]) -> State:
    return [terms.transpose(t, [int(a) for a in equation.params["permutation"]]) for t in states[0]]


def _broadcast_in_dim(walk: Walk, equation: Equation, states: list[State]) -> State:
    shape, dimensions = equation.params["shape"], equation.params["broadcast_dimensions"]
    return [terms.broadcast(t, shape, [int(d) for d in dimensions]) for t in states[0]]


def _along_axes(state: State, chosen: Sequence[np.ndarray]) -> State:
    for axis, picked in enumerate(chosen):
        size = state[0].shape[axis] if state else 0
        if len(picked) != size or not np.array_equal(picked, np.arange(size)):
            state = [terms.take(t, axis, picked) for t in state]
    return state


def _slice(walk: Walk, equation: Equation, states: list[State]) -> State:
    p = equation.params
    strides = p["strides"] or (1,) * len(p["start_indices"])
    ranges = zip(p["start_indices"], p["limit_indices"], strides, strict=True)
    return _along_axes(states[0], [np.arange(*r) for r in ranges])


def _rev(walk: Walk, equation: Equation, states: list[State]) -> State:
    shape = equation.inputs[0].shape
    turned = [np.arange(s)[::-1] if a in equation.params["dimensions"] else np.arange(s) for a, s in enumerate(shape)]
    return _along_axes(states[0], turned)


def _pad(walk: Walk, equation: Equation, states: list[State]) -> State:
    fill = equation.inputs[1]
    origin = walk.origin(fill)
    number = None if origin is None or origin.leaves or origin.fixed else walk.value(fill)
    if number is None or is_traced(number) or np.any(np.asarray(number) != 0):
        raise walk.refuse(equation, "padding with a value other than zero.")
    chosen = []
    for size, (low, high, inner) in zip(equation.inputs[0].shape, equation.params["padding_config"], strict=True):
        at = np.arange(-low, (size - 1) * (inner + 1) + 1 + high)
        chosen.append(np.where((at >= 0) & (at % (inner + 1) == 0) & (at // (inner + 1) < size), at // (inner + 1), -1))
    return _along_axes(states[0], chosen)


def _stack(walk: Walk, equation: Equation, states: list[State]) -> State:
    axis, shape = equation.params["axis"], equation.outputs[0].shape
    slices = [[terms.reshape(t, (*shape[:axis], 1, *shape[axis + 1 :])) for t in state] for state in states]
    return _laid_end_to_end(walk, equation, slices, axis)


def _concatenate(walk: Walk, equation: Equation, states: list[State]) -> State:
    # NumPy integers here where jnp.roll was given them as axes.
    return _laid_end_to_end(walk, equation, states, int(equation.params["dimension"]))


def _laid_end_to_end(walk: Walk, equation: Equation, states: list[State], axis: int) -> State:
    states = list(states)
    for number, atom in enumerate(equation.inputs):
        origin, state = walk.origin(atom), states[number]
        if origin is not None and origin.from_params and walk.is_leaf(atom):  # a class token: a bias of its own
            states[number] = walk.biased(state, equation.source)
        elif origin is not None and (origin.from_params or not state):
            raise walk.refuse(equation, "joins values with what is computed from parameters.")
    return sums.concatenate(states, axis)


def selection(walk: Walk, equation: Equation, states: list[State]) -> State:
    """Any indexing by constants: run it on the numbers of the elements to see what it picks."""
    shape = equation.inputs[0].shape
    rest = [a for a in equation.inputs[1:]]
    origins = [walk.origin(a) for a in rest]
    if any(o is not None and o.fixed for o in origins):
        raise walk.refuse(equation, "indexing by a parameter, whose numbers may change: close over it instead.")
    if any(o is None or o.from_params for o in origins) or any(is_traced(walk.value(a)) for a in rest):
        raise walk.refuse(equation, "indexing by values that depend on x or on parameters.")
    numbers = np.arange(1, math.prod(shape) + 1, dtype=np.int32).reshape(shape)
    params = {**equation.params, **({"fill_value": 0} if "fill_value" in equation.params else {})}
    picked = now(lambda: equation.primitive.bind(jnp.asarray(numbers), *(walk.value(a) for a in rest), **params))
    chosen = np.asarray(picked) - 1
    return [terms.select_elements(t, chosen) for t in states[0]]


def _select(walk: Walk, equation: Equation, states: list[State]) -> State:
    """Elements of one case or another, as constants choose."""
    which, *cases = equation.inputs
    if not walk.is_known(which) or walk.is_declared(which):
        chooser = said(walk.origin(which), walk.program.param_paths)
        raise walk.refuse(equation, f"which case is taken depends on {chooser}.")
    if any(walk.is_parameter(case) for case in cases):
        raise walk.refuse(equation, "puts parameters in some places of a value: pad or concatenate them instead.")
    taken, values = [], walk.value(which)
    for number, (case, state) in enumerate(zip(cases, states[1:], strict=True)):
        chosen = np.equal(values, number) if not is_traced(values) else values == jnp.asarray(number, values.dtype)
        if walk.is_data(case) or walk.is_declared(case):
            numbers = chosen if is_traced(chosen) else np.asarray(chosen, np.float32)
            taken.append([terms.scale(t, constant(numbers), True) for t in state])
            continue
        fill = walk.value(case)
        traced = is_traced(chosen) or is_traced(fill)
        numbers = jnp.where(chosen, fill, jnp.zeros_like(fill)) if traced else np.where(chosen, fill, 0)
        if traced or np.any(numbers):
            taken.append(walk.known(constant(numbers), case.shape))
    return sums.add(taken)


def _reduce_sum(walk: Walk, equation: Equation, states: list[State]) -> State:
    return [terms.sum_axes(t, equation.params["axes"]) for t in states[0]]


def _reduce_window_sum(walk: Walk, equation: Equation, states: list[State]) -> State:
    rank = len(equation.inputs[0].shape)
    return [terms.sum_axes(window_axes(t, equation), [rank]) for t in states[0]]


POSITIONWISE: dict[str, Callable[[Walk, Equation, list[State]], State]] = {
    **dict.fromkeys(("stop_gradient", "reduce_precision", "sharding_constraint"), _same),
    "convert_element_type": _convert,
    **dict.fromkeys(("reshape", "squeeze", "expand_dims"), _reshape),
    **dict.fromkeys(("dynamic_slice", "tile"), selection),
    "transpose": _transpose,
    "broadcast_in_dim": _broadcast_in_dim,
    "slice": _slice,
    "rev": _rev,
    "pad": _pad,
    "concatenate": _concatenate,
    "stack": _stack,
    "reduce_sum": _reduce_sum,
    "select_n": _select,
    "reduce_window_sum": _reduce_window_sum,
    "cumsum": maps.cumulative_sum,
    "scatter-add": maps.scatter_add,
}

# Those of several results.
SEVERAL: dict[str, Callable[[Walk, Equation], list[State]]] = {"cond": _cond, "split": _split, "unstack": _unstack}
