"""What a network may do between its layers, drawn at random; and whole networks."""

import dataclasses
import math

import activations
import by_unit
import layers
import moving
import numpy as np
import pooling
from oracles import dictionary as paths
from writing import Gate, Network, Reader, Value, Writer

# More of them would take long in the oracle.
MOST_UNITS, MOST_PATHS = 24, 150


def gated(units: np.ndarray, gates: np.ndarray, number: float) -> np.ndarray:
    out = np.empty(units.shape, object)
    for place in np.ndindex(*units.shape):
        out[place] = paths.times(units[place], gates[(slice(None), *place)] * number)
    return out


def activation(w: Writer, v: Value) -> Value:
    text, own, number = w.one(*activations.HARD) if w.chance(0.8) else w.one(*activations.SOFT)
    flat = len(v.shape) > 1 and v.batch < len(v.shape) and w.chance(0.1)
    gate = Gate(v.shape, v.batch, own, flat)
    code = text.format(h="u" if flat else v.name)
    if flat:
        code = f"(lambda u: {code})({v.name}.reshape(-1, {v.name}.shape[-1])).reshape({v.name}.shape)"

    def run(reader: Reader, units: np.ndarray) -> np.ndarray:
        return gated(units, reader.gate(gate, paths.values(units)), number)

    return w.step(code, run, v, dataclasses.replace(v, bent=True), gates=(gate,))


def scanned(w: Writer, v: Value) -> Value:
    """Layers of one width, one after another, by `lax.scan`."""
    width, length = v.shape[-1], 2
    if v.batch == v.rank - 1 or v.bent:
        return by_unit.bias(w, v)
    first, shift = w.weight((length, width, width), 0.0), w.weight((length, 1), 0.0)
    below = w.chance(0.3)
    act = "jnp.minimum(u, 0.0)" if below else "jax.nn.relu(u)"
    laid = (1,) * v.rank
    code = (
        f"lax.scan(lambda h, p: (lambda u: ({act}, None))(h @ p[0] + p[1].reshape({laid})), {v.name}, "
        f"({first.text}, {shift.text}), reverse={(turned := w.chance(0.3))})[0]"
    )
    gate = Gate(v.shape, v.batch, activations.hard(*((1.0, 0.0) if below else (0.0, 1.0))))

    def run(reader: Reader, units: np.ndarray) -> np.ndarray:
        number = reader.step
        for t in reversed(range(length)) if turned else range(length):
            q = np.empty(units.shape, object)
            element, reader.step = shift[t, 0], (*number, t, "shift")
            reader.use(element, 1.0)
            addend = paths.through(reader.constant(1), element, reader.number(element), shift.constant)
            reader.step = (*number, t)
            for *place, j in np.ndindex(*units.shape):
                row = units[tuple(place)]
                edges = [reader.through(u, first, (t, i, j), width) for i, u in enumerate(row)]
                q[(*place, j)] = reader.plus(*edges, addend)
            units = gated(q, reader.gate(gate, paths.values(q)), 1.0)
        return units

    like = dataclasses.replace(v, bent=True, paths=(v.paths * width + 1) * width + 1)
    return w.step(code, run, v, like, gates=(gate,) * length, reads=(first.leaf, shift.leaf))


def given(w: Writer, v: Value) -> Value:
    """A gated network whose gates another function of x makes, within f."""
    size = math.prod(v.shape)
    factor = w.numbers(1, size)
    text = f"jnp.tanh(x.reshape(N, -1).sum(1, keepdims=True) * {w.constant(factor)})"
    moved = f"jnp.moveaxis({v.name}, {v.batch}, 0)"
    code = (
        f"npk.gated(lambda p, u: jax.nn.relu(u))(None, {moved}.reshape(N, {size}), ({text},))"
        f".reshape({', '.join(['N', *map(str, v.shape)])})"
    )
    gate = Gate((size,), 0, None)

    def run(reader: Reader, units: np.ndarray) -> np.ndarray:
        own = np.tanh(reader.x.reshape(reader.samples, -1).sum(1, keepdims=True) * factor)
        gates = reader.gate(dataclasses.replace(gate, own=lambda q: own), None)
        return gated(units, gates.reshape(-1, *units.shape), 1.0)

    return w.step(code, run, v, dataclasses.replace(v, batch=0, bent=True), gates=(gate,))


# ----------------------------------------------------------------------------- numbers, sums, branches


