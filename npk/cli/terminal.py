"""What every subcommand shows alike: consoles, tables, progress, errors and interruptions."""

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import jax
import rich.console
import rich.table
import rich.text
import typer
from rich.measure import Measurement

from npk.tiles import bar_or_lines

stdout = rich.console.Console()
stderr = rich.console.Console(stderr=True)
_INTERRUPTED, _TERMINATED = 130, 143


class _Terminated(KeyboardInterrupt):
    """SIGTERM: what ends a command as Ctrl-C does."""


def table(*columns: str, left: int = 1, **look: Any) -> rich.table.Table:
    """A table without lines; all columns but the first ones, so many as `left`, are numbers."""
    made = rich.table.Table(box=None, header_style="bold", pad_edge=False)
    for i, name in enumerate(columns):
        made.add_column(name, justify="left" if i < left else "right", **look)
    return made


def show(made: rich.table.Table) -> None:
    """Print a table; where there is no room its words and numbers stay whole, and the terminal breaks the lines."""
    for column in made.columns:
        cells = (
            Measurement.get(stdout, stdout.options.update(width=10_000), c) for c in (column.header, *column.cells)
        )
        column.min_width = max(cell.minimum for cell in cells)
    stdout.print(made, crop=False)


@contextlib.contextmanager
def running(kept: str, *, again: str | None = None) -> Iterator[Callable[[float, str], None]]:
    """Progress of what runs, errors in one line, and after an interruption what is kept and how to go on."""
    with one_line_errors():
        try:
            with _terminable(), bar_or_lines(sys.stdout) as progress:
                yield progress
        except KeyboardInterrupt as stop:
            ended, code = (
                ("Terminated", _TERMINATED) if isinstance(stop, _Terminated) else ("Interrupted", _INTERRUPTED)
            )
            stderr.print(f"\n{ended}. {kept}", soft_wrap=True, markup=False, highlight=False)
            if again is not None:
                stderr.print(f"  {again}", soft_wrap=True, markup=False, highlight=False)
            raise typer.Exit(code) from None


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Within it SIGTERM is an exception."""
    if threading.current_thread() is not threading.main_thread():  # no other may set handlers
        yield
        return

    def stop(number: int, frame: Any) -> None:
        raise _Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn errors that the user can mend into one line."""
    try:
        yield
    except (ValueError, OSError, ImportError) as error:
        said = str(error)
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        if isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" not in str(error):
            raise
        said = f"there is not enough memory ({error}): choose a smaller width, or fewer samples."
    else:
        return
    stderr.print("[bold red]Error:[/]", rich.text.Text(" ".join(said.split())), soft_wrap=True)
    raise typer.Exit(1)
