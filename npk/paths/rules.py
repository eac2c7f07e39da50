"""What each primitive is to a path: gate | weights | bias | fixed factor | sum | positionwise.

Most are a line: they act on the normal form of `_terms`. An operation without a rule raises
`UnsupportedOperation`; all of a model's are reported at once.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from npk import _moving_rules, _term_sums, _terms
from npk._jaxpr import Atom, Equation, Program
from npk._terms import Axis, Leaf, Term
from npk._walk import Layer, State, Walk, Window, centred, kinds_of

# ------------------------------------------------------------------------------------------ rules: gates


def _gate(walk: Walk, equation: Equation) -> State:
    state = walk.data(equation.inputs[0])
    gates = walk.gates.pop(0)
    if equation.activation.windows is None:
        return [_terms.scale(t, gates, walk.binary) for t in state]
    # max-pooling: lay the window out as a last axis, gate it, sum it away
    laid = [_terms.scale(_pool_windows(t, equation), gates, walk.binary) for t in state]
    return [_terms.sum_axes(t, [len(t.shape) - 1]) for t in laid]


def _pool_windows(term: Term, equation: Equation) -> Term:
    """The value with one more axis, last: the elements each output of a max-pooling chooses from."""
    if equation.primitive.name == "reduce_window_max":
        return _moving_rules.window_axes(term, equation)
    axes = equation.params["axes"]
    kept = [a for a in range(len(term.shape)) if a not in axes]
    size = math.prod(term.shape[a] for a in axes)
    return _terms.reshape(_terms.transpose(term, (*kept, *axes)), (*(term.shape[a] for a in kept), size))


# ------------------------------------------------------------------------------------ rules: arithmetic


def _add(walk: Walk, equation: Equation) -> State:
    shape = equation.outputs[0].shape
    operands = list(equation.inputs)
    states = []
    for i, atom in enumerate(operands):
        other = operands[1 - i]
        state = _addend(walk, equation, atom, other)
        if equation.name == "sub" and i == 1:
            state = walk.scaled(state, -1.0)
        states.append(walk.spread(state, shape))
    return _term_sums.add(states)


def _addend(walk: Walk, equation: Equation, atom: Atom, other: Atom) -> State:
    kind = walk.kind(atom)
    if kind is None or not kind.from_params:
        return walk.state(atom) or []
    # A shift next to a normalisation's factor (batch norm's mean and beta) has a fixed value.
    if other in walk.normalised or _is_centring(walk, equation):
        return walk.known(walk.value(atom), atom.shape)
    if not walk.is_leaf(atom):
        raise walk.refuse(equation, "adds a value computed from parameters; a bias must be a parameter itself.")
    (bias,) = walk.data(atom)
    walk.claim(bias, equation.source)
    return [bias]


def _is_centring(walk: Walk, equation: Equation) -> bool:
    """Whether the sum is read by nothing but a normalisation: (x - mean) · rsqrt(var + ε)."""
    return equation.outputs[0] in walk.centred


def _normalising(walk: Walk, factor: Atom) -> bool:
    kind = walk.kind(factor)
    return kind is not None and kind.rooted


def _mul(walk: Walk, equation: Equation) -> State:
    a, b = equation.inputs
    if walk.is_data(a) and walk.is_data(b):
        raise walk.refuse(
            equation, "a product of two values that both depend on x; as gates they must be an activation q·γ(q)."
        )
    data, factor = (a, b) if walk.is_data(a) else (b, a)
    if equation.name == "div" and data is b:
        raise walk.refuse(equation, "a division by a value that depends on x.")
    shape = equation.outputs[0].shape
    state = walk.spread(walk.data(data), shape)
    kind = walk.kind(factor)
    assert kind is not None
    normalising = _normalising(walk, factor)
    if kind.from_params and not normalising and data not in walk.normalised:
        if not walk.is_leaf(factor) or equation.name == "div":
            raise walk.refuse(equation, "a factor computed from parameters; a weight must be a parameter itself.")
        (weight,) = walk.data(factor)
        return _scale_weights(walk, equation, state, walk.spread([weight], shape)[0])
    if normalising or data in walk.normalised:
        walk.normalised.add(equation.outputs[0])
    value = jnp.asarray(walk.value(factor))
    value = 1 / value if equation.name == "div" else value
    return walk.scaled(state, jnp.broadcast_to(value, shape) if value.ndim else value)


def _neg(walk: Walk, equation: Equation) -> State:
    return walk.scaled(walk.data(equation.inputs[0]), -1.0)


# --------------------------------------------------------------------------------------- rules: weights


def _the_weight(walk: Walk, equation: Equation, atom: Atom) -> Term:
    kind = walk.kind(atom)
    if kind is None:
        raise walk.refuse(equation, "a product of two values that both depend on x.")
    if not kind.from_params:
        raise walk.refuse(
            equation, "a linear map with constant coefficients mixes channels without weights; make them parameters."
        )
    if not walk.is_leaf(atom):
        raise walk.refuse(
            equation,
            "weights computed from parameters (weight normalisation, products of parameters) are outside the rules.",
        )
    (weight,) = walk.data(atom)
    return weight


def _constant_of(walk: Walk, equation: Equation, weight: Term) -> tuple[Term, Any]:
    """Split a weight into the plain selection of its leaf and one constant factor."""
    g = weight.g[0]
    if g.size != 1:
        raise walk.refuse(
            equation, "weights multiplied by an array of constants (a pruning mask) are outside the rules."
        )
    return weight.replace(g=tuple(jnp.ones_like(x) for x in weight.g)), g.reshape(())


def _layer(
    walk: Walk,
    equation: Equation,
    inputs: State,
    weight: Term,
    n_batch: int,
    n_kept: int,
    windows: Sequence[Window] = (),
) -> Term:
    """The new base of a weight layer, as a value with axes [batch.., kept.., out..]."""
    plain, constant = _constant_of(walk, equation, weight)
    dims = {d for index in plain.index for d in index.dims}
    if any(d not in dims for d in range(len(plain.sizes))):
        raise walk.refuse(equation, f"parameter `{plain.base.name}` is repeated within one layer (weight sharing).")  # type: ignore[attr-defined]
    walk.claim(plain, equation.source)
    for axis in range(n_batch + n_kept):
        inputs = [_terms.merge(t, axis) for t in inputs]
    rank = len(inputs[0].shape)
    n_contracted = rank - n_batch - n_kept + len(windows)
    wshape = plain.shape
    n_out = len(wshape) - n_batch - n_contracted
    kept = [w.count(s) for w, s in zip(windows, inputs[0].shape[n_batch:], strict=False)]
    kept += inputs[0].shape[n_batch + len(windows) : n_batch + n_kept]
    out = wshape[n_batch + n_contracted :]
    axes = [Axis(s, True) for s in wshape[:n_batch]] + [Axis(s, False) for s in kept] + [Axis(s, True) for s in out]
    fan_in = math.prod(wshape[n_batch : n_batch + n_contracted])
    base = Layer(
        tuple(axes), tuple(inputs), plain, n_batch, n_kept, n_out, tuple(windows), fan_in, constant, equation.source
    )
    return _terms.whole(base, [a.size for a in axes], walk.sides, walk.dtype)


def _dot_general(walk: Walk, equation: Equation) -> State:
    lhs, rhs = equation.inputs
    (lhs_contract, rhs_contract), (lhs_batch, rhs_batch) = equation.params["dimension_numbers"]
    data_first = walk.is_data(lhs) or not (walk.is_data(rhs) or walk.is_parameter(lhs))
    if not data_first:
        lhs, rhs = rhs, lhs
        lhs_contract, rhs_contract, lhs_batch, rhs_batch = rhs_contract, lhs_contract, rhs_batch, lhs_batch
    weight = _the_weight(walk, equation, rhs)
    x_rank, w_rank = len(lhs.shape), len(weight.shape)
    x_free = [a for a in range(x_rank) if a not in (*lhs_contract, *lhs_batch)]
    w_free = [a for a in range(w_rank) if a not in (*rhs_contract, *rhs_batch)]
    state = [_terms.transpose(t, (*lhs_batch, *x_free, *lhs_contract)) for t in walk.state(lhs) or []]
    weight = _terms.transpose(weight, (*rhs_batch, *rhs_contract, *w_free))
    out = _layer(walk, equation, state, weight, len(lhs_batch), len(x_free))
    n_b, n_x, n_w = len(lhs_batch), len(x_free), len(w_free)
    if not data_first:
        out = _terms.transpose(out, (*range(n_b), *range(n_b + n_x, n_b + n_x + n_w), *range(n_b, n_b + n_x)))
    return [out]


def _convolution(walk: Walk, equation: Equation) -> State:
    lhs, rhs = equation.inputs
    if walk.is_data(rhs):
        raise walk.refuse(equation, "a convolution whose kernel depends on x.")
    p = equation.params
    if p["batch_group_count"] != 1:
        raise walk.refuse(equation, "a convolution with batch groups.")
    weight = _the_weight(walk, equation, rhs)
    numbers, groups = p["dimension_numbers"], p["feature_group_count"]
    (batch, feature, *spatial) = numbers.lhs_spec
    (k_out, k_in, *k_spatial) = numbers.rhs_spec
    windows = [
        Window(weight.shape[k], *rest)
        for k, *rest in zip(
            k_spatial,
            p["window_strides"],
            p["rhs_dilation"],
            [int(low) for low, _ in p["padding"]],
            [int(high) for _, high in p["padding"]],
            p["lhs_dilation"],
            strict=True,
        )
    ]

    def arranged(term: Term) -> Term:  # [group, batch and spatial.., channels in the group]
        term = _terms.transpose(term, (feature, *spatial, batch))
        channels, *rest = term.shape
        term = _terms.reshape(term, (groups, channels // groups, *rest))
        return _terms.transpose(term, (0, *range(2, len(term.shape)), 1))

    state = [arranged(t) for t in walk.state(lhs) or []]
    weight = _terms.transpose(weight, (k_out, *k_spatial, k_in))
    out_channels, *rest = weight.shape
    weight = _terms.reshape(weight, (groups, out_channels // groups, *rest))
    weight = _terms.transpose(weight, (0, *range(2, len(weight.shape)), 1))
    out = _layer(walk, equation, state, weight, 1, len(spatial) + 1, windows)
    # [group, spatial.., batch, channels] -> [batch, feature, spatial..] -> the order asked for
    rank = len(out.shape)
    out = _terms.transpose(out, (rank - 2, 0, rank - 1, *range(1, rank - 2)))
    out = _terms.reshape(out, (out.shape[0], out_channels, *out.shape[3:]))
    return [_terms.transpose(out, np.argsort(numbers.out_spec).tolist())]


def _scale_weights(walk: Walk, equation: Equation, state: State, weight: Term) -> State:
    """A learned elementwise factor: a weight of its own for every element of the parameter."""
    read = {d for index in weight.index for d in index.dims}
    own = [a for a in range(len(weight.shape)) if read.intersection(weight.dims(a))]
    shared = [a for a in range(len(weight.shape)) if a not in own]
    moved = [_terms.transpose(t, (*own, *shared)) for t in state]
    narrow = weight.replace(layout=tuple(weight.layout[a] if a in own else () for a in range(len(weight.shape))))
    fresh = [d for a in shared for d in weight.dims(a)]
    number = {d: i for i, d in enumerate(d for d in range(len(weight.sizes)) if d not in fresh)}
    narrow = narrow.replace(
        index=tuple(_terms.renumbered(i, number) for i in weight.index),
        g=tuple(
            g[(slice(None), *(0 if d in fresh else slice(None) for d in range(len(weight.sizes))))] for g in weight.g
        ),
    )
    narrow = _terms.reshape(narrow, [weight.shape[a] for a in own])
    out = _layer(walk, equation, moved, narrow, len(own), len(shared))
    return [_terms.transpose(out, np.argsort([*own, *shared]).tolist())]


def _one(rule: Callable[[Walk, Equation], State]) -> Callable[[Walk, Equation], list[State]]:
    return lambda walk, equation: [rule(walk, equation)]


RULES: dict[str, Callable[[Walk, Equation], list[State]]] = {
    "activation": _one(_gate),
    "add": _one(_add),
    "add_any": _one(_add),
    "sub": _one(_add),
    "mul": _one(_mul),
    "div": _one(_mul),
    "neg": _one(_neg),
    "dot_general": _one(_dot_general),
    "conv_general_dilated": _one(_convolution),
    **_moving_rules.SEVERAL,
}


def output_terms(
    program: Program,
    params: Sequence[Any],
    xs: Sequence[Any],
    gates: Sequence[tuple[Any, ...]],
    *,
    binary: bool,
    dtype: Any,
    rules: Mapping[str, Callable[[Walk, Equation], list[State]]] | None = None,
) -> State:
    """The output of a single-sample program as terms.

    Args:
        program: the program of f for a batch of one, activations found.
        params: values of its parameters.
        xs: the inputs of each side, [n, 1, ...].
        gates: for each activation the gates of each side, [n, *shape of the gate for one sample].
        binary: whether all gates are known to be 0 or 1.
        dtype: of the known factors.
        rules: in place of `RULES`.

    Returns:
        The terms of the output [1, K].
    """
    values = dict(zip(program.params, params, strict=True))
    kinds = kinds_of(program)
    moves, middle = _moving_rules.POSITIONWISE, centred(program, kinds)
    state = Walk(program, rules or RULES, moves, values, list(gates), binary, len(xs), dtype, kinds, middle)
    for number, (var, name) in enumerate(zip(program.params, program.param_paths, strict=True)):
        leaf = Leaf(tuple(Axis(s, True) for s in var.shape), number, name)
        state.states[var] = [_terms.whole(leaf, var.shape, len(xs), dtype)]
    (x,) = program.x
    source = _terms.whole(state.source, x.shape, len(xs), dtype)
    state.states[x] = [_terms.scale(source, [jnp.asarray(v, dtype) for v in xs])]
    return state.run()
