"""The table that `npk study` and `npk analyse` print: a row a stage, estimates with their intervals."""

from collections.abc import Mapping
from typing import Any

import rich.table
import rich.text

from npk.cli.terminal import table

_COLUMNS = {
    "step": "{step}",
    "train": "{train_accuracy:.1%}",
    "test": "{test_accuracy:.1%}",
    "ridge H": "{ridge[test_accuracy]:.1%}",
    "95%": "{intervals[ridge][0]:.0%}–{intervals[ridge][1]:.0%}",
    "flipped": "{gate_flips[all]:.1%}",
    "alignment": "{alignment[npk]:.3f}",
    "95% ": "{intervals[alignment][npk][0]:.2f}–{intervals[alignment][npk][1]:.2f}",
    "value share": "{share[value]:.1%}",
}


def stages_table(study: Mapping[str, Any]) -> rich.table.Table:
    """The stages of a study or an analysis; steps where it was trained here."""
    there = {"step": bool(study["training"]), "flipped": bool(study["stages"][0]["gate_flips"]["layers"])}
    columns = {name: show for name, show in _COLUMNS.items() if there.get(name, True)}
    made = table("stage" if study["training"] else "checkpoint", *(name.strip() for name in columns))
    for stage in study["stages"]:
        name = rich.text.Text(stage["name"].removeprefix("stage "))
        made.add_row(name, *(show.format(**stage) for show in columns.values()))
    return made
