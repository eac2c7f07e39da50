"""From a run folder to figures and one self-contained page, `report.html`: no network, no scripts."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from npk import plots, solving
from npk.plots import COLORS
from npk.studies.pages.page import escaped, filled, inline, of_a_run, table, write_page
from npk.studies.run_folder import read_study, run_arrays

_NAMES = {"npk": "$H$", "value": "$K^V$", "feature": "$K^F$", "cross": "$K^{CROSS}$", "ntk": "$K$"}
_COLORS = dict(zip(_NAMES.values(), COLORS, strict=False))


def write_report(folder: str | Path) -> Path:
    """Draw the figures of a study and write its page.

    Args:
        folder: a run folder with at least one finished stage.

    Returns:
        The path of `report.html`.

    Raises:
        FileNotFoundError: the folder holds no study.
        ValueError: no stage of the study is finished.

    Example:
        >>> import tempfile
        >>> from npk.studies import write_report
        >>> from npk.studies import StudyConfig, run_study
        >>> small = dict(samples=20, test_samples=20, stages=2, regimes=False)
        >>> config = StudyConfig(width=8, depth=2, epochs=1, **small)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = run_study(config, folder)
        ...     write_report(folder).name
        'report.html'
    """
    folder, study = Path(folder), read_study(folder)
    with of_a_run(folder):
        if not study["stages"]:
            raise ValueError(f"no stage of the study in {folder} is finished: continue it with --resume.")
        return write_page(folder, _draw(study, folder), lambda svg: _render(study, svg))


def _draw(study: dict[str, Any], folder: Path) -> dict[str, Figure]:
    """Name → figure; the arrays are read from the run folder."""
    stages = study["stages"]
    ticks = [f"{stage['stage']}\n{stage['train_accuracy']:.0%}" for stage in stages]
    common: dict[str, Any] = {"xlabel": "stage of training", "xticks": ticks}
    history = study["training"]["history"]
    alone = rf"{_nouns(study)['pixel']}s alone, $\Sigma$"
    figures = {
        "training": plots.learning(
            [record["step"] for record in history],
            [record["train_accuracy"] for record in history],
            [stage["step"] for stage in stages],
            xlabel="gradient steps (logarithmic from 1 on)",
            ylabel="training accuracy",
        ),
        "flips": plots.curves(
            _layer_flips(stages) | _other_changes(stages), ylabel="gates changed since stage 0", percent=True, **common
        ),
        "accuracy": plots.curves(
            {
                "network": [stage["test_accuracy"] for stage in stages],
                "gates, $H$": [stage["ridge"]["test_accuracy"] for stage in stages],
            },
            references={alone: study["pixels"]["ridge"]["test_accuracy"]},
            colors={"network": COLORS[4], "gates, $H$": COLORS[0]},
            ylabel="test accuracy",
            percent=True,
            **common,
        ),
        "alignment": plots.curves(
            {label: [stage["alignment"][name] for stage in stages] for name, label in _NAMES.items() if name != "ntk"},
            references={alone: study["pixels"]["alignment"]},
            colors=_COLORS,
            ylabel="alignment with the labels (1 = ideal)",
            **common,
        ),
        "split": plots.shares(
            {_NAMES[part]: [stage["share"][part] for stage in stages] for part in ("value", "feature", "cross")},
            ylabel="share of the trace of $K$",
            **common,
        ),
    }
    if shown := _regimes_shown(study):
        figures["regimes"] = plots.bars(
            {row["label"]: row["test_accuracy"] for row in shown},
            {
                name: labels
                for name, kinds in _REGIME_GROUPS.items()
                if (labels := [row["label"] for row in shown if row["regime"] in kinds])
            },
            xlabel="test accuracy (the axis does not start at zero)",
            reference=("the ReLU network", stages[-1]["test_accuracy"]),
        )
    return figures | _draw_kernels(study, folder)


def _draw_kernels(study: dict[str, Any], folder: Path) -> dict[str, Figure]:
    count = len(study["stages"])
    shown = sorted({round(i) for i in np.linspace(0, count - 1, 4)})
    rows: dict[str, list[np.ndarray]] = {_NAMES[name]: [] for name in ("npk", "value", "feature", "cross")}
    spectra = {}
    for stage in range(count):
        arrays = run_arrays(folder, study, f"kernels/stage-{stage}.npz")
        spectra[f"stage {stage}"] = arrays["npk_spectrum"]
        if stage in shown:
            for name in ("npk", "value", "feature", "cross"):
                rows[_NAMES[name]].append(solving.center(arrays[name]))
    labels = run_arrays(folder, study, "samples.npz")["train_labels"]
    columns = [f"stage {stage}" for stage in shown]
    class_names = study["data"]["class_names"]
    return {
        "kernels": plots.heatmaps(rows, labels, columns=columns, class_names=class_names),
        "spectra": plots.spectra(spectra),
    }


def _layer_flips(stages: Sequence[dict[str, Any]]) -> dict[str, list[float]]:
    layers = len(stages[0]["gate_flips"]["layers"])
    shown = range(layers) if layers <= 6 else sorted({round(i) for i in np.linspace(0, layers - 1, 6)})
    return {f"layer {i + 1}": [stage["gate_flips"]["layers"][i] for stage in stages] for i in shown}


# What the gates of other kinds are called, and what their change is.
_OTHERS = {
    "pattern": ("patterns", "the patterns of its attention, that is how much each token takes from which others"),
    "scale": ("scales", "the scales 1/σ of its normalisations"),
    "product": ("products", "the sides of its products that gate the others"),
}


def _other_changes(stages: Sequence[dict[str, Any]]) -> dict[str, list[float]]:
    """Kind of gates → how far they moved, a line for all layers together."""
    kinds = stages[0].get("gate_changes", {})
    return {_OTHERS[kind][0]: [stage["gate_changes"][kind]["all"] for stage in stages] for kind in kinds}


# --- the page ---------------------------------------------------------------------------------------


_REGIME_GROUPS = {
    "gates random, frozen": ("FR-II", "FR-DI"),
    "gates of stage k, frozen": ("FL",),
    "soft gates, trained": ("DL",),
    "linear gates, trained": ("DLGN", "DLGN-SF"),
}


def _regimes_shown(study: dict[str, Any]) -> list[dict[str, Any]]:
    return [row for row in study.get("regimes", []) if row["test_accuracy"] is not None]


def _regimes_section(study: dict[str, Any], svg: dict[str, str]) -> str:
    """The section on the regimes, or nothing in a study without them."""
    shown, nouns = {row["label"]: row["test_accuracy"] for row in _regimes_shown(study)}, _nouns(study)
    if "regimes" not in svg:
        return ""
    learned = [label for label in shown if label.startswith("FL-")]
    left_out = [row["label"] for row in study["regimes"] if row["test_accuracy"] is None]
    why = ", ".join(dict.fromkeys(row["why"] for row in study["regimes"] if row["test_accuracy"] is None))
    note = f" Not possible for this network: {', '.join(left_out)} ({why})." if left_out else ""
    return f"""<h2>Are the gates enough?</h2>
