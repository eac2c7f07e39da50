"""The figures of a study's page, each with a title and a description in words."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from npk import plots, solving
from npk.plots import COLORS, plain
from npk.studies.correct import unpacked
from npk.studies.pages.page import Picture
from npk.studies.pages.words import OTHER_GATES, REGIME_GROUPS, nouns, regimes_shown
from npk.studies.run_folder import run_arrays

_NAMES = {"npk": "$H$", "value": "$K^V$", "feature": "$K^F$", "cross": "$K^{CROSS}$", "ntk": "$K$"}
_PLAIN = {"npk": "H", "value": "the value part", "feature": "the feature part", "cross": "the cross part"}
_COLORS = dict(zip(_NAMES.values(), COLORS, strict=False))
_COLUMNS = 3  # heat maps of one kernel, side by side
_LETTERS, _TICKS = 40, 9  # that an axis has room for
_CURVES, _NAME = 8, 14  # in one figure, and letters of a name in it


def draw(study: Mapping[str, Any], folder: Path) -> dict[str, Picture]:
    """Name → picture; the arrays are read from the run folder."""
    stages = study["stages"]
    pictures = _of_training(study) if study["training"] else {}
    if len(stages) > 1:
        pictures |= _over_stages(study)
    pictures |= _of_regimes(study)
    return pictures | _of_kernels(study, folder)


def _of_training(study: Mapping[str, Any]) -> dict[str, Picture]:
    history, stages = study["training"]["history"], study["stages"]
    figure = plots.learning(
        [record["step"] for record in history],
        [record["train_accuracy"] for record in history],
        [stage["step"] for stage in stages],
        xlabel="gradient steps (logarithmic from 1 on)",
        ylabel="training accuracy",
    )
    text = (
        f"Training accuracy from {history[0]['train_accuracy']:.0%} at step 0 to {history[-1]['train_accuracy']:.0%} "
    )
    text += f"at step {history[-1]['step']:,}; the stages are at steps {_listed(s['step'] for s in stages)}."
    return {"training": Picture(figure, "Training accuracy over gradient steps", text)}


def _over_stages(study: Mapping[str, Any]) -> dict[str, Picture]:
    stages, noun = study["stages"], nouns(study)
    common: dict[str, Any] = {
        "xlabel": "stage of training" if study["training"] else "checkpoint",
        "xticks": _ticks(study),
    }
    alone = rf"{noun['pixel']}s, $\Sigma$"
    names = {name: label for name, label in _NAMES.items() if name in _PLAIN}
    pictures = {}
    if moving := _layer_flips(stages) | _other_changes(stages):
        pictures["flips"] = Picture(
            plots.curves(moving, ylabel=f"gates changed since {plain(stages[0]['name'])}", percent=True, **common),
            "Gates that changed, by layer",
            "At the last stage: " + _listed(f"{name} {values[-1]:.0%}" for name, values in moving.items()) + ".",
        )
    accuracy = {
        "network": ([s["test_accuracy"] for s in stages], [s["intervals"]["test_accuracy"] for s in stages]),
        "gates, $H$": ([s["ridge"]["test_accuracy"] for s in stages], [s["intervals"]["ridge"] for s in stages]),
    }
    pictures["accuracy"] = Picture(
        plots.curves(
            {name: values for name, (values, _) in accuracy.items()},
            references={alone: study["pixels"]["ridge"]["test_accuracy"]} if study["pixels"] else {},
            colors={"network": COLORS[4], "gates, $H$": COLORS[0]},
            intervals={name: ends for name, (_, ends) in accuracy.items()},
            ylabel="test accuracy",
            percent=True,
            **common,
        ),
        "Test accuracy of the network and of its gates",
        f"The network from {stages[0]['test_accuracy']:.1%} to {stages[-1]['test_accuracy']:.1%}, its gates from "
        f"{stages[0]['ridge']['test_accuracy']:.1%} to {stages[-1]['ridge']['test_accuracy']:.1%}.",
    )
    pictures["alignment"] = Picture(
        plots.curves(
            {label: [stage["alignment"][name] for stage in stages] for name, label in names.items()},
            references={alone: study["pixels"]["alignment"]} if study["pixels"] else {},
            colors=_COLORS,
            intervals={label: [s["intervals"]["alignment"][name] for s in stages] for name, label in names.items()},
            ylabel="alignment with the labels (1 = ideal)",
            **common,
        ),
        "Alignment of the kernels with the labels",
        _from_to({_PLAIN[name]: [stage["alignment"][name] for stage in stages] for name in names}, ".2f"),
    )
    parts = {part: [stage["share"][part] for stage in stages] for part in ("value", "feature", "cross")}
    pictures["split"] = Picture(
        plots.shares(
            {_NAMES[part]: shares for part, shares in parts.items()}, ylabel="share of the trace of $K$", **common
        ),
        "Shares of the tangent kernel",
        _from_to({_PLAIN[part]: shares for part, shares in parts.items()}, ".0%"),
    )
    return pictures


def _of_regimes(study: Mapping[str, Any]) -> dict[str, Picture]:
    rows = regimes_shown(study)
    if not rows:
        return {}
    ends = {row["label"]: solving.proportion(unpacked(row["correct"], study["data"]["test"])) for row in rows}
    last = study["stages"][-1]
    figure = plots.dots(
        {row["label"]: row["test_accuracy"] for row in rows},
        {label: (found.low, found.high) for label, found in ends.items()},
        {
            name: labels
            for name, kinds in REGIME_GROUPS.items()
            if (labels := [row["label"] for row in rows if row["regime"] in kinds])
        },
        xlabel="test accuracy (the axis does not start at zero)",
        reference=("the network", last["test_accuracy"]),
    )
    said = _listed(f"{row['label']} {row['test_accuracy']:.1%}" for row in rows)
    return {"regimes": Picture(figure, "Test accuracy of gates and weights held apart", f"{said}.")}


def _of_kernels(study: Mapping[str, Any], folder: Path) -> dict[str, Picture]:
    names, count = study["names"], len(study["stages"])
    shown = sorted({round(i) for i in np.linspace(0, count - 1, min(_COLUMNS, count))})
    rows: dict[str, list[np.ndarray]] = {_NAMES[name]: [] for name in _PLAIN}
    spectra = {}
    curves = {round(i) for i in np.linspace(0, count - 1, min(_CURVES, count))}
    for stage in sorted({*shown, *curves}):
        arrays = run_arrays(folder, study, f"kernels/stage-{stage}.npz")
        if stage in curves:
            spectra[plain(_short(names[stage]))] = arrays["npk_spectrum"]
        if stage in shown:
            for name in _PLAIN:
                rows[_NAMES[name]].append(solving.center(arrays[name]))
    rows = {name: matrices for name, matrices in rows.items() if any(m.any() for m in matrices)}
    labels = run_arrays(folder, study, "samples.npz")["train_labels"]
    columns = [plain(_short(names[stage])) for stage in shown]
    class_names = [_short(name) for name in study["data"]["class_names"]]
    if count == 1:  # all kernels in one row
        rows, columns = {plain(names[0]): [matrix for (matrix,) in rows.values()]}, list(rows)
    ranks = _listed(
        f"{study['stages'][stage]['effective_rank']['npk']:.1f} at {names[stage]}" for stage in sorted(curves)
    )
    text = f"They fall; the effective rank of H is {ranks}."
    pictures = {"spectra": Picture(plots.spectra(spectra), "Eigenvalues of H by rank", text)}
    if any(matrices for matrices in rows.values()):  # of samples that are all alike nothing is left when centred
        text = f"Heat maps at {_listed(columns)}; red where two samples are more alike than average. Classes in order: "
        figure = plots.heatmaps(rows, labels, columns=columns, class_names=class_names)
        pictures["kernels"] = Picture(
            figure, "The kernels, their samples ordered by class", f"{text}{_listed(study['data']['class_names'])}."
        )
    return pictures


def _short(name: str) -> str:
    return name if len(name) <= _NAME else f"{name[: _NAME - 1]}…"


def _ticks(study: Mapping[str, Any]) -> list[str]:
    """Below each stage: its number, or a checkpoint's name where there is room, and its training accuracy."""
    stages = study["stages"]
    names = [plain(stage["name"].removeprefix("stage ")) for stage in stages]
    if sum(map(len, names)) > _LETTERS:
        names = [str(number) for number in range(1, len(stages) + 1)]
    every = -(-len(stages) // _TICKS)
    shown = [f"{name}\n{stage['train_accuracy']:.0%}" for name, stage in zip(names, stages)]
    return [text if number % every == 0 else "" for number, text in enumerate(shown)]


def _layer_flips(stages: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    layers = len(stages[0]["gate_flips"]["layers"])
    shown = range(layers) if layers <= 6 else sorted({round(i) for i in np.linspace(0, layers - 1, 6)})
    return {f"layer {i + 1}": [stage["gate_flips"]["layers"][i] for stage in stages] for i in shown}


def _other_changes(stages: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """Kind of gates → how far they moved, a line for all layers together."""
    kinds = stages[0]["gate_changes"]
    return {OTHER_GATES[kind][0]: [stage["gate_changes"][kind]["all"] for stage in stages] for kind in kinds}


def _from_to(series: Mapping[str, Sequence[float]], form: str) -> str:
    return _listed(f"{name} from {values[0]:{form}} to {values[-1]:{form}}" for name, values in series.items()) + "."


def _listed(words: Any) -> str:
    return ", ".join(map(str, words))
