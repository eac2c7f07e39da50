"""Side by side: warm, blocked, interleaved; medians and quartiles, peak memory, and the machine's ceiling.

And what all benchmarks say alike: what they need, what is not measured, how far they are.
"""

import argparse
import datetime
import importlib.metadata
import importlib.util
import json
import os
import pathlib
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

RESULTS = pathlib.Path(__file__).parent / "results"
Item = TypeVar("Item")
_START = time.monotonic()


def parser(doc: str) -> argparse.ArgumentParser:
    """The flags of a benchmark; its docstring is its help."""
    form = argparse.RawDescriptionHelpFormatter
    return argparse.ArgumentParser(prog=f"python -m benchmarks.{_program()}", description=doc, formatter_class=form)


def begin(doc: str, *packages: str) -> None:
    """Say what a benchmark needs, the last paragraph of its docstring, and which packages it does without."""
    say(" ".join(doc.strip().split("\n\n")[-1].split()))
    for package in packages:
        if not_measured(package):
            say(f"{package} is not installed")


def not_measured(package: str) -> str | None:
    """What a row says in place of numbers where its package is not there, or None."""
    if importlib.util.find_spec(package.replace("-", "_")) is None:
        return f"not measured: {package} is not installed"
    return None


def say(text: str) -> None:
    """A line, at once, with the time since the start. No bar: drawing it would be measured too."""
    print(f"{datetime.timedelta(seconds=int(time.monotonic() - _START))}  {text}", flush=True)


def each(items: Iterable[Item], name: Callable[[Item], str] = str) -> Iterator[Item]:
    """The items, each said as its turn comes."""
    items = list(items)
    for number, item in enumerate(items, 1):
        say(f"{number} of {len(items)}: {name(item)}")
        yield item


def machine() -> dict[str, Any]:
    """What the numbers depend on besides the code."""
    model = next(
        (line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.processor(),
    )
    packages = ("jax", "jaxlib", "flax", "numpy", "numba", "neural-tangents")
    versions = {}
    for name in packages:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return {
        "date": datetime.date.today().isoformat(),
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "devices": [d.device_kind for d in jax.devices()],
        "python": platform.python_version(),
        "versions": versions,
        "commit": _commit(),
        "command": " ".join(["python", "-m", f"benchmarks.{_program()}", *_shown(sys.argv[1:])]),
    }


def _commit() -> str | None:
    """The commit of the working tree, or None: of a copied tree, or where there is no git."""
    try:
        command = ["git", "rev-parse", "--short", "HEAD"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=RESULTS.parent)
    except OSError:
        return None
    return done.stdout.strip() or None


def _program() -> str:
    """The name of the benchmark that runs: a module's, or that of a package whose `__main__` it is."""
    path = pathlib.Path(sys.argv[0])
    return path.parent.name if path.stem == "__main__" else path.stem


def _shown(arguments: list[str]) -> list[str]:
    """The arguments of the command line; a path of this machine by the flag it belongs to alone."""
    flags = ["", *arguments]
    return [
        flag.lstrip("-").upper().replace("-", "_") if argument.startswith("/") else argument
        for flag, argument in zip(flags, arguments, strict=False)
    ]


def _lines(path: str) -> list[str]:
    try:
        return pathlib.Path(path).read_text().splitlines()
    except OSError:
        return []


def timed(function: Callable[[], Any]) -> float:
    """Seconds of one blocked call."""
    start = time.perf_counter()
    jax.block_until_ready(function())
    return time.perf_counter() - start


# A candidate that takes longer than this runs in no more than three rounds; a shorter one runs once unmeasured
# before each measurement, so that it does not pay for memory that a large neighbour has just given back.
_LONG = 0.5


def side_by_side(candidates: Mapping[str, Callable[[], Any]], repeats: int = 9) -> dict[str, dict[str, float]]:
    """Median and quartile times in milliseconds; the candidates take turns, so that all meet the same noise."""
    warm = {}
    for name, function in candidates.items():
        timed(function)
        warm[name] = timed(function)
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for turn in range(repeats):
        for name, function in candidates.items():
            if warm[name] > _LONG and turn >= 3:
                continue
            if warm[name] <= _LONG:
                timed(function)
            times[name].append(1e3 * timed(function))
    return {
        name: dict(zip(("q1", "median", "q3"), np.percentile(t, (25, 50, 75)).tolist())) for name, t in times.items()
    }


def ceilings() -> dict[str, float]:
    """Matrix-product rates of the machine in GFLOP/s, at 2048×2048×4096 and at a layer's 2048×2048×128."""
    rates = {}
    for name, dtype, accumulator in (
        ("float32", "float32", "float32"),
        ("bfloat16", "bfloat16", "float32"),
        ("int8", "int8", "int32"),
    ):
        for depth in (4096, 128):
            a = jnp.asarray(np.random.default_rng(0).integers(0, 2, (2048, depth)), dtype)
            product = jax.jit(lambda x, y, t=accumulator: jnp.matmul(x, y.T, preferred_element_type=t))
            best = np.median([timed(lambda p=product, a=a: p(a, a)) for _ in range(8)][2:])
            rates[f"{name} k={depth}"] = float(2 * 2048 * 2048 * depth / best / 1e9)
    return rates


def buffers(function: Callable[..., Any], *args: Any) -> float:
    """MiB of XLA's buffers while a compiled call runs, its results included and its arguments not."""
    analysis = jax.jit(function).lower(*args).compile().memory_analysis()
    return (analysis.temp_size_in_bytes + analysis.output_size_in_bytes) / 2**20


def peak_memory(module: str, case: str, name: str) -> float | None:
    """MiB that one warm call adds to a fresh process's peak, or None where it did not finish."""
    command = [sys.executable, "-m", module, "--peak", case, name]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    return float(done.stdout.split()[-1]) if done.returncode == 0 else None


def added_memory(function: Callable[[], Any]) -> float:
    """MiB by which calling `function` raises this process's peak."""
    before = resident("VmRSS")
    forget_peak()
    timed(function)
    return resident("VmHWM") - before


def forget_peak() -> bool:
    """Let this process's peak begin anew, the parent's share forgotten; whether the system allows it."""
    try:
        pathlib.Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def resident(kind: str) -> float:
    """Resident memory of this process, MiB."""
    (line,) = (line for line in _lines("/proc/self/status") if line.startswith(kind))
    return float(line.split()[1]) / 1024


def report(name: str, title: str, columns: list[str], rows: list[list[str]], data: Mapping[str, Any]) -> None:
    """Print the table, write `results/name.json`."""
    table = Table(title=title)
    for column in columns:
        table.add_column(column, justify="left" if column == columns[0] else "right")
    for row in rows:
        table.add_row(*row)
    Console().print(table)
    RESULTS.mkdir(exist_ok=True)
    record = {"machine": machine(), "title": title, "columns": columns, "rows": rows, **data}
    (RESULTS / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")
