"""Convolutional ReLU networks: those of the papers on gates, VGG-16 and residual networks."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from npk.networks.weights import Activation, he_normal, lecun_normal


class C4GAP(nn.Module):
    """Four 3×3 convolutions, global average pooling and one dense layer.

    With `padding="CIRCULAR"` the network does not change when its input is shifted circularly.

    Args:
        channels: channels of every convolution.
        outputs: number of logits.
        use_bias: whether the layers have biases.
        padding: "SAME", "VALID" or "CIRCULAR".
        activation: nonlinearity after every convolution.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from npk.networks import C4GAP
        >>> net = C4GAP(channels=4, padding="CIRCULAR")
        >>> net.init_with_output(jax.random.key(0), jnp.ones((2, 8, 8, 3)))[0].shape
        (2, 10)

    Source: Lakshminarayanan & Singh 2020, section 5 (C4GAP).
    """

    channels: int = 64
    outputs: int = 10
    use_bias: bool = True
    padding: str = "SAME"
    activation: Activation = nn.relu

    @nn.compact
    def __call__(self, x: Float[Array | np.ndarray, "n h w c"]) -> Float[Array, "n k"]:
        """Logits of a batch."""
        x = _four_convolutions(self, x)
        return nn.Dense(self.outputs, use_bias=self.use_bias, kernel_init=lecun_normal)(x.mean(axis=(1, 2)))


class VCONV(nn.Module):
    """Four 3×3 convolutions, flattened, and one dense layer: no pooling.

    Args:
        channels: channels of every convolution.
        outputs: number of logits.
        use_bias: whether the layers have biases.
        padding: "SAME", "VALID" or "CIRCULAR".
        activation: nonlinearity after every convolution.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from npk.networks import VCONV
        >>> VCONV(channels=4).init_with_output(jax.random.key(0), jnp.ones((2, 8, 8, 1)))[0].shape
        (2, 10)
    """

    channels: int = 64
    outputs: int = 10
    use_bias: bool = True
    padding: str = "SAME"
    activation: Activation = nn.relu

    @nn.compact
    def __call__(self, x: Float[Array | np.ndarray, "n h w c"]) -> Float[Array, "n k"]:
        """Logits of a batch."""
        x = _four_convolutions(self, x)
        return nn.Dense(self.outputs, use_bias=self.use_bias, kernel_init=lecun_normal)(x.reshape(x.shape[0], -1))


def _four_convolutions(net: C4GAP | VCONV, x: Any) -> Any:
    for _ in range(4):
        convolution = nn.Conv(net.channels, (3, 3), padding=net.padding, use_bias=net.use_bias, kernel_init=he_normal)
        x = net.activation(convolution(x))
    return x


class GCONV(nn.Module):
    """Four 3×3 convolutions, global average pooling (or none), and three dense layers.

    Args:
        width: channels of the first two convolutions; the next two have twice, the dense layers four times as many.
        outputs: number of logits.
        flatten: flatten instead of global average pooling, as the papers' VCONV does.
        use_bias: whether the layers have biases.
        activation: nonlinearity of the hidden layers.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from npk.networks import GCONV
        >>> GCONV(width=4).init_with_output(jax.random.key(0), jnp.ones((2, 8, 8, 3)))[0].shape
        (2, 10)

    Source: Lakshminarayanan & Singh 2020, section 6 (GCONV and VCONV).
    """

    width: int = 64
    outputs: int = 10
    flatten: bool = False
    use_bias: bool = True
    activation: Activation = nn.relu

    @nn.compact
    def __call__(self, x: Float[Array | np.ndarray, "n h w c"]) -> Float[Array, "n k"]:
        """Logits of a batch."""
        for factor in (1, 1, 2, 2):
            layer = nn.Conv(factor * self.width, (3, 3), use_bias=self.use_bias, kernel_init=he_normal)
            x = self.activation(layer(x))
        x = x.reshape(x.shape[0], -1) if self.flatten else x.mean(axis=(1, 2))
        for _ in range(2):
            x = self.activation(nn.Dense(4 * self.width, use_bias=self.use_bias, kernel_init=he_normal)(x))
        return nn.Dense(self.outputs, use_bias=self.use_bias, kernel_init=lecun_normal)(x)


class VGG16(nn.Module):
    """VGG-16 for small images: thirteen 3×3 convolutions in five stages, then three dense layers.

    Each stage ends in a pooling by two, so that images need at least 32×32 pixels.

    Args:
        width: channels of the first stage; the stages have 1, 2, 4, 8 and 8 times as many.
        outputs: number of logits.
        norm: whether batch normalisation follows each convolution.
        pooling: "max" or "average".
        use_bias: whether the layers have biases.
        activation: nonlinearity of the hidden layers.

    Raises:
        ValueError: the image is smaller than 32×32, or `pooling` is neither of the two.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from npk.networks import VGG16
        >>> VGG16(width=4).init_with_output(jax.random.key(0), jnp.ones((2, 32, 32, 3)))[0].shape
        (2, 10)

    Source: Simonyan & Zisserman 2015, table 1, configuration D.
    """

    width: int = 64
    outputs: int = 10
    norm: bool = False
    pooling: str = "max"
    use_bias: bool = True
    activation: Activation = nn.relu

    @nn.compact
    def __call__(self, x: Float[Array | np.ndarray, "n h w c"], train: bool = False) -> Float[Array, "n k"]:
        """Logits of a batch; `train` normalises by the batch's own statistics."""
        if min(x.shape[1:3]) < 32:
            raise ValueError(f"VGG16 halves images five times: they need 32x32 pixels, got {x.shape[1]}x{x.shape[2]}.")
        pools = {"max": nn.max_pool, "average": _average_pool}
        if self.pooling not in pools:
            raise ValueError(f"pooling must be 'max' or 'average', got {self.pooling!r}.")
        for factor, repeats in ((1, 2), (2, 2), (4, 3), (8, 3), (8, 3)):
            for _ in range(repeats):
                x = nn.Conv(factor * self.width, (3, 3), use_bias=self.use_bias, kernel_init=he_normal)(x)
                x = self.activation(_batch_norm(x, train) if self.norm else x)
            x = pools[self.pooling](x, (2, 2), strides=(2, 2))
        x = x.reshape(x.shape[0], -1)
        for _ in range(2):
            x = self.activation(nn.Dense(8 * self.width, use_bias=self.use_bias, kernel_init=he_normal)(x))
        return nn.Dense(self.outputs, use_bias=self.use_bias, kernel_init=lecun_normal)(x)