<p>Now the gates are held apart from the weights. A second set of weights starts afresh and learns, while the gates are
given to it: those of a random network (FR), or those that the network above had at stage k of its training (FL-k). With
gates of stage 0 it reaches {shown[learned[0]]:.1%} on the test {nouns["image"]}s, with those of the last stage
{shown[learned[-1]]:.1%}: the difference, as far as one
seed shows it, is what learning put into the gates.</p>
<figure><div class="scroll">{inline("regimes", svg["regimes"])}</div>
<figcaption>Test accuracy after training the value network alone (frozen gates) or both (DL: soft gates of a second
ReLU network; DLGN: of a deep linear network; DLGN-SF: of one linear map of the {nouns["pixel"]}s a layer). One seed,
the last epoch.{note}</figcaption></figure>
"""


def _render(study: dict[str, Any], svg: dict[str, str]) -> str:
    study = escaped(study)
    first, last = study["stages"][0], study["stages"][-1]
    words = {
        "first": first,
        "last": last,
        "climb": study["training"]["stages"][-2],
        "end": study["training"]["stages"][-1],
        "described": _network_words(study["network"]),
        "unfinished": "" if study["finished"] else _unfinished(study),
        "hadamard": _hadamard(study["network"], _nouns(study)),
        "alignment_moved": _moved(first["alignment"]["npk"], last["alignment"]["npk"], 0.005),
        "value_moved": _moved(first["share"]["value"], last["share"]["value"], 0.005),
        "rank_moved": _moved(first["effective_rank"]["npk"], last["effective_rank"]["npk"], 0.5),
        "regimes_section": _regimes_section(study, svg),
        "other_gates": _other_gates(study),
        # A column a stage: so the table fits a page, and a row reads as a story.
        "stages_table": table(
            ["stage", *(str(stage["stage"]) for stage in study["stages"])],
            ((name, [show.format(**stage) for stage in study["stages"]]) for name, show in _ROWS.items()),
        ),
        **_nouns(study),
    }
    return filled("report_template.html", "What the gates learned: {described} on {dataset}", study, svg, words)


def _other_gates(study: dict[str, Any]) -> str:
    """What else is a gate in this network; nothing where only units open and close."""
    first, last = study["stages"][0], study["stages"][-1]
    kinds = first.get("gate_changes", {})
    if not kinds:
        return ""
    said = "; ".join(
        f"{_OTHERS[kind][1]} ({last['gate_changes'][kind]['all']:.1%} changed by the end)" for kind in kinds
    )
    return f"""<p>Whatever else multiplies and depends on the {_nouns(study)["image"]} is a gate of this network too:
{said}. The change of such gates is Σ|<i>G</i> − <i>G</i><sub>0</sub>| / Σ(|<i>G</i>| + |<i>G</i><sub>0</sub>|): nothing
at 0, all at 1, and of a pattern the share of attention that went elsewhere.</p>
"""


def _moved(before: float, after: float, tolerance: float) -> str:
    if abs(after - before) < tolerance:
        return "stays"
    return "rises" if after > before else "falls"


def _network_words(network: dict[str, Any]) -> str:
    width = network.get("width") or network.get("channels")
    unit = "channels" if "channels" in network else "wide"
    layers = "weight layer" if network["kind"] in ("MLP", "ResNet") else "layer"
    depth = f", {network['depth']} {layers}{'s' if network['depth'] > 1 else ''}" if "depth" in network else ""
    bias = "with biases" if network.get("use_bias") else "no biases"
    return f"{network['kind']}, {width} {unit}{depth}, {bias}"


def _nouns(study: dict[str, Any]) -> dict[str, str]:
    """What a sample is, and what it is made of."""
    if len(study["data"]["shape"]) > 1:
        return {"image": "image", "pixel": "pixel"}
    return {"image": "point", "pixel": "coordinate"}


def _hadamard(network: dict[str, Any], nouns: dict[str, str]) -> str:
    if network["kind"] == "MLP" and not network["use_bias"]:
        return (
            f"For this network it factors into <i>H</i> = Σ ⊙ Λ: Σ compares the {nouns['pixel']}s, and Λ counts, layer "
            f"by layer, the gates that are open for both {nouns['image']}s."
        )
    return "It is computed exactly, from the overlaps of the gates, without listing a single path."


def _unfinished(study: dict[str, Any]) -> str:
    done, total = len(study["stages"]), study["config"]["stages"]
    return f"<p class='note'>Unfinished: {done} of {total} stages. Continue with <code>--resume</code>.</p>"


_ROWS = {
    "gradient steps": "{step:,}",
    "network, training accuracy": "{train_accuracy:.1%}",
    "network, test accuracy": "{test_accuracy:.1%}",
    "ridge with <i>H</i>, test accuracy": "{ridge[test_accuracy]:.1%}",
    "gates flipped": "{gate_flips[all]:.1%}",
    "alignment of <i>H</i>": "{alignment[npk]:.3f}",
    "alignment of <i>K</i><sup>V</sup>": "{alignment[value]:.3f}",
    "alignment of <i>K</i><sup>F</sup>": "{alignment[feature]:.3f}",
    "alignment of <i>K</i><sup>CROSS</sup>": "{alignment[cross]:.3f}",
    "drift of <i>H</i>": "{drift[npk]:z.4f}",
    "drift of <i>K</i>": "{drift[ntk]:z.4f}",
    "effective rank of <i>H</i>": "{effective_rank[npk]:.1f}",
    "share of <i>K</i><sup>V</sup>": "{share[value]:.1%}",
    "share of <i>K</i><sup>F</sup>": "{share[feature]:.1%}",
    "share of <i>K</i><sup>CROSS</sup>": "{share[cross]:.1%}",
}
