"""Networks of the literature as ordinary Flax modules: they know nothing of gates or kernels.

Each maps images [N, height, width, channels] (the MLP: any [N, ...]) to logits [N, outputs]. The
`activation` is a field, so that the same parameters can be looked at through another one.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

__all__ = ["C4GAP", "GCONV", "MLP", "NAMES", "ResNet", "VCONV", "VGG16", "build"]

Activation = Callable[[Any], Any]


def _normal(scale: float) -> Callable[..., Any]:
    """Flax's truncated normal weights of variance scale / fan-in, drawn in one row.

    The numbers are the same; a generator of four small axes takes XLA on a CPU ten times as long to compile.
    """

    def draw(key: Any, shape: tuple[int, ...], dtype: Any = float) -> Any:
        size = math.prod(shape)  # all of which counts as fan-in below
        in_a_row = nn.initializers.variance_scaling(scale * shape[-1], "fan_in", "truncated_normal")
        return in_a_row(key, (size, 1), dtype).reshape(shape)

    return draw


_he_normal, _lecun_normal = _normal(2.0), _normal(1.0)


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
            x = self.activation(nn.Dense(self.width, use_bias=self.use_bias, kernel_init=_he_normal)(x))
        return nn.Dense(self.outputs, use_bias=self.use_bias, kernel_init=_lecun_normal)(x)


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
        return nn.Dense(self.outputs, use_bias=self.use_bias, kernel_init=_lecun_normal)(x.mean(axis=(1, 2)))


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
        return nn.Dense(self.outputs, use_bias=self.use_bias, kernel_init=_lecun_normal)(x.reshape(x.shape[0], -1))


def _four_convolutions(net: C4GAP | VCONV, x: Any) -> Any:
    for _ in range(4):
        convolution = nn.Conv(net.channels, (3, 3), padding=net.padding, use_bias=net.use_bias, kernel_init=_he_normal)
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
            layer = nn.Conv(factor * self.width, (3, 3), use_bias=self.use_bias, kernel_init=_he_normal)
            x = self.activation(layer(x))
        x = x.reshape(x.shape[0], -1) if self.flatten else x.mean(axis=(1, 2))
        for _ in range(2):
            x = self.activation(nn.Dense(4 * self.width, use_bias=self.use_bias, kernel_init=_he_normal)(x))
        return nn.Dense(self.outputs, use_bias=self.use_bias, kernel_init=_lecun_normal)(x)


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
                x = nn.Conv(factor * self.width, (3, 3), use_bias=self.use_bias, kernel_init=_he_normal)(x)
                x = self.activation(_batch_norm(x, train) if self.norm else x)
            x = pools[self.pooling](x, (2, 2), strides=(2, 2))
        x = x.reshape(x.shape[0], -1)
        for _ in range(2):
            x = self.activation(nn.Dense(8 * self.width, use_bias=self.use_bias, kernel_init=_he_normal)(x))
        return nn.Dense(self.outputs, use_bias=self.use_bias, kernel_init=_lecun_normal)(x)


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
        return nn.Dense(self.outputs, kernel_init=_lecun_normal)(x.mean(axis=(1, 2)))

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
            channels, (size, size), strides=(stride, stride), use_bias=self.use_bias, kernel_init=_he_normal
        )
        x = convolution(x)
        return _batch_norm(x, train) if self.norm else x


def _average_pool(x: Any, window: tuple[int, int], strides: tuple[int, int]) -> Any:
    """`nn.avg_pool`, which divides by an array of integers, where dtypes are not promoted."""
    return nn.pool(x, 0.0, jax.lax.add, window, strides, "VALID") / (window[0] * window[1])


def _batch_norm(x: Any, train: bool) -> Any:
    return nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)


class _Entry(NamedTuple):
    module: Any
    width_field: str
    takes_depth: bool
    fixed: dict[str, Any]


_REGISTRY = {
    "mlp": _Entry(MLP, "width", True, {}),
    "c4gap": _Entry(C4GAP, "channels", False, {}),
    "c4gap-circular": _Entry(C4GAP, "channels", False, {"padding": "CIRCULAR"}),
    "vconv": _Entry(VCONV, "channels", False, {}),
    "gconv": _Entry(GCONV, "width", False, {}),
    "gconv-flat": _Entry(GCONV, "width", False, {"flatten": True}),
    "vgg16": _Entry(VGG16, "width", False, {}),
    "vgg16-bn": _Entry(VGG16, "width", False, {"norm": True}),
    "vgg16-bn-average": _Entry(VGG16, "width", False, {"norm": True, "pooling": "average"}),
    "resnet": _Entry(ResNet, "width", True, {"norm": False}),
    "resnet-bn": _Entry(ResNet, "width", True, {}),
}

#: The networks that `build` knows.
NAMES = tuple(_REGISTRY)


def build(
    name: str,
    *,
    outputs: int,
    width: int | None = None,
    depth: int | None = None,
    use_bias: bool | None = None,
    activation: Activation = jax.nn.relu,
) -> Any:
    """A network by name: one of `NAMES`.

    Args:
        name: e.g. "mlp", "c4gap", "resnet-bn".
        outputs: number of logits.
        width: units, or channels, of the (first) layer; None takes the module's own.
        depth: weight layers, for the MLP and the ResNet; None takes the module's own.
        use_bias: None takes the module's own.
        activation: nonlinearity.

    Returns:
        A Flax module.

    Raises:
        ValueError: the name is unknown, a size is not positive, or a depth is given for a network of fixed depth.

    Example:
        >>> from npk.networks import build
        >>> build("mlp", outputs=10, width=32, depth=3).width
        32
    """
    if name not in _REGISTRY:
        raise ValueError(f"unknown network {name!r}: choose one of {', '.join(NAMES)}.")
    entry = _REGISTRY[name]
    if depth is not None and not entry.takes_depth:
        raise ValueError(f"{name} has a fixed depth: leave depth out (got {depth}).")
    sizes = {entry.width_field: width, "depth": depth, "outputs": outputs}
    for field, size in sizes.items():
        if size is not None and size < 1:
            raise ValueError(f"{field} must be at least 1, got {size}.")
    given = {field: value for field, value in {**sizes, "use_bias": use_bias}.items() if value is not None}
    return entry.module(activation=activation, **entry.fixed, **given)
