"""The `npk` command and what `npk study` prints; the work is in `npk.studies`."""

import platform
from typing import Annotated, Any

import jax
import typer

import npk
from npk.cli.analyse import analyse_command
from npk.cli.compare import compare_command
from npk.cli.data import app as data_app
from npk.cli.reproduce import reproduce_command
from npk.cli.run_command import run_command
from npk.cli.tables import stages_table
from npk.cli.terminal import show, stdout
from npk.cli.verify import verify_command
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
app.command("analyse")(analyse_command)
app.command("compare")(compare_command)
app.command("reproduce")(reproduce_command)
app.command("verify")(verify_command)


_VERSIONS = f"npk {npk.__version__}, jax {jax.__version__}"


def _print_versions(asked: bool) -> None:
    if asked:
        stdout.print(_VERSIONS)
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_versions, is_eager=True, help="Print the versions and exit.")
    ] = False,
) -> None:
    pass


@app.command("version")
def _version() -> None:
    """Print the versions of npk, JAX and Python, and the device in use."""
    stdout.print(f"{_VERSIONS}, python {platform.python_version()}, {jax.devices()[0]}")


@app.command("study")
@run_command("study", "study", StudyConfig, run_study, write_report)
def _study(result: dict[str, Any]) -> None:
    """Train a network, and ask at 7 stages what its gates have learned.

    Each stage computes the exact neural path kernel H of the network's gates, the split of its tangent kernel into
    value, feature and cross parts (the same parameters with soft gates), the gates flipped since initialisation, each
    kernel's alignment with the labels, and the accuracy of kernel ridge regression with H.

    The run folder gets study.json, the arrays, the figures and report.html. Without any flag it takes about a minute.
    """
    show(stages_table(result))
