"""What `benchmarks.faults` tries on every kind of folder: ends of the process at its events, and flipped bits."""

import collections
import pathlib
import random
import tempfile
from collections.abc import Sequence

from benchmarks import flips, harness, strangers
from benchmarks.crash_jobs import JOBS
from benchmarks.crash_points import sweep

Table = tuple[str, str, list[str], list[list[str]], dict[str, list[str]]]  # name, title, columns, rows, what was wrong

_NTH = {1: "every bit of a description", 17: "every 17th bit of a description", 211: "some bits"}
_SHOWN = 5  # of what was wrong, said at once
_SLOW = ("training", "study", "comparison", "reproduction", "checkpoints")  # seconds a moment
_AGAIN = {"stored kernel": 300, "stored kernels": 300, "study": 20, "training": 10}  # commands given again
_CRASHES = ["what ended", "events", "ends tried", "same files in the end", "not the same", "by kind of event"]
_FLIPS = ["what was changed", "tried", "told", "harmless", "silent", "tracebacks"]


def crash_points(quick: bool, every: bool) -> Table:
    """Every job ends at its events: all of them where a moment takes a fraction of a second."""
    rows, wrong = [], {}
    for job in harness.each(JOBS):
        slow = any(name in job for name in _SLOW)
        for halves in (False, True) if not (slow or quick) else (False,):
            row, said = _crashes(job, halves, _drawn(4 if quick else 30) if quick or (slow and not every) else None)
            rows.append(row)
            harness.say(" | ".join(row))
            for text in said[:_SHOWN]:
                harness.say(f"    {text}")
            if said:
                wrong[row[0]] = said
    title = "A process ends at its events below a folder, and the command is given again"
    return "crash_points", title, _CRASHES, rows, wrong


def _drawn(number: int) -> list[int]:
    return [random.Random(turn).randrange(1_000_000) for turn in range(number)]


def _crashes(job: str, halves: bool, moments: Sequence[int] | None) -> tuple[list[str], list[str]]:
    """A row, and what was wrong."""
    with sweep(job, moments, halves=halves) as found:
        tried = [moment for moment in found.moments if moment.verdict != "not reached"]
        kinds = collections.Counter(event.split()[0] for event in found.events)
    wrong = [f"{moment.at} {moment.event}: {moment.verdict}" for moment in tried if not moment.fine]
    told = ", ".join(f"{kind} {number}" for kind, number in sorted(kinds.items()))
    name = f"{job}, writes by half" if halves else job
    return [name, *map(str, (len(found.events), len(tried), len(tried) - len(wrong), len(wrong), told))], wrong


def flipped(quick: bool, every: bool) -> Table:
    """Bits of descriptions, bits of numbers at random, files that are none, and commands given again."""
    stride, share = (211, 0.03) if quick else (1, 1.0) if every else (17, 0.3)
    rows, wrong = [], {}

    def add(count: flips.Count) -> None:
        numbers = (count.tried, count.told, count.harmless, len(count.silent), len(count.tracebacks))
        rows.append([count.what, *(f"{number:,}" for number in numbers)])
        harness.say(" | ".join(rows[-1]))
        if said := count.silent + count.tracebacks:
            wrong[count.what] = said[:1_000]
            for text in said[:_SHOWN]:
                harness.say(f"    {text}")

    with tempfile.TemporaryDirectory() as name:
        for number, kind in enumerate(harness.each(flips.KINDS)):
            for count in flips.tried(kind, pathlib.Path(name) / str(number), stride, 20 if quick else 200):
                add(count)
            add(strangers.tried(kind, pathlib.Path(name) / str(number), share))
        for job, number in _AGAIN.items():
            harness.say(f"{job}: given again")
            add(flips.given_again(job, pathlib.Path(name) / job, max(2, number // 15) if quick else number))
    return "flips", f"Files that are not as they were written ({_NTH[stride]})", _FLIPS, rows, wrong
