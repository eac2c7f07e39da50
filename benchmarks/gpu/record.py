"""The record of a run: on disk as soon as a number is there, whatever happens to the numbers after it."""

import dataclasses
import json
import math
import os
import pathlib
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks import harness

_MESSAGE = 300  # characters of an error that are kept
_HIDDEN = ("times", "entries that differ", "entries")  # in the file alone


def described(error: BaseException) -> str:
    """An error in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:_MESSAGE]


@dataclasses.dataclass(frozen=True)
class Record:
    """All parts of a run, as they stand in a file."""

    path: pathlib.Path
    content: dict[str, Any]
    lock: threading.Lock = dataclasses.field(default_factory=threading.Lock)

    @staticmethod
    def begin(path: pathlib.Path, size: str, *, keep: bool) -> "Record":
        """A new record; `keep`: parts that the file already has, of the same devices and versions, stay in it."""
        machine = harness.machine()
        parts = {}
        if keep and path.exists():
            there = json.loads(path.read_text())
            alike = all(there["machine"].get(k) == machine[k] for k in ("devices", "versions"))
            parts = there["parts"] if alike and there["size"] == size else {}
        path.parent.mkdir(parents=True, exist_ok=True)
        return Record(path, {"machine": machine, "size": size, "parts": parts})

    def write(self) -> None:
        """The file is whole at any moment: a new one takes its place."""
        beside = self.path.with_name(self.path.name + ".part")
        with self.lock:
            beside.write_text(json.dumps(self.content, indent=1, ensure_ascii=False) + "\n")
            os.replace(beside, self.path)


@dataclasses.dataclass(frozen=True)
class Part:
    """One part of a record, while it runs."""

    record: Record
    name: str
    begun: float
    deadline: float

    @property
    def content(self) -> dict[str, Any]:
        return self.record.content["parts"][self.name]

    def say(self, text: str) -> None:
        """A line of progress."""
        print(f"{time.perf_counter() - self.begun:6.1f} s  {self.name}: {text}", flush=True)

    def row(self, case: str, values: Mapping[str, Any]) -> None:
        """A result, kept at once."""
        self.content["rows"].append({"case": case, **values})
        self.record.write()
        self.say(f"{case}: " + "; ".join(f"{k} {shown(v)}" for k, v in values.items() if k not in _HIDDEN))

    def left_out(self, what: str, why: str) -> None:
        """Something that is not measured here."""
        self.content["left out"].append(f"{what}: {why}")
        self.record.write()
        self.say(f"left out: {what}: {why}")

    def case(self, name: str, measure: Callable[[], Mapping[str, Any]]) -> None:
        """One case: its numbers, its error, or that there was no time for it."""
        if time.perf_counter() > self.deadline:
            return self.left_out(name, "no time was left")
        self.say(f"{name} …")
        try:
            self.row(name, measure())
        except Exception as error:  # out of memory, a compiler's, a bug's: none may end what comes after it
            traceback.print_exc()
            self.row(name, {"error": described(error)})


Measure = Callable[[Any, Part], None]


def run(parts: Mapping[str, Measure], sizes: Any, record: Record, seconds: Mapping[str, float], limit: float) -> None:
    """All parts in their order; one that fails is recorded, and the others run.

    Args:
        parts: functions of the sizes and of where their results go.
        sizes: what they are given.
        record: where everything is kept.
        seconds: after how many no case of a part begins, where it is said.
        limit: seconds after which no case of any part begins.
    """
    start = time.perf_counter()
    for name, measure in parts.items():
        began = time.perf_counter()
        deadline = min(start + limit, began + seconds.get(name, math.inf))
        part = Part(record, name, start, deadline)
        record.content["parts"][name] = {"rows": [], "left out": [], "error": None}
        forget = harness.forget_peak()
        part.say("begins")
        try:
            measure(sizes, part)
        except Exception as error:
            traceback.print_exc()
            part.content["error"] = described(error)
            part.say(f"failed: {part.content['error']}")
        part.content["seconds"] = time.perf_counter() - began
        part.content["peaks"] = peaks(own=forget)
        record.write()


def peaks(own: bool) -> dict[str, float]:
    """MiB: of the device since the process began, and of this process since then or since the part began."""
    stats = jax.local_devices()[0].memory_stats() or {}
    device = {"device, so far": stats["peak_bytes_in_use"] / 2**20} if "peak_bytes_in_use" in stats else {}
    return device | {"process" if own else "process, so far": harness.resident("VmHWM")}


def failures(content: Mapping[str, Any]) -> list[str]:
    """What failed: parts, cases, and comparisons that are not within their bounds."""
    found = []
    for name, part in content["parts"].items():
        if part["error"]:
            found.append(f"{name}: {part['error']}")
        for row in part["rows"]:
            if row.get("error") or row.get("passed") is False:
                found.append(f"{name}: {row['case']}: {row.get('error') or 'not within its bound'}")
    return found


def shown(value: Any, between: str = ", ") -> str:
    """A number in three digits, a name and a number for each of several, other things as they are."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "NO", None: "–"}[value]
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    if isinstance(value, Mapping):
        return between.join(f"{k}: {shown(v)}" for k, v in value.items())
    return str(value)


def tables(content: Mapping[str, Any]) -> None:
    """Print a table of every part."""
    console = Console(width=None if os.isatty(1) else 160)
    for name, part in content["parts"].items():
        columns = list(dict.fromkeys(key for row in part["rows"] for key in row if key not in _HIDDEN))
        table = Table(title=f"{name}, {part.get('seconds', math.nan):.0f} s", show_lines=False)
        for column in columns:
            table.add_column(column, justify="left" if column == "case" else "right")
        for row in part["rows"]:
            table.add_row(*(shown(row.get(column, ""), "\n") for column in columns))
        console.print(table)
        for line in part["left out"]:
            console.print(f"left out: {line}")
        if part["error"]:
            console.print(f"failed: {part['error']}")


def compared(candidates: Mapping[str, Callable[[], Any]], repeats: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Times of candidates side by side, and what each gave; one that fails is left out of it, with its error.

    Returns:
        {"first s", "ms", "errors"}, each by the candidate's name, and results by name.
    """
    first, errors, results = {}, {}, {}
    for name, call in candidates.items():
        start = time.perf_counter()
        try:
            results[name] = jax.block_until_ready(call())
        except Exception as error:
            traceback.print_exc()
            errors[name] = described(error)
            continue
        first[name] = time.perf_counter() - start
    times = harness.side_by_side({name: candidates[name] for name in first}, repeats)
    ms = {name: t["median"] for name, t in times.items()}
    return {"ms": ms, "first s": first, "times": times} | ({"errors": errors} if errors else {}), results


def relative(found: Any, expected: Any) -> float:
    """The largest difference, as a share of the largest number expected."""
    found, expected = (np.asarray(a, np.float64) for a in (found, expected))
    if found.shape != expected.shape:
        raise ValueError(f"shapes {found.shape} and {expected.shape} differ")
    scale = np.abs(expected).max(initial=0.0)
    return float(np.abs(found - expected).max(initial=0.0) / (scale or 1.0))


def named(parts: Sequence[str] | None, known: Mapping[str, Measure]) -> dict[str, Measure]:
    """The parts asked for, in their order of value."""
    return {name: part for name, part in known.items() if parts is None or name in parts}
