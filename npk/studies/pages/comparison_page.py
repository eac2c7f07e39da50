"""From the run folder of a comparison to figures and one self-contained page, `report.html`."""

import math
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from npk import plots
from npk.solving import PowerLaw
from npk.studies.flow import CASES, KERNELS
from npk.studies.pages.comparison_plots import descents, power_laws, slope_words
from npk.studies.pages.page import escaped, filled, of_a_run, table, write_page
from npk.studies.regression import LABELS
from npk.studies.run_folder import read_run

# What the curves are called in the two figures of errors against width.
_LIMITS = {
    "ntk": r"$K$ to the infinite NTK",
    "ii": r"$K^V$ (FR-II) to the infinite $d\prod\sigma^2 H$",
    "npk": r"$H$ to the infinite NPK",
    "nngp": r"last layer of $K$ to the NNGP",
}
_REGIMES = {
    "ii-draw": r"FR-II: $K^V$ about $d\prod\sigma^2 H$",
    "di": r"FR-DI: $K^V$ to its own limit",
    "di-gap": r"FR-DI: $K^V$ about $d\prod\sigma^2 H$",
}
_FINITE = ("npk-random", "npk-learned")


def write_comparison_report(folder: str | Path) -> Path:
    """Draw the figures of a finished comparison and write its page.

    Args:
        folder: its run folder.

    Returns:
        The path of `report.html`.

    Raises:
        FileNotFoundError: the folder holds no comparison.
        ValueError: the comparison is not finished.

    Example:
        >>> from npk.studies import write_comparison_report
        >>> write_comparison_report("nowhere")
        Traceback (most recent call last):
        FileNotFoundError: nowhere holds no comparison (no compare.json).
    """
    folder, result = Path(folder), read_run(folder, "compare")
    if not result["finished"]:
        raise ValueError(f"the comparison in {folder} is not finished: continue it with --resume.")
    with of_a_run(folder):
        return write_page(folder, _draw(result), lambda svg: _render(result, svg))


def _draw(result: dict[str, Any]) -> dict[str, Figure]:
    axes: dict[str, Any] = {
        "xlabel": f"width ({_unit(result)}, logarithmic)",
        "ylabel": "relative Frobenius error (logarithmic)",
    }
    rows = mean_accuracies(result)
    shown = {LABELS[name]: row["test_accuracy"] for name, row in rows.items()}
    groups = {
        "finite width": [LABELS[name] for name in rows if name in _FINITE],
        "infinite width": [LABELS[name] for name in rows if name.endswith("-infinite")],
        "no network": [LABELS["pixels"]],
    }
    return {
        "limits": power_laws(_series(result, _LIMITS), **axes),
        "regimes": power_laws(
            _series(result, _REGIMES), **axes, asymptote=("distance between the limits", result["limit_gap"])
        ),
        "regression": plots.bars(
            shown,
            groups,
            xlabel="test accuracy (the axis does not start at zero)",
            reference=("the trained networks", rows["npk-learned"]["network_accuracy"]),
        ),
        "flow": descents(
            {CASES[row["case"]]: (np.array(row["times"]), row["real"], row["predicted"]) for row in result["flow"]},
            {"ntk": "$K$", "value": "$K^V$ alone", "npk": r"$d\prod\sigma^2 H$"},
            {"train_loss": "training loss, ½‖f − y‖² a sample", "test_error": "test images misclassified"},
        ),
    }


def mean_accuracies(result: dict[str, Any]) -> dict[str, dict[str, float]]:
    """The rows of the regression by kernel, means over seeds.

    Args:
        result: the content of `compare.json`.

    Returns:
        Name of the kernel → "test_accuracy", "validation_accuracy", and of learned gates "network_accuracy".

    Example:
        >>> from npk.studies import mean_accuracies
        >>> row = {"kernel": "pixels", "seed": None, "test_accuracy": 0.9, "validation_accuracy": 0.8}
        >>> mean_accuracies({"regression": [row]})["pixels"]["test_accuracy"]
        0.9
    """
    found: dict[str, dict[str, float]] = {}
    for name in LABELS:
        rows = [row for row in result["regression"] if row["kernel"] == name]
        numbers = ("test_accuracy", "validation_accuracy", "network_accuracy")
        if rows:
            found[name] = {n: float(np.mean([row[n] for row in rows])) for n in numbers if n in rows[0]}
    return found


def _series(result: dict[str, Any], names: dict[str, str]) -> dict[str, tuple[np.ndarray, np.ndarray, PowerLaw]]:
    widths = np.array([row["width"] for row in result["ladder"]], dtype=float)
    return {
        label: (widths, np.array([row["errors"][name] for row in result["ladder"]]), _fit_of(result, name))
        for name, label in names.items()
    }


def _fit_of(result: dict[str, Any], curve: str) -> PowerLaw:
    row = result["slopes"][curve]
    return PowerLaw(**{name: row[name] for name in ("slope", "low", "high", "factor")})


# --- the page ---------------------------------------------------------------------------------------


def _render(result: dict[str, Any], svg: dict[str, str]) -> str:
    result = escaped(result)
    data, config, rows = result["data"], result["config"], mean_accuracies(result)
    best, parts = max(row["test_accuracy"] for row in rows.values()), ("train", "test")
    slope, interval = slope_words(_fit_of(result, "ii-draw")).split(" ", 1)
    words = {
        "described": f"{config['network']}, {result['weight_layers']} weight layers",
        "rows": rows,
        "relu": next(row["errors"] for row in result["flow"] if row["case"] == "ReLU"),
        "draws_slope": slope,
        "draws_interval": interval,
        "gap_slope": slope_words(_fit_of(result, "di-gap")),
        "gates_plural": "" if config["gates_seeds"] == 1 else "s",
        "standard_error": math.sqrt(best * (1 - best) / data["test"]),
        "flow_width": config["flow_width"] or config["widths"][-2],
        "regression_table": table(
            ["kernel", "validation", "test"],
            (
                (LABELS[name], [f"{row['validation_accuracy']:.2%}", f"{row['test_accuracy']:.2%}"])
                for name, row in rows.items()
            ),
        ),
        "flow_table": table(
            ["network", *(f"{name.replace('K^V', 'K<sup>V</sup>')}, {p}" for name in KERNELS.values() for p in parts)],
            (
                (CASES[row["case"]], [f"{row['errors'][kernel][p]:.1%}" for kernel in KERNELS for p in parts])
                for row in result["flow"]
            ),
        ),
    }
    title = "Finite and infinite width: {described} on {dataset}"
    return filled("comparison_template.html", title, result, svg, words)


def _unit(result: dict[str, Any]) -> str:
    return "units a layer" if result["config"]["network"] == "mlp" else "channels"
