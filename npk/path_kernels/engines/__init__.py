"""Fast forms of the path kernel, each for one kind of network and machine; each says what it covers.

`dense`: fully connected networks on a CPU, by bit counts. `pairs`: convolutions whose pairs of positions count, on
a CPU. `pooled`: convolutions with global pooling, fused, on a GPU. The plain rules of `moments` cover the rest.
"""

from npk.path_kernels.engines.plans import UNKNOWN as UNKNOWN
from npk.path_kernels.engines.plans import covering as covering
from npk.path_kernels.engines.plans import require as require

__all__ = [
    "UNKNOWN",
    "covering",
    "require",
]
