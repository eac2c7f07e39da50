"""Convolutions on a CPU: a compiled loop over pairs of positions that keeps them in the cache."""

from npk.path_kernels.engines.pairs.kernel import path_kernel as path_kernel
from npk.path_kernels.engines.pairs.kernel import saving as saving
from npk.path_kernels.engines.pairs.plan import PairPlan as PairPlan
from npk.path_kernels.engines.pairs.reading import covers as covers
from npk.path_kernels.engines.pairs.reading import slot_values as slot_values

__all__ = [
    "PairPlan",
    "covers",
    "path_kernel",
    "saving",
    "slot_values",
]