class ResNet(nn.Module):
    """The residual network for small images: depth 6n + 2, three stages of n basic blocks, average pooling.

    Args:
        depth: weight layers, 6n + 2 (8, 14, 20, 32, 44, 56, 110, …).
        width: channels of the first stage; the stages have 1, 2 and 4 times as many.
        outputs: number of logits.
        norm: whether batch normalisation follows each convolution.
        shortcut: where the shape changes, "projection" (1×1 convolution) or "identity" (strided, padded with zeros).
        use_bias: whether the convolutions have biases; the dense layer at the end always has.
        activation: nonlinearity of the hidden layers.

    Raises:
        ValueError: `depth` is not 6n + 2, or `shortcut` is neither of the two.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from npk.networks import ResNet
        >>> net = ResNet(depth=8, width=4)
        >>> net.init_with_output(jax.random.key(0), jnp.ones((2, 16, 16, 3)))[0].shape
        (2, 10)

    Source: He et al. 2016, section 4.2 (options A and B).
    """

    depth: int = 20
    width: int = 16
    outputs: int = 10
    norm: bool = True
    shortcut: str = "projection"
    use_bias: bool = False
    activation: Activation = nn.relu

    @nn.compact
    def __call__(self, x: Float[Array | np.ndarray, "n h w c"], train: bool = False) -> Float[Array, "n k"]:
        """Logits of a batch; `train` normalises by the batch's own statistics."""
        blocks, rest = divmod(self.depth - 2, 6)
        if rest or blocks < 1:
            raise ValueError(f"depth must be 6n + 2 for n = 1, 2, … (8, 14, 20, …), got {self.depth}.")
        if self.shortcut not in ("projection", "identity"):
            raise ValueError(f"shortcut must be 'projection' or 'identity', got {self.shortcut!r}.")
        x = self.activation(self._convolve(x, self.width, 3, 1, train))
        for stage in range(3):
            for block in range(blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                x = self._block(x, self.width * 2**stage, stride, train)
        return nn.Dense(self.outputs, kernel_init=lecun_normal)(x.mean(axis=(1, 2)))

    def _block(self, x: Any, channels: int, stride: int, train: bool) -> Any:
        y = self.activation(self._convolve(x, channels, 3, stride, train))
        y = self._convolve(y, channels, 3, 1, train)
        if x.shape != y.shape:
            if self.shortcut == "projection":
                x = self._convolve(x, channels, 1, stride, train)
            else:
                x = jnp.pad(x[:, ::stride, ::stride], ((0, 0), (0, 0), (0, 0), (0, channels - x.shape[-1])))
        return self.activation(x + y)

    def _convolve(self, x: Any, channels: int, size: int, stride: int, train: bool) -> Any:
        convolution = nn.Conv(
            channels, (size, size), strides=(stride, stride), use_bias=self.use_bias, kernel_init=he_normal
        )
        x = convolution(x)
        return _batch_norm(x, train) if self.norm else x


def _average_pool(x: Any, window: tuple[int, int], strides: tuple[int, int]) -> Any:
    """`nn.avg_pool`, which divides by an array of integers, where dtypes are not promoted."""
    return nn.pool(x, 0.0, jax.lax.add, window, strides, "VALID") / (window[0] * window[1])


def _batch_norm(x: Any, train: bool) -> Any:
    return nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)
