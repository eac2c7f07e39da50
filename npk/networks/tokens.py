"""What networks of tokens are made of: patches of images, attention, rotary positions, layers at every token."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Integer

from npk.networks.weights import Activation, Initializer

#: Height and width of a patch, or both in one; None is the image's own, so that (1, None) makes a token of every row.
Patch = int | tuple[int | None, int | None]


def patches(x: Float[Array | np.ndarray, "n h w c"], patch: Patch) -> Float[Array | np.ndarray, "n tokens pixels"]:
    """The patches of each image, row by row, each with its pixels in a row."""
    n, height, width, channels = x.shape
    sides = (patch, patch) if isinstance(patch, int) else patch
    high, wide = (size if given is None else given for given, size in zip(sides, (height, width), strict=True))
    if min(high, wide) < 1 or height % high or width % wide:
        raise ValueError(f"patches of {high}x{wide} pixels do not fill an image of {height}x{width}: choose divisors.")
    x = x.reshape(n, height // high, high, width // wide, wide, channels)
    return x.swapaxes(2, 3).reshape(n, -1, high * wide * channels)


def rotate(
    x: Float[Array, "n t heads size"], positions: Integer[np.ndarray, " t"], base: float
) -> Float[Array, "n t heads size"]:
    """Turn the pairs of features (i, i + size / 2) by the angles position · base^(-2i / size).

    The product of two vectors so turned depends on their positions through the difference alone.

    Source: Su et al. 2021, section 3.2 (RoPE).
    """
    size = x.shape[-1]
    angles = positions[:, None] * float(base) ** (-np.arange(0, size, 2) / size)
    cos, sin = (jnp.asarray(turn(angles)[None, :, None], x.dtype) for turn in (np.cos, np.sin))
    a, b = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1)


def attend(
    q: Float[Array, "n t heads size"],
    k: Float[Array, "n t kv_heads size"],
    v: Float[Array, "n t kv_heads size"],
    causal: bool,
) -> Float[Array, "n t heads size"]:
    """The values v, averaged with weights softmax(q·k / √size) over the tokens that each token sees.

    `jax.nn.dot_product_attention` of this shape, which rounds scores to float32 whatever the dtype.
    """
    n, length, _, size = q.shape
    grouped = q.reshape(n, length, k.shape[2], -1, size)  # the queries that share keys
    scores = jnp.einsum("ntkgd,nskd->nkgts", grouped, k) / math.sqrt(size)
    if causal:
        seen = np.tril(np.ones((length, length), bool))
        scores = jnp.where(seen[None, None, None], scores, jnp.finfo(scores.dtype).min)
    return jnp.einsum("nkgts,nskd->ntkgd", jax.nn.softmax(scores), v).reshape(q.shape)


class Attention(nn.Module):
    """Multi-head softmax attention of each sequence to itself; heads · size is the width of the tokens.

    Args:
        heads: heads of the queries.
        kv_heads: heads of the keys and values, each shared by heads / kv_heads of the queries; None: as many.
        causal: whether a token sees only itself and those before it.
        base: of the rotary positions; None: none.
        use_bias: whether the four layers have biases.
        kernel_init: weights of queries, keys and values.
        out_init: weights of the last layer.

    Raises:
        ValueError: the heads do not divide the width, the heads of keys not those of queries, or the size of a head
            is odd where it is to be turned in pairs.

    Source: Vaswani et al. 2017, section 3.2; Ainslie et al. 2023 (queries in groups).
    """

    heads: int
    kernel_init: Initializer
    out_init: Initializer
    kv_heads: int | None = None
    causal: bool = False
    base: float | None = None
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "n t d"]) -> Float[Array, "n t d"]:
        """Tokens, each mixed of the values of those that it sees."""
        n, length, width = x.shape
        kv_heads = self.heads if self.kv_heads is None else self.kv_heads
        if width % self.heads:
            raise ValueError(f"width must be a multiple of heads, got width {width} and {self.heads} heads.")
        if self.heads % kv_heads:
            raise ValueError(f"heads must be a multiple of kv_heads, got {self.heads} and {kv_heads}.")
        size = width // self.heads
        if self.base is not None and size % 2:
            raise ValueError(f"rotary positions turn pairs: width / heads must be even, got {width} / {self.heads}.")

        def project(heads: int, name: str) -> Any:
            dense = nn.Dense(heads * size, use_bias=self.use_bias, kernel_init=self.kernel_init, name=name)
            return dense(x).reshape(n, length, heads, size)

        q, k, v = project(self.heads, "query"), project(kv_heads, "key"), project(kv_heads, "value")
        if self.base is not None:
            q, k = (rotate(part, np.arange(length), self.base) for part in (q, k))
        mixed = attend(q, k, v, self.causal)
        out = nn.Dense(width, use_bias=self.use_bias, kernel_init=self.out_init, name="out")
        return out(mixed.reshape(n, length, width))


class FeedForward(nn.Module):
    """Two dense layers along the last axis, which keeps its size, or a gated one: W₃(a(W₁x) ⊙ W₂x).

    Args:
        hidden: units between the layers.
        activation: the nonlinearity a.
        kernel_init: weights of the first layer.
        out_init: weights of the last layer.
        gated: whether the activation multiplies a second layer.
        use_bias: whether the layers have biases.

    Source: Shazeer 2020 (the gated one, with silu: SwiGLU).
    """

    hidden: int
    activation: Activation
    kernel_init: Initializer
    out_init: Initializer
    gated: bool = False
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "*axes d"]) -> Float[Array, "*axes d"]:
        """The same function of every vector along the last axis."""

        def dense(size: int, init: Initializer, name: str) -> nn.Dense:
            return nn.Dense(size, use_bias=self.use_bias, kernel_init=init, name=name)

        y = self.activation(dense(self.hidden, self.kernel_init, "in")(x))
        if self.gated:
            y = y * dense(self.hidden, self.kernel_init, "up")(x)
        return dense(x.shape[-1], self.out_init, "out")(y)


class Block(nn.Module):
    """A layer of a transformer, each part normalised before and added after: x + attention(norm(x)), then the MLP.

    Args:
        attention: makes an `Attention`, given its name.
        mlp: makes a `FeedForward`, given its name.
        norm: makes a normalisation, given its name.

    Source: Xiong et al. 2020, section 3 (pre-LN).
    """

    attention: Callable[..., Any]
    mlp: Callable[..., Any]
    norm: Callable[..., Any]

    @nn.compact
    def __call__(self, x: Float[Array, "n t d"]) -> Float[Array, "n t d"]:
        """Tokens of the same shape."""
        x = x + self.attention(name="attention")(self.norm(name="norm_attention")(x))
        return x + self.mlp(name="mlp")(self.norm(name="norm_mlp")(x))