def number(w: Writer, v: Value) -> Value:
    """Times numbers, or plus numbers; constants may have roots."""
    laid = [s if w.chance(0.5) else 1 for s in v.full]
    laid[v.batch] = 1
    values = w.numbers(*laid)
    text = w.constant(values)
    h = v.name
    spread = np.broadcast_to(np.moveaxis(values, v.batch, 0)[0], v.shape)
    spelling = w.integer(0, 7)
    factor, addend = np.ones(v.shape), None
    if spelling == 0:
        code, factor = f"{h} * {text}", spread
    elif spelling == 1:
        code, factor = f"{h} / {text}", 1 / spread
    elif spelling == 2:
        code, factor = f"{h} * jnp.sqrt(jnp.abs({text}))", np.sqrt(np.abs(spread))
    elif spelling == 3:
        code, factor = f"{h} * 2.0 ** -0.5", np.full(v.shape, 2**-0.5)
    elif spelling == 4:
        code, factor = f"-{h}", -factor
    elif spelling == 5:
        code, addend = f"{h} + {text}", spread
    elif spelling == 6:
        code, addend = f"{text} - {h}", spread
        factor = -factor
    else:
        code, factor = w.one((f"0.5 * {h}", 0.5 * factor), (f"lax.stop_gradient({h})", factor))

    def run(reader: Reader, units: np.ndarray) -> np.ndarray:
        out = np.empty(units.shape, object)
        for place in np.ndindex(*units.shape):
            out[place] = paths.times(units[place], factor[place])
            if addend is not None:
                out[place] = reader.plus(out[place], reader.constant(addend[place]))
        return out

    return w.step(code, run, v, v, chain=True)


def total(w: Writer, parts: list[tuple[Value, float]], v: Value) -> Value:
    """The sum of values of one shape, times numbers."""
    pieces = [p.name if c == 1.0 else f"{c} * {p.name}" for p, c in parts]
    code = " + ".join(pieces)
    if len(parts) == 2 and parts[1][1] == 1.0 and w.chance(0.2):
        code = f"{pieces[0]} - (-{pieces[1]})"
    elif all(c == 1.0 for _, c in parts) and w.chance(0.15):
        code = f"jnp.stack([{', '.join(pieces)}]).sum(0)"

    def run(reader: Reader, *arrays: np.ndarray) -> np.ndarray:
        return paths.each(
            lambda *units: reader.plus(*(paths.times(u, c) for u, (_, c) in zip(units, parts, strict=True))), *arrays
        )

    like = dataclasses.replace(v, paths=sum(p.paths for p, _ in parts), bent=any(p.bent for p, _ in parts))
    return w.step(code, run, tuple(p for p, _ in parts), like)


def mixed(w: Writer, v: Value) -> Value:
    """A value and what was moved about in it, added."""
    others = [moving.move(w, v, same=True) for _ in range(w.integer(1, 2))]
    return total(w, [(v, w.one(1.0, 1.0, 2.0, -0.5)), *((o, w.one(1.0, 1.0, -1.0)) for o in others)], v)


def branch(w: Writer, v: Value) -> Value:
    """Two layers, or one, that end in the shape of v."""
    a = w.integer(0, len(v.shape) - 1)
    inner = w.integer(1, 3)
    u = v
    if w.chance(0.4) and not u.bent:
        u = activation(w, u)
    if w.chance(0.6):
        u = layers.contraction(w, u, [a], [], inner, keep=True)
        if w.chance(0.4):
            u = w.one(by_unit.bias, by_unit.root, by_unit.elementwise)(w, u)
        u = activation(w, u) if not u.bent else u
    u = layers.contraction(w, u, [a], [], v.shape[a], keep=True)
    if w.chance(0.3):
        u = w.one(by_unit.bias, by_unit.root)(w, u)
    return u


def residual(w: Writer, v: Value) -> Value:
    short = v
    if w.chance(0.3):
        short = moving.move(w, v, same=True)
    elif w.chance(0.2):
        short = number(w, v)
    parts = [(branch(w, v), w.one(1.0, 1.0, 1.0, 0.5)), (short, 1.0)]
    if w.chance(0.2):
        parts.append((branch(w, v), 1.0))
    if w.chance(0.5):
        parts.reverse()
    return total(w, parts, v)


def joined(w: Writer, v: Value) -> Value:
    """Values laid end to end, or on top of each other; some of them constants."""
    parts = [w.one(branch, move_same, number, itself)(w, v) for _ in range(w.integer(1, 2))]
    parts.insert(w.integer(0, len(parts)), v)
    a = w.integer(0, len(v.shape) - 1)
    names = [p.name for p in parts]
    ones = w.chance(0.2)
    if ones:
        names.append(f"jnp.ones_like({v.name})" if w.chance(0.5) else f"jnp.ones({v.name}.shape, {v.name}.dtype)")
    fresh = w.chance(0.3) and len(v.shape) < 4
    if fresh:
        a = w.integer(0, len(v.shape))
        full = a + (a > v.batch)
        batch = v.batch + (full <= v.batch)
        code = f"jnp.stack([{', '.join(names)}], axis={full})"
        shape = (*v.shape[:a], len(names), *v.shape[a:])
    else:
        code, batch = f"jnp.concatenate([{', '.join(names)}], axis={v.axis(a)})", v.batch
        shape = tuple(s * len(names) if b == a else s for b, s in enumerate(v.shape))

    def run(reader: Reader, *arrays: np.ndarray) -> np.ndarray:
        laid = [*arrays]
        if ones:
            laid.append(paths.each(lambda u: reader.constant(1.0), arrays[0]))
        return np.stack(laid, a) if fresh else np.concatenate(laid, a)

    like = dataclasses.replace(
        v, shape=shape, batch=batch, paths=max(p.paths for p in parts), bent=any(p.bent for p in parts)
    )
    return w.step(code, run, tuple(parts), like)


