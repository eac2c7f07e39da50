"""From a run folder to figures and one self-contained page, `report.html`, which needs no network."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from npk import solving
from npk.studies.correct import unpacked
from npk.studies.pages import sentences
from npk.studies.pages.explorer import explored
from npk.studies.pages.page import filled, of_a_run, table, write_page
from npk.studies.pages.study_figures import draw
from npk.studies.pages.words import OTHER_GATES, network_words, nouns, regimes_shown
from npk.studies.run_folder import read_study


def write_report(folder: str | Path) -> Path:
    """Draw the figures of a study, or of an analysis, and write its page.

    What the page says is chosen by its numbers: where an interval allows no verdict, it gives none.

    Args:
        folder: a run folder with at least one finished stage.

    Returns:
        The path of `report.html`.

    Raises:
        FileNotFoundError: the folder holds no study.
        ValueError: no stage of the study is finished, or it was written by an npk that had no intervals.

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
    if not study.get("stages", True):
        raise ValueError(f"no stage of the study in {folder} is finished: continue it with --resume.")
    with of_a_run(folder):
        older = "intervals" not in study["stages"][0]
    if older:
        raise ValueError(f"the study in {folder} is of an earlier npk, and has no intervals: run it anew elsewhere.")
    with of_a_run(folder):
        pictures = draw(study, folder)
        return write_page(folder, pictures, lambda shown: _render(study, folder, shown))


def _render(study: dict[str, Any], folder: Path, pictures: dict[str, Markup]) -> str:
    stages = study["stages"]
    first, last, data = stages[0], stages[-1], explored(study, folder)
    noun = "stage" if study["training"] else "checkpoint"
    words = {
        "first": first,
        "noun": noun,
        "last": last,
        "several": len(stages) > 1,
        "end": study["training"]["stages"][-1] if study["training"] else {},
        "described": network_words(study["network"]),
        "hadamard": study["network"]["kind"] == "MLP" and not study["network"].get("use_bias", True),
        "others": _other_gates(stages),
        "learned": _learned(study),
        "left_out": _left_out(study),
        "has_gates": data["gates"] is not None,
        # A column a stage: so the table fits a page, and a row reads as a story.
        "stages_table": table(
            [noun, *(Markup.escape(stage["name"].removeprefix("stage ")) for stage in stages)],
            ((name, [show.format(**stage) for stage in stages]) for name, show in _rows(study).items()),
        ),
        **nouns(study),
        **{name: getattr(sentences, name) for name in _SENTENCES},
    }
    return filled("report_template.html", study, pictures, words, data)


_SENTENCES = (
    "accuracy_verdict",
    "begun",
    "beyond_inputs",
    "climb",
    "forgotten",
    "interval",
    "measure_verdict",
    "ranks",
    "share_verdict",
)


def _other_gates(stages: list[dict[str, Any]]) -> str:
    """What else is a gate in this network; nothing where only units open and close."""
    changes = stages[-1]["gate_changes"]
    moved = len(stages) > 1
    return "; ".join(
        OTHER_GATES[kind][1] + (f" ({told['all']:.1%} changed by the end)" if moved else "")
        for kind, told in changes.items()
    )


def _learned(study: Mapping[str, Any]) -> str:
    """What fresh weights reach under gates of the first and of the last stage."""
    learned = [row for row in regimes_shown(study) if row["regime"] == "FL"]
    if len(learned) < 2:
        return ""
    right = [unpacked(row["correct"], study["data"]["test"]) for row in (learned[0], learned[-1])]
    change = solving.paired_difference(right[1], right[0])
    ends = (change.value, change.low, change.high)
    return sentences.learned_gates(learned[0]["test_accuracy"], learned[-1]["test_accuracy"], ends)


def _left_out(study: Mapping[str, Any]) -> str:
    missing = [row for row in study["regimes"] if row["test_accuracy"] is None]
    why = ", ".join(dict.fromkeys(row["why"] for row in missing))
    return f"{', '.join(row['label'] for row in missing)} ({why})" if missing else ""


def _rows(study: Mapping[str, Any]) -> dict[str, str]:
    """The rows of the table of stages; those that need several stages, or training, only where there are."""
    several = len(study["stages"]) > 1
    rows = {
        "gradient steps": "{step:,}" if study["training"] else "",
        "network, training accuracy": "{train_accuracy:.1%}",
        "network, test accuracy": "{test_accuracy:.1%}",
        "its interval": "{intervals[test_accuracy][0]:.0%} to {intervals[test_accuracy][1]:.0%}",
        "ridge with <i>H</i>, test accuracy": "{ridge[test_accuracy]:.1%}",
        "its interval ": "{intervals[ridge][0]:.0%} to {intervals[ridge][1]:.0%}",
        "gates flipped": "{gate_flips[all]:.1%}" if several and study["stages"][0]["gate_flips"]["layers"] else "",
        "alignment of <i>H</i>": "{alignment[npk]:.3f}",
        "its interval  ": "{intervals[alignment][npk][0]:.2f} to {intervals[alignment][npk][1]:.2f}",
        "alignment of <i>K</i><sup>V</sup>": "{alignment[value]:.3f}",
        "alignment of <i>K</i><sup>F</sup>": "{alignment[feature]:.3f}",
        "alignment of <i>K</i><sup>CROSS</sup>": "{alignment[cross]:.3f}",
        "drift of <i>H</i>": "{drift[npk]:z.4f}" if several else "",
        "drift of <i>K</i>": "{drift[ntk]:z.4f}" if several else "",
        "effective rank of <i>H</i>": "{effective_rank[npk]:.1f}",
        "share of <i>K</i><sup>V</sup>": "{share[value]:.1%}",
        "share of <i>K</i><sup>F</sup>": "{share[feature]:.1%}",
        "share of <i>K</i><sup>CROSS</sup>": "{share[cross]:.1%}",
    }
    return {name: show for name, show in rows.items() if show}
