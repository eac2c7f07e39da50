"""Convolutions with global pooling on a GPU: one fused kernel for blocks of pairs of images."""

from npk.path_kernels.engines.pooled.chain import GapChain as GapChain
from npk.path_kernels.engines.pooled.chain import covers as covers
from npk.path_kernels.engines.pooled.gpu import fused as fused
from npk.path_kernels.engines.pooled.gpu import kernel as kernel
from npk.path_kernels.engines.pooled.gpu import usable as usable
from npk.path_kernels.engines.pooled.pallas import Layout as Layout
from npk.path_kernels.engines.pooled.pallas import layout as layout

__all__ = [
    "GapChain",
    "Layout",
    "covers",
    "fused",
    "kernel",
    "layout",
    "usable",
]
