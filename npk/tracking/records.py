"""One record of training, and many as a table of columns, in files."""

import csv
import dataclasses
import importlib
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from npk.folders import replace
from npk.programs import shown

Table = dict[str, list[Any]]


@shown()
@dataclasses.dataclass(frozen=True, eq=False)
class GateRecord:
    """What gates and kernels of the probe were at one step. None was not asked for; NaN has no value there.

    A layer is a gate array that switches (hard gates, choices of max-pooling, and gates from outside or declared that
    held only 0 and 1 at the first record), in call order; a unit is an element of it beside the samples. A hard gate is
    open where it is not what it is at q = 0: its steeper side, q > 0 for ReLU in any spelling and for leaky ReLU.

    Attributes:
        step: the step that was given.
        seconds: what this record cost, the wait for params left out; of the first one with all that it compiled.
        elapsed: seconds from the first call to the end of this record.
        flips: the fraction of all gates that switch which are not as they were at the first record
            (`npk.solving.gate_flips`, mean over layers weighted by size).
        flips_by_layer: the same, a layer at a time.
        flips_since_last: as `flips`, since the record before.
        flips_since_last_by_layer: the same, a layer at a time.
        changes: how far gates that do not switch moved since the first record, by kind ("soft", "scale", "pattern",
            "product", …): `npk.solving.gate_changes`, mean over the arrays of a kind weighted by size.
        changes_since_last: the same since the record before.
        dead: the fraction of units closed at every sample of the probe, by layer; choices of pooling left out.
        always_open: the fraction of units open at every sample, likewise.
        overlap: the fraction of units open for both of two samples, mean over the pairs i < j, by layer
            (`npk.solving.mean_overlaps`).
        distance_within: mean Hamming distance of two samples of one class, in fractions of all units that switch
            (`npk.solving.code_distances`).
        distance_between: the same of two samples of two classes.
        trace: "npk" Σ_s H(s, s) of the path kernel (`npk.path_kernel`); "value", "feature" and "cross" the traces of
            K^V, K^F and K^CROSS (`npk.split_ntk_diagonal` of `npk.softened`), added up in float64.
        alignment: centred alignment of H with the labels (`npk.solving.alignment`).
        effective_rank: of H, exp of the entropy of its normalised eigenvalues (`npk.solving.spectrum`).
        note: why something is NaN; "" where all is well.

    Example:
        >>> from npk.tracking import GateRecord
        >>> GateRecord(step=3, seconds=0.01, elapsed=2.0, flips=0.5, dead={"layer 1": 0.25}).columns()["dead/layer 1"]
        0.25

    Source: Lakshminarayanan & Singh 2020, sections 3-5 (gates, H and the split while a network learns).
    """

    step: int
    seconds: float
    elapsed: float
    flips: float | None = None
    flips_by_layer: Mapping[str, float] = dataclasses.field(default_factory=dict)
    flips_since_last: float | None = None
    flips_since_last_by_layer: Mapping[str, float] = dataclasses.field(default_factory=dict)
    changes: Mapping[str, float] = dataclasses.field(default_factory=dict)
    changes_since_last: Mapping[str, float] = dataclasses.field(default_factory=dict)
    dead: Mapping[str, float] = dataclasses.field(default_factory=dict)
    always_open: Mapping[str, float] = dataclasses.field(default_factory=dict)
    overlap: Mapping[str, float] = dataclasses.field(default_factory=dict)
    distance_within: float | None = None
    distance_between: float | None = None
    trace: Mapping[str, float] = dataclasses.field(default_factory=dict)
    alignment: float | None = None
    effective_rank: float | None = None
    note: str = ""

    def columns(self) -> dict[str, Any]:
        """Its numbers by flat names: "flips", "flips/layer 1", "trace/value"; what was not asked for is left out."""
        found: dict[str, Any] = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Mapping):
                name = field.name.removesuffix("_by_layer")
                found.update((f"{name}/{key}", number) for key, number in value.items())
            elif value is not None:
                found[field.name] = value
        return found


def table_of(records: Sequence[GateRecord]) -> Table:
    """All records as columns of one length; what one of them does not have is NaN there."""
    rows = [record.columns() for record in records]
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name, math.nan) for row in rows] for name in names}


def write_csv(table: Table, path: Path) -> None:
    """A line of names and one a record; numbers are written so that they are read as the same."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table)
    writer.writerows(zip(*table.values(), strict=True))
    replace(path, text.getvalue().encode())


def write_parquet(table: Table, path: Path) -> None:
    """The same in Apache Parquet."""
    arrow, parquet = _optional("pyarrow", "parquet"), _optional("pyarrow.parquet", "parquet")
    replace(path, lambda file: parquet.write_table(arrow.table(table), file))


def as_pandas(table: Table) -> Any:
    return _optional("pandas", "pandas").DataFrame(table)


def write_tensorboard(table: Table, folder: Path) -> None:
    """Every number that is finite as a scalar of its step; a tag has no spaces."""
    with _optional("tensorboardX", "tensorboard").SummaryWriter(str(folder)) as writer:
        for name, values in table.items():
            for step, value in zip(table["step"], values, strict=True):
                if name not in ("step", "note") and math.isfinite(value):
                    writer.add_scalar(name.replace(" ", "_"), value, step)


def _optional(package: str, method: str) -> Any:
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"to_{method} needs the package {error.name}: run `pip install 'npk[tracking]'` (to_csv and table need "
            "nothing more).",
            name=error.name,
        ) from error
