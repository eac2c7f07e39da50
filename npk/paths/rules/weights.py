"""Weight layers: what contracts terms with independent weights and begins a new base."""

import math
from collections.abc import Sequence

import numpy as np

from npk.paths import terms
from npk.paths.encodings import Encoding
from npk.paths.factors import Factor, ones
from npk.paths.layers import Layer, Window
from npk.paths.rules import maps
from npk.paths.rules.one_hot import is_one_hot
from npk.paths.terms import Axis, Term
from npk.paths.walk import DECLARE, ELSEWHERE, State, Walk, elements
from npk.programs import Atom, Equation


def _the_weight(walk: Walk, equation: Equation, atom: Atom) -> Term:
    origin = walk.origin(atom)
    if origin is None:
        raise walk.refuse(
            equation,
            f"a product of two values that both depend on x (numbers times weights are values, too). {DECLARE}",
        )
    if not walk.is_leaf(atom):
        raise walk.refuse(
            equation,
            "weights computed from parameters (weight normalisation, products of parameters) are outside the rules. "
            f"Compute them beforehand and pass the result as the parameter; {ELSEWHERE}",
        )
    (weight,) = walk.data(atom)
    return weight


def _plain(weight: Term) -> Term:
    """A weight without the numbers that multiply it."""
    return weight.replace(g=ones(len(weight.sizes)))


def _layer(
    walk: Walk,
    equation: Equation,
    inputs: State,
    weight: Term,
    n_batch: int,
    n_kept: int,
    windows: Sequence[Window] = (),
    constant: Factor | None = None,
    fan_in: int | None = None,
) -> Term:
    """The new base of a weight layer, as a value with axes [batch.., kept.., out..].

    The constants that multiply the weight are the layer's, and all that do where `constant` is None; the rest, a
    parameter that was declared a fixed number, is the values'.
    """
    if weight.g.size != 1:
        raise walk.refuse(
            equation,
            "weights multiplied by an array of constants (a pruning mask) are outside the rules. Pass the product as "
            f"the parameter; {ELSEWHERE}",
        )
    plain, whole = _plain(weight), weight.g.reshape(())
    if constant is not None:
        inputs = walk.scaled(inputs, whole.over(constant))
    constant = whole if constant is None else constant
    if elements(plain).sum() != math.prod(plain.sizes):
        name = plain.base.name  # type: ignore[attr-defined]
        raise walk.refuse(equation, f"parameter `{name}` is repeated within one layer (weight sharing). {ELSEWHERE}")
    for axis in range(n_batch + n_kept):
        inputs = [terms.merge(t, axis) for t in inputs]
    rank = len(inputs[0].shape)
    n_contracted = rank - n_batch - n_kept + len(windows)
    wshape = plain.shape
    n_out = len(wshape) - n_batch - n_contracted
    kept = [w.count(s) for w, s in zip(windows, inputs[0].shape[n_batch:], strict=False)]
    kept += inputs[0].shape[n_batch + len(windows) : n_batch + n_kept]
    out = wshape[n_batch + n_contracted :]
    axes = [Axis(s, True) for s in wshape[:n_batch]] + [Axis(s, False) for s in kept] + [Axis(s, True) for s in out]
    fan_in = fan_in or math.prod(wshape[n_batch : n_batch + n_contracted])
    walk.claim(plain, equation.source, fan_in)
    constant = constant.times(walk.magnitude(plain))
    base = Layer(
        tuple(axes), tuple(inputs), plain, n_batch, n_kept, n_out, tuple(windows), fan_in, constant, equation.source
    )
    return terms.whole(base, [a.size for a in axes])


def dot_general(walk: Walk, equation: Equation) -> State:
    lhs, rhs = equation.inputs
    (lhs_contract, rhs_contract), (lhs_batch, rhs_batch) = equation.params["dimension_numbers"]
    data_first = walk.is_value(lhs) or not (walk.is_value(rhs) or walk.is_parameter(lhs))
    if not data_first:
        lhs, rhs = rhs, lhs
        lhs_contract, rhs_contract, lhs_batch, rhs_batch = rhs_contract, lhs_contract, rhs_batch, lhs_batch
    x_free = [a for a in range(len(lhs.shape)) if a not in (*lhs_contract, *lhs_batch)]
    w_free = [a for a in range(len(rhs.shape)) if a not in (*rhs_contract, *rhs_batch)]
    n_b, n_x, n_w = len(lhs_batch), len(x_free), len(w_free)
    state = [terms.transpose(t, (*lhs_batch, *x_free, *lhs_contract)) for t in walk.state(lhs) or []]
    order = (*rhs_batch, *rhs_contract, *w_free)
    if walk.is_known(rhs):
        out = maps.product(state, walk.factor(rhs).transpose(order), n_b, n_x, n_w)
    else:
        weight = terms.transpose(_the_weight(walk, equation, rhs), order)
        # Of what is one-hot a weight layer reads one row.
        one = len(lhs_contract) == 1 and is_one_hot(walk, lhs, lhs_contract[0])
        options = {"constant": walk.constant_of(rhs), "fan_in": 1 if one else None}
        out = [_layer(walk, equation, state, weight, n_b, n_x, **options)]
    if not data_first:
        out = [
            terms.transpose(t, (*range(n_b), *range(n_b + n_x, n_b + n_x + n_w), *range(n_b, n_b + n_x))) for t in out
        ]
    return out


