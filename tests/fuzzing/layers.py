"""Weight layers in many spellings."""

import dataclasses
import itertools
import math

import by_unit
import numpy as np
from writing import Reader, Value, Weight, Writer

# How often what a layer makes has a bias or weights that are the same for all of its units.
ALIKE = 0.15


def arranged(units: np.ndarray, labels: list, wanted: list) -> np.ndarray:
    return units.transpose([labels.index(label) for label in wanted])


def contraction(
    w: Writer, v: Value, contracted: list[int], own: list[int], n: int | None, keep: bool | None = None
) -> Value:
    """Contract axes of v with weights, of their own along `own`, into a new axis of size n (None: none).

    The labels of axes are those of v's sample, "N" the batch's and "z" the new one's. With `keep` the new axis takes
    the place of the first contracted, the batch its own.
    """
    new = [] if n is None else ["z"]
    axes = list(range(len(v.shape)))
    rest = [a for a in axes if a not in contracted]
    shape = (*(v.shape[a] for a in own), *(v.shape[a] for a in contracted), *(() if n is None else (n,)))
    fan_in = math.prod(v.shape[a] for a in contracted)
    labels = axes[: v.batch] + ["N"] + axes[v.batch :]
    code, order, weight = _spelling(w, v, contracted, own, n, shape, labels)
    sample = [label for label in order if label != "N"]

    def run(reader: Reader, units: np.ndarray) -> np.ndarray:
        out_shape = tuple(v.shape[a] for a in rest) + (() if n is None else (n,))
        out = np.empty(out_shape, object)
        for place in np.ndindex(*out_shape):
            at = dict(zip((*rest, *new), place, strict=True))
            edges = []
            for inner in itertools.product(*(range(v.shape[a]) for a in contracted)):
                where = {**at, **dict(zip(contracted, inner, strict=True))}
                key = (*(where[a] for a in own), *inner, *(() if n is None else (at["z"],)))
                edges.append(reader.through(units[tuple(where[a] for a in axes)], weight, key, fan_in))
            out[place] = reader.plus(*edges)
        return arranged(out, [*rest, *new], sample)

    size = {**dict(enumerate(v.shape)), "z": n}
    like = dataclasses.replace(
        v, shape=tuple(size[label] for label in sample), batch=order.index("N"), paths=v.paths * fan_in, bent=False
    )
    out = w.step(code, run, v, like, reads=(weight.leaf,))
    if n is not None and w.chance(ALIKE):
        out = by_unit.alike_along(w, out, sample.index("z"))
    if keep is False or (keep is None and w.chance(0.4)):
        return out
    wanted = [*axes[: min(contracted)], "z", *axes[min(contracted) :]]
    return in_order(w, out, sample, wanted, v.batch if keep else out.batch)


def in_order(w: Writer, v: Value, sample: list, wanted: list, batch: int) -> Value:
    """With the axes of a sample and of the batch in a wanted order."""
    order = [sample.index(label) for label in wanted if label in sample]
    return v if order == sorted(order) and batch == v.batch else transposed(w, v, order, batch)


def transposed(w: Writer, v: Value, order: list[int], batch: int) -> Value:
    """Axes of the sample in this order, the batch's at `batch`."""
    full = [v.axis(a) for a in order]
    full.insert(batch, v.batch)
    code = w.one(f"{v.name}.transpose({tuple(full)})", f"jnp.transpose({v.name}, {tuple(full)})")
    return w.move(v, code, batch, chain=True)


