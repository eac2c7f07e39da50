"""Attention in the ways that it is written; the oracle's patterns are a softmax of scores by NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from oracles import polynomials as poly
from oracles.pieces import Piece
from oracles.polynomials import Book, Value

SINGLE = 1e-6  # `jax.nn.dot_product_attention`: scores and softmax are in float32


def softmax(scores: np.ndarray, seen=True) -> np.ndarray:
    """Over the last axis, of what is seen."""
    e = np.where(seen, np.exp(scores - scores.max(-1, keepdims=True)), 0)
    return e / e.sum(-1, keepdims=True)


def earlier(size: int) -> np.ndarray:
    return np.tril(np.ones((size, size), bool))


def of_attention(
    v: Value, patterns: np.ndarray, values: np.ndarray, out: np.ndarray, value_bias=None, out_bias=None
) -> Value:
    """From patterns [N, H, P, Q], weights' names values [C, G, D] (H a multiple of G) and out [H, D, C]."""
    heads, groups = patterns.shape[1], values.shape[1]
    mixed = []
    per_group = [v.dense(values[:, g]) for g in range(groups)]
    if value_bias is not None:
        per_group = [part.bias(value_bias[g]) for g, part in enumerate(per_group)]
    for h in range(heads):
        mixed.append(per_group[h * groups // heads].pattern(patterns[:, h]))
    v = poly.joined(mixed).dense(out.reshape(-1, out.shape[-1]))
    return v if out_bias is None else v.bias(out_bias)


def _stable(s):
    e = jnp.exp(s - jax.lax.stop_gradient(s.max(-1, keepdims=True)))
    return e / e.sum(-1, keepdims=True)


def _unstable(s):
    e = jnp.exp(s)
    return e * (1 / jnp.sum(e, axis=-1, keepdims=True))


def _in_logs(s):
    return jnp.exp(s - jax.nn.logsumexp(s, axis=-1, keepdims=True))


SOFTMAX = {
    "softmax": lambda s: jax.nn.softmax(s, -1),
    "by hand": _stable,
    "without a maximum": _unstable,
    "in logarithms": _in_logs,
    "log_softmax": lambda s: jnp.exp(jax.nn.log_softmax(s, -1)),
}


def _seen(size, mask, x):
    """What each position attends to, [1 or N, 1, P, Q], or all of it."""
    if mask == "causal":
        return earlier(size)[None, None]
    if mask == "tokens":
        return (x != 0)[:, None, None, :]
    return None


def attention(
    width: int,
    heads: int = 1,
    size: int = 1,
    spelling: str = "softmax",
    mask: str | None = None,
    groups: int | None = None,
    bias: bool = False,
    hide=-1e30,
    rotary: bool = False,
    normed: bool = False,
) -> Piece:
    """Self-attention: `groups` of keys and values, masks `causal` or `tokens` (0 is padding)."""
    groups = groups or heads
    per_group = heads // groups

    def run(p, h, x):
        q = jnp.einsum("npc,chd->nphd", h, p["query"])
        k = jnp.einsum("npc,cgd->npgd", h, p["key"])
        v = jnp.einsum("npc,cgd->npgd", h, p["value"])
        if bias:
            v = v + p["value_bias"]
        if normed:
            q, k = (a / jnp.linalg.norm(a, axis=-1, keepdims=True) for a in (q, k))
        if rotary:
            q, k = _turned(q, jnp), _turned(k, jnp)
        if spelling == "jax.nn":
            options = {"is_causal": mask == "causal"}
            if mask == "tokens":
                options["mask"] = (x != 0)[:, None, None, :]
            o = jax.nn.dot_product_attention(q, k, v, scale=size**-0.5, **options)
            return jnp.einsum("nphd,hdc->npc", o, p["out"]) + (p["out_bias"] if bias else 0.0)
        if groups < heads:
            k, v = (_repeated(a, per_group, spelling) for a in (k, v))
        scores = jnp.einsum("nphd,nqhd->nhpq", q, k) / jnp.sqrt(jnp.asarray(size, q.dtype))
        seen = _seen(h.shape[1], mask, x)
        if seen is not None:
            scores = scores + jnp.where(seen, 0.0, hide) if hide == -1e9 else jnp.where(seen, scores, hide)
        if spelling == "divided last":
            e = jnp.exp(scores - scores.max(-1, keepdims=True))
            o = jnp.einsum("nhpq,nqhd->nphd", e, v) / jnp.einsum("nhpq->nph", e)[..., None]
        elif spelling == "a matrix":
            o = (jax.nn.softmax(scores, -1) @ v.transpose(0, 2, 1, 3)).transpose(0, 2, 1, 3)
        else:
            o = jnp.einsum("nhpq,nqhd->nphd", SOFTMAX.get(spelling, jax.nn.softmax)(scores), v)
        if spelling == "a matrix":
            o = o.reshape(*h.shape[:2], -1) @ p["out"].reshape(-1, width)
        else:
            o = jnp.einsum("nphd,hdc->npc", o, p["out"])
        return o + p["out_bias"] if bias else o

    def paths(b: Book, v: Value, x):
        h, v = v.numbers(), v.within(b)
        q = np.einsum("npc,chd->nphd", h, b["query"])
        k = np.einsum("npc,cgd->npgd", h, b["key"])
        if normed:
            q, k = (a / np.linalg.norm(a, axis=-1, keepdims=True) for a in (q, k))
        if rotary:
            q, k = _turned(q, np), _turned(k, np)
        scores = np.einsum("nphd,nqhd->nhpq", q, k.repeat(per_group, 2)) / np.sqrt(size)
        seen = _seen(h.shape[1], mask, x)
        a = softmax(scores, True if seen is None else np.asarray(seen))
        names = [b.names(leaf) if bias else None for leaf in ("value_bias", "out_bias")]
        return of_attention(v, a, b.names("value"), b.names("out"), *names)

    shapes = {
        "query": (width, heads, size),
        "key": (width, groups, size),
        "value": (width, groups, size),
        "out": (heads, size, width),
    }
    biases = {"value_bias": (groups, size), "out_bias": (width,)} if bias else {}
    return Piece({**shapes, **biases}, run, paths, SINGLE if spelling == "jax.nn" else 1e-12)


def _repeated(a, per_group, spelling):
    if spelling == "broadcast":
        n, p, g, d = a.shape
        return jnp.broadcast_to(a[:, :, :, None], (n, p, g, per_group, d)).reshape(n, p, g * per_group, d)
    return jnp.repeat(a, per_group, 2)


def _turned(a, numpy):
    """Rotary positions: pairs of channels turned by an angle that grows with the position."""
    size = a.shape[-1] // 2
    angle = np.arange(a.shape[1])[:, None, None] * 10.0 ** -np.arange(size)[None, None]
    cos, sin = numpy.asarray(np.cos(angle), a.dtype), numpy.asarray(np.sin(angle), a.dtype)
    one, two = a[..., :size], a[..., size:]
    return numpy.concatenate([one * cos - two * sin, two * cos + one * sin], -1)


def fused(width: int, heads: int, size: int, causal: bool = False) -> Piece:
    """One matrix of queries, keys and values, as GPT-2 keeps it, with biases."""
    inner = heads * size

    def run(p, h, x):
        n, t, _ = h.shape
        q, k, v = jnp.split(h @ p["qkv"] + p["qkv_bias"], 3, -1)
        q, k, v = (a.reshape(n, t, heads, size).transpose(0, 2, 1, 3) for a in (q, k, v))
        scores = q @ k.transpose(0, 1, 3, 2) / size**0.5
        if causal:
            scores = jnp.where(jnp.tril(jnp.ones((t, t), bool)), scores, -jnp.inf)
        o = jax.nn.softmax(scores, axis=-1) @ v
        return o.transpose(0, 2, 1, 3).reshape(n, t, inner) @ p["proj"] + p["proj_bias"]

    def paths(b, v, x):
        h, v = v.numbers(), v.within(b)
        q, k = np.split((h @ b["qkv"] + b["qkv_bias"])[..., : 2 * inner], 2, -1)
        q, k = (a.reshape(*a.shape[:2], heads, size) for a in (q, k))
        scores = np.einsum("nphd,nqhd->nhpq", q, k) / np.sqrt(size)
        a = softmax(scores, earlier(h.shape[1]) if causal else True)
        values = b.names("qkv")[:, 2 * inner :].reshape(width, heads, size)
        out = b.names("proj").reshape(heads, size, width)
        return of_attention(
            v, a, values, out, b.names("qkv_bias")[2 * inner :].reshape(heads, size), b.names("proj_bias")
        )

    shapes = {"qkv": (width, 3 * inner), "qkv_bias": (3 * inner,), "proj": (inner, width), "proj_bias": (width,)}
    return Piece(shapes, run, paths)


def by_head(width: int, heads: int, size: int) -> Piece:
    """A loop over the heads, each with matrices of its own."""
    parts = ("query", "key", "value")

    def run(p, h, x):
        out = []
        for w in p["heads"]:
            q, k, v = (h @ w[part] for part in parts)
            out.append(jax.nn.softmax(q @ k.transpose(0, 2, 1) / size**0.5, -1) @ v)
        return jnp.concatenate(out, -1) @ p["out"]

    def paths(b, v, x):
        h, v, mixed = v.numbers(), v.within(b), []
        for k in range(heads):
            w = b.at(f"heads/{k}")
            a = softmax(np.einsum("npd,nqd->npq", h @ w["query"], h @ w["key"]) / np.sqrt(size))
            mixed.append(v.dense(w.names("value")).pattern(a))
        return poly.joined(mixed).dense(b.names("out"))

    each = {part: (width, size) for part in parts}
    return Piece({"heads": [each] * heads, "out": (heads * size, width)}, run, paths)


def by_sample(width: int, heads: int, size: int) -> Piece:
    """`jax.vmap` over the samples, and within over the heads."""

    def head(w, h):
        q, k, v = (h @ w[part] for part in ("query", "key", "value"))
        return jax.nn.softmax(q @ k.T * size**-0.5) @ v

    def run(p, h, x):
        w = {part: p[part] for part in ("query", "key", "value")}
        one = lambda h: jnp.einsum("hpd,hdc->pc", jax.vmap(functools.partial(head, h=h))(w), p["out"])  # noqa: E731
        return jax.vmap(one)(h)

    def paths(b, v, x):
        h, v = v.numbers(), v.within(b)
        q, k = (np.einsum("npc,hcd->nphd", h, b[leaf]) for leaf in ("query", "key"))
        a = softmax(np.einsum("nphd,nqhd->nhpq", q, k) / np.sqrt(size))
        return of_attention(v, a, b.names("value").transpose(1, 0, 2), b.names("out"))

    return Piece(
        {**{part: (heads, width, size) for part in ("query", "key", "value")}, "out": (heads, size, width)}, run, paths
    )


def cross(width: int, own: int, heads: int = 1, size: int = 1) -> Piece:
    """The first `own` positions attend to the others, and are all that is left."""

    def run(p, h, x):
        here, there = h[:, :own], h[:, own:]
        q = jnp.einsum("npc,chd->nphd", here, p["query"])
        k, v = (jnp.einsum("nqc,chd->nqhd", there, p[part]) for part in ("key", "value"))
        o = jax.nn.dot_product_attention(q, k, v)
        return here + jnp.einsum("nphd,hdc->npc", o, p["out"])

    def paths(b, v, x):
        h, v = v.numbers(), v.within(b)
        here, there = v.moved(lambda c: c[:, :, :own]), v.moved(lambda c: c[:, :, own:])
        q = np.einsum("npc,chd->nphd", h[:, :own], b["query"])
        k = np.einsum("nqc,chd->nqhd", h[:, own:], b["key"])
        a = softmax(np.einsum("nphd,nqhd->nhpq", q, k) / np.sqrt(size))
        return here + of_attention(there, a, b.names("value"), b.names("out"))

    each = {part: (width, heads, size) for part in ("query", "key", "value")}
    return Piece({**each, "out": (heads, size, width)}, run, paths, SINGLE)
