"""`docs/breadth.json` and the page made of it: `PYTHONPATH=.:tests python -m breadth.table` computes both anew."""

import contextlib
import json
import pathlib
import sys

import jax
import pytest
from breadth.models import MODELS
from breadth.outcomes import COLUMNS, EXACT, row
from fuzzing.numpy_in_place import numpy_in_place

DOCS = pathlib.Path(__file__).parents[2] / "docs"
NAMES = [(group, name) for group, models in MODELS.items() for name in models]
RECORD, PAGE = DOCS / "breadth.json", DOCS / "breadth.md"
COMMAND = "PYTHONPATH=.:tests python -m breadth.table"
HEAD = f"""# Architectures

What each function says of each architecture, written as users write it and a few weights wide. An exact cell was
compared with something independent of npk: f itself, ⟨φ, v⟩, ⟨φ, φ'⟩, `jax.jacrev` of f and of f under held gates,
or a mean and its standard error. A refusal names what was met, the line, and what to do. Made by
`{COMMAND}`; the tests compute it again.

| sign | meaning |
|---|---|
| ✓ | exact: the number was compared |
| [1](#messages) | refused, with this message |
| —[1](#messages) | not offered, for this reason |
"""


def recorded() -> dict:
    return json.loads(RECORD.read_text(encoding="utf-8"))


def page(rows: dict) -> str:
    """The table as Markdown, messages numbered as they come."""
    notes: dict[str, int] = {}

    def cell(outcome: str) -> str:
        if outcome == EXACT:
            return "✓"
        number = notes.setdefault(outcome.partition(": ")[2], len(notes) + 1)
        return f"[{number}](#note-{number})" if outcome.startswith("refused") else f"—[{number}](#note-{number})"

    parts = [HEAD]
    for group, models in rows.items():
        parts.append(f"## {group[0].upper()}{group[1:]}\n")
        parts.append("| | " + " | ".join(f"`{name}`" for name in COLUMNS.values()) + " |")
        parts.append("|---|" + ":-:|" * len(COLUMNS))
        for name, found in models.items():
            parts.append(f"| {name} | " + " | ".join(cell(found[column]) for column in COLUMNS) + " |")
        parts.append("")
    parts.append("## Messages\n\nA line of a model is shown in place of its number.\n")
    for message, number in notes.items():
        lines = "\n".join(f"> {line}".rstrip() for line in message.replace("\n  - ", "\n\n- ").splitlines())
        parts.append(f"(note-{number})=\n**{number}**\n\n{lines}\n")
    return "\n".join(parts).rstrip() + "\n"


@contextlib.contextmanager
def as_users_write(patch: pytest.MonkeyPatch):
    """float64, ranks and dtypes as JAX takes them; what npk computes by numbers is computed by NumPy."""
    with (
        jax.enable_x64(True),
        jax.numpy_rank_promotion("allow"),
        jax.numpy_dtype_promotion("standard"),
        numpy_in_place(patch),
    ):
        yield


def main(only: tuple[str, ...]) -> None:
    rows, failed = {}, 0
    jax.config.update("jax_disable_most_optimizations", True)
    with pytest.MonkeyPatch.context() as patch, as_users_write(patch):
        for group, name in NAMES:
            if only and not any(part in f"{group}: {name}" for part in only):
                continue
            print(f"{group}: {name}", file=sys.stderr, flush=True)
            try:
                rows.setdefault(group, {})[name] = row(MODELS[group][name](), True)
            except AssertionError as error:
                failed += 1
                print(f"  failed: {error}", file=sys.stderr, flush=True)
    if failed:
        sys.exit(f"{failed} failed: nothing is written.")
    rows = {group: {**rows.get(group, {})} for group in MODELS} if not only else _among(recorded(), rows)
    RECORD.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    PAGE.write_text(page(rows), encoding="utf-8")


def _among(all_rows: dict, some: dict) -> dict:
    return {g: {n: some.get(g, {}).get(n) or all_rows.get(g, {}).get(n) for n in MODELS[g]} for g in MODELS}


if __name__ == "__main__":
    main(tuple(sys.argv[1:]))
