"""Figures from arrays; they know no kernel.

`kernel(K, labels)`, `heatmaps`, `attribution`, `spectra`, `curves`, `learning`, `dots` and `shares` each take plain
arrays and return a Matplotlib figure, which a notebook shows; `save(figure, "name")` writes it as PNG and SVG. One
style (colours, ink, paper) serves them all, and the pages of a study.
"""

from npk.plots.figures import curves as curves
from npk.plots.figures import dots as dots
from npk.plots.figures import learning as learning
from npk.plots.figures import save as save
from npk.plots.figures import shares as shares
from npk.plots.figures import spectra as spectra
from npk.plots.kernels import attribution as attribution
from npk.plots.kernels import heatmaps as heatmaps
from npk.plots.kernels import kernel as kernel
from npk.plots.style import COLORS as COLORS
from npk.plots.style import INK as INK
from npk.plots.style import PAPER as PAPER
from npk.plots.style import WIDTH as WIDTH
from npk.plots.style import in_percent as in_percent
from npk.plots.style import panels as panels
from npk.plots.style import plain as plain

__all__ = [
    "attribution",
    "curves",
    "dots",
    "heatmaps",
    "kernel",
    "learning",
    "save",
    "shares",
    "spectra",
]
