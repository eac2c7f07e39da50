"""Norms and attention of Flax Linen, Flax NNX and Equinox, with the oracle's computation of each."""

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from oracles.attention import SINGLE, earlier, of_attention, softmax
from oracles.pieces import Piece, of_layer_norm, of_rms_norm


def linen(module: nn.Module, shape: tuple[int, ...], paths, **options) -> Piece:
    """A module on samples of a shape, its collection of parameters alone."""
    shapes = jax.eval_shape(
        lambda h: module.init(jax.random.key(0), h)["params"], jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    )
    return Piece(dict(shapes), lambda p, h, x: module.apply({"params": p}, h, **options), paths)


def linen_layer_norm(width: int, **options) -> Piece:
    return linen(nn.LayerNorm(epsilon=1e-3, **options), (2, width), lambda b, v, x: of_layer_norm(b, v))


def linen_rms_norm(width: int) -> Piece:
    return linen(nn.RMSNorm(epsilon=1e-3), (2, width), lambda b, v, x: of_rms_norm(b, v))


def linen_group_norm(width: int, groups: int, positions=(2, 2)) -> Piece:
    module = nn.GroupNorm(num_groups=groups, epsilon=1e-3)
    return linen(module, (*positions, width), lambda b, v, x: of_layer_norm(b, v, groups, positions=True))


def linen_instance_norm(width: int, positions=(2, 2)) -> Piece:
    module = nn.InstanceNorm(epsilon=1e-3)
    return linen(module, (*positions, width), lambda b, v, x: of_layer_norm(b, v, width, positions=True))


def _of_heads(b, v, size, mask=None):
    """Flax names its layers query, key, value and out, kernels [C, H, D] and [H, D, C]."""
    h, v = v.numbers(), v.within(b)
    q, k = (np.einsum("npc,chd->nphd", h, b[f"{part}/kernel"]) + b[f"{part}/bias"] for part in ("query", "key"))
    a = softmax(np.einsum("nphd,nqhd->nhpq", q, k) / np.sqrt(size), True if mask is None else mask)
    names = [b.names(leaf) for leaf in ("value/kernel", "out/kernel", "value/bias", "out/bias")]
    return of_attention(v, a, *names)


def linen_attention(width: int, heads: int, size: int, positions: int, causal: bool = False) -> Piece:
    module = nn.MultiHeadDotProductAttention(num_heads=heads, qkv_features=heads * size, deterministic=True)
    mask = earlier(positions)[None, None] if causal else None
    options = {} if mask is None else {"mask": jnp.asarray(mask)}
    return linen(module, (positions, width), lambda b, v, x: _of_heads(b, v, size, mask), **options)


def of_nnx(make, paths, precision: float = 1e-12, **options) -> Piece:
    graph, state = nnx.split(nnx.eval_shape(make))
    return Piece(state, lambda p, h, x: nnx.merge(graph, p)(h, **options), paths, precision)


def nnx_layer_norm(width: int) -> Piece:
    make = lambda: nnx.LayerNorm(width, epsilon=1e-3, rngs=nnx.Rngs(0))  # noqa: E731
    return of_nnx(make, lambda b, v, x: of_layer_norm(b, v))


def nnx_attention(width: int, heads: int, size: int) -> Piece:
    options = {"decode": False, "deterministic": True}
    make = lambda: nnx.MultiHeadAttention(heads, width, heads * size, rngs=nnx.Rngs(0), **options)  # noqa: E731
    return of_nnx(make, lambda b, v, x: _of_heads(b, v, size), SINGLE)


def equinox_norm(width: int, kind: str = "LayerNorm") -> Piece:
    module = eqx.filter_eval_shape(lambda: getattr(eqx.nn, kind)(width, eps=1e-3))
    params, static = eqx.partition(module, lambda leaf: isinstance(leaf, jax.ShapeDtypeStruct))

    def run(p, h, x):
        return jax.vmap(jax.vmap(eqx.combine(p, static)))(h)

    of = of_layer_norm if kind == "LayerNorm" else of_rms_norm
    return Piece(params, run, lambda b, v, x: of(b, v))
