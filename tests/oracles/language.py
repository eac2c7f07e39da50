"""A small language of networks: what the tests say about an architecture, and nothing else does.

A `Network` is the shape of one sample and a sequence of layers. The enumeration unrolls it unit by unit;
`architectures` turns the same description into plain JAX, Flax and Equinox. Parameters are named by kind
and number in the order of the walk (branch before shortcut): Dense_0/kernel, Conv_1/bias, …
"""

import collections
import dataclasses
from collections.abc import Iterator

Padding = str | tuple[tuple[int, int], ...]


@dataclasses.dataclass(frozen=True)
class Dense:
    """Weights over the last axis, the same at every position; kernel [in, out]."""

    out: int
    bias: bool = True


@dataclasses.dataclass(frozen=True)
class Conv:
    """Weights over the last axis and a window of the others; kernel [*window, in / groups, out]."""

    out: int
    kernel: tuple[int, ...] = (3, 3)
    stride: int = 1
    padding: Padding = "SAME"
    dilation: int = 1
    groups: int = 1
    bias: bool = True


@dataclasses.dataclass(frozen=True)
class Scale:
    """A learned factor for every channel: scale [channels]."""


@dataclasses.dataclass(frozen=True)
class BatchNorm:
    """Evaluation mode: (x - mean) · scale / sqrt(var + eps) + bias, all of it fixed, and a bias in front of it."""

    eps: float = 0.0


@dataclasses.dataclass(frozen=True)
class Relu:
    """1{q > 0} for slope 0; for other slopes leaky."""

    slope: float = 0.0


@dataclasses.dataclass(frozen=True)
class AvgPool:
    """The mean over windows; what is padded counts as zeros."""

    window: tuple[int, ...]
    stride: int
    padding: Padding = "VALID"


@dataclasses.dataclass(frozen=True)
class MaxPool:
    """The first largest of each window in row-major order; what is padded does not take part."""

    window: tuple[int, ...]
    stride: int
    padding: Padding = "VALID"


@dataclasses.dataclass(frozen=True)
class GlobalAvgPool:
    """The mean over all axes but the last."""


@dataclasses.dataclass(frozen=True)
class Reshape:
    """The sample in another shape, row-major."""

    shape: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Transpose:
    """The sample's axes in another order."""

    order: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Subsample:
    """Every step-th position, and zeros as further channels: the parameter-free shortcut."""

    step: int
    extra: int


@dataclasses.dataclass(frozen=True)
class Residual:
    """branch(x) + shortcut(x); no layers are the identity."""

    branch: tuple
    shortcut: tuple = ()


@dataclasses.dataclass(frozen=True)
class Concat:
    """The branches side by side along the last axis; no layers are the identity."""

    branches: tuple[tuple, ...]


FLATTEN = Reshape((-1,))


@dataclasses.dataclass(frozen=True)
class Network:
    """Layers on samples of one shape; the last layer is a `Dense` on a vector."""

    input: tuple[int, ...]
    layers: tuple


class Names:
    """Numbers the layers of each kind in the order they are met."""

    def __init__(self):
        self.met = collections.Counter()

    def __call__(self, layer) -> str:
        kind = type(layer).__name__
        self.met[kind] += 1
        return f"{kind}_{self.met[kind] - 1}"


def numbered(layers: tuple, names: Names | None = None) -> Iterator[tuple[str, object]]:
    """All layers that own parameters with their names, in order."""
    names = names or Names()
    for layer in layers:
        if isinstance(layer, (Dense, Conv, Scale, BatchNorm)):
            yield names(layer), layer
        elif isinstance(layer, Residual):
            yield from numbered(layer.branch, names)
            yield from numbered(layer.shortcut, names)
        elif isinstance(layer, Concat):
            for branch in layer.branches:
                yield from numbered(branch, names)
