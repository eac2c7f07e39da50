"""What acts on every unit by itself: biases, weights of its own, normalisations, in many spellings."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from oracles import dictionary as paths
from writing import Reader, Value, Writer


def _spread(w: Writer, v: Value, among: Sequence[int] | None = None) -> tuple[tuple[int, ...], list[int], str]:
    """The shape of a parameter for some axes of v, these axes, and the text that lays it out along all."""
    among = range(len(v.shape)) if among is None else among
    axes = w.some(among) if among and w.chance(0.9) else []
    shape = tuple(v.shape[a] for a in axes)
    laid = [1] * v.rank
    for a in axes:
        laid[v.axis(a)] = v.shape[a]
    if not axes:
        return shape, axes, "{}" if w.chance(0.5) else f"{{}}.reshape({tuple(laid)})"
    index = ", ".join(":" if full in map(v.axis, axes) else "None" for full in range(v.rank))
    whole = ", ".join(str(s) if full != v.batch else "N" for full, s in enumerate(v.full))
    return (
        shape,
        axes,
        w.one(
            f"{{}}.reshape({tuple(laid)})",
            f"{{}}[{index}]",
            f"lax.broadcast_in_dim({{}}, ({whole}), {tuple(map(v.axis, axes))})",
        ),
    )


def bias(w: Writer, v: Value, among: Sequence[int] | None = None) -> Value:
    """Added for some axes, of those `among` which they are drawn."""
    shape, axes, layout = _spread(w, v, among)
    weight = w.weight(shape, repeats=0.05)
    text = layout.format(weight.text)
    sign, code = w.one(
        (1, f"{v.name} + {text}"), (1, f"{text} + {v.name}"), (-1, f"{v.name} - {text}"), (1, f"{v.name} - (-{text})")
    )

    def run(reader: Reader, units: np.ndarray) -> np.ndarray:
        out = np.empty(units.shape, object)
        for place in np.ndindex(*units.shape):
            element = weight[tuple(place[a] for a in axes)]
            factor = sign * weight.constant
            if reader.fixed:
                addend = reader.constant(factor * reader.number(element))
            else:
                reader.use(element, 1.0)
                addend = paths.through(reader.constant(1), element, reader.number(element), factor)
            out[place] = reader.plus(units[place], addend)
        return out

    return w.step(code, run, v, dataclasses.replace(v, paths=v.paths + 1, bent=False), chain=True, reads=(weight.leaf,))


def elementwise(w: Writer, v: Value, among: Sequence[int] | None = None) -> Value:
    """Weights for some axes, of those `among` which they are drawn."""
    shape, axes, layout = _spread(w, v, among)
    weight = w.weight(shape)
    text = layout.format(weight.text)
    code = w.one(f"{v.name} * {text}", f"{text} * {v.name}")
    plain = len(axes) > 0 and w.chance(0.2)
    if plain:  # as a product of matrices without a sum: a layer
        letters = "abcdef"[: v.rank]
        code = (
            f"jnp.einsum('{letters},{''.join(letters[v.axis(a)] for a in axes)}->{letters}', {v.name}, {weight.text})"
        )

    def run(reader: Reader, units: np.ndarray) -> np.ndarray:
        out = np.empty(units.shape, object)
        for place in np.ndindex(*units.shape):
            key = tuple(place[a] for a in axes)
            if reader.fixed:
                out[place] = paths.times(units[place], reader.number(weight[key]) * weight.constant)
            else:
                out[place] = reader.through(units[place], weight, key, 1)
        return out

    like = dataclasses.replace(v, bent=False)
    return w.step(code, run, v, like, chain=not plain, maybe=plain, reads=(weight.leaf,))


def alike_along(w: Writer, v: Value, axis: int) -> Value:
    """Biases or weights of positions, or one for all: the same number for every unit along an axis."""
    others = [a for a in range(len(v.shape)) if a != axis]
    for step in w.one((bias,), (bias,), (bias,), (bias,), (elementwise,), (bias, elementwise), (elementwise, bias)):
        v = step(w, v, others)
    return v


def root(w: Writer, v: Value) -> Value:
    """Divided by the root of a parameter, alone or with other parameters of the norm."""
    shape, axes, layout = _spread(w, v)
    var = w.parameter(shape, positive=True)

    def another() -> str:
        """A parameter of this shape, seldom one that something else reads too."""
        old = [name for name, value in w.params.items() if value.shape == shape and name != var]
        return w.one(*old) if old and w.chance(0.3) else w.parameter(shape)

    eps = w.one(0.0, 1e-3)
    inside = f"p['{var}']" if eps == 0.0 else f"(p['{var}'] + {eps})"
    laid = layout.format(inside)
    h, power = v.name, -0.5
    spelling = w.integer(0, 7)
    scale = shift = None
    if spelling == 0:
        code = f"{h} / jnp.sqrt({laid})"
    elif spelling == 1:
        code = f"{h} * lax.rsqrt({laid})"
    elif spelling == 2:
        code = f"{h} * {laid} ** -0.5"
    elif spelling == 3:
        code, power = f"{h} / {laid}", -1.0
    elif spelling == 4:
        scale = another()
        code = f"{h} * {layout.format(f'(p[{scale!r}] / jnp.sqrt({inside}))')}"
    elif spelling == 5:
        scale = another()
        code = f"{layout.format(f'p[{scale!r}]')} * ({h} * (1.0 / jnp.sqrt({laid})))"
    elif spelling == 6:
        scale, shift = another(), another()
        inverse = f"lax.rsqrt({inside})"
        code = (
            f"{h} * {layout.format(f'(p[{scale!r}] * {inverse})')} - "
            f"{layout.format(f'(p[{shift!r}] * p[{scale!r}] * {inverse})')}"
        )
    else:
        shift = another()
        code = f"-(({layout.format(f'p[{shift!r}]')} - {h}) / {laid} ** 0.5)"

    def run(reader: Reader, units: np.ndarray) -> np.ndarray:
        out = np.empty(units.shape, object)
        for place in np.ndindex(*units.shape):
            key = tuple(place[a] for a in axes)
            factor = float((reader.params[var][key] + eps) ** power)
            factor *= 1.0 if scale is None else float(reader.params[scale][key])
            out[place] = paths.times(units[place], factor)
            if shift is not None:
                away = reader.constant(-factor * float(reader.params[shift][key]))
                out[place] = reader.plus(out[place], away)
        return out

    like = dataclasses.replace(v, bent=False, paths=v.paths + 1)
    return w.step(code, run, v, like, chain=True, power=True, reads=(var,))


def constant_layer(w: Writer, v: Value) -> Value:
    """A layer that reads constants, added: an input of numbers has paths of its own."""
    a, k = w.integer(0, len(v.shape) - 1), w.integer(1, 2)
    values = w.numbers(k)
    weight = w.weight((k, v.shape[a]))
    laid = tuple(v.shape[a] if full == v.axis(a) else 1 for full in range(v.rank))
    code = f"{v.name} + ({w.constant(values)} @ {weight.text}).reshape({laid})"

    def run(reader: Reader, units: np.ndarray) -> np.ndarray:
        shared = [
            reader.plus(*(reader.through(reader.constant(c), weight, (i, j), k) for i, c in enumerate(values)))
            for j in range(v.shape[a])
        ]
        out = np.empty(units.shape, object)
        for place in np.ndindex(*units.shape):
            out[place] = reader.plus(units[place], shared[place[a]])
        return out

    return w.step(code, run, v, dataclasses.replace(v, paths=v.paths + k, bent=False), reads=(weight.leaf,))
