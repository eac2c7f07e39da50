"""The `npk` command: flags only; the work is in `npk.studies`."""

import dataclasses
import platform
import re
import shlex
from pathlib import Path
from typing import Annotated, Any

import jax
import rich.table
import typer

import npk
from npk import data, networks
from npk.cli.compare import compare_command
from npk.cli.data import app as data_app
from npk.cli.reproduce import reproduce_command
from npk.cli.terminal import one_line_errors, progress_bar, stderr, stdout
from npk.studies import StudyConfig, run_study, write_report

app = typer.Typer(
    name="npk",
    help="The gates of ReLU networks: exact path kernels, tangent kernel splits, and studies of training.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
app.add_typer(data_app, name="data")
app.command("compare")(compare_command)
app.command("reproduce")(reproduce_command)
_DEFAULT = StudyConfig()
_INTERRUPTED = 130


@app.callback()
def _main() -> None:
    """Keeps `study` a subcommand."""


@app.command("version")
def _version() -> None:
    """Print the versions of npk and JAX, and the device in use."""
    stdout.print(
        f"npk {npk.__version__}, jax {jax.__version__}, python {platform.python_version()}, {jax.devices()[0]}"
    )


@app.command("study")
def _study(
    dataset: Annotated[
        str,
        typer.Option(
            help=f"One of {', '.join(data.NAMES)}; or classes of it, as in mnist:4,7. See `npk data list`.",
            rich_help_panel="Data",
        ),
    ] = _DEFAULT.dataset,
    data_dir: Annotated[
        Path | None,
        typer.Option(help="Folder that `npk data prepare` has filled.", rich_help_panel="Data"),
    ] = None,
    network: Annotated[
        str, typer.Option(help=f"One of {', '.join(networks.NAMES)}.", rich_help_panel="Network")
    ] = _DEFAULT.network,
    width: Annotated[
        int | None,
        typer.Option(
            help="Units or channels of the first layer.", show_default="the network's", rich_help_panel="Network"
        ),
    ] = None,
    depth: Annotated[
        int | None,
        typer.Option(help="Weight layers (mlp, resnet).", show_default="the network's", rich_help_panel="Network"),
    ] = None,
    bias: Annotated[
        bool, typer.Option("--bias/--no-bias", help="Layers with biases.", rich_help_panel="Network")
    ] = _DEFAULT.use_bias,
    epochs: Annotated[
        int, typer.Option(help="Passes over the training set.", rich_help_panel="Training")
    ] = _DEFAULT.epochs,
    batch_size: Annotated[
        int, typer.Option(help="Samples a gradient step.", rich_help_panel="Training")
    ] = _DEFAULT.batch_size,
    learning_rate: Annotated[float, typer.Option(help="Of Adam.", rich_help_panel="Training")] = _DEFAULT.learning_rate,
    seed: Annotated[
        int, typer.Option(help="Of parameters, sample order and splits.", rich_help_panel="Training")
    ] = _DEFAULT.seed,
    samples: Annotated[
        int,
        typer.Option(help="Training samples the kernels are of. Cost: its square.", rich_help_panel="Kernels"),
    ] = _DEFAULT.samples,
    test_samples: Annotated[
        int, typer.Option(help="Most test samples for the ridge regression.", rich_help_panel="Kernels")
    ] = _DEFAULT.test_samples,
    beta: Annotated[
        float, typer.Option(help="Steepness of the soft gates in the split.", rich_help_panel="Kernels")
    ] = _DEFAULT.beta,
    regimes: Annotated[
        bool,
        typer.Option(
            "--regimes/--no-regimes",
            help="Train random, learned and trained gates beside the network.",
            rich_help_panel="Training",
        ),
    ] = _DEFAULT.regimes,
    out: Annotated[
        Path | None,
        typer.Option(help="Run folder.", show_default="runs/study-DATASET-NETWORK-sSEED", rich_help_panel="Run"),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue an interrupted study of the same flags.", rich_help_panel="Run")
    ] = False,
) -> None:
    """Train a network, and ask at 7 stages what its gates have learned.

    Each stage computes the exact neural path kernel H of the network's gates, the split of its tangent kernel into
    value, feature and cross parts (the same parameters with soft gates), the gates flipped since initialisation, each
    kernel's alignment with the labels, and the accuracy of kernel ridge regression with H.

    The run folder gets study.json, the arrays, the figures and report.html. Without any flag it takes about a minute.
    """
    # "mnist:4,7" names no folder on every system.
    folder = out or Path("runs") / f"study-{re.sub(r'[^0-9A-Za-z_]+', '-', dataset)}-{network}-s{seed}"
    with one_line_errors():
        config = StudyConfig(
            dataset=dataset,
            network=network,
            width=width,
            depth=depth,
            use_bias=bias,
            seed=seed,
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            beta=beta,
            samples=samples,
            test_samples=test_samples,
            regimes=regimes,
        )
        try:
            with progress_bar() as progress:
                result = run_study(config, folder, resume=resume, data_dir=data_dir, progress=progress)
                progress(1.0, "drawing the report")
                page = write_report(folder)
        except KeyboardInterrupt:
            command = _command(config, folder, data_dir)
            stderr.print(f"\nInterrupted. What was finished is kept in {folder}; continue with:", soft_wrap=True)
            stderr.print(f"  {command}", soft_wrap=True, markup=False, highlight=False)
            raise typer.Exit(_INTERRUPTED) from None
    _summarise(result, page)


def _command(config: StudyConfig, folder: Path, data_dir: Path | None) -> str:
    """The command line that continues this study."""
    words = ["npk", "study"]
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if value == field.default:
            continue
        name = "bias" if field.name == "use_bias" else field.name.replace("_", "-")
        switch = f"--{name}" if value else f"--no-{name}"
        words += [switch] if isinstance(value, bool) else [f"--{name}", str(value)]
    if data_dir is not None:
        words += ["--data-dir", str(data_dir)]
    return shlex.join([*words, "--out", str(folder), "--resume"])


def _summarise(result: dict[str, Any], page: Path) -> None:
    table = rich.table.Table(box=None, header_style="bold", pad_edge=False)
    for name in ("stage", "step", "train", "test", "ridge with H", "gates flipped", "alignment of H", "value share"):
        table.add_column(name, justify="right")
    for stage in result["stages"]:
        table.add_row(
            str(stage["stage"]),
            str(stage["step"]),
            f"{stage['train_accuracy']:.1%}",
            f"{stage['test_accuracy']:.1%}",
            f"{stage['ridge']['test_accuracy']:.1%}",
            f"{stage['gate_flips']['all']:.1%}",
            f"{stage['alignment']['npk']:.3f}",
            f"{stage['share']['value']:.1%}",
        )
    stdout.print(table)
    stdout.print(f"\nReport: [bold]{page}[/]", soft_wrap=True)
