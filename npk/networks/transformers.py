"""Transformers: of images (ViT), and two decoders of tokens (GPT, LLaMA)."""

import functools
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Integer

from npk.networks.tokens import Attention, Block, FeedForward, Patch, patches
from npk.networks.weights import Activation, lecun_normal, small_normal


class ViT(nn.Module):
    """The vision transformer: patches as tokens, learned positions, pre-norm layers, one dense layer at the end.

    ViT-Tiny is `ViT(patch=(16, 16), width=192, depth=12, heads=3, pooling="cls")`. No dropout.

    Args:
        patch: height and width of a patch, or both in one, which divide the image's; None is the whole side: (1, None)
            takes the rows of an image as its tokens.
        width: size of a token.
        depth: layers of attention and MLP.
        heads: heads of the attention, which divide `width`.
        hidden: units of each layer's MLP; None is four times `width`.
        outputs: number of logits.
        pooling: what the logits are made of: "mean" of all tokens, or "cls", a further token before the others.
        use_bias: whether layers and normalisations have biases.
        activation: nonlinearity of the MLPs.

    Raises:
        ValueError: the patches do not fill the image, `heads` does not divide `width`, or `pooling` is neither.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from npk.networks import ViT
        >>> rows = ViT(patch=(1, None), width=16, depth=2, heads=2)
        >>> logits, variables = rows.init_with_output(jax.random.key(0), jnp.ones((3, 8, 8, 1)))
        >>> logits.shape, variables["params"]["positions"].shape  # 8 tokens
        ((3, 10), (8, 16))

    Source: Dosovitskiy et al. 2021, section 3.1; ViT-Tiny: Touvron et al. 2021, table 1; the mean: Beyer et al. 2022.
    Weights as in the first, but for those of the last layer, which begin there as zeros.
    """

    patch: Patch = (4, 4)
    width: int = 64
    depth: int = 4
    heads: int = 4
    hidden: int | None = None
    outputs: int = 10
    pooling: str = "mean"
    use_bias: bool = True
    activation: Activation = nn.gelu

    @nn.compact
    def __call__(self, x: Float[Array | np.ndarray, "n h w c"]) -> Float[Array, "n k"]:
        """Logits of a batch."""
        if self.pooling not in ("mean", "cls"):
            raise ValueError(f"pooling must be 'mean' or 'cls', got {self.pooling!r}.")
        norm = functools.partial(nn.LayerNorm, use_bias=self.use_bias)
        embed = nn.Dense(self.width, use_bias=self.use_bias, kernel_init=lecun_normal, name="embed")
        tokens: Any = embed(patches(x, self.patch))
        if self.pooling == "cls":
            cls = self.param("cls", nn.initializers.zeros, (self.width,), jnp.float32).astype(tokens.dtype)
            tokens = jnp.concatenate([jnp.broadcast_to(cls, (len(x), 1, self.width)), tokens], axis=1)
        positions = self.param("positions", small_normal(), tokens.shape[1:], jnp.float32)
        tokens = tokens + positions.astype(tokens.dtype)[None]
        glorot = nn.initializers.xavier_uniform()
        options: dict[str, Any] = {"use_bias": self.use_bias, "kernel_init": glorot, "out_init": glorot}
        attention = functools.partial(Attention, self.heads, **options)
        mlp = functools.partial(FeedForward, _or(self.hidden, 4 * self.width), self.activation, **options)
        for layer in range(self.depth):
            tokens = Block(attention, mlp, norm, name=f"layers_{layer}")(tokens)
        tokens = norm(name="norm")(tokens)
        pooled = tokens[:, 0] if self.pooling == "cls" else tokens.mean(axis=1)
        return nn.Dense(self.outputs, use_bias=self.use_bias, kernel_init=lecun_normal, name="head")(pooled)


