"""Networks of dense layers alone: along one axis, or along tokens and channels in turn."""

from typing import Any

import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from npk.networks.tokens import FeedForward, Patch, patches
from npk.networks.weights import Activation, he_normal, lecun_normal


class MLP(nn.Module):
    """A fully connected network; inputs of more than one axis are flattened.

    Args:
        width: units of every hidden layer.
        depth: weight layers d; there are d - 1 layers of gates.
        outputs: number of logits.
        use_bias: whether the layers have biases.
        activation: nonlinearity of the hidden layers.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from npk.networks import MLP
        >>> mlp = MLP(width=16, depth=3, outputs=10)
        >>> variables = mlp.init(jax.random.key(0), jnp.ones((1, 64)))
        >>> mlp.apply(variables, jnp.ones((5, 64))).shape
        (5, 10)
    """

    width: int = 128
    depth: int = 4
    outputs: int = 10
    use_bias: bool = True
    activation: Activation = nn.relu

    @nn.compact
    def __call__(self, x: Float[Array | np.ndarray, "n ..."]) -> Float[Array, "n k"]:
        """Logits of a batch."""
        x = x.reshape(x.shape[0], -1)
        for _ in range(self.depth - 1):
            x = self.activation(nn.Dense(self.width, use_bias=self.use_bias, kernel_init=he_normal)(x))
        return nn.Dense(self.outputs, use_bias=self.use_bias, kernel_init=lecun_normal)(x)


class MLPMixer(nn.Module):
    """MLP-Mixer: patches as tokens; an MLP along the tokens, then one along the channels, in each of its layers.

    Mixer-B/16 is `MLPMixer(patch=(16, 16), width=768, depth=12)`. No dropout.

    Args:
        patch: height and width of a patch, or both in one, which divide the image's; None is the whole side: (1, None)
            takes the rows of an image as its tokens.
        width: size of a token, the channels.
        depth: layers of the two MLPs.
        token_hidden: units of the MLPs along the tokens; None is half of `width`.
        channel_hidden: units of the MLPs along the channels; None is four times `width`.
        outputs: number of logits.
        use_bias: whether layers and normalisations have biases.
        activation: nonlinearity of the MLPs.

    Raises:
        ValueError: the patches do not fill the image.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from npk.networks import MLPMixer
        >>> net = MLPMixer(width=16, depth=2)
        >>> net.init_with_output(jax.random.key(0), jnp.ones((3, 8, 8, 1)))[0].shape
        (3, 10)

    Source: Tolstikhin et al. 2021, section 2. Weights: LeCun's, also in the last layer, which begins there as zeros.
    """

    patch: Patch = (4, 4)
    width: int = 64
    depth: int = 4
    token_hidden: int | None = None
    channel_hidden: int | None = None
    outputs: int = 10
    use_bias: bool = True
    activation: Activation = nn.gelu

    @nn.compact
    def __call__(self, x: Float[Array | np.ndarray, "n h w c"]) -> Float[Array, "n k"]:
        """Logits of a batch."""
        options: dict[str, Any] = {"use_bias": self.use_bias}
        embed = nn.Dense(self.width, kernel_init=lecun_normal, name="embed", **options)
        x = embed(patches(x, self.patch))
        token_hidden = max(1, self.width // 2) if self.token_hidden is None else self.token_hidden
        channel_hidden = 4 * self.width if self.channel_hidden is None else self.channel_hidden
        for layer in range(self.depth):
            mixed = nn.LayerNorm(name=f"norm_tokens_{layer}", **options)(x).swapaxes(1, 2)
            mixed = self._mlp(token_hidden, f"tokens_{layer}")(mixed)
            x = x + mixed.swapaxes(1, 2)
            y = nn.LayerNorm(name=f"norm_channels_{layer}", **options)(x)
            x = x + self._mlp(channel_hidden, f"channels_{layer}")(y)
        x = nn.LayerNorm(name="norm", **options)(x).mean(axis=1)
        return nn.Dense(self.outputs, kernel_init=lecun_normal, name="head", **options)(x)

    def _mlp(self, hidden: int, name: str) -> FeedForward:
        return FeedForward(hidden, self.activation, lecun_normal, lecun_normal, use_bias=self.use_bias, name=name)
