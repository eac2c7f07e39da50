"""The README's tables from the JSON of the last runs: `python -m benchmarks.tables` rewrites them in place."""

import json
import pathlib

from benchmarks._harness import RESULTS

MARK = "<!-- tables -->"


def table(name: str) -> str:
    """One result as Markdown, with the machine and the date."""
    record = json.loads((RESULTS / f"{name}.json").read_text())
    machine = record["machine"]
    lines = [" | ".join(["", *record["columns"], ""]).strip(), "|" + "---|" * len(record["columns"])]
    lines += [" | ".join(["", *row, ""]).strip() for row in record["rows"]]
    where = f"{machine['cpu']}, {machine['cores']} cores, JAX {machine['versions']['jax']}, {machine['date']}"
    return f"**{record['title']}** ({where}; `{machine['command']}`)\n\n" + "\n".join(lines)


def main() -> None:
    """Replace what stands between the two marks."""
    readme = pathlib.Path(__file__).parents[1] / "README.md"
    parts = readme.read_text().split(MARK)
    body = "\n\n".join(table(name) for name in ("path_kernel", "ntk", "training"))
    tail = parts[-1]
    readme.write_text(f"{parts[0]}{MARK}\n\n{body}\n\n{MARK}{tail}")


if __name__ == "__main__":
    main()
