"""Figures from plain arrays: curves over stages, learning curves, dots with intervals, stacked shares, spectra.

Figures hold no global state and need no screen; `save` writes the PNG and the SVG of one.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from npk.plots.style import COLORS, INK, PAPER, STYLE, WIDTH, in_percent, panels

_CENTERED: dict[str, Any] = {"ha": "center", "va": "center_baseline", "fontsize": 8}


def save(figure: Figure, stem: str | Path) -> tuple[Path, Path]:
    """Write a figure as `stem`.png and `stem`.svg; the same figure gives the same bytes.

    Args:
        figure: as one of the functions here returns it.
        stem: the path without its ending; the folder must exist.

    Returns:
        The two paths.

    Example:
        >>> import tempfile
        >>> from npk import plots
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     [p.name for p in plots.save(plots.spectra({"K": [3.0, 1.0]}), f"{folder}/spectrum")]
        ['spectrum.png', 'spectrum.svg']
    """
    png, svg = Path(f"{stem}.png"), Path(f"{stem}.svg")
    # The salt makes the ids inside the SVG repeatable, and different where several figures share a page.
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": png.stem}):
        figure.savefig(png, dpi=150, metadata={"Software": None})
        figure.savefig(svg, dpi=100, metadata={"Date": None, "Creator": None})
    return png, svg


def curves(
    series: Mapping[str, ArrayLike],
    x: ArrayLike | None = None,
    *,
    xlabel: str,
    ylabel: str,
    xticks: Sequence[str] | None = None,
    references: Mapping[str, float] | None = None,
    colors: Mapping[str, str] | None = None,
    percent: bool = False,
    intervals: Mapping[str, ArrayLike] | None = None,
) -> Figure:
    """Lines over a common x axis, each labelled at its end.

    Args:
        series: name → values, each of shape (n,).
        x: positions, of shape (n,); None is 0, 1, 2, ….
        xlabel: what x is, with its unit.
        ylabel: what the values are, with their unit.
        xticks: names of the positions; None numbers the axis.
        references: name → constant, drawn dashed.
        colors: name → colour, where it matters.
        percent: whether the values are fractions to be shown in per cent.
        intervals: name → low and high ends of its values, each of shape (n, 2), drawn as error bars.

    Returns:
        The figure.

    Raises:
        ValueError: a series does not have one value a position, or there is none; intervals are not two a position.

    Example:
        >>> from npk import plots
        >>> figure = plots.curves({"H": [0.1, 0.4, 0.5]}, xlabel="stage", ylabel="alignment")
        >>> figure.axes[0].get_ylabel()
        'alignment'
    """
    if not series:
        raise ValueError("curves needs at least one series.")
    lines = {name: np.asarray(values, dtype=float) for name, values in series.items()}
    positions = np.arange(len(next(iter(lines.values())))) if x is None else np.asarray(x, dtype=float)
    for name, values in lines.items():
        if values.shape != positions.shape:
            raise ValueError(f"series {name!r} must have {len(positions)} values, got shape {list(values.shape)}.")
    ends_of = {name: _ends(name, found, lines) for name, found in (intervals or {}).items()}
    with panels(WIDTH, 3.2) as (figure, ((axes,),)):
        ends = []
        for i, (name, values) in enumerate(lines.items()):
            color = (colors or {}).get(name, COLORS[i % len(COLORS)])
            axes.plot(
                positions, values, marker="o", color=color, markeredgecolor=PAPER, markeredgewidth=0.8, label=name
            )
            if name in ends_of:
                axes.vlines(positions, *ends_of[name].T, color=color, linewidth=1.2, label=f"_{name}")
            ends.append((float(values[-1]), name, color))
        for name, value in (references or {}).items():
            color = (colors or {}).get(name, COLORS[-1])
            axes.axhline(value, color=color, linestyle=(0, (4, 3)), linewidth=1.5)
            ends.append((float(value), name, color))
        axes.set(xlabel=xlabel, ylabel=ylabel)
        if xticks is not None:
            axes.set_xticks(positions, xticks)
        if percent:
            in_percent(axes.yaxis)
        axes.margins(x=0.03, y=0.08)
        _label_ends(axes, ends)
    return figure


def _ends(name: str, found: ArrayLike, lines: Mapping[str, np.ndarray]) -> np.ndarray:
    ends = np.asarray(found, dtype=float)
    if name not in lines or ends.shape != (*lines[name].shape, 2):
        raise ValueError(f"intervals of {name!r} must be two ends a value of a series of that name, got {ends.shape}.")
    return ends


def _label_ends(axes: Axes, ends: list[tuple[float, str, str]]) -> None:
    """Names right of the axes at the height of the lines' ends, pushed apart where they would overlap.

    The names are in ink: a line's colour alone may be too light to read.
    """
    low, high = axes.get_ylim()
    wanted = sorted(((value - low) / (high - low), name, color) for value, name, color in ends)
    gap = 0.075
    heights: list[float] = []
    for height, _, _ in wanted:
        heights.append(max(height, heights[-1] + gap) if heights else height)
    # What was pushed above the top comes back down, and takes its neighbours along.
    ceiling = 1.0
    for i in reversed(range(len(heights))):
        heights[i] = min(heights[i], ceiling)
        ceiling = heights[i] - gap
    for height, (_, name, color) in zip(heights, wanted, strict=True):
        look: dict[str, Any] = {"xycoords": "axes fraction", "textcoords": "offset points", "va": "center"}
        axes.plot([1.015], [height], "o", color=color, markersize=5, clip_on=False, transform=axes.transAxes)
        axes.annotate(name, (1.0, height), xytext=(9, 0), color=INK, fontsize=9, **look)


def shares(parts: Mapping[str, ArrayLike], *, xlabel: str, ylabel: str, xticks: Sequence[str]) -> Figure:
    """Stacked bars of parts that add up to one; a part below zero hangs below the axis.

    Args:
        parts: name → shares, each of shape (n,).
        xlabel: what the bars are.
        ylabel: of what the parts are shares.
        xticks: names of the n bars.

    Returns:
        The figure.

    Raises:
        ValueError: a part does not have one value a bar.

    Example:
        >>> from npk import plots
        >>> figure = plots.shares({"V": [0.7], "F": [0.3]}, xlabel="stage", ylabel="share", xticks=["0"])
        >>> len(figure.axes[0].patches)
        2
    """
    positions = np.arange(len(xticks))
    with panels(WIDTH, 3.2) as (figure, ((axes,),)):
        above, below = np.zeros(len(xticks)), np.zeros(len(xticks))
        for i, (name, share) in enumerate(parts.items()):
            values = np.asarray(share, dtype=float)
            if values.shape != positions.shape:
                raise ValueError(f"part {name!r} must have {len(xticks)} values, got shape {list(values.shape)}.")
            base = np.where(values >= 0, above, below)
            look: dict[str, Any] = {"color": COLORS[1 + i % 6], "edgecolor": PAPER, "linewidth": 0.8}
            axes.bar(positions, values, 0.78, bottom=base, label=name, **look)
            for position, value, bottom in zip(positions, values, base, strict=True):
                if abs(value) >= 0.05:
                    axes.text(position, bottom + value / 2, f"{value:.0%}", color="#101010", **_CENTERED)
            above, below = above + np.maximum(values, 0), below + np.minimum(values, 0)
        axes.axhline(0, color=INK, linewidth=0.8)
        axes.grid(axis="x", visible=False)
        axes.set(xlabel=xlabel, ylabel=ylabel)
        axes.set_xticks(positions, xticks)
        in_percent(axes.yaxis)
        axes.legend(
            loc="lower left", bbox_to_anchor=(0, 1), ncols=len(parts), handlelength=1, handleheight=1, borderaxespad=0.2
        )
    return figure


def spectra(series: Mapping[str, ArrayLike], *, ylabel: str = "eigenvalue / sum of eigenvalues") -> Figure:
    """Eigenvalues against their rank, both on logarithmic axes, each spectrum divided by its sum.

    Args:
        series: name → eigenvalues, largest first; in order, from dark to light.
        ylabel: name of the y axis.

    Returns:
        The figure.

    Raises:
        ValueError: a spectrum has no positive eigenvalue.

    Example:
        >>> from npk import plots
        >>> plots.spectra({"stage 0": [3.0, 1.0]}).axes[0].get_xscale()
        'log'
    """
    shades = matplotlib.colormaps["viridis"](np.linspace(0.15, 0.82, max(len(series), 2)))
    with panels(WIDTH, 3.2) as (figure, ((axes,),)):
        for (name, values), shade in zip(series.items(), shades, strict=False):
            eigenvalues = np.asarray(values, dtype=float)
            eigenvalues = eigenvalues[eigenvalues > 0]
            if eigenvalues.size == 0:
                raise ValueError(f"spectrum {name!r} has no positive eigenvalue.")
            axes.loglog(
                np.arange(1, len(eigenvalues) + 1),
                eigenvalues / eigenvalues.sum(),
                color=shade,
                label=name,
                linewidth=1.6,
            )
        axes.set(xlabel="rank of the eigenvalue", ylabel=ylabel)
        axes.legend(loc="lower left", fontsize=8, labelspacing=0.3)
    return figure


def learning(steps: ArrayLike, values: ArrayLike, marked: Sequence[int], *, xlabel: str, ylabel: str) -> Figure:
    """A learning curve over gradient steps (logarithmic from step 1 on) with numbered points on it.

    Args:
        steps: of the records, of shape (n,).
        values: fractions, of shape (n,).
        marked: steps to be marked and numbered 0, 1, 2, ….
        xlabel: name of the x axis.
        ylabel: name of the y axis.

    Returns:
        The figure.

    Raises:
        ValueError: a marked step has no record.

    Example:
        >>> from npk import plots
        >>> figure = plots.learning([0, 1, 2], [0.1, 0.5, 0.9], [0, 2], xlabel="step", ylabel="accuracy")
        >>> [text.get_text() for text in figure.axes[0].texts]
        ['0', '1']
    """
    steps, values = np.asarray(steps), np.asarray(values, dtype=float)
    heights = dict(zip(steps.tolist(), values.tolist(), strict=True))
    if missing := [step for step in marked if step not in heights]:
        raise ValueError(f"marked steps {missing} have no record.")
    with panels(WIDTH, 2.8) as (figure, ((axes,),)):
        axes.plot(steps, values, color=COLORS[6], linewidth=1.6, label=ylabel)
        for number, step in enumerate(marked):
            axes.plot([step], [heights[step]], "o", color=COLORS[0], markersize=13, markeredgecolor=PAPER)
            axes.text(step, heights[step], str(number), color=PAPER, fontweight="bold", **_CENTERED)
        axes.set_xscale("symlog", linthresh=1.0, linscale=0.4)
        axes.set(xlabel=xlabel, ylabel=ylabel)
        in_percent(axes.yaxis)
        axes.margins(x=0.05, y=0.1)
    return figure


def dots(
    values: Mapping[str, float],
    intervals: Mapping[str, tuple[float, float]],
    groups: Mapping[str, Sequence[str]],
    *,
    xlabel: str,
    reference: tuple[str, float] | None = None,
) -> Figure:
    """Fractions as dots with their intervals, one a row, in coloured groups, and a dashed reference.

    Args:
        values: label → fraction, top to bottom.
        intervals: label → low and high end; a label that is missing has none.
        groups: name of the group → labels of its rows; every label is in one group.
        xlabel: name of the x axis, which does not start at zero.
        reference: name and value of a line across.

    Returns:
        The figure.

    Raises:
        ValueError: a label is in no group, or in two.

    Example:
        >>> from npk import plots
        >>> groups = {"random": ["FR"], "learned": ["FL"]}
        >>> ends = {"FR": (0.76, 0.84), "FL": (0.87, 0.93)}
        >>> figure = plots.dots({"FR": 0.8, "FL": 0.9}, ends, groups, xlabel="accuracy", reference=("ReLU", 0.95))
        >>> [text.get_text() for text in figure.axes[0].texts]
        ['80.0%', '90.0%']
    """
    group_of = [(label, name) for name, labels in groups.items() for label in labels]
    if sorted(label for label, _ in group_of) != sorted(values):
        raise ValueError(f"every row must be in one group: rows {sorted(values)}, in groups {sorted(group_of)}.")
    with panels(WIDTH, 1.2 + 0.26 * len(values)) as (figure, ((axes,),)):
        order = {label: row for row, label in enumerate(values)}
        for color, (name, labels) in zip(COLORS, groups.items(), strict=False):
            rows = [order[label] for label in labels]
            axes.plot([values[label] for label in labels], rows, "o", color=color, label=name)
            held = [label for label in labels if label in intervals]
            if held:
                ends = zip(*(intervals[label] for label in held))
                axes.hlines([order[label] for label in held], *ends, color=color, label=f"_{name}")
        for label, row in order.items():
            at = (1.0, row)
            axes.annotate(f"{values[label]:.1%}", at, (6, 0), ("axes fraction", "data"), "offset points", va="center")
        if reference is not None:
            axes.axvline(reference[1], color=INK, linestyle="--", linewidth=1.2)
            axes.set_title(f"dashed: {reference[0]}, {reference[1]:.1%}", loc="right", fontsize=8.5)
        axes.margins(x=0.06)
        axes.set(yticks=list(order.values()), yticklabels=list(values), xlabel=xlabel, ylim=(len(values) - 0.4, -0.6))
        in_percent(axes.xaxis, None)
        figure.legend(loc="outside lower center", ncols=2, fontsize=8)
    return figure