class GPT(nn.Module):
    """A decoder of tokens as GPT-2: learned positions, layer norm, causal attention, GELU.

    GPT-2 (small) is `GPT(vocabulary=50257, length=1024, width=768, depth=12, heads=12)`. No dropout.
    `apply(…, method="embed")` maps tokens to vectors and `apply(…, method="decode")` vectors to logits, for whoever
    asks for the logits as a function of vectors.

    Args:
        vocabulary: number of tokens.
        length: the most tokens of a sequence, for each of which a position is learned.
        width: size of the vector of a token.
        depth: layers of attention and MLP.
        heads: heads of the attention, which divide `width`.
        hidden: units of each layer's MLP; None is four times `width`.
        outputs: number of logits; None is the vocabulary.
        last: whether to return the logits of the last position alone, [N, K] instead of [N, T, K].
        tied: whether the last layer's weights are those of the embedding, where the outputs are the vocabulary.
        use_bias: whether layers and normalisations have biases; the last layer has none.
        activation: nonlinearity of the MLPs.

    Raises:
        ValueError: a sequence is longer than `length`, or `heads` does not divide `width`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from npk.networks import GPT
        >>> net, tokens = GPT(vocabulary=20, width=16, depth=2, heads=2), jnp.arange(12).reshape(2, 6)
        >>> logits, variables = net.init_with_output(jax.random.key(0), tokens)
        >>> logits.shape, GPT(vocabulary=20, width=16, depth=2, heads=2, last=True).apply(variables, tokens).shape
        ((2, 6, 20), (2, 20))

    Source: Radford et al. 2019, section 2.3, with its weights: normal of deviation 0.02, those that lead back into the
    sum of layers divided by √(2 depth).
    """

    vocabulary: int = 256
    length: int = 256
    width: int = 64
    depth: int = 4
    heads: int = 4
    hidden: int | None = None
    outputs: int | None = None
    last: bool = False
    tied: bool = True
    use_bias: bool = True
    activation: Activation = nn.gelu

    def setup(self) -> None:
        """The layers, which `embed` and `decode` share."""
        init, norm = small_normal(), functools.partial(nn.LayerNorm, use_bias=self.use_bias)
        options: dict[str, Any] = {"use_bias": self.use_bias, "kernel_init": init}
        options["out_init"] = small_normal(0.02 / (2 * max(self.depth, 1)) ** 0.5)
        attention = functools.partial(Attention, self.heads, causal=True, **options)
        mlp = functools.partial(FeedForward, _or(self.hidden, 4 * self.width), self.activation, **options)
        self.tokens = nn.Embed(self.vocabulary, self.width, embedding_init=init)
        self.positions = self.param("positions", init, (self.length, self.width), jnp.float32)
        self.layers = [Block(attention, mlp, norm) for _ in range(self.depth)]
        self.norm = norm()
        if self.outputs is not None or not self.tied:
            self.head = nn.Dense(_or(self.outputs, self.vocabulary), use_bias=False, kernel_init=init)

    def __call__(self, tokens: Integer[Array | np.ndarray, "n t"]) -> Float[Array, "n ... k"]:
        """Logits of what follows each token, or the last."""
        return self.decode(self.embed(tokens))

    def embed(self, tokens: Integer[Array | np.ndarray, "n t"]) -> Float[Array, "n t d"]:
        """Vectors of the tokens at their positions."""
        size = tokens.shape[1]
        if size > self.length:
            raise ValueError(f"this GPT has positions for {self.length} tokens, got {size}: choose a longer length.")
        vectors = self.tokens(tokens)
        return vectors + self.positions[None, :size].astype(vectors.dtype)

    def decode(self, x: Float[Array | np.ndarray, "n t d"]) -> Float[Array, "n ... k"]:
        """Logits of vectors such as `embed` returns."""
        x = _through(self.layers, x, self.norm, self.last)
        return self.tokens.attend(x) if self.outputs is None and self.tied else self.head(x)


