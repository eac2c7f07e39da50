"""Pieces of models, each written twice: as plain JAX, as users write it, and as an oracle with its gates by NumPy.

A piece reads a value [N, *positions, C] and the model's own input, and has the parameters `shapes`. Those named scale,
shift or `fixed…` are fixed numbers. What a piece of JAX reads of `p` the oracle reads of its book.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from oracles import polynomials as poly
from oracles.polynomials import Book, Value

EPS = 1e-3


@dataclasses.dataclass(frozen=True)
class Piece:
    """run(p, h, x) in JAX; paths(book, value, x) of the oracle; shapes: a tree of shapes, or of arrays."""

    shapes: Any
    run: Callable[[Any, jax.Array, jax.Array], jax.Array]
    paths: Callable[[Book, Value, np.ndarray], Value]
    precision: float = 1e-12  # of float64; some libraries compute softmax in float32 whatever is asked


def chain(*pieces: Piece) -> Piece:
    def run(p, h, x):
        for k, piece in enumerate(pieces):
            h = piece.run(p[f"{k}"], h, x)
        return h

    def paths(b, v, x):
        for k, piece in enumerate(pieces):
            v = piece.paths(b.at(f"{k}"), v, x)
        return v

    # A piece without parameters owns an empty dictionary.
    shapes = {f"{k}": piece.shapes for k, piece in enumerate(pieces)}
    return Piece(shapes, run, paths, max(piece.precision for piece in pieces))


def residual(*pieces: Piece) -> Piece:
    inner = chain(*pieces)

    def run(p, h, x):
        return h + inner.run(p, h, x)

    return Piece(inner.shapes, run, lambda b, v, x: v + inner.paths(b, v, x), inner.precision)


# -- layers --------------------------------------------------------------------------------------------


def dense(inputs: int, outputs: int, bias: bool = False) -> Piece:
    def run(p, h, x):
        return h @ p["w"] + p["b"] if bias else h @ p["w"]

    def paths(b, v, x):
        v = v.within(b).dense(b.names("w"))
        return v.bias(b.names("b")) if bias else v

    return Piece({"w": (inputs, outputs), **({"b": (outputs,)} if bias else {})}, run, paths)


def convolution(inputs: int, outputs: int) -> Piece:
    """Along one axis of positions, three taps, what is padded is zero."""

    def run(p, h, x):
        return jax.lax.conv_general_dilated(h, p["w"], (1,), "SAME", dimension_numbers=("NHC", "HIO", "NHC"))

    def lies(shift):
        def lie(c):
            out = np.zeros_like(c)
            for place in range(c.shape[2]):
                if 0 <= place + shift < c.shape[2]:
                    out[:, :, place] = c[:, :, place + shift]
            return out

        return lie

    def paths(b, v, x):
        return v.within(b).convolution([(b.names("w")[t], lies(t - 1)) for t in range(3)])

    return Piece({"w": (3, inputs, outputs)}, run, paths)


def positional(positions: int, width: int) -> Piece:
    return Piece(
        {"places": (positions, width)},
        lambda p, h, x: h + p["places"],
        lambda b, v, x: v.within(b).bias(b.names("places")),
    )


def tokens(vocabulary: int, width: int, spelling: str = "rows") -> Piece:
    spellings = {
        "rows": lambda table, x: table[x],
        "take": lambda table, x: jnp.take(table, x, axis=0),
        "one hot": lambda table, x: jax.nn.one_hot(x, vocabulary, dtype=table.dtype) @ table,
    }
    return Piece(
        {"table": (vocabulary, width)},
        lambda p, h, x: spellings[spelling](p["table"], x),
        lambda b, v, x: poly.embedded(b, b.names("table"), x),
    )


def class_token(width: int) -> Piece:
    """In front of all positions."""

    def run(p, h, x):
        first = jnp.broadcast_to(p["token"], (h.shape[0], 1, width))
        return jnp.concatenate([first, h], 1)

    def paths(b, v, x):
        later = v.within(b).moved(lambda c: np.pad(c, [(0, 0), (0, 0), (1, 0)]))
        names = np.empty((later.shape[1], width), object)
        lies = np.zeros(later.shape)
        lies[:, 0] = 1
        names = b.names("token").reshape(width)
        first = tuple(poly.started(b, name, lies) for name in names)
        return later + Value(b, first)

    return Piece({"token": (1, 1, width)}, run, paths)


relu = Piece({}, lambda p, h, x: jax.nn.relu(h), lambda b, v, x: v.gate("hard", v.numbers() > 0))
mean = Piece({}, lambda p, h, x: h.mean(tuple(range(1, h.ndim - 1))), lambda b, v, x: v.mean())


def position(place: int) -> Piece:
    return Piece({}, lambda p, h, x: h[:, place], lambda b, v, x: v.position(place))


def cumulative() -> Piece:
    """A constant map of the positions: the mean of those so far."""

    def matrix(size):
        return np.tril(np.ones((size, size))) / np.arange(1, size + 1)[:, None]

    def run(p, h, x):
        return jnp.cumsum(h, 1) / jnp.arange(1, h.shape[1] + 1, dtype=h.dtype)[:, None]

    return Piece({}, run, lambda b, v, x: v.mixed(matrix(v.shape[1])))


def mean_of_tokens() -> Piece:
    """The mean over the positions of what is no padding: token 0."""

    def run(p, h, x):
        real = (x != 0).astype(h.dtype)[..., None]
        return (h * real).sum(1) / real.sum(1)

    def paths(b, v, x):
        real = (x != 0).astype(float)
        v = v.gate("hard", real[..., None])
        v = v.moved(lambda c: c.sum(2))
        return v.gate("scale", 1 / real.sum(1)[:, None])

    return Piece({}, run, paths)


def layer_scale(width: int) -> Piece:
    """A learned factor that no normalisation is at: a weight."""
    return Piece(
        {"factor": (width,)}, lambda p, h, x: h * p["factor"], lambda b, v, x: v.within(b).factors(b.names("factor"))
    )


# -- norms ---------------------------------------------------------------------------------------------


def _centre(h, axes):
    return h - h.mean(axes, keepdims=True)


NORMS = {
    "layer norm": lambda p, h: (
        (h - h.mean(-1, keepdims=True)) / jnp.sqrt(h.var(-1, keepdims=True) + EPS) * p["scale"] + p["shift"]
    ),
    "layer norm, factor first": lambda p, h: (
        (h - h.mean(-1, keepdims=True)) * (jax.lax.rsqrt(h.var(-1, keepdims=True) + EPS) * p["scale"]) + p["shift"]
    ),
    "layer norm, by its squares": lambda p, h: (
        p["scale"] * _centre(h, -1) * ((_centre(h, -1) ** 2).mean(-1, keepdims=True) + EPS) ** -0.5 + p["shift"]
    ),
    "layer norm, standardize": lambda p, h: jax.nn.standardize(h, epsilon=EPS) * p["scale"] + p["shift"],
    "layer norm without numbers": lambda p, h: _centre(h, -1) / jnp.sqrt(h.var(-1, keepdims=True) + EPS),
    "RMS norm": lambda p, h: h * jax.lax.rsqrt((h * h).mean(-1, keepdims=True) + EPS) * p["scale"],
    "RMS norm, divided": lambda p, h: p["scale"] * (h / jnp.sqrt(jnp.square(h).mean(-1, keepdims=True) + EPS)),
    "length": lambda p, h: h / jnp.linalg.norm(h, axis=-1, keepdims=True),
}


def _numbers_of(b: Book, v: Value) -> Value:
    """Scale and shift, where there are any."""
    v = v.times(b["scale"]) if "scale" in b else v
    v = v.times(b["weight"]) if "weight" in b else v
    for leaf in ("shift", "bias"):
        v = v.plus(b[leaf]) if leaf in b else v
    return v


def of_layer_norm(b: Book, v: Value, groups: int = 1, positions: bool = False, eps: float = EPS) -> Value:
    """Layer norm; of groups of channels, and over positions too: group norm; of groups of one: instance norm."""
    q = v.numbers()
    parts = q.reshape(*q.shape[:-1], groups, -1)
    axes = (*range(1, parts.ndim - 2), parts.ndim - 1) if positions else (parts.ndim - 1,)
    r = np.broadcast_to(1 / np.sqrt(parts.var(axes, keepdims=True) + eps), parts.shape).reshape(q.shape)
    return _numbers_of(b, v.within(b).centred(groups, positions).gate("scale", r))


def of_rms_norm(b: Book, v: Value, eps: float = EPS) -> Value:
    r = 1 / np.sqrt((v.numbers() ** 2).mean(-1, keepdims=True) + eps)
    return _numbers_of(b, v.within(b).gate("scale", r))


def of_length(b: Book, v: Value) -> Value:
    return v.within(b).gate("scale", 1 / np.linalg.norm(v.numbers(), axis=-1, keepdims=True))


def norm(width: int, spelling: str) -> Piece:
    rms = {"length": of_length}.get(spelling, of_rms_norm if spelling.startswith("RMS") else of_layer_norm)
    numbers = () if spelling in ("length", "layer norm without numbers") else ("scale", "shift")
    numbers = numbers[:1] if spelling.startswith("RMS") else numbers
    return Piece({name: (width,) for name in numbers}, lambda p, h, x: NORMS[spelling](p, h), lambda b, v, x: rms(b, v))


def group_norm(width: int, groups: int, spelling: str = "var") -> Piece:
    """Over positions and the channels of a group; as many groups as channels are instance norm."""

    def run(p, h, x):
        parts = h.reshape(h.shape[0], -1, groups, width // groups)
        y = _centre(parts, (1, 3)) * jax.lax.rsqrt(parts.var((1, 3), keepdims=True) + EPS)
        return y.reshape(h.shape) * p["scale"] + p["shift"]

    return Piece(
        {"scale": (width,), "shift": (width,)}, run, lambda b, v, x: of_layer_norm(b, v, groups, positions=True)
    )


# -- products ------------------------------------------------------------------------------------------


def logistic(q):
    return 1 / (1 + np.exp(-q))


def normal_below(q):
    return np.vectorize(math.erf)(q / math.sqrt(2)) / 2 + 0.5


SIDES = {
    "SwiGLU": (jax.nn.silu, lambda q: q * logistic(q)),
    "SwiGLU by hand": (lambda u: u * (1 / (1 + jnp.exp(-u))), lambda q: q * logistic(q)),
    "GEGLU": (lambda u: jax.nn.gelu(u, approximate=False), lambda q: q * normal_below(q)),
    "ReGLU": (jax.nn.relu, lambda q: q * (q > 0)),
    "GLU": (jax.nn.sigmoid, logistic),
    "tanh": (jnp.tanh, np.tanh),
}


def product(inputs: int, hidden: int, kind: str, order: str = "gate first", bias: bool = False) -> Piece:
    """The nonlinear side of a product is the gate, and its weights are on no path."""
    side, of_side = SIDES[kind]

    def run(p, h, x):
        if order == "one matrix":
            u, v = jnp.split(h @ p["both"], 2, -1)
        else:
            u, v = h @ p["gate"], h @ p["value"]
        if bias:
            u, v = u + p["gate_bias"], v + p["value_bias"]
        return v * side(u) if order == "value first" else side(u) * v

    def paths(b, v, x):
        q, v = v.numbers(), v.within(b)
        if order == "one matrix":
            u, value = q @ b["both"][:, :hidden], b.names("both")[:, hidden:]
        else:
            u, value = q @ b["gate"], b.names("value")
        v = v.dense(value)
        if bias:
            u, v = u + b["gate_bias"], v.bias(b.names("value_bias"))
        return v.gate("product", of_side(u))

    two = {"gate": (inputs, hidden), "value": (inputs, hidden)}
    shapes = {"both": (inputs, 2 * hidden)} if order == "one matrix" else two
    return Piece({**shapes, **({"gate_bias": (hidden,), "value_bias": (hidden,)} if bias else {})}, run, paths)


def glu(width: int, hidden: int, kind: str, **options) -> Piece:
    return chain(product(width, hidden, kind, **options), dense(hidden, width))


def mlp(width: int, hidden: int, bias: bool = False) -> Piece:
    return chain(dense(width, hidden, bias), relu, dense(hidden, width, bias))


def squeeze_excite(width: int, hidden: int) -> Piece:
    """Every channel times a number between zero and one, of the means of all channels."""

    def run(p, h, x):
        s = jax.nn.relu(h.mean(tuple(range(1, h.ndim - 1))) @ p["squeeze"])
        s = jax.nn.sigmoid(s @ p["excite"])
        return h * s.reshape(s.shape[0], *[1] * (h.ndim - 2), width)

    def paths(b, v, x):
        q = v.numbers()
        s = np.maximum(q.mean(tuple(range(1, q.ndim - 1))) @ b["squeeze"], 0)
        s = logistic(s @ b["excite"])
        return v.within(b).gate("product", s.reshape(len(s), *[1] * (q.ndim - 2), width))

    return Piece({"squeeze": (width, hidden), "excite": (hidden, width)}, run, paths)


def highway(width: int) -> Piece:
    """t·(h W) + (1 - t)·h."""

    def run(p, h, x):
        t = jax.nn.sigmoid(h @ p["gate"])
        return t * (h @ p["w"]) + (1 - t) * h

    def paths(b, v, x):
        t, v = logistic(v.numbers() @ b["gate"]), v.within(b)
        return v.dense(b.names("w")).gate("product", t) + v.gate("product", 1 - t)

    return Piece({"gate": (width, width), "w": (width, width)}, run, paths)
