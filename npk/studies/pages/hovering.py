"""What stands under the pointer in a figure: each point's place on the page, and its value in words."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, PercentFormatter

_MOST = 40  # points of a line: nobody points between more


def marks_of(figure: Figure) -> list[dict[str, Any]]:
    """The named series of a figure that has been drawn.

    Returns:
        One a series: its name, the way one points at it ("x": the nearest column, "y": the nearest row), and its points
        as [x, y, where, value], x and y in fractions of the figure from its upper left corner.
    """
    found = []
    for axes in figure.axes:
        if axes.images:
            continue
        for line in axes.get_lines():
            name = str(line.get_label())
            if not name.startswith("_") and line.get_transform() == axes.transData:
                found.append(_series(axes, name, np.asarray(line.get_xydata(), float)))
        for bars in axes.containers:
            if isinstance(bars, BarContainer):
                tops = [(bar.get_x() + bar.get_width() / 2, bar.get_y() + bar.get_height()) for bar in bars]
                values = [float(bar.get_height()) for bar in bars]
                found.append(_series(axes, str(bars.get_label()), np.array(tops), values))
    return [series for series in found if series["points"]]


def _series(axes: Axes, name: str, at: np.ndarray, values: Any = None) -> dict[str, Any]:
    rows = isinstance(axes.xaxis.get_major_formatter(), PercentFormatter)
    read, where = (0, 1) if rows else (1, 0)
    axis, across = (axes.xaxis, axes.yaxis) if rows else (axes.yaxis, axes.xaxis)
    figure = axes.figure
    places = axes.transData.transform(at) / (np.array(figure.get_size_inches()) * figure.dpi)  # type: ignore[union-attr]
    ends = _intervals(axes, name, rows)
    points = []
    for i in _some(at[:, where]):
        value = float(at[i, read] if values is None else values[i])
        if not np.isfinite([value, *places[i]]).all():
            continue
        text, x, y = _said(axis, value), *places[i]
        if (around := ends.get(float(at[i, where]))) is not None:
            text += f" [{_said(axis, around[0])}, {_said(axis, around[1])}]"
        points.append([round(float(x), 4), round(1 - float(y), 4), _named(across, at[i, where]), text])
    return {"name": _unmarked(name), "by": "y" if rows else "x", "points": points}


def _unmarked(name: str) -> str:
    """A name without the signs that begin formulas; a dollar that was meant stays."""
    return "$".join(part.replace("$", "") for part in name.split(r"\$"))


def _some(x: np.ndarray) -> list[int]:
    """All points of a short line; of a long one some, thinner to the right, where logarithmic axes crowd."""
    if len(x) <= _MOST:
        return list(range(len(x)))
    return sorted({round(i) - 1 for i in np.geomspace(1, len(x), _MOST)})


def _intervals(axes: Axes, name: str, rows: bool) -> dict[float, tuple[float, float]]:
    """The intervals of a series, by the column or row they stand in."""
    along, across = (0, 1) if rows else (1, 0)
    lines = (c for c in axes.collections if isinstance(c, LineCollection) and c.get_label() == f"_{name}")
    segments = [np.asarray(segment) for collection in lines for segment in collection.get_segments()]
    return {float(s[0, across]): (float(s[:, along].min()), float(s[:, along].max())) for s in segments}


def _said(axis: Any, value: float) -> str:
    return f"{value:.1%}" if isinstance(axis.get_major_formatter(), PercentFormatter) else f"{value:.3g}"


def _named(axis: Any, value: float) -> str:
    """What a place on an axis is called: by its tick, where ticks have been given names."""
    if isinstance(axis.get_major_locator(), FixedLocator):
        names = zip(axis.get_ticklocs(), (label.get_text() for label in axis.get_ticklabels()))
        if near := [text for tick, text in names if tick == value and text]:
            return near[0].replace("\n", ", ").replace(r"\$", "$")
    return f"{value:g}"
