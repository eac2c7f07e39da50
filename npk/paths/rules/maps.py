"""Linear maps with constant coefficients: sums of known multiples, over positions or channels, without weights.

Blurring, resizing, adjacency matrices, Fourier and wavelet matrices, cumulative sums, sums by segments: every output is
a sum over the elements read, each times its coefficient.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from npk.paths import sums, terms
from npk.paths.factors import Factor, constant
from npk.paths.layers import Window
from npk.paths.walk import State, Walk
from npk.programs import Equation, is_traced, now


def product(state: State, factor: Factor, n_batch: int, n_free: int, n_out: int) -> State:
    """Values [batch.., free.., contracted..] times constants [batch.., contracted.., out..]."""
    if not state:
        return []
    shape = state[0].shape
    contracted = shape[n_batch + n_free :]
    out = factor.shape[n_batch + len(contracted) :]
    kept = n_batch + n_free
    whole = (*shape[:kept], *out, *contracted)
    own = [*range(kept), *range(kept + n_out, len(whole))]
    order = [*range(n_batch), *range(n_batch + len(contracted), len(factor.shape))]
    order += range(n_batch, n_batch + len(contracted))
    laid = factor.transpose(order).reshape((*shape[:n_batch], *(1,) * n_free, *out, *contracted))
    summed = range(kept + n_out, len(whole))
    return [terms.sum_axes(terms.scale(terms.broadcast(t, whole, own), laid), list(summed)) for t in state]


def along(state: State, axis: int, matrix: np.ndarray) -> State:
    """Along one axis times constants [read, made]."""
    rank = len(state[0].shape) if state else 0
    order = [a for a in range(rank) if a != axis] + [axis]
    made = product([terms.transpose(t, order) for t in state], constant(matrix), 0, rank - 1, 1)
    return [terms.transpose(t, np.argsort(order).tolist()) for t in made]


def convolution(state: State, factor: Factor, windows: Sequence[Window]) -> State:
    """Values [groups, spatial.., batch, channels] and constants [groups, kernel.., channels, out]."""
    n = len(windows)
    for axis, window in reversed(list(enumerate(windows, 1))):
        state = [terms.windows(t, axis, window.chosen(t.shape[axis])) for t in state]
    rank = 2 * n + 3  # groups, position and place in its window by turns, batch, channels
    positions, places = range(1, 2 * n, 2), range(2, 2 * n + 1, 2)
    state = [terms.transpose(t, (0, *positions, rank - 2, *places, rank - 1)) for t in state]
    return product(state, factor, 1, n + 1, 1)


def cumulative_sum(walk: Walk, equation: Equation, states: list[State]) -> State:
    """The sums of all elements up to each, along an axis."""
    axis, size = equation.params["axis"], equation.inputs[0].shape[equation.params["axis"]]
    sums_of = np.triu(np.ones((size, size)))  # [read, made]
    return along(states[0], axis, sums_of.T if equation.params["reverse"] else sums_of)


def scatter_add(walk: Walk, equation: Equation, states: list[State]) -> State:
    """Elements added to places that constants choose, as `segment_sum` does."""
    operand, indices, updates = equation.inputs
    origins = [walk.origin(a) for a in equation.inputs]
    if origins[1] is None or origins[1].from_params or is_traced(walk.value(indices)):
        raise walk.refuse(equation, "adding at places that depend on x or on parameters.")
    if any(o is not None and o.from_params for o in (origins[0], origins[2])):
        raise walk.refuse(equation, "adds parameters to some places of a value: pad or concatenate them instead.")
    where, count, p = walk.value(indices), math.prod(operand.shape), equation.params
    if count >= 1 << jnp.finfo(jnp.float32).nmant:
        raise walk.refuse(equation, "adding at places of more elements than can be counted here.")

    def added(values: jax.Array) -> jax.Array:
        zeros, options = jnp.zeros(operand.shape, jnp.float32), ("indices_are_sorted", "unique_indices", "mode")
        chosen = {name: p[name] for name in options}
        return jax.lax.scatter_add(zeros, where, values, p["dimension_numbers"], **chosen)

    def targets() -> jax.Array:  # of each update, from 1 on: the derivative of a sum reads what it adds to
        with_numbers = jnp.arange(1, count + 1, dtype=jnp.float32).reshape(operand.shape)
        return jax.vjp(added, jnp.zeros(updates.shape, jnp.float32))[1](with_numbers)[0]

    target = np.asarray(now(targets)).astype(int).reshape(-1) - 1
    order = np.argsort(target, kind="stable")
    order = order[target[order] >= 0]  # beyond the ends nothing is added
    counts = np.bincount(target[order], minlength=count)
    place = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    chosen = np.full((count, max(1, counts.max(initial=0))), -1)
    chosen[target[order], place] = order
    into = [terms.sum_axes(terms.select_elements(t, chosen), [1]) for t in states[2]]
    into = [terms.reshape(t, operand.shape) for t in into]
    empty = (
        walk.is_known(operand) and not is_traced(walk.value(operand)) and not np.any(np.asarray(walk.value(operand)))
    )
    return into if empty else sums.add([states[0], into])
