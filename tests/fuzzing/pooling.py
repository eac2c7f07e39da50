"""Maxima, sums and means over axes and windows of a sample."""

import dataclasses
import math

import numpy as np
from oracles import dictionary as paths
from writing import Gate, Reader, Value, Writer


def maximum(w: Writer, v: Value) -> Value:
    """Max-pooling over whole axes, or over windows."""
    rank = len(v.shape)
    if w.chance(0.5):
        axes = w.some(range(rank))
        kept = [a for a in range(rank) if a not in axes]
        shape = tuple(v.shape[a] for a in kept)
        batch = sum(v.axis(a) < v.batch for a in kept)
        code = f"{v.name}.max(axis={tuple(v.axis(a) for a in axes)})"

        def windows(array: np.ndarray) -> np.ndarray:
            ordered = array.transpose([*kept, *(a for a in range(rank) if a in axes)])
            return ordered.reshape(*shape, -1)

    else:
        size = [w.integer(1, min(3, s)) for s in v.shape]
        strides = [w.one(1, 1, 2) for _ in v.shape]
        padding = [w.one((0, 0), (0, 0), (1, 0), (0, 1)) if k > 1 else (0, 0) for k in size]
        shape = tuple((s + sum(p) - k) // t + 1 for s, p, k, t in zip(v.shape, padding, size, strides, strict=True))
        batch = v.batch
        full = [list(row) for row in (size, strides, padding)]
        for row, own in zip(full, (1, 1, (0, 0)), strict=True):
            row.insert(v.batch, own)
        code = f"lax.reduce_window({v.name}, -jnp.inf, lax.max, {tuple(full[0])}, {tuple(full[1])}, {full[2]})"

        def windows(array: np.ndarray) -> np.ndarray:
            out = np.empty((*shape, math.prod(size)), object)
            for place in np.ndindex(*shape):
                for number, tap in enumerate(np.ndindex(*size)):
                    at = [o * t + k - low for o, t, k, (low, _) in zip(place, strides, tap, padding, strict=True)]
                    inside = all(0 <= i < s for i, s in zip(at, v.shape, strict=True))
                    out[(*place, number)] = array[tuple(at)] if inside else None
            return out

    count = windows(np.zeros(v.shape, object)).shape[-1]

    def own(q: np.ndarray) -> np.ndarray:
        return (q.argmax(-1)[..., None] == np.arange(count)).astype(float)

    gate = Gate((*shape, count), batch, own)

    def run(reader: Reader, units: np.ndarray) -> np.ndarray:
        laid = windows(units)
        lowest = np.full(reader.samples, -np.inf)
        q = np.stack([lowest if u is None else u.value for u in laid.ravel()], 1).reshape(-1, *laid.shape)
        gates = reader.gate(gate, q)
        out = np.empty(shape, object)
        for place in np.ndindex(*shape):
            chosen = [
                paths.times(u, gates[(slice(None), *place, k)]) for k, u in enumerate(laid[place]) if u is not None
            ]
            out[place] = reader.plus(*chosen)
        return out

    like = dataclasses.replace(v, shape=shape, batch=batch, bent=True, paths=v.paths * count)
    return w.step(code, run, v, like, gates=(gate,))


def add_up(w: Writer, v: Value, over: list[int] | None = None) -> Value:
    """Sums and means over axes, those given or some, and over windows."""
    rank = len(v.shape)
    mean = w.chance(0.5)
    if over or w.chance(0.6):
        axes = over or w.some(range(rank))
        kept = [a for a in range(rank) if a not in axes]
        full = tuple(v.axis(a) for a in axes)
        keep = w.chance(0.3)
        share = 1 / math.prod(v.shape[a] for a in axes) if mean else 1.0
        name = "mean" if mean else "sum"
        code = w.one(
            f"{v.name}.{name}(axis={full}, keepdims={keep})",
            f"jnp.{name}({v.name}, {full}, keepdims={keep})",
        )
        if not keep and not mean and w.chance(0.4):
            letters = "abcdef"[: v.rank]
            rest = "".join(x for i, x in enumerate(letters) if i not in full)
            code = f"jnp.einsum('{letters}->{rest}', {v.name})"
        shape = tuple(1 if a in axes else s for a, s in enumerate(v.shape)) if keep else tuple(v.shape[a] for a in kept)
        batch = v.batch if keep else sum(v.axis(a) < v.batch for a in kept)
        count = math.prod(v.shape[a] for a in axes)

        def run(reader: Reader, units: np.ndarray) -> np.ndarray:
            laid = units.transpose([*kept, *axes]).reshape(*(v.shape[a] for a in kept), -1)
            out = np.empty(laid.shape[:-1], object)
            for place in np.ndindex(*out.shape):
                out[place] = paths.times(reader.plus(*laid[place]), share)
            return out.reshape(shape)

    else:
        size = [w.integer(1, min(2, s)) for s in v.shape]
        strides = [w.one(1, 1, 2) for _ in v.shape]
        dilation = [w.one(1, 1, 2) if k > 1 and s > 2 else 1 for k, s in zip(size, v.shape, strict=True)]
        padding = [w.one((0, 0), (1, 0), (0, 1)) if k > 1 else (0, 0) for k in size]
        shape = tuple(
            (s + sum(p) - (k - 1) * d - 1) // t + 1
            for s, p, k, t, d in zip(v.shape, padding, size, strides, dilation, strict=True)
        )
        batch, count, share = v.batch, math.prod(size), 1 / math.prod(size) if mean else 1.0
        full = [list(row) for row in (size, strides, padding, dilation)]
        for row, own in zip(full, (1, 1, (0, 0), 1), strict=True):
            row.insert(v.batch, own)
        code = (
            f"lax.reduce_window({v.name}, 0.0, lax.add, {tuple(full[0])}, {tuple(full[1])}, {full[2]}, "
            f"window_dilation={tuple(full[3])})" + (f" / {float(count)}" if mean else "")
        )

        def run(reader: Reader, units: np.ndarray) -> np.ndarray:
            out = np.empty(shape, object)
            for place in np.ndindex(*shape):
                inside = []
                for tap in np.ndindex(*size):
                    at = [
                        o * t + k * d - low
                        for o, t, k, d, (low, _) in zip(place, strides, tap, dilation, padding, strict=True)
                    ]
                    if all(0 <= i < s for i, s in zip(at, v.shape, strict=True)):
                        inside.append(units[tuple(at)])
                out[place] = paths.times(reader.plus(*inside), share)
            return out

    return w.step(code, run, v, dataclasses.replace(v, shape=shape, batch=batch, paths=v.paths * count))


def centred(w: Writer, v: Value) -> Value:
    """Less its mean over some axes."""
    axes = w.some(range(len(v.shape)))
    full = tuple(v.axis(a) for a in axes)
    mean = f"{v.name}.mean(axis={full}, keepdims=True)"
    code = w.one(f"{v.name} - {mean}", f"{v.name} + {mean}", f"{mean} - {v.name}")
    one, other = (1.0, -1.0) if code.startswith(f"{v.name} -") else (1.0, 1.0) if "+" in code else (-1.0, 1.0)
    rest = [a for a in range(len(v.shape)) if a not in axes]
    count = math.prod(v.shape[a] for a in axes)

    def run(reader: Reader, units: np.ndarray) -> np.ndarray:
        rows = units.transpose([*rest, *axes]).reshape(*(v.shape[a] for a in rest), -1)
        out = np.empty(units.shape, object)
        for place in np.ndindex(*units.shape):
            row = rows[tuple(place[a] for a in rest)]
            away = [paths.times(u, other / count) for u in row]
            out[place] = reader.plus(paths.times(units[place], one), *away)
        return out

    return w.step(code, run, v, dataclasses.replace(v, paths=v.paths * count))


def multiplied(w: Writer, v: Value) -> Value:
    """By a constant matrix along an axis, in some spelling; or cumulative sums, or sums into places."""
    axis = w.integer(0, len(v.shape) - 1)
    size, full, rank = v.shape[axis], v.axis(axis), v.rank
    kind = w.one("matrix", "matrix", "matrix", "cumulative", "places")
    if kind == "cumulative":
        reverse = w.chance(0.4)
        matrix = np.triu(np.ones((size, size))) if reverse else np.tril(np.ones((size, size)))
        code = w.one(f"jnp.cumsum({v.name}, {full})", f"lax.cumsum({v.name}, {full})")
        code = f"lax.cumsum({v.name}, {full}, reverse=True)" if reverse else code
    elif kind == "places":
        count = w.integer(1, 3)
        places = w.rng.integers(0, count + 1, size)  # beyond the last one nothing is added
        matrix = (places == np.arange(count)[:, None]).astype(float)
        moved = f"jnp.moveaxis({v.name}, {full}, 0)"
        code = f"jnp.moveaxis(jax.ops.segment_sum({moved}, np.array({places.tolist()}), {count}), 0, {full})"
    else:
        count = w.integer(1, 3)
        matrix = w.numbers(count, size) * (w.rng.random((count, size)) < 0.8)
        letters = "abcdef"[:rank]
        made = letters.replace(letters[full], "z")
        constant = w.constant(matrix)
        code = w.one(
            f"jnp.einsum('z{letters[full]},{letters}->{made}', {constant}, {v.name})",
            f"jnp.einsum('{letters},z{letters[full]}->{made}', {v.name}, {constant})",
            f"jnp.moveaxis(jnp.tensordot({v.name}, {constant}, ({full}, 1)), -1, {full})",
            f"jnp.moveaxis(jnp.moveaxis({v.name}, {full}, -1) @ {constant}.T, -1, {full})",
        )
    shape = (*v.shape[:axis], len(matrix), *v.shape[axis + 1 :])

    def run(reader: Reader, units: np.ndarray) -> np.ndarray:
        out = np.empty(shape, object)
        for place in np.ndindex(*shape):
            read = [(*place[:axis], i, *place[axis + 1 :]) for i in range(size)]
            row = zip(read, matrix[place[axis]], strict=True)
            out[place] = reader.plus(*(paths.times(units[at], number) for at, number in row if number))
        return out

    return w.step(code, run, v, dataclasses.replace(v, shape=shape, paths=v.paths * size))
