"""`npk reproduce`: flags only; the work is in `npk.studies`."""

from pathlib import Path
from typing import Annotated

import rich.table
import typer

from npk.cli.terminal import one_line_errors, progress_bar, stderr, stdout
from npk.studies import TABLES, Scale, reproduce, table_rows

_INTERRUPTED = 130


def reproduce_command(
    table: Annotated[str, typer.Argument(help=f"One of {', '.join(TABLES)}.", metavar="TABLE")],
    scale: Annotated[
        float, typer.Option(help="Share of the epochs, samples and (square root) width; 1 is in full.")
    ] = 1.0,
    epochs: Annotated[
        int | None, typer.Option(help="Epochs, instead of that share of them.", show_default="the published number")
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option(help="Training samples, instead of that share of them.", show_default="all, or the share"),
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="For runs of far fewer steps.", show_default="the published one")
    ] = None,
    pool: Annotated[int, typer.Option(help="Average images over squares of so many pixels a side.")] = 1,
    network: Annotated[
        list[str] | None, typer.Option(help="Only this network of the table; may be repeated.", show_default="all")
    ] = None,
    seeds: Annotated[int, typer.Option(help="Runs, trained together.")] = 5,
    dataset: Annotated[
        str | None,
        typer.Option(
            help="Of a table of several, only this one; or another in their place, e.g. cifar10_jpeg.",
            show_default="the published ones",
        ),
    ] = None,
    data_dir: Annotated[
        Path | None,
        typer.Option(
            help="Folder of prepared data sets (`npk data prepare`).",
            show_default="$TFDS_DATA_DIR or ~/tensorflow_datasets",
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the result.", show_default="runs/reproduce-TABLE")] = None,
) -> None:
    """Run a published table again and print each figure beside ours.

    Rows are selected on a validation split; the largest accuracy over epochs on the test set, which the published
    figures are, stands beside. An interrupted run continues when the command is given again.
    """
    folder = out or Path("runs") / f"reproduce-{table}"
    with one_line_errors():
        try:
            with progress_bar() as progress:
                chosen = Scale(
                    scale, epochs, samples, learning_rate, pool, tuple(network) if network else None, seeds, dataset
                )
                result = reproduce(table, folder, chosen, data_dir=data_dir, progress=progress)
        except KeyboardInterrupt:
            stderr.print(f"\nInterrupted. Finished rows and checkpoints are in {folder}: run the same again to go on.")
            raise typer.Exit(_INTERRUPTED) from None
    shown = rich.table.Table(title=f"{result['title']} ({result['source']})")
    for name in ("regime", "run", "published %", "ours %, by validation", "ours %, largest on test"):
        shown.add_column(name, justify="left" if name in ("regime", "run") else "right")
    for row in table_rows(result):
        shown.add_row(*row)
    stdout.print(shown)
    if result["not as published"]:
        stdout.print(f"Not as published: {'; '.join(result['not as published'])}.", soft_wrap=True)
    stdout.print(f"Written to {folder / table}.json", soft_wrap=True)
