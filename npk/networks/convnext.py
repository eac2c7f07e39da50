"""ConvNeXt: the convolutional network in the manner of transformers."""

import functools
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from npk.networks.tokens import FeedForward
from npk.networks.weights import Activation, lecun_normal, small_normal


class ConvNeXt(nn.Module):
    """ConvNeXt: depthwise convolutions, layer norm, and an MLP at every pixel, each block scaled by a learned vector.

    ConvNeXt-T is `ConvNeXt(width=96, depths=(3, 3, 9, 3), stem=4, window=7)`; what a field has by itself is for small
    images on a CPU. No dropout, no stochastic depth.

    Args:
        width: channels of the first stage; each further one has twice as many, and half the pixels a side.
        depths: blocks of each stage.
        stem: the first convolution's window and stride.
        window: of the depthwise convolutions.
        layer_scale: what the vector that scales a block begins with.
        outputs: number of logits.
        use_bias: whether layers and normalisations have biases.
        activation: nonlinearity of the MLPs.

    Raises:
        ValueError: the image is too small to be divided by `stem`, and by two before each further stage.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from npk.networks import ConvNeXt
        >>> net = ConvNeXt(width=8, depths=(1, 1))
        >>> net.init_with_output(jax.random.key(0), jnp.ones((2, 8, 8, 1)))[0].shape
        (2, 10)

    Source: Liu et al. 2022, section 2 and table 9. Weights normal of deviation 0.02 as there, but for LeCun's in the
    last layer.
    """

    width: int = 32
    depths: tuple[int, ...] = (2, 2)
    stem: int = 2
    window: int = 3
    layer_scale: float = 1e-6
    outputs: int = 10
    use_bias: bool = True
    activation: Activation = nn.gelu

    @nn.compact
    def __call__(self, x: Float[Array | np.ndarray, "n h w c"]) -> Float[Array, "n k"]:
        """Logits of a batch."""
        least = self.stem * 2 ** (len(self.depths) - 1)
        if min(x.shape[1:3]) < least:
            raise ValueError(
                f"{len(self.depths)} stages and a stem of {self.stem} divide images by {least}: got "
                f"{x.shape[1]}x{x.shape[2]} pixels."
            )
        norm = functools.partial(nn.LayerNorm, use_bias=self.use_bias)
        for stage, blocks in enumerate(self.depths):
            channels = self.width * 2**stage
            if stage == 0:
                x = norm(name="norm_stem")(self._divide(channels, self.stem, "stem")(x))
            else:
                x = self._divide(channels, 2, f"divide_{stage}")(norm(name=f"norm_{stage}")(x))
            for block in range(blocks):
                options = (self.window, self.layer_scale, self.use_bias, self.activation)
                x = ConvNeXtBlock(*options, name=f"block_{stage}_{block}")(x)
        x = norm(name="norm_head")(x.mean(axis=(1, 2)))
        return nn.Dense(self.outputs, use_bias=self.use_bias, kernel_init=lecun_normal, name="head")(x)

    def _divide(self, channels: int, size: int, name: str) -> nn.Conv:
        options: dict[str, Any] = {"padding": "VALID", "use_bias": self.use_bias, "kernel_init": small_normal()}
        return nn.Conv(channels, (size, size), strides=(size, size), name=name, **options)


class ConvNeXtBlock(nn.Module):
    """x + scale ⊙ MLP(norm(depthwise convolution of x)), at every pixel; the fields are those of `ConvNeXt`."""

    window: int
    layer_scale: float
    use_bias: bool
    activation: Activation

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
        """Images of the same shape."""
        channels, init = x.shape[-1], small_normal()
        window, options = (self.window, self.window), dict[str, Any](use_bias=self.use_bias)
        y = nn.Conv(channels, window, feature_group_count=channels, kernel_init=init, name="depthwise", **options)(x)
        y = nn.LayerNorm(name="norm", **options)(y)
        y = FeedForward(4 * channels, self.activation, init, init, name="mlp", **options)(y)
        scale = self.param("layer_scale", nn.initializers.constant(self.layer_scale), (channels,), jnp.float32)
        return x + y * scale.astype(y.dtype)[None, None, None]
