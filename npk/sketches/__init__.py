"""Estimates of path kernels and tangent kernels by random signs, with error bars, in one pass over the data.

`sketch(f)(key, params, x, features=...)` and `sketch_ntk(f)` return a `KernelSketch`: features whose inner products
estimate H or K, its diagonal, trace and products with vectors, each with its standard error. A draw costs a forward
pass, and N samples with m features cost N·m numbers instead of N².
"""

from npk.sketches.features import KernelSketch as KernelSketch
from npk.sketches.features import SketchBetween as SketchBetween
from npk.sketches.transformations import sketch as sketch
from npk.sketches.transformations import sketch_ntk as sketch_ntk

__all__ = [
    "KernelSketch",
    "SketchBetween",
    "sketch",
    "sketch_ntk",
]
