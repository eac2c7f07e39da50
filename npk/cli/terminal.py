"""What every subcommand shows alike: consoles, a progress bar, and a user's error as one line."""

import contextlib
import threading
from collections.abc import Callable, Iterator

import rich.console
import rich.progress
import rich.text
import typer

stdout = rich.console.Console()
stderr = rich.console.Console(stderr=True)


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
