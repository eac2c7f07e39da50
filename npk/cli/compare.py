"""`npk compare`: flags only; the work is in `npk.studies`."""

import dataclasses
import re
import shlex
from pathlib import Path
from typing import Annotated, Any

import rich.table
import rich.text
import typer

from npk import data
from npk.cli.terminal import one_line_errors, progress_bar, stderr, stdout
from npk.studies import (
    CASES,
    CURVES,
    KERNELS,
    LABELS,
    NETWORKS,
    CompareConfig,
    mean_accuracies,
    run_comparison,
    write_comparison_report,
)

_DEFAULT = CompareConfig()
_INTERRUPTED = 130


def compare_command(
    dataset: Annotated[
        str,
        typer.Option(help=f"One of {', '.join(data.NAMES)}; or classes of it: mnist:4,7.", rich_help_panel="Data"),
    ] = _DEFAULT.dataset,
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder that `npk data prepare` has filled.", rich_help_panel="Data")
    ] = None,
    network: Annotated[
        str, typer.Option(help=f"One of {', '.join(NETWORKS)}; no biases.", rich_help_panel="Network")
    ] = _DEFAULT.network,
    depth: Annotated[
        int | None, typer.Option(help="Weight layers (mlp).", show_default="4", rich_help_panel="Network")
    ] = None,
    widths: Annotated[
        str | None,
        typer.Option(
            help="Ladder of units or channels, as in 64,128,256.",
            show_default="64,128,…,2048; channels 8,16,…,128",
            rich_help_panel="How fast: width",
        ),
    ] = None,
    seeds: Annotated[
        int, typer.Option(help="Draws at each width.", rich_help_panel="How fast: width")
    ] = _DEFAULT.seeds,
    inputs: Annotated[
        int, typer.Option(help="Training samples these kernels are of.", rich_help_panel="How fast: width")
    ] = _DEFAULT.inputs,
    samples: Annotated[
        int,
        typer.Option(help="Most training samples. Time: its cube.", rich_help_panel="How well: kernel regression"),
    ] = _DEFAULT.samples,
    test_samples: Annotated[
        int, typer.Option(help="Most test samples.", rich_help_panel="How well: kernel regression")
    ] = _DEFAULT.test_samples,
    gates_width: Annotated[
        int | None,
        typer.Option(
            help="Of the networks that give random and learned gates.",
            show_default="the network's",
            rich_help_panel="How well: kernel regression",
        ),
    ] = None,
    gates_seeds: Annotated[
        int, typer.Option(help="How many such networks.", rich_help_panel="How well: kernel regression")
    ] = _DEFAULT.gates_seeds,
    epochs: Annotated[
        int, typer.Option(help="Passes that teach the gates.", rich_help_panel="How well: kernel regression")
    ] = _DEFAULT.epochs,
    batch_size: Annotated[
        int, typer.Option(help="Samples a step there.", rich_help_panel="How well: kernel regression")
    ] = _DEFAULT.batch_size,
    learning_rate: Annotated[
        float, typer.Option(help="Of Adam there.", rich_help_panel="How well: kernel regression")
    ] = _DEFAULT.learning_rate,
    flow_width: Annotated[
        int | None,
        typer.Option(
            help="Of the networks that are trained.",
            show_default="the widest but one",
            rich_help_panel="Does it predict: gradient flow",
        ),
    ] = None,
    flow_samples: Annotated[
        int,
        typer.Option(help="Training samples, and test samples.", rich_help_panel="Does it predict: gradient flow"),
    ] = _DEFAULT.flow_samples,
    flow_steps: Annotated[
        int, typer.Option(help="Full-batch gradient steps.", rich_help_panel="Does it predict: gradient flow")
    ] = _DEFAULT.flow_steps,
    flow_step: Annotated[
        float,
        typer.Option(help="Step × largest eigenvalue of K.", rich_help_panel="Does it predict: gradient flow"),
    ] = _DEFAULT.flow_step,
    beta: Annotated[
        float, typer.Option(help="Steepness of the soft gates.", rich_help_panel="Does it predict: gradient flow")
    ] = _DEFAULT.beta,
    seed: Annotated[int, typer.Option(help="Of all random numbers.", rich_help_panel="Run")] = _DEFAULT.seed,
    out: Annotated[
        Path | None,
        typer.Option(help="Run folder.", show_default="runs/compare-DATASET-NETWORK-sSEED", rich_help_panel="Run"),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Continue an interrupted comparison of the same flags.", rich_help_panel="Run"),
    ] = False,
) -> None:
    """Compare a network's kernels at finite and at infinite width.

    How fast: K, K^V and H of random networks, width by width, against their limits, with the fitted slopes. How well:
    kernel ridge regression with H (random gates, learned gates, infinite width), NTK and NNGP on one split. Does it
    predict: gradient descent of real wide networks beside the closed form of gradient flow with K, K^V and H.

    The run folder gets compare.json, the arrays, the figures and report.html. Without any flag it takes about two
    minutes; 10,000 samples of MNIST take about twenty.
    """
    folder = out or Path("runs") / f"compare-{re.sub(r'[^0-9A-Za-z_]+', '-', dataset)}-{network}-s{seed}"
    with one_line_errors():
        config = CompareConfig(
            dataset=dataset,
            network=network,
            depth=depth,
            widths=_widths(widths),
            seeds=seeds,
            inputs=inputs,
            samples=samples,
            test_samples=test_samples,
            gates_width=gates_width,
            gates_seeds=gates_seeds,
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            flow_width=flow_width,
            flow_samples=flow_samples,
            flow_steps=flow_steps,
            flow_step=flow_step,
            beta=beta,
            seed=seed,
        )
        try:
            with progress_bar() as progress:
                result = run_comparison(config, folder, resume=resume, data_dir=data_dir, progress=progress)
                progress(1.0, "drawing the report")
                page = write_comparison_report(folder)
        except KeyboardInterrupt:
            stderr.print(f"\nInterrupted. What was finished is kept in {folder}; continue with:", soft_wrap=True)
            stderr.print(f"  {_command(config, folder, data_dir)}", soft_wrap=True, markup=False, highlight=False)
            raise typer.Exit(_INTERRUPTED) from None
    _summarise(result, page)