def _spelling(w: Writer, v: Value, contracted, own, n, shape, labels) -> tuple[str, list, Weight]:
    """The text of a contraction, the labels of its result's axes, and its weight."""
    new = [] if n is None else ["z"]
    h, rest = v.name, [label for label in labels if label not in contracted]
    at = [v.axis(a) for a in contracted]
    weight_axes = [*own, *contracted, *new]
    choices = ["einsum", "einsum", "dot_general", "dot_general"]
    if not own:
        choices += ["tensordot", "vmap"]
        if len(contracted) == 1 and at[0] == v.rank - 1 and n is not None:
            choices += ["matmul"] * 3 + ["rows"] * 2
    spelling = w.one(*choices)
    order = [int(i) for i in w.rng.permutation(len(weight_axes))]
    placed = [weight_axes[i] for i in order]
    if spelling in ("einsum", "dot_general"):
        weight = w.weight(shape)
        text = weight.text
        if order != sorted(order):
            text = f"jnp.transpose({text}, {tuple(order)})"
        else:
            placed = weight_axes
        if spelling == "einsum":
            letter = {label: "abcdefgh"[i] for i, label in enumerate([*labels, *new])}
            out = rest + new
            out = [out[int(i)] for i in w.rng.permutation(len(out))] if w.chance(0.4) else out
            spec = [" ".join(letter[x] for x in group).replace(" ", "") for group in (labels, placed, out)]
            if w.chance(0.3):
                return f"jnp.einsum('{spec[1]},{spec[0]}->{spec[2]}', {text}, {h})", out, weight
            return f"jnp.einsum('{spec[0]},{spec[1]}->{spec[2]}', {h}, {text})", out, weight
        free = [x for x in rest if x not in own]
        mine = (tuple(at), tuple(v.axis(a) for a in own))
        its = (tuple(placed.index(a) for a in contracted), tuple(placed.index(a) for a in own))
        if w.chance(0.5):
            numbers = f"(({mine[0]}, {its[0]}), ({mine[1]}, {its[1]}))"
            return f"lax.dot_general({h}, {text}, {numbers})", [*own, *free, *new], weight
        numbers = f"(({its[0]}, {mine[0]}), ({its[1]}, {mine[1]}))"
        return f"lax.dot_general({text}, {h}, {numbers})", [*own, *new, *free], weight
    weight = w.weight(shape)
    text, count = weight.text, tuple(range(len(contracted)))
    if spelling == "tensordot":
        if w.chance(0.5):
            return f"jnp.tensordot({text}, {h}, axes=({count}, {tuple(at)}))", new + rest, weight
        return f"jnp.tensordot({h}, {text}, axes=({tuple(at)}, {count}))", rest + new, weight
    if spelling == "vmap":
        inside = [label for label in rest if label != "N"] + new
        batch = w.integer(0, len(inside))
        sums = f"lambda u: jnp.tensordot(u, {text}, axes=({tuple(contracted)}, {count}))"
        inside.insert(batch, "N")
        return f"jax.vmap({sums}, in_axes={v.batch}, out_axes={batch})({h})", inside, weight
    if spelling == "rows":
        return f"({h}.reshape(-1, {shape[0]}) @ {text}).reshape(*{h}.shape[:-1], {n})", rest + new, weight
    return w.one(f"{h} @ {text}", f"jnp.dot({h}, {text})", f"jnp.matmul({h}, {text})"), rest + new, weight


def dense(w: Writer, v: Value, n: int) -> Value:
    """Weights over some axes of a sample, of their own along others."""
    axes = list(range(len(v.shape)))
    contracted = [w.one(*axes)] if w.chance(0.75) else w.some(axes)
    rest = [a for a in axes if a not in contracted]
    own = w.some(rest) if rest and w.chance(0.2) else []
    return contraction(w, v, contracted, own, None if rest and w.chance(0.1) else n)


