"""What moves values about: positions in another order, fewer or more of them, and other axes."""

import math

import layers
from writing import Value, Writer


def move(w: Writer, v: Value, same: bool = False) -> Value:
    """Positions in another order, fewer or more of them; with `same` of the same shape."""
    h, rank = v.name, len(v.shape)
    a = w.integer(0, rank - 1)
    f, size = v.axis(a), v.shape[a]
    spelling = (
        w.one("flip", "roll", "shift")
        if same
        else w.one(*"flip roll shift cut step pick one pad tile repeat wrap grow edge mask pairs part".split())
    )
    if spelling == "flip":
        cut = v.at(**{f"_{a}": "::-1"})
        return w.move(v, w.one(f"jnp.flip({h}, {f})", f"{h}{cut}"), v.batch)
    if spelling == "roll":
        return w.move(v, f"jnp.roll({h}, {w.integer(-2, 2)}, axis={f})", v.batch)
    if spelling == "shift":  # by one place, zeros come in
        config = [((1, -1) if w.chance(0.5) else (-1, 1), 0) if full == f else ((0, 0), 0) for full in range(v.rank)]
        low = config[f][0][0]
        text = f"lax.pad({h}, jnp.zeros((), {h}.dtype), {[(*lh, i) for lh, i in config]})"
        zeros = f"np.zeros_like({h}{v.at(**{f'_{a}': ':1'})})"
        rest = h + v.at(**{f"_{a}": ":-1" if low == 1 else "1:"})
        pair = f"{zeros}, {rest}" if low == 1 else f"{rest}, {zeros}"
        return w.move(v, text, v.batch, f"np.concatenate([{pair}], {f})")
    if spelling == "cut" and size > 1:
        low = w.integer(0, size - 1)
        high = w.integer(low + 1, size)
        cut = v.at(**{f"_{a}": f"{low}:{high}"})
        return w.move(v, w.one(f"{h}{cut}", f"lax.slice_in_dim({h}, {low}, {high}, axis={f})"), v.batch, f"{h}{cut}")
    if spelling == "step" and size > 1:
        return w.move(v, h + v.at(**{f"_{a}": f"{w.integer(0, 1)}::2"}), v.batch)
    if spelling == "pick":
        picked = [w.integer(0, size - 1) for _ in range(w.integer(1, size + 1))]
        at = v.at(**{f"_{a}": f"np.array({picked})"})
        text = w.one(f"{h}{at}", f"jnp.take({h}, np.array({picked}), axis={f})")
        return w.move(v, text, v.batch, f"np.take({h}, {picked}, axis={f})")
    if spelling == "one" and rank > 1:
        index = w.integer(-size, size - 1)
        batch = v.batch - (f < v.batch)
        return w.move(v, h + v.at(**{f"_{a}": str(index)}), batch)
    if spelling == "pad":
        low, high, inner = w.integer(0, 1), w.integer(0, 1), w.one(0, 0, 1)
        config = [(low, high, inner) if full == f else (0, 0, 0) for full in range(v.rank)]
        count = low + high + size + (size - 1) * inner
        chosen = [-1] * count
        for i in range(size):
            chosen[low + i * (inner + 1)] = i
        zeros = f"np.concatenate([{h}, np.zeros_like({h}{v.at(**{f'_{a}': ':1'})})], {f})"
        text = f"lax.pad({h}, jnp.zeros((), {h}.dtype), {config})"
        if not inner and w.chance(0.5):
            text = f"jnp.pad({h}, {[lh[:2] for lh in config]})"
        return w.move(v, text, v.batch, f"np.take({zeros}, {chosen}, axis={f})")
    if spelling == "tile":
        many = [w.integer(1, 2) if full == f else 1 for full in range(v.rank)]
        return w.move(v, f"jnp.tile({h}, {tuple(many)})", v.batch, maybe=True)
    if spelling == "repeat":
        return w.move(v, f"jnp.repeat({h}, 2, axis={f})", v.batch, maybe=True)
    if spelling == "wrap":
        low, high = w.integer(0, 1), w.integer(1, size)
        parts = [h + v.at(**{f"_{a}": f"{size - low}:"})] * (low > 0) + [h, h + v.at(**{f"_{a}": f":{high}"})]
        return w.move(v, f"jnp.concatenate([{', '.join(parts)}], axis={f})", v.batch)
    if spelling == "edge":
        sides = [(w.integer(0, 1), w.integer(0, 1)) if full == f else (0, 0) for full in range(v.rank)]
        mode = w.one("edge", "wrap", "symmetric")
        return w.move(v, f"jnp.pad({h}, {sides}, mode={mode!r})", v.batch)
    if spelling == "mask":
        kept = [w.chance(0.6) for _ in range(size)]
        kept[w.integer(0, size - 1)] = True
        return w.move(v, f"{h}{v.at(**{f'_{a}': f'np.array({kept})'})}", v.batch)
    if spelling == "pairs" and rank > 1 and v.batch == 0:  # two axes read together
        a = w.integer(0, rank - 2)
        count = w.integer(1, 3)
        rows = [[w.integer(0, v.shape[b] - 1) for _ in range(count)] for b in (a, a + 1)]
        at = v.at(**{f"_{a}": f"np.array({rows[0]})", f"_{a + 1}": f"np.array({rows[1]})"})
        return w.move(v, f"{h}{at}", 0)
    if spelling == "part":
        k = w.integer(1, size)
        start = w.integer(0, size - k)
        piece = f"{h}{v.at(**{f'_{a}': f'{start}:{start + k}'})}"
        return w.move(v, f"lax.dynamic_slice_in_dim({h}, {start}, {k}, axis={f})", v.batch, piece)
    if spelling == "grow" and size == 1:
        laid = [str(s) for s in v.full]
        laid[v.batch], laid[f] = "N", str(w.integer(1, 3))
        return w.move(v, f"jnp.broadcast_to({h}, ({', '.join(laid)}))", v.batch, maybe=True)
    return w.move(v, f"jnp.flip({h}, {f})", v.batch)