def convolution(walk: Walk, equation: Equation) -> State:
    lhs, rhs = equation.inputs
    if walk.is_value(rhs):
        raise walk.refuse(equation, "a convolution whose kernel depends on x.")
    p = equation.params
    if p["batch_group_count"] != 1:
        raise walk.refuse(equation, "a convolution with batch groups.")
    numbers, groups = p["dimension_numbers"], p["feature_group_count"]
    (batch, feature, *spatial) = numbers.lhs_spec
    (k_out, k_in, *k_spatial) = numbers.rhs_spec
    windows = [
        Window(rhs.shape[k], *rest)
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
        term = terms.transpose(term, (feature, *spatial, batch))
        channels, *rest = term.shape
        term = terms.reshape(term, (groups, channels // groups, *rest))
        return terms.transpose(term, (0, *range(2, len(term.shape)), 1))

    state = [arranged(t) for t in walk.state(lhs) or []]
    out_channels, by_channel = rhs.shape[k_out], (k_out, *k_spatial, k_in)
    grouped = (groups, out_channels // groups, *(rhs.shape[a] for a in by_channel[1:]))
    last = (0, *range(2, len(grouped)), 1)
    if walk.is_known(rhs):
        factor = walk.factor(rhs).transpose(by_channel).reshape(grouped).transpose(last)
        out = maps.convolution(state, factor, windows)
    else:
        weight = terms.reshape(terms.transpose(_the_weight(walk, equation, rhs), by_channel), grouped)
        weight = terms.transpose(weight, last)
        out = [_layer(walk, equation, state, weight, 1, len(spatial) + 1, windows, walk.constant_of(rhs))]

    def restored(term: Term) -> Term:  # [group, spatial.., batch, channels] -> [batch, feature, spatial..] -> as asked
        rank = len(term.shape)
        term = terms.transpose(term, (rank - 2, 0, rank - 1, *range(1, rank - 2)))
        term = terms.reshape(term, (term.shape[0], out_channels, *term.shape[3:]))
        return terms.transpose(term, np.argsort(numbers.out_spec).tolist())

    return [restored(t) for t in out]


def lookup(walk: Walk, equation: Equation) -> State:
    """The rows of a table that an input of integers chooses: a weight layer on one-hot vectors."""
    table, indices = equation.inputs
    numbers, sizes = equation.params["dimension_numbers"], equation.params["slice_sizes"]
    chosen = [axis for axis, (size, whole) in enumerate(zip(sizes, table.shape, strict=True)) if size < whole]
    last = tuple(numbers.offset_dims) == tuple(range(len(indices.shape) - 1, len(equation.outputs[0].shape)))
    row = len(chosen) == 1 and sizes[chosen[0]] == 1 and chosen[0] in numbers.start_index_map
    if not (row and last) or numbers.operand_batching_dims or not walk.is_leaf(table) or not walk.is_data(indices):
        raise walk.refuse(
            equation,
            "looks up something else than rows of a parameter by one number each. What x chooses of other values is a "
            "product with jax.nn.one_hot of its number.",
        )
    (axis,) = chosen
    mode = str(equation.params["mode"]).upper()
    column, clips = numbers.start_index_map.index(axis), "CLIP" in mode or "PROMISE" in mode
    fills = equation.params["fill_value"] == 0
    one_hot = Encoding(walk.program, indices, table.shape[axis], column, clips, fills)  # type: ignore[arg-type]
    shape = (*indices.shape[:-1], table.shape[axis])
    state = walk.known(Factor("encoded", (), one_hot, shape), shape)
    order = (axis, *(a for a in range(len(table.shape)) if a != axis))
    weight = terms.transpose(_the_weight(walk, equation, table), order)
    kept = len(indices.shape) - 1
    layer = _layer(walk, equation, [*state], weight, 0, kept, constant=walk.constant_of(table), fan_in=1)
    return [terms.reshape(layer, equation.outputs[0].shape)]


def elementwise(walk: Walk, equation: Equation, state: State, weight: Term, atom: Atom) -> State:
    """A learned elementwise factor: a weight of its own for every element of the parameter."""
    constant = walk.constant_of(atom)
    if weight.g.size != 1:  # numbers of each element, which multiply the values as well
        constant = walk.constants[atom]  # type: ignore[index]
        state = walk.scaled(state, weight.g.over(constant).broadcast(weight.sizes).reshape(weight.shape))
        weight = weight.replace(g=constant.reshape((1,) * len(weight.sizes)))
    read = {d for index in weight.index for d in index.dims}
    own = [a for a in range(len(weight.shape)) if read.intersection(weight.dims(a))]
    shared = [a for a in range(len(weight.shape)) if a not in own]
    moved = [terms.transpose(t, (*own, *shared)) for t in state]
    narrow = weight.replace(layout=tuple(weight.layout[a] if a in own else () for a in range(len(weight.shape))))
    fresh = [d for a in shared for d in weight.dims(a)]
    number = {d: i for i, d in enumerate(d for d in range(len(weight.sizes)) if d not in fresh)}
    narrow = narrow.replace(
        index=tuple(terms.renumbered(i, number) for i in weight.index),
        g=weight.g.reshape((1,) * len(number)),
    )
    narrow = terms.reshape(narrow, [weight.shape[a] for a in own])
    out = _layer(walk, equation, moved, narrow, len(own), len(shared), constant=constant)
    return [terms.transpose(out, np.argsort([*own, *shared]).tolist())]
