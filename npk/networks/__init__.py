"""Networks of the literature as ordinary Flax modules: they know nothing of gates or kernels.

Each maps images [N, height, width, channels] (the MLP: any [N, ...]) to logits [N, outputs]. The
`activation` is a field, so that the same parameters can be looked at through another one.
`build(name, outputs=10)` makes one by name: one of `NAMES`.
"""

from npk.networks.convolutional import C4GAP as C4GAP
from npk.networks.convolutional import GCONV as GCONV
from npk.networks.convolutional import VCONV as VCONV
from npk.networks.convolutional import VGG16 as VGG16
from npk.networks.convolutional import ResNet as ResNet
from npk.networks.perceptrons import MLP as MLP
from npk.networks.registry import NAMES as NAMES
from npk.networks.registry import build as build

__all__ = ["C4GAP", "GCONV", "MLP", "NAMES", "ResNet", "VCONV", "VGG16", "build"]
