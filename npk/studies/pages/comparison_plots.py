"""Figures of a comparison, from plain arrays: errors against width, and training beside its predictions."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, NullLocator

from npk.plots import COLORS, INK, PAPER, WIDTH, in_percent, panels
from npk.solving import PowerLaw

_DASHES: tuple[Any, ...] = ("-", (0, (4, 2)), (0, (1, 1.3)))


def slope_words(fit: PowerLaw) -> str:
    """A slope with its interval, as in "-0.49 [-0.56, -0.43]"."""
    return f"{fit.slope:.2f} [{fit.low:.2f}, {fit.high:.2f}]".replace("-", "−")


def power_laws(
    series: Mapping[str, tuple[np.ndarray, np.ndarray, PowerLaw]],
    *,
    xlabel: str,
    ylabel: str,
    asymptote: tuple[str, float] | None = None,
) -> Figure:
    """Errors of single draws against width on logarithmic axes, with the fitted line and its slope.

    Args:
        series: name → width of each draw, its error, the fit.
        xlabel: what x is, with its unit.
        ylabel: what y is, with its unit.
        asymptote: name and value of a level, drawn dashed.

    Returns:
        The figure.
    """
    with panels(WIDTH, 4.4) as (figure, ((axes,),)):
        lines = []
        for i, (name, (x, y, fit)) in enumerate(series.items()):
            color, ends = COLORS[i], np.array([x.min(), x.max()], dtype=float)
            # Beside each other where they would cover each other.
            beside = x * 1.045 ** (i - (len(series) - 1) / 2)
            axes.plot(beside, y, "o", color=color, alpha=0.35, markersize=3.2, markeredgewidth=0)
            label = f"{name}\nslope {slope_words(fit)}"
            lines += axes.plot(ends, fit.factor * ends**fit.slope, color=color, label=label)
        if asymptote is not None:
            lines.append(axes.axhline(asymptote[1], color=INK, linestyle=(0, (4, 3)), linewidth=1.2))
            lines[-1].set_label(f"{asymptote[0]}, {asymptote[1]:.2f}")
        axes.set(xscale="log", yscale="log", xlabel=xlabel, ylabel=ylabel)
        widths = np.unique(np.concatenate([x for x, _, _ in series.values()]))
        axes.set_xticks(widths, [f"{w:g}" for w in widths])
        axes.xaxis.set_minor_locator(NullLocator())
        in_percent(axes.yaxis, None)
        axes.yaxis.set_minor_formatter(NullFormatter())
        figure.legend(
            handles=lines, loc="outside lower center", ncols=2, fontsize=7.5, labelspacing=0.7, columnspacing=1
        )
    return figure


def descents(
    cases: Mapping[str, tuple[np.ndarray, Mapping[str, Sequence[float]], Mapping[str, Mapping[str, Sequence[float]]]]],
    labels: Mapping[str, str],
    columns: Mapping[str, str],
) -> Figure:
    """Real curves over time as points, predicted ones as lines: a row a network, a column a quantity.

    Args:
        cases: title → times, the real curves by quantity, and for each kernel the predicted curves by quantity.
        labels: kernel → its name in the legend.
        columns: quantity → what it is, with its unit.

    Returns:
        The figure.
    """
    with panels(WIDTH, 1.9 * len(cases) + 0.7, len(cases), len(columns), sharex="row") as (figure, grid):
        handles: list[Any] = []
        for i, (title, (times, real, predicted)) in enumerate(cases.items()):
            for j, (quantity, label) in enumerate(columns.items()):
                axes = grid[i, j]
                handles = []
                for k, (kernel, name) in enumerate(labels.items()):
                    look: dict[str, Any] = {"color": COLORS[(0, 4, 2)[k]], "linestyle": _DASHES[k], "linewidth": 1.8}
                    handles += axes.plot(times, predicted[kernel][quantity], label=f"predicted with {name}", **look)
                look = {"color": INK, "markersize": 3.6, "markeredgecolor": PAPER, "markeredgewidth": 0.4}
                handles += axes.plot(times, real[quantity], "o", label="the network itself", **look)
                axes.set_xscale("symlog", linthresh=float(times[1]), linscale=0.3)
                # Powers of ten well clear of the zero, whose label would run into theirs.
                lowest, highest = math.ceil(math.log10(3 * times[1])), math.floor(math.log10(times[-1]))
                axes.set_xticks([0.0, *(10.0**e for e in range(lowest, highest + 1))])
                axes.xaxis.set_minor_locator(NullLocator())
                axes.set_ylim(bottom=0)
                if quantity == "test_error":
                    in_percent(axes.yaxis)
                if i == 0:
                    axes.set_title(label, loc="center", fontsize=8.5)
                if j == 0:
                    axes.set_ylabel(title, fontsize=8.5)
        for axes in grid[-1]:
            axes.set_xlabel("time t = step size × steps")
        figure.legend(handles=handles[::-1], loc="outside lower center", ncols=2, fontsize=8)
    return figure
