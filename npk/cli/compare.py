"""`npk compare`: what it prints; the work is in `npk.studies`."""

from typing import Any

import rich.text

from npk.cli.run_command import run_command
from npk.cli.terminal import show, stdout, table
from npk.studies import (
    CASES,
    CURVES,
    KERNELS,
    LABELS,
    CompareConfig,
    accuracy_intervals,
    mean_accuracies,
    run_comparison,
    write_comparison_report,
)

_INFINITE = ("ntk", "nngp", "npk", "FR-DI")


@run_command("compare", "comparison", CompareConfig, run_comparison, write_comparison_report)
def compare_command(result: dict[str, Any]) -> None:
    """Compare a network's kernels at finite and at infinite width.

    How fast: K, K^V and H of random networks, width by width, against their limits, with the fitted slopes. How well:
    kernel ridge regression with H (random gates, learned gates, infinite width), NTK and NNGP on one split. Does it
    predict: gradient descent of real wide networks beside the closed form of gradient flow with K, K^V and H.

    The run folder gets compare.json, the arrays, the figures and report.html. Without any flag it takes about two
    minutes; 10,000 samples of MNIST take about twenty.
    """
    widest = result["config"]["widths"][-1]
    slopes = table("relative error of", "from", f"at width {widest}", "slope", "95% interval", "expected")
    for name, row in result["slopes"].items():
        last = [r["errors"][name] for r in result["ladder"] if r["width"] == widest]
        interval = f"[{row['low']:.2f}, {row['high']:.2f}]"
        where = row["from"] if not row["from"].startswith("H") else f"d∏σ² · {row['from']}"
        shown = (
            f"{sum(last) / len(last):.1%}",
            f"{row['slope']:.2f}",
            rich.text.Text(interval),
            f"{row['expected']:g}",
        )
        slopes.add_row(row["of"], f"{where}, infinite" if CURVES[name][1] in _INFINITE else where, *shown)
    show(slopes)
    stdout.print(f"Distance between the limits of K^V in FR-DI and FR-II: {result['limit_gap']:.1%}\n")
    accuracies, ends = table("ridge regression with", "validation", "test", "95%"), accuracy_intervals(result)
    for name, row in mean_accuracies(result).items():
        found = f"{ends[name].low:.1%}–{ends[name].high:.1%}"
        accuracies.add_row(LABELS[name], f"{row['validation_accuracy']:.2%}", f"{row['test_accuracy']:.2%}", found)
    show(accuracies)
    flow = table("\nprediction of test outputs, largest error", *(f"\n{name}" for name in KERNELS.values()))
    for row in result["flow"]:
        flow.add_row(CASES[row["case"]], *(f"{row['errors'][kernel]['test']:.1%}" for kernel in KERNELS))
    show(flow)
