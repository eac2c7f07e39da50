"""Benchmarks: `python -m benchmarks NAME [FLAGS]` runs one, `python -m benchmarks` all, one after another."""

import argparse
import ast
import pathlib
import subprocess
import sys

NAMES = (
    "path_kernels",
    "first_calls",
    "infinite",
    "training",
    "tracking",
    "patterns",
    "tiles",
    "faults",
    "gpu",
    "solving",
    "tangent_kernels",
    "transformers",
    "scaling",
    "large",
)


def about(name: str) -> str:
    """What a benchmark measures, the beginning of its docstring: read, not imported, since that takes seconds."""
    here = pathlib.Path(__file__).parent
    path = here / f"{name}.py" if (here / f"{name}.py").exists() else here / name / "__main__.py"
    doc = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return doc.splitlines()[0].partition(":")[0].rstrip(".")


def main(arguments: list[str] | None = None) -> int:
    """Run what is asked for; the exit status says whether all went well."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        epilog="\n".join(["benchmarks:", *(f"  {name:16} {about(name)}" for name in NAMES)]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", nargs="?", choices=NAMES, metavar="NAME", help="one of those below; none is all")
    parser.add_argument("flags", nargs=argparse.REMAINDER, metavar="FLAGS", help="its own: see NAME --help")
    args = parser.parse_args(arguments)
    failed = []
    for name in [args.name] if args.name else NAMES:
        try:
            done = subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *args.flags], check=False)
        except KeyboardInterrupt:
            return 130
        if done.returncode:
            failed.append(name)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
