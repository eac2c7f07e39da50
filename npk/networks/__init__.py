"""Networks of the literature as ordinary Flax modules: they know nothing of gates or kernels.

Each maps images [N, height, width, channels] (the MLP: any [N, ...]) to logits [N, outputs]; the decoders `GPT` and
`LLaMA` map tokens [N, T] to logits at each position or at the last. The `activation` is a field, so that the same
parameters can be looked at through another one. `build("vit", outputs=10)` makes one of images by its name: `NAMES`.
"""

from npk.networks.convnext import ConvNeXt as ConvNeXt
from npk.networks.convolutional import C4GAP as C4GAP
from npk.networks.convolutional import GCONV as GCONV
from npk.networks.convolutional import VCONV as VCONV
from npk.networks.convolutional import VGG16 as VGG16
from npk.networks.convolutional import ResNet as ResNet
from npk.networks.perceptrons import MLP as MLP
from npk.networks.perceptrons import MLPMixer as MLPMixer
from npk.networks.registry import NAMES as NAMES
from npk.networks.registry import build as build
from npk.networks.transformers import GPT as GPT
from npk.networks.transformers import LLaMA as LLaMA
from npk.networks.transformers import ViT as ViT

__all__ = [
    "C4GAP",
    "ConvNeXt",
    "GCONV",
    "GPT",
    "LLaMA",
    "MLP",
    "MLPMixer",
    "NAMES",
    "ResNet",
    "VCONV",
    "VGG16",
    "ViT",
    "build",
]
