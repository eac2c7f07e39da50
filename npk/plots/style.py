"""How every figure looks: colours, lines and letters, and panels without pyplot.

Colours are Okabe and Ito's, told apart by colour-blind readers.
"""

import contextlib
import io
from collections.abc import Iterator
from typing import Any

import matplotlib
from matplotlib import rcsetup
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

INK = "#1f2328"
PAPER = "#fefefe"
WIDTH = 5.0  # inches of most figures: on a phone their letters are still to be read
COLORS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#8a8f98")

STYLE: dict[Any, Any] = {
    "axes.edgecolor": INK,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.labelcolor": INK,
    "axes.labelsize": 10,
    "axes.linewidth": 0.8,
    "axes.prop_cycle": rcsetup.cycler(color=COLORS),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "figure.facecolor": PAPER,
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "grid.color": "#8a8f98",
    "grid.alpha": 0.25,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "lines.linewidth": 2.0,
    "lines.markersize": 5.5,
    "savefig.facecolor": PAPER,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
}


class _NotebookFigure(Figure):
    """A figure that a notebook shows as it is; of Matplotlib's own it shows only those that pyplot has made."""

    def _repr_png_(self) -> bytes:
        png = io.BytesIO()
        with matplotlib.rc_context(STYLE):
            self.savefig(png, format="png", dpi=100)
        return png.getvalue()


@contextlib.contextmanager
def panels(
    width: float, height: float, rows: int = 1, columns: int = 1, **options: Any
) -> Iterator[tuple[Figure, Any]]:
    """A figure and its axes [rows, columns], of this style: matplotlib fixes that of each part as the part is made."""
    with matplotlib.rc_context(STYLE):
        figure = _NotebookFigure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        yield figure, figure.subplots(rows, columns, squeeze=False, **options)


def in_percent(axis: Axis, decimals: int | None = 0) -> None:
    """Show fractions on an axis in per cent."""
    axis.set_major_formatter(PercentFormatter(1.0, decimals=decimals))


def plain(name: str) -> str:
    """A name as it is written: no formula begins in it, and Matplotlib does not hide it, as it does after "_"."""
    return ("\u200b" if name.startswith("_") else "") + name.replace("$", r"\$")