class LLaMA(nn.Module):
    """A decoder of tokens as LLaMA: rotary positions, RMS norm, SwiGLU, keys and values shared by groups of heads.

    No biases, no dropout, no tied weights. LLaMA 3 8B is `LLaMA(vocabulary=128256, width=4096, depth=32, heads=32,
    kv_heads=8, hidden=14336, base=500000.0)`. `apply(…, method="embed")` maps tokens to vectors and
    `apply(…, method="decode")` vectors to logits.

    Args:
        vocabulary: number of tokens.
        width: size of the vector of a token.
        depth: layers of attention and MLP.
        heads: heads of the queries, which divide `width` into even parts.
        kv_heads: heads of the keys and values, which divide `heads`.
        hidden: units of each layer's MLP; None is 8/3 of `width`, up to the next multiple of 8.
        outputs: number of logits; None is the vocabulary.
        last: whether to return the logits of the last position alone, [N, K] instead of [N, T, K].
        base: of the rotary positions: the slowest pair turns by about 1/base a token.
        activation: nonlinearity of the MLPs, which multiplies a second layer.

    Raises:
        ValueError: `heads` does not divide `width` into even parts, or `kv_heads` does not divide `heads`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from npk.networks import LLaMA
        >>> net = LLaMA(vocabulary=20, width=16, depth=2, heads=4, kv_heads=2, last=True)
        >>> tokens = jnp.arange(12).reshape(2, 6)
        >>> variables = net.init(jax.random.key(0), tokens)
        >>> vectors = net.apply(variables, tokens, method="embed")
        >>> vectors.shape, net.apply(variables, vectors, method="decode").shape
        ((2, 6, 16), (2, 20))

    Source: Touvron et al. 2023 (LLaMA), section 2.2; groups: Ainslie et al. 2023. Weights: normal of deviation 0.02.
    """

    vocabulary: int = 256
    width: int = 64
    depth: int = 4
    heads: int = 4
    kv_heads: int = 2
    hidden: int | None = None
    outputs: int | None = None
    last: bool = False
    base: float = 10000.0
    activation: Activation = nn.silu

    def setup(self) -> None:
        """The layers, which `embed` and `decode` share."""
        init = small_normal()
        options: dict[str, Any] = {"use_bias": False, "kernel_init": init, "out_init": init}
        attention = functools.partial(
            Attention, self.heads, kv_heads=self.kv_heads, causal=True, base=self.base, **options
        )
        hidden = _or(self.hidden, 8 * -(-self.width // 3))
        mlp = functools.partial(FeedForward, hidden, self.activation, gated=True, **options)
        self.tokens = nn.Embed(self.vocabulary, self.width, embedding_init=init)
        self.layers = [Block(attention, mlp, nn.RMSNorm) for _ in range(self.depth)]
        self.norm = nn.RMSNorm()
        self.head = nn.Dense(_or(self.outputs, self.vocabulary), use_bias=False, kernel_init=init)

    def __call__(self, tokens: Integer[Array | np.ndarray, "n t"]) -> Float[Array, "n ... k"]:
        """Logits of what follows each token, or the last."""
        return self.decode(self.embed(tokens))

    def embed(self, tokens: Integer[Array | np.ndarray, "n t"]) -> Float[Array, "n t d"]:
        """Vectors of the tokens, which know no positions."""
        return self.tokens(tokens)

    def decode(self, x: Float[Array | np.ndarray, "n t d"]) -> Float[Array, "n ... k"]:
        """Logits of vectors such as `embed` returns."""
        return self.head(_through(self.layers, x, self.norm, self.last))


def _through(layers: Any, x: Any, norm: Any, last: bool) -> Any:
    x = jnp.asarray(x)
    for layer in layers:
        x = layer(x)
    return norm(x[:, -1] if last else x)


def _or(size: int | None, otherwise: int) -> int:
    return otherwise if size is None else size
