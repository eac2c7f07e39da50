"""`docs/patterns.md` and its figures from the JSON of the last run: `python -m benchmarks.tables` writes them anew."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from benchmarks.harness import RESULTS
from benchmarks.patterns import LABELS, interval, values_of
from npk import plots
from npk.plots import COLORS, INK, in_percent, panels

PAGE = RESULTS.parents[1] / "docs" / "patterns.md"
GROUPS = {  # colour → rows
    COLORS[6]: ("FR",),
    COLORS[0]: ("scales", "activations", "patterns", "all but scales", "all but activations", "all but patterns"),
    COLORS[2]: ("FL",),
    COLORS[3]: ("DL",),
    COLORS[4]: ("network",),
}


def load() -> dict[str, Any]:
    """The results of all tasks."""
    return json.loads((RESULTS / "patterns.json").read_text(encoding="utf-8"))["results"]


def over_training(results: Mapping[str, Any]) -> Figure:
    """Accuracy of values under the gates of each epoch, beside the network's own then."""
    with panels(3.6 * len(results), 3.6, 1, len(results), sharey=True) as (figure, (axes,)):
        for axis, result in zip(axes, results.values(), strict=True):
            marks = result["marks"]
            for template, name, color in (
                ("network after {}", "the network at that epoch", COLORS[4]),
                ("FL-{}", "values trained anew under its gates (FL)", COLORS[0]),
            ):
                found = [interval(result["rows"][template.format(mark)]["test"]) for mark in marks]
                means, errors = np.array(found).T
                axis.errorbar(range(len(marks)), means, errors, marker="o", capsize=2.5, color=color, label=name)
            random = interval(values_of(result, "FR"))[0]
            axis.axhline(random, color=COLORS[6], linestyle="--", linewidth=1.4, label="values under random gates (FR)")
            axis.axhline(
                result["most frequent class"], color=INK, linestyle=":", linewidth=1.2, label="most frequent class"
            )
            axis.set_xticks(range(len(marks)), map(str, marks))
            axis.set(title=result["title"], xlabel="epoch that the gates are of", ylim=(0, 1.04))
            in_percent(axis.yaxis)
        axes[0].set_ylabel("test accuracy")
        handles, names = axes[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=4, fontsize=8.5)
    return figure


def by_kind(results: Mapping[str, Any]) -> Figure:
    """Accuracy of values by which gates are of the trained network."""
    color_of = {label: color for color, labels in GROUPS.items() for label in labels}
    with panels(4.4 + 2.6 * len(results), 3.8, 1, len(results), sharey=True) as (figure, (axes,)):
        for axis, result in zip(axes, results.values(), strict=True):
            found = [interval(values_of(result, label)) for label in LABELS]
            means, errors = np.array(found).T
            colors = [color_of[label] for label in LABELS]
            axis.barh(
                range(len(LABELS)), means, 0.7, xerr=errors, color=colors, error_kw={"capsize": 2.5, "ecolor": INK}
            )
            axis.axvline(result["most frequent class"], color=INK, linestyle=":", linewidth=1.2)
            axis.set(title=result["title"], xlabel="test accuracy", xlim=(0, 1.06), ylim=(len(LABELS) - 0.4, -0.6))
            axis.grid(False, axis="y")
            in_percent(axis.xaxis)
        axes[0].set_yticks(range(len(LABELS)), LABELS.values())
    return figure


def attended(result: Mapping[str, Any]) -> Figure:
    """What the last token of the look-up attends to, by the place that it asks for."""
    layers = [np.array(layer) for layer in result["attention"]]  # head, asked, token
    heads = len(layers[0])
    with panels(2.1 * len(layers) * heads + 0.8, 2.5, 1, len(layers) * heads, sharey=True) as (figure, (axes,)):
        for number, axis in enumerate(axes):
            pattern = layers[number // heads][number % heads]
            image = axis.imshow(pattern, vmin=0, vmax=1, cmap="magma", aspect="auto")
            ticks = [*map(str, range(pattern.shape[1] - 1)), "?"]
            axis.set_xticks(range(pattern.shape[1]), ticks)
            axis.set_yticks(range(len(pattern)))
            axis.grid(False)
            axis.set(title=f"layer {number // heads + 1}, head {number % heads + 1}", xlabel="place attended to")
        axes[0].set_ylabel("place asked for")
        figure.colorbar(image, ax=axes, label="share of attention")
    return figure


def figures() -> dict[str, Figure]:
    """File name → figure."""
    results = load()
    return {
        "patterns-training": over_training(results),
        "patterns-kinds": by_kind(results),
        "patterns-attended": attended(results["look-up"]),
    }


def write() -> None:
    """The page and its pictures."""
    for name, figure in figures().items():
        png, svg = plots.save(figure, PAGE.parent / name)
        svg.unlink()
        pathlib.Path(png)
    PAGE.write_text(page(), encoding="utf-8")


def page() -> str:
    raise NotImplementedError