def reshape(w: Writer, v: Value) -> Value:
    """Other axes, in another order, of the sample and of the batch."""
    rank = len(v.shape)
    spelling = w.one(
        "transpose", "transpose", "split", "join", "expand", "expand", "squeeze", "batch", "batch", "order"
    )
    if spelling == "transpose" and rank > 1:
        return layers.transposed(w, v, [int(i) for i in w.rng.permutation(rank)], w.integer(0, rank))
    if spelling == "split" and rank < 4:
        a = w.integer(0, rank - 1)
        part = w.one(*[d for d in range(1, v.shape[a] + 1) if v.shape[a] % d == 0])
        shape = (*v.shape[:a], part, v.shape[a] // part, *v.shape[a + 1 :])
        return _reshaped(w, v, shape, v.batch + (v.axis(a) < v.batch))
    together = [a for a in range(rank - 1) if v.axis(a) + 1 == v.axis(a + 1)]
    if spelling == "join" and together:
        a = w.one(*together)
        shape = (*v.shape[:a], v.shape[a] * v.shape[a + 1], *v.shape[a + 2 :])
        return _reshaped(w, v, shape, v.batch - (v.axis(a) < v.batch))
    if spelling == "expand" and rank < 4:
        place = w.integer(0, v.rank)
        batch = v.batch + (place <= v.batch)
        index = ", ".join([":"] * place + ["None"])
        return w.move(v, w.one(f"jnp.expand_dims({v.name}, {place})", f"{v.name}[{index}]"), batch, chain=True)
    if spelling == "order" and rank > 1:  # another order and one axis for all, in one step
        order = [int(i) for i in w.rng.permutation(rank)]
        full = (v.batch, *(v.axis(a) for a in order))
        size = math.prod(v.shape)
        code = f"lax.reshape({v.name}, (N, {size}), dimensions={full})"
        return w.move(v, code, 0, f"{v.name}.transpose({full}).reshape(1, {size})", chain=True)
    ones = [a for a in range(rank) if v.shape[a] == 1]
    if spelling == "squeeze" and ones and rank > 1:
        f = v.axis(w.one(*ones))
        return w.move(v, f"jnp.squeeze({v.name}, {f})", v.batch - (f < v.batch), chain=True)
    batch = w.integer(0, rank)
    return w.move(v, f"jnp.moveaxis({v.name}, {v.batch}, {batch})", batch, chain=True)


def _reshaped(w: Writer, v: Value, shape: tuple[int, ...], batch: int) -> Value:
    full = [str(s) for s in shape]
    full.insert(batch, "N")
    return w.move(v, f"{v.name}.reshape({', '.join(full)})", batch, chain=True)
