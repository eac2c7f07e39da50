"""`npk verify`: what it prints; the work is in `npk.studies`."""

from pathlib import Path
from typing import Annotated

import rich.text
import typer

from npk.cli.options import check_path
from npk.cli.terminal import running, show, stdout, table
from npk.studies import verify


def verify_command(
    folder: Annotated[Path, typer.Argument(help="Any folder that npk has written.", metavar="FOLDER")],
    repair: Annotated[
        bool, typer.Option("--repair", help="Compute again what seed and configuration determine.")
    ] = False,
    data_dir: Annotated[Path | None, typer.Option(help="Folder that `npk data prepare` has filled.")] = None,
) -> None:
    """Say what a folder is, of what, and whether every byte is as it was written.

    FOLDER is a stored kernel, a study, a comparison, a reproduction, or the checkpoints of a training run. The exit
    status is 0 where all is there and whole, and 1 elsewhere. Nothing in the folder is run.
    """
    with running(f"What was finished is kept in {folder}.") as progress:
        check_path("FOLDER", folder)
        verdict = verify(folder, repair=repair, data_dir=data_dir, progress=progress)
    stdout.print(rich.text.Text(f"{folder} is {verdict.kind}."), soft_wrap=True)
    rows = table("", "", left=2, overflow="fold")
    rows.show_header = False
    for name, text in verdict.of:
        rows.add_row(rich.text.Text(name), rich.text.Text(text))
    if verdict.of:
        show(rows)
    for sentence in verdict.mended:
        stdout.print(rich.text.Text(f"Mended: {sentence}"), soft_wrap=True)
    for sentence in verdict.harms:
        stdout.print(rich.text.Text.assemble(("Not as written: ", "bold red"), sentence), soft_wrap=True)
    if verdict.whole:
        stdout.print("All is there, every byte as it was written.")
        return
    stdout.print(rich.text.Text(verdict.advice), soft_wrap=True)
    raise typer.Exit(1)
