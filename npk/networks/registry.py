"""Networks by name: those that map images to logits.

The decoders are not among them: they take tokens, of which a data set of images has none.
"""

from typing import Any, NamedTuple

from npk.networks.convnext import ConvNeXt
from npk.networks.convolutional import C4GAP, GCONV, VCONV, VGG16, ResNet
from npk.networks.perceptrons import MLP, MLPMixer
from npk.networks.transformers import ViT
from npk.networks.weights import Activation


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
    "convnext": _Entry(ConvNeXt, "width", False, {}),
    "mixer": _Entry(MLPMixer, "width", True, {}),
    "vit": _Entry(ViT, "width", True, {}),
    "vit-rows": _Entry(ViT, "width", True, {"patch": (1, None)}),
    "vit-tiny": _Entry(ViT, "width", True, {"width": 192, "depth": 12, "heads": 3, "pooling": "cls"}),
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
    activation: Activation | None = None,
) -> Any:
    """A network by name: one of `NAMES`.

    Args:
        name: e.g. "mlp", "c4gap", "resnet-bn".
        outputs: number of logits.
        width: units, or channels, of the (first) layer, or the size of a token; None takes the module's own.
        depth: weight layers of the MLP and the ResNet, layers of two parts each of ViT and mixer; None takes the
            module's own.
        use_bias: None takes the module's own.
        activation: nonlinearity; None takes the module's own, ReLU or, in those with layer norm, GELU.

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
    options = {**sizes, "use_bias": use_bias, "activation": activation}
    given = {field: value for field, value in options.items() if value is not None}
    return entry.module(**{**entry.fixed, **given})
