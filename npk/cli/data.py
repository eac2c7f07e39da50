"""`npk data`: flags only; the work is in `npk.data`."""

import os
from pathlib import Path
from typing import Annotated

import rich.console
import rich.text
import typer

from npk import data
from npk.cli.options import check_path
from npk.cli.terminal import one_line_errors, running, stdout, table
from npk.data import STORED, data_folder, folder_of

app = typer.Typer(help="Prepare data sets from local files, and see what there is.", no_args_is_help=True)
_DataDir = Annotated[
    Path | None,
    typer.Option(help="Folder of prepared data sets.", show_default="$TFDS_DATA_DIR or ~/tensorflow_datasets"),
]


@app.command("prepare")
def _prepare(
    name: Annotated[str, typer.Argument(help=f"One of {', '.join(STORED)}.", metavar="NAME")],
    source: Annotated[Path, typer.Option("--from", help="Folder with its original files, see `npk data list NAME`.")],
    data_dir: _DataDir = None,
) -> None:
    """Prepare a data set from its original files. Nothing is downloaded.

    Each file is checked against its known size and sha256 first. tensorflow-datasets' own builder then writes the data
    set into a temporary folder, which is read back, counted, and renamed: what is not complete is never found later.

    This step needs TensorFlow (`pip install 'npk[prepare]'`); using the result does not.
    """
    # Before TensorFlow is first imported: it would write about itself, and about oneDNN, across the bar.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    with one_line_errors():
        check_path("--from", source)
        check_path("--data-dir", data_dir)
    with running(f"Nothing was left in {data_folder(data_dir)}.") as progress:
        folder = data.prepare(name, source, data_dir=data_dir, progress=progress)
    stored = STORED[name]
    counts = f"{stored.train} training and {stored.test} test images"
    stdout.print(f"{stored.title}: {counts} in", rich.text.Text(str(folder), "bold"), soft_wrap=True)


@app.command("list")
def _list(
    name: Annotated[
        str | None,
        typer.Argument(help="Name the original files of this data set.", metavar="[NAME]", show_default=False),
    ] = None,
    data_dir: _DataDir = None,
) -> None:
    """List the data sets and which of them are prepared; or the original files of one."""
    with one_line_errors():
        check_path("--data-dir", data_dir)
        if name is None:
            columns, rows = (
                ("name", "what", "folder"),
                [(n, what, _state(n, data_dir)) for n, what in data.TITLES.items()],
            )
        else:
            columns, rows = ("file", "bytes", "sha256"), [(f.name, str(f.size), f.sha256) for f in data.originals(name)]
    shown = table(*columns, left=len(columns), overflow="fold")
    for row in rows:
        shown.add_row(*map(rich.text.Text, row))
    # Into a file or a pipe every row is one line.
    console = stdout if stdout.is_terminal else rich.console.Console(width=10_000)
    console.print(shown)


def _state(name: str, data_dir: Path | None) -> str:
    if name not in STORED:
        return "needs none"
    folder = folder_of(name, data_dir)
    return str(folder) if folder.is_dir() else "not prepared"
