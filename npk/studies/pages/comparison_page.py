"""From the run folder of a comparison to figures and one self-contained page, `report.html`."""

import html
import json
import math
import string
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from npk import plots
from npk.solving import PowerLaw
from npk.studies.flow import CASES, KERNELS
from npk.studies.pages.comparison_plots import descents, power_laws, slope_words
from npk.studies.pages.page import inline, pairs, style, template
from npk.studies.regression import LABELS
from npk.studies.run_folder import replace

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
    folder = Path(folder)
    path = folder / "compare.json"
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no comparison (no compare.json).")
    result = json.loads(path.read_text(encoding="utf-8"))
    if not result["finished"]:
        raise ValueError(f"the comparison in {folder} is not finished: continue it with --resume.")
    (folder / "figures").mkdir(exist_ok=True)
    svg = {}
    for name, figure in draw_comparison(result).items():
        _, drawn = plots.save(figure, folder / "figures" / name)
        svg[name] = drawn.read_text(encoding="utf-8")
    page = folder / "report.html"
    replace(page, _render(result, svg).encode())
    return page


def draw_comparison(result: dict[str, Any]) -> dict[str, Figure]:
    """The figures of a comparison.

    Args:
        result: the content of a finished `compare.json`.

    Returns:
        Name → figure.

    Example:
        >>> from npk.studies import draw_comparison
        >>> draw_comparison.__name__
        'draw_comparison'
    """
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
        label: (widths, np.array([row["errors"][name] for row in result["ladder"]]), fit_of(result, name))
        for name, label in names.items()
    }


def fit_of(result: dict[str, Any], curve: str) -> PowerLaw:
    """The fitted slope of a curve.

    Args:
        result: the content of `compare.json`.
        curve: a key of its "slopes".

    Returns:
        A `PowerLaw`.

    Example:
        >>> from npk.studies import fit_of
        >>> slopes = {"ntk": {"of": "K", "slope": -0.5, "low": -0.6, "high": -0.4, "factor": 2.0}}
        >>> fit_of({"slopes": slopes}, "ntk").low
        -0.6
    """
    row = result["slopes"][curve]
    return PowerLaw(**{name: row[name] for name in ("slope", "low", "high", "factor")})


# --- the page ---------------------------------------------------------------------------------------


def _render(result: dict[str, Any], svg: dict[str, str]) -> str:
    frame = template("comparison_template.html")
    data, config, rows = result["data"], result["config"], mean_accuracies(result)
    best = max(row["test_accuracy"] for row in rows.values())
    seeds = config["gates_seeds"]
    words = {
        "style": style(),
        "dataset": html.escape(data["title"]),
        "source": html.escape(data["source"]),
        "network": f"{config['network']}, {result['weight_layers']} weight layers",
        "cards": _cards(result, rows),
        "inputs": data["ladder"],
        "seeds": config["seeds"],
        "train": f"{data['train']:,}",
        "test": f"{data['test']:,}",
        "network_accuracy": f"{rows['npk-learned']['network_accuracy']:.1%}",
        "gates_seeds": seeds,
        "gates_plural": "" if seeds == 1 else "s",
        "standard_error": f"{math.sqrt(best * (1 - best) / data['test']):.1%}",
        "regression_table": _regression_table(rows),
        "flow_width": config["flow_width"] or config["widths"][-2],
        "flow_train": data["flow_train"],
        "flow_table": _flow_table(result),
        "config_table": pairs({k: v for k, v in config.items() if v is not None}),
        "versions_table": pairs({**result["versions"], **result["machine"]}),
    }
    return string.Template(frame).substitute(words | {f"figure_{n}": inline(n, text) for n, text in svg.items()})


def _cards(result: dict[str, Any], rows: dict[str, dict[str, float]]) -> str:
    draws, gap = fit_of(result, "ii-draw"), fit_of(result, "di-gap")
    relu = next(row for row in result["flow"] if row["case"] == "ReLU")
    cards = {
        f"{draws.slope:.2f}".replace("-", "−"): "slope of <i>K</i><sup>V</sup> about <i>d</i>∏<i>σ</i>² <i>H</i>, "
        f"gates independent; interval {slope_words(draws).split(' ', 1)[1]}",
        f"{result['limit_gap']:.0%}": "distance that stays between <i>K</i><sup>V</sup> and <i>d</i>∏<i>σ</i>² "
        f"<i>H</i> where gates are the network's own; slope {slope_words(gap)}",
        f"{rows['npk-random']['test_accuracy']:.1%} → {rows['npk-learned']['test_accuracy']:.1%}": "test accuracy of "
        f"<i>H</i> with random → learned gates; infinitely wide {rows['npk-infinite']['test_accuracy']:.1%}",
        f"{relu['errors']['ntk']['test']:.1%}": "largest error of the ReLU network's predicted test outputs, with "
        f"<i>K</i>; with <i>d</i>∏<i>σ</i>² <i>H</i> {relu['errors']['npk']['test']:.1%}",
    }
    return "\n".join(f'<li><b>{number}</b><span class="what">{text}</span></li>' for number, text in cards.items())


def _regression_table(rows: dict[str, dict[str, float]]) -> str:
    body = "".join(
        f"<tr><th scope='row'>{LABELS[name]}</th><td>{row['validation_accuracy']:.2%}</td>"
        f"<td>{row['test_accuracy']:.2%}</td></tr>"
        for name, row in rows.items()
    )
    head = "<th scope='col'>kernel</th><th scope='col'>validation</th><th scope='col'>test</th>"
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _flow_table(result: dict[str, Any]) -> str:
    names = [name.replace("K^V", "K<sup>V</sup>") for name in KERNELS.values()]
    head = "".join(f"<th scope='col'>{name}, {part}</th>" for name in names for part in ("train", "test"))
    body = "".join(
        f"<tr><th scope='row'>{CASES[row['case']]}</th>"
        + "".join(f"<td>{row['errors'][kernel][part]:.1%}</td>" for kernel in KERNELS for part in ("train", "test"))
        + "</tr>"
        for row in result["flow"]
    )
    return f"<table><thead><tr><th scope='col'>network</th>{head}</tr></thead><tbody>{body}</tbody></table>"


def _unit(result: dict[str, Any]) -> str:
    return "units a layer" if result["config"]["network"] == "mlp" else "channels"
