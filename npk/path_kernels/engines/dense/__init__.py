"""Fully connected networks on a CPU: gates packed into words, overlaps by bit counts."""

from npk.path_kernels.engines.dense.chain import DenseChain as DenseChain
from npk.path_kernels.engines.dense.chain import covers as covers
from npk.path_kernels.engines.dense.chain import kernel as kernel
from npk.path_kernels.engines.dense.chain import largest as largest
from npk.path_kernels.engines.dense.chain import side as side
from npk.path_kernels.engines.dense.compiling import available as available
from npk.path_kernels.engines.dense.compiling import compiled as compiled
from npk.path_kernels.engines.dense.compiling import inlined as inlined
from npk.path_kernels.engines.dense.compiling import kept as kept
from npk.path_kernels.engines.dense.compiling import source_of as source_of
from npk.path_kernels.engines.dense.packed import Words as Words
from npk.path_kernels.engines.dense.packed import aligned as aligned
from npk.path_kernels.engines.dense.packed import multiply_overlaps as multiply_overlaps
from npk.path_kernels.engines.dense.packed import pack as pack

__all__ = [
    "DenseChain",
    "Words",
    "aligned",
    "available",
    "compiled",
    "covers",
    "inlined",
    "kept",
    "kernel",
    "largest",
    "multiply_overlaps",
    "pack",
    "side",
    "source_of",
]