def _widths(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ValueError(
            f"--widths must be whole numbers with commas between, as in 64,128,256; got {text!r}."
        ) from None


def _command(config: CompareConfig, folder: Path, data_dir: Path | None) -> str:
    """The command line that continues this comparison."""
    words = ["npk", "compare"]
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if value != field.default:
            words += [
                f"--{field.name.replace('_', '-')}",
                ",".join(map(str, value)) if field.name == "widths" else str(value),
            ]
    if data_dir is not None:
        words += ["--data-dir", str(data_dir)]
    return shlex.join([*words, "--out", str(folder), "--resume"])


def _table(*columns: str) -> rich.table.Table:
    table = rich.table.Table(box=None, header_style="bold", pad_edge=False)
    for i, name in enumerate(columns):
        table.add_column(name, justify="right" if i else "left")
    return table


def _summarise(result: dict[str, Any], page: Path) -> None:
    widest = result["config"]["widths"][-1]
    slopes = _table("relative error of", "from", f"at width {widest}", "slope", "95% interval", "expected")
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
    stdout.print(slopes)
    stdout.print(f"Distance between the limits of K^V in FR-DI and FR-II: {result['limit_gap']:.1%}\n")
    accuracies = _table("ridge regression with", "validation", "test")
    for name, row in mean_accuracies(result).items():
        accuracies.add_row(LABELS[name], f"{row['validation_accuracy']:.2%}", f"{row['test_accuracy']:.2%}")
    stdout.print(accuracies)
    flow = _table("\nprediction of test outputs, largest error", *(f"\n{name}" for name in KERNELS.values()))
    for row in result["flow"]:
        flow.add_row(CASES[row["case"]], *(f"{row['errors'][kernel]['test']:.1%}" for kernel in KERNELS))
    stdout.print(flow)
    stdout.print(f"\nReport: [bold]{page}[/]", soft_wrap=True)


_INFINITE = ("ntk", "nngp", "npk", "FR-DI")
