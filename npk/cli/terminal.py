"""What every subcommand shows alike: consoles, tables, a progress bar, errors and interruptions."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import rich.console
import rich.progress
import rich.table
import rich.text
import typer

stdout = rich.console.Console()
stderr = rich.console.Console(stderr=True)
_INTERRUPTED = 130


def table(*columns: str, left: int = 1, **look: Any) -> rich.table.Table:
    """A table without lines; all columns but the first ones, so many as `left`, are numbers."""
    made = rich.table.Table(box=None, header_style="bold", pad_edge=False)
    for i, name in enumerate(columns):
        made.add_column(name, justify="left" if i < left else "right", **look)
    return made


@contextlib.contextmanager
def running(kept: str, *, again: str | None = None) -> Iterator[Callable[[float, str], None]]:
    """A bar over what runs, errors in one line, and after an interruption what is kept and how to go on."""
    with one_line_errors():
        try:
            with progress_bar() as progress:
                yield progress
        except KeyboardInterrupt:
            stderr.print(f"\nInterrupted. {kept}", soft_wrap=True)
            if again is not None:
                stderr.print(f"  {again}", soft_wrap=True, markup=False, highlight=False)
            raise typer.Exit(_INTERRUPTED) from None


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn errors that the user can mend into one line."""
    try:
        yield
    except (ValueError, OSError, ImportError) as error:
        stderr.print("[bold red]Error:[/]", rich.text.Text(" ".join(str(error).split())), soft_wrap=True)
        raise typer.Exit(1) from None


@contextlib.contextmanager
def progress_bar() -> Iterator[Callable[[float, str], None]]:
    """A bar on the error stream, moved by calls with the fraction done and what is being done."""
    bar = rich.progress.Progress(
        rich.progress.BarColumn(),
        rich.progress.TaskProgressColumn(),
        rich.progress.TextColumn("elapsed"),
        rich.progress.TimeElapsedColumn(),
        rich.progress.TextColumn("left"),
        rich.progress.TimeRemainingColumn(),
        rich.progress.TextColumn("{task.description}"),
        console=stderr,
        transient=True,
        auto_refresh=False,
    )
    with bar, _drawn(bar):
        task = bar.add_task("starting", total=1.0)
        yield lambda fraction, text: bar.update(task, completed=fraction, description=text)


@contextlib.contextmanager
def _drawn(bar: rich.progress.Progress) -> Iterator[None]:
    """Draw a bar ten times a second.

    tensorflow-datasets, while it or one of its builders is imported, replaces Python's import in every thread. Rich
    imports as it draws: a picture that fails then is left out (Rich's own thread would end with a traceback).
    """
    finished = threading.Event()

    def draw() -> None:
        while not finished.wait(0.1):
            with contextlib.suppress(Exception):
                bar.refresh()

    thread = threading.Thread(target=draw, daemon=True)
    thread.start()
    try:
        yield
    finally:
        finished.set()
        thread.join()