def convolution(w: Writer, v: Value) -> Value:
    """Over all axes of a sample but one, in any layout."""
    rank = len(v.shape)
    feature = w.integer(0, rank - 1)
    spatial = [a for a in range(rank) if a != feature]
    channels = v.shape[feature]
    groups = w.one(1, 1, *[g for g in (2, 3, channels) if channels % g == 0])
    n = groups * w.integer(1, 2)
    kernel, stride, dilation, spread, padding, counts = [], [], [], [], [], []
    for a in spatial:
        size, step = v.shape[a], w.one(1, 1, 1, 2)
        grow = w.one(1, 1, 1, 1, 2)
        long = (size - 1) * grow + 1
        k = w.integer(1, min(3, long + 1))
        d = w.one(1, 1, 2) if k > 1 else 1
        low, high = w.one((0, 0), (0, 0), (k // 2, k - 1 - k // 2), (1, 0), (0, 2), (1, 1))
        count = (long + low + high - (k - 1) * d - 1) // step + 1
        if count < 1:
            k, d, low, high, count = 1, 1, 0, 0, (long - 1) // step + 1
        for row, number in zip(
            (kernel, stride, dilation, spread, padding, counts), (k, step, d, grow, (low, high), count), strict=True
        ):
            row.append(number)
    weight = w.weight((*kernel, channels // groups, n))
    letters = "HW"[: len(spatial)]
    canonical = f"{letters}IO"
    order = [int(i) for i in w.rng.permutation(len(canonical))] if w.chance(0.5) else list(range(len(canonical)))
    text = weight.text if order == sorted(order) else f"jnp.transpose({weight.text}, {tuple(order)})"
    of_weight = "".join(canonical[i] for i in order)
    names = {a: letters[spatial.index(a)] if a in spatial else "C" for a in range(rank)}
    into = [names[a] for a in range(rank)]
    into.insert(v.batch, "N")
    out = [into[int(i)] for i in w.rng.permutation(len(into))] if w.chance(0.4) else into
    ranked = sorted(range(len(letters)), key=lambda i: of_weight.index(letters[i]))  # JAX reads them in this order
    steps, pads, grown, apart = ([row[i] for i in ranked] for row in (stride, padding, spread, dilation))
    code = (
        f"lax.conv_general_dilated({v.name}, {text}, {steps}, {pads}, lhs_dilation={grown}, "
        f"rhs_dilation={apart}, dimension_numbers={(''.join(into), of_weight, ''.join(out))}, "
        f"feature_group_count={groups})"
    )
    fan_in = math.prod(kernel) * channels // groups
    per_group, out_per_group = channels // groups, n // groups

    def run(reader: Reader, units: np.ndarray) -> np.ndarray:
        moved = arranged(units, list(range(rank)), [*spatial, feature])
        for element in weight.places.ravel():  # also those that read nothing but padding
            reader.use((weight.leaf, element), 1 / (fan_in * weight.constant**2))
        reader.twice |= weight.repeated
        result = np.empty((*counts, n), object)
        for *place, c in np.ndindex(*result.shape):
            edges = []
            for tap in np.ndindex(*kernel):
                at = []
                for i, (o, t) in enumerate(zip(place, tap, strict=True)):
                    where = o * stride[i] + t * dilation[i] - padding[i][0]
                    inside = where % spread[i] == 0 and 0 <= where // spread[i] < v.shape[spatial[i]]
                    at.append(where // spread[i] if inside else None)
                if None in at:
                    continue
                for i in range(per_group):
                    unit = moved[(*at, (c // out_per_group) * per_group + i)]
                    edges.append(reader.through(unit, weight, (*tap, i, c), fan_in))
            result[(*place, c)] = reader.plus(*edges)
        return arranged(result, [*letters, "C"], [x for x in out if x != "N"])

    size = {**dict(zip(letters, counts, strict=True)), "C": n}
    like = dataclasses.replace(
        v,
        shape=tuple(size[x] for x in out if x != "N"),
        batch=out.index("N"),
        paths=v.paths * fan_in,
        bent=False,
    )
    made = w.step(code, run, v, like, reads=(weight.leaf,))
    return by_unit.alike_along(w, made, [x for x in out if x != "N"].index("C")) if w.chance(ALIKE) else made


# ------------------------------------------------------------------------ elementwise, by parameters


def spread_and_summed(w: Writer, v: Value) -> Value:
    """A dense layer written as a product and a sum: every weight is a layer of its own, of fan-in one."""
    a, n = w.integer(0, len(v.shape) - 1), w.integer(1, 3)
    weight = w.weight((v.shape[a], n))
    f = v.axis(a)
    laid = [1] * (v.rank + 1)
    laid[f], laid[-1] = v.shape[a], n
    code = f"({v.name}[..., None] * {weight.text}.reshape({tuple(laid)})).sum({f})"
    rest = [b for b in range(len(v.shape)) if b != a]

    def run(reader: Reader, units: np.ndarray) -> np.ndarray:
        moved = units.transpose([*rest, a])
        out = np.empty((*moved.shape[:-1], n), object)
        for *place, j in np.ndindex(*out.shape):
            row = moved[tuple(place)]
            out[(*place, j)] = reader.plus(*(reader.through(u, weight, (i, j), 1) for i, u in enumerate(row)))
        return out

    shape, batch = (*(v.shape[b] for b in rest), n), v.batch - (f < v.batch)
    like = dataclasses.replace(v, shape=shape, batch=batch, paths=v.paths * v.shape[a], bent=False)
    return w.step(code, run, v, like, maybe=True, reads=(weight.leaf,))  # behind a norm the product is a link of it
