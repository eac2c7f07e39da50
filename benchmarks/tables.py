"""`docs/results.md` and `docs/patterns.md` from the JSON of the last runs: `python -m benchmarks.tables` makes both."""

import json
import pathlib

from benchmarks import patterns_page
from benchmarks.harness import RESULTS
from npk.studies import table_rows

PAGE = RESULTS.parents[1] / "docs" / "results.md"
NAMES = (
    "path_kernels",
    "first_calls",
    "tiles",
    "faults",
    "crash_points",
    "flips",
    "solving",
    "tangent_kernels",
    "transformers",
    "infinite",
    "training",
    "tracking",
    "scaling",
    "large",
)
HEAD = """# Measured

Made by `python -m benchmarks.tables` from `benchmarks/results/*.json`; each table names the command that measured it.

![time against samples, width, depth, positions and features, with lines of the predicted exponents](scaling.png)

*Cost of exact kernels and of sketches. Points: measured on two cores; lines: the predicted slopes. From
`python -m benchmarks.scaling`.*
"""


def table(name: str) -> str:
    """One result as Markdown, with the machine and the date."""
    record = json.loads((RESULTS / f"{name}.json").read_text())
    machine = record["machine"]
    lines = [" | ".join(["", *record["columns"], ""]).strip(), "|" + "---|" * len(record["columns"])]
    lines += [" | ".join(["", *row, ""]).strip() for row in record["rows"]]
    where = f"{machine['cpu']}, {machine['cores']} cores, JAX {machine['versions']['jax']}, {machine['date']}"
    parts = [part for key, part in record.items() if key.endswith(" by")]  # kept from an earlier command
    commands = "`, `".join(part["command"] for part in (*parts, machine))
    return f"**{record['title']}** ({where}; `{commands}`)\n\n" + "\n".join(lines)


def published(path: pathlib.Path) -> str:
    """One reproduced table as Markdown, with what was made smaller."""
    result = json.loads(path.read_text())
    columns = ("regime", "run", "published %", "ours %, selected on validation", "ours %, largest on test")
    lines = [" | ".join(["", *columns, ""]).strip(), "|---|---|---:|---:|---:|"]
    lines += [" | ".join(["", *row, ""]).strip() for row in table_rows(result)]
    smaller = f"; not as published: {'; '.join(result['not as published'])}" if result["not as published"] else ""
    where = f"{result['machine']['cores']} cores, JAX {result['versions']['jax']}, {result['date']}"
    title = f"**{result['title']}** ({result['source']}; {where}; `npk reproduce {result['asked']['table']}`{smaller})"
    return f"{title}\n\n" + "\n".join(lines)


def page() -> str:
    """All results there are, in one page."""
    tables = [table(name) for name in NAMES if (RESULTS / f"{name}.json").exists()]
    reproduced = [published(path) for path in sorted(RESULTS.glob("reproduce-*.json"))]
    return "\n\n".join([HEAD.rstrip(), *tables, *reproduced]) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    patterns_page.write()
