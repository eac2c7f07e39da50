"""`npk reproduce`: flags only; the work is in `npk.studies`."""

from pathlib import Path
from typing import Annotated

import rich.table
import typer

from npk.cli.options import configured, folder_of
from npk.cli.terminal import running, show, stdout
from npk.studies import TABLES, Scale, reproduce, table_rows


@configured
def reproduce_command(
    table: Annotated[str, typer.Argument(help=f"One of {', '.join(TABLES)}.", metavar="TABLE")],
    scale: Scale,
    data_dir: Annotated[
        Path | None,
        typer.Option(
            help="Folder of prepared data sets (`npk data prepare`).",
            show_default="$TFDS_DATA_DIR or ~/tensorflow_datasets",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the result.", show_default="runs/reproduce-TABLE, and what is not the default"),
    ] = None,
) -> None:
    """Run a published table again and print each figure beside ours.

    Rows are selected on a validation split; the largest accuracy over epochs on the test set, which the published
    figures are, stands beside. An interrupted run continues when the command is given again.
    """
    folder = out or folder_of(f"reproduce-{table}", scale)
    with running(f"Finished rows and checkpoints are in {folder}: run the same again to go on.") as progress:
        result = reproduce(table, folder, scale, data_dir=data_dir, progress=progress)
    shown = rich.table.Table(title=f"{result['title']} ({result['source']})")
    for name in ("regime", "run", "published %", "ours %, by validation", "ours %, largest on test"):
        shown.add_column(name, justify="left" if name in ("regime", "run") else "right")
    for row in table_rows(result):
        shown.add_row(*row)
    show(shown)
    if result["not as published"]:
        stdout.print(f"Not as published: {'; '.join(result['not as published'])}.", soft_wrap=True, markup=False)
    stdout.print(f"Written to {folder / table}.json", soft_wrap=True, markup=False)
