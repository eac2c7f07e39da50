"""From the run folder of a comparison to figures and one self-contained page, `report.html`."""

from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from npk import plots
from npk.solving import Estimate, PowerLaw
from npk.studies.correct import mean_accuracy, mean_difference, unpacked
from npk.studies.flow import CASES, KERNELS
from npk.studies.pages import sentences
from npk.studies.pages.comparison_plots import descents, power_laws, slope_words
from npk.studies.pages.page import Picture, filled, of_a_run, table, write_page
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
        ValueError: the comparison is not finished, or it was written by an npk that had no intervals.

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
        older = any("correct" not in row for row in result["regression"])
    if older:
        raise ValueError(
            f"the comparison in {folder} is of an earlier npk, and has no intervals: run it anew elsewhere."
        )
    with of_a_run(folder):
        return write_page(folder, _draw(result), lambda pictures: _render(result, pictures))


def _draw(result: dict[str, Any]) -> dict[str, Picture]:
    axes: dict[str, Any] = {
        "xlabel": f"width ({_unit(result)}, logarithmic)",
        "ylabel": "relative Frobenius error (logarithmic)",
    }
    rows = mean_accuracies(result)
    ends = {LABELS[name]: found for name, found in accuracy_intervals(result).items()}
    groups = {
        "finite width": [LABELS[name] for name in rows if name in _FINITE],
        "infinite width": [LABELS[name] for name in rows if name.endswith("-infinite")],
        "no network": [LABELS["pixels"]],
    }
    slopes = {name: slope_words(_fit_of(result, name)) for name in (*_LIMITS, *_REGIMES)}
    return {
        "limits": Picture(
            power_laws(_series(result, _LIMITS), **axes),
            "Distance of kernels from their limits, by width",
            "Slopes on logarithmic axes: " + ", ".join(f"{name} {slopes[name]}" for name in _LIMITS) + ".",
        ),
        "regimes": Picture(
            power_laws(
                _series(result, _REGIMES), **axes, asymptote=("distance between the limits", result["limit_gap"])
            ),
            "The value kernel with independent and with dependent gates, by width",
            "Slopes on logarithmic axes: " + ", ".join(f"{name} {slopes[name]}" for name in _REGIMES) + ".",
        ),
        "regression": Picture(
            plots.dots(
                {label: found.value for label, found in ends.items()},
                {label: (found.low, found.high) for label, found in ends.items()},
                groups,
                xlabel="test accuracy (the axis does not start at zero)",
                reference=("the trained networks", rows["npk-learned"]["network_accuracy"]),
            ),
            "Test accuracy of kernel regression",
            ", ".join(f"{label} {found.value:.1%}" for label, found in ends.items()) + ".",
        ),
        "flow": Picture(
            descents(
                {CASES[row["case"]]: (np.array(row["times"]), row["real"], row["predicted"]) for row in result["flow"]},
                {"ntk": "$K$", "value": "$K^V$ alone", "npk": r"$d\prod\sigma^2 H$"},
                {"train_loss": "training loss, ½‖f − y‖² a sample", "test_error": "test images misclassified"},
            ),
            "Training beside its prediction by a kernel",
            "Largest error of predicted test outputs with K: "
            + ", ".join(f"{CASES[row['case']]} {row['errors']['ntk']['test']:.1%}" for row in result["flow"])
            + ".",
        ),
    }


def _right(result: dict[str, Any]) -> dict[str, list[np.ndarray]]:
    """Kernel → for each of its networks which test samples are classified correctly."""
    count = result["data"]["test"]
    rows = {name: [row for row in result["regression"] if row["kernel"] == name] for name in LABELS}
    return {name: [unpacked(row["correct"], count) for row in found] for name, found in rows.items() if found}


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


def accuracy_intervals(result: dict[str, Any]) -> dict[str, Estimate]:
    """Test accuracies by kernel, means over seeds, with their intervals over test samples.

    Args:
        result: the content of `compare.json`.

    Returns:
        Name of the kernel → an `Estimate`.

    Example:
        >>> from npk.studies import accuracy_intervals
        >>> row = {"kernel": "pixels", "seed": None, "correct": "f0"}
        >>> accuracy_intervals({"regression": [row], "data": {"test": 8}})["pixels"].value
        0.5
    """
    return {name: mean_accuracy(networks) for name, networks in _right(result).items()}


# --- the page ---------------------------------------------------------------------------------------


def _render(result: dict[str, Any], pictures: dict[str, Markup]) -> str:
    config, rows, right = result["config"], mean_accuracies(result), _right(result)
    ends = accuracy_intervals(result)
    parts, draws, gap = ("train", "test"), _fit_of(result, "ii-draw"), _fit_of(result, "di-gap")
    widest = config["widths"][-1]
    last = [row["errors"]["di-gap"] for row in result["ladder"] if row["width"] == widest]
    change = mean_difference(right["npk-learned"], right["npk-random"])
    words = {
        "described": f"{config['network']}, {result['weight_layers']} weight layers",
        "rows": rows,
        "relu": next(row["errors"] for row in result["flow"] if row["case"] == "ReLU"),
        "draws_slope": f"{draws.slope:.2f}".replace("-", "−"),
        "draws": sentences.as_expected(draws.low, draws.high),
        "gap": sentences.levelling((gap.slope, gap.low, gap.high), float(np.mean(last)), result["limit_gap"]),
        "gap_slope": slope_words(gap),
        "gates_plural": "" if config["gates_seeds"] == 1 else "s",
        "learned": sentences.accuracy_verdict(_told(change), result["data"]["test"], "image"),
        "flow_width": config["flow_width"] or config["widths"][-2],
        "regression_table": table(
            ["kernel", "validation", "test", "95 % interval"],
            ((LABELS[name], [f"{row['validation_accuracy']:.2%}", *_cells(ends[name])]) for name, row in rows.items()),
        ),
        "flow_table": table(
            ["network", *(f"{name.replace('K^V', 'K<sup>V</sup>')}, {p}" for name in KERNELS.values() for p in parts)],
            (
                (CASES[row["case"]], [f"{row['errors'][kernel][p]:.1%}" for kernel in KERNELS for p in parts])
                for row in result["flow"]
            ),
        ),
    }
    return filled("comparison_template.html", result, pictures, words)


def _told(estimate: Estimate) -> tuple[float, float, float]:
    return estimate.value, estimate.low, estimate.high


def _cells(estimate: Estimate) -> list[str]:
    return [f"{estimate.value:.2%}", f"{estimate.low:.1%} to {estimate.high:.1%}"]


def _unit(result: dict[str, Any]) -> str:
    return "units a layer" if result["config"]["network"] == "mlp" else "channels"