def turns(w: Writer, v: Value) -> Value:
    """Layers over two axes in turn, each with what is the same for its units, and a sum over those of the first."""
    if len(v.shape) == 1:
        v = w.move(v, f"{v.name}[..., None]", v.batch, chain=True)
    first, second = (int(a) for a in w.rng.permutation(len(v.shape))[:2])
    for axis, width in ((first, w.integer(2, 3)), (second, w.integer(1, 2))):
        v = layers.contraction(w, v, [axis], [], width, keep=True)
        if w.chance(0.8):
            v = by_unit.alike_along(w, v, axis)
        if w.chance(0.9) and not v.bent:
            v = activation(w, v)
        if w.chance(0.1):
            v = by_unit.alike_along(w, v, axis)
    return pooling.add_up(w, v, [first]) if w.chance(0.9) else v


def move_same(w: Writer, v: Value) -> Value:
    return moving.move(w, v, same=True)


def itself(w: Writer, v: Value) -> Value:
    return v


def norm(w: Writer, v: Value) -> Value:
    """A chain of elementwise operations by parameters and numbers, with or without a root."""
    for _ in range(w.integer(1, 3)):
        v = w.one(by_unit.bias, by_unit.elementwise, number, by_unit.root, moving.reshape)(w, v)
    return v


BLOCKS = [
    (layers.dense, 4), (layers.convolution, 3), (by_unit.bias, 2), (by_unit.constant_layer, 0.5),
    (layers.spread_and_summed, 0.5), (activation, 5), (norm, 2), (residual, 2), (mixed, 1), (joined, 1), (number, 1),
    (moving.move, 3), (moving.reshape, 3), (pooling.add_up, 1), (pooling.maximum, 1), (pooling.centred, 0.7),
    (pooling.multiplied, 1.2),
    (turns, 3), (scanned, 0.5), (given, 0.5),
]  # fmt: skip
# What the widths of layers are drawn from.
WIDTHS = (1, 2, 3)


def block(w: Writer, v: Value) -> Value:
    blocks, weights = zip(*BLOCKS, strict=True)
    drawn = blocks[int(w.rng.choice(len(blocks), p=np.array(weights) / sum(weights)))]
    if drawn is layers.dense:
        return layers.dense(w, v, w.one(*WIDTHS))
    if drawn is layers.convolution and not 2 <= len(v.shape) <= 3:
        return layers.dense(w, v, w.one(*WIDTHS))
    if drawn in (activation, pooling.maximum, given) and v.bent:
        return by_unit.bias(w, v)
    return drawn(w, v)


def head(w: Writer, v: Value) -> Value:
    """The logits [N, K]: by a layer over all that is left, or a single sum."""
    if w.chance(0.1):
        axes = tuple(v.axis(a) for a in range(len(v.shape)))
        code = f"{v.name}.sum(axis={axes}).reshape(N, 1)"

        def run(reader: Reader, units: np.ndarray) -> np.ndarray:
            out = np.empty(1, object)
            out[0] = reader.plus(*units.ravel())
            return out

        return w.step(code, run, v, dataclasses.replace(v, shape=(1,), batch=0, paths=v.paths * math.prod(v.shape)))
    v = layers.contraction(w, v, list(range(len(v.shape))), [], w.one(1, 1, 2, 3), keep=False)
    if v.batch:
        v = w.move(v, f"{v.name}.T", 0, chain=True)
    if w.chance(0.3):
        v = by_unit.bias(w, v)
    if w.chance(0.1):
        v = w.one(by_unit.root, by_unit.elementwise)(w, v)
    if w.chance(0.1):
        k = w.integer(0, v.shape[0] - 1)
        v = w.move(v, f"{v.name}[:, {k}:{k + 1}]", 0)
    return v


def draw(seed: int) -> Network:
    """A network of a few steps."""
    for attempt in range(1000):
        rng = np.random.default_rng([seed, attempt])
        rank = int(rng.choice([1, 2, 3], p=[0.35, 0.4, 0.25]))
        w = Writer(rng, tuple(int(s) for s in rng.choice([1, 2, 3, 4], rank, p=[0.25, 0.35, 0.3, 0.1])))
        v, fits = w.input, True
        for _ in range(w.integer(1, 8)):
            v = block(w, v)
            if math.prod(v.shape) > MOST_UNITS or v.paths > MOST_PATHS or not v.shape or 0 in v.shape:
                fits = False
                break
        if not fits:
            continue
        network = w.network(head(w, v))
        if network.certain and network.output.paths <= 4 * MOST_PATHS:
            return network
    raise AssertionError("no network of the size asked for")
