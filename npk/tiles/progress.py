"""How far a kernel is: what a caller is told; and what is shown of any long work, a bar or lines."""

import contextlib
import dataclasses
import datetime
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import TextIO

import rich.console
import rich.progress

from npk.programs import shown

_SILENCE = 60.0  # seconds, the longest where lines stand for a bar


@shown()
@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a kernel is.

    Attributes:
        done: tiles that are done, by whomever.
        total: tiles to be done, mirrored ones not counted.
        pairs: pairs of samples computed in this run.
        left: pairs that are still to be computed.
        seconds: since computing began.
        message: something to tell apart from the numbers: what tile was chosen, a damaged tile found; else empty.

    Example:
        >>> from npk.tiles import Progress
        >>> now = Progress(done=1, total=4, pairs=100, left=300, seconds=2.0)
        >>> now.rate, now.seconds_left
        (50.0, 6.0)
    """

    done: int
    total: int
    pairs: int = 0
    left: int = 0
    seconds: float = 0.0
    message: str = ""

    @property
    def rate(self) -> float:
        """Pairs of samples a second."""
        return self.pairs / self.seconds if self.seconds else 0.0

    @property
    def seconds_left(self) -> float | None:
        """At the rate so far; None where nothing was computed yet."""
        return self.left / self.rate if self.rate else None


class Meter:
    """Counts tiles and pairs and tells a callback."""

    def __init__(self, tell: Callable[[Progress], None] | None, total: int):
        self.tell, self.total = tell or (lambda progress: None), total
        self.done, self.pairs, self.left, self.start = 0, 0, 0, time.perf_counter()

    def begin(self, done: int, left: int) -> None:
        """Computing begins."""
        self.done, self.left, self.start = done, left, time.perf_counter()

    def advance(self, pairs: int, here: bool) -> None:
        """A tile is done, by this process or by another one."""
        self.done, self.left = self.done + 1, self.left - pairs
        self.pairs += pairs if here else 0
        self.say("")

    def say(self, message: str) -> None:
        """Tell how far it is."""
        seconds = time.perf_counter() - self.start
        self.tell(Progress(self.done, self.total, self.pairs, self.left, seconds, message))


@contextlib.contextmanager
def progress_bar() -> Iterator[Callable[[Progress], None]]:
    """On the error stream a bar with tiles, rate and time left, or a line a minute where that is no terminal.

    Returns:
        A context manager that gives a callback for `progress=` of `tiled` and `stored`; messages go above the bar.

    Example:
        >>> import numpy as np
        >>> from npk.tiles import progress_bar, tiled
        >>> with progress_bar() as progress:
        ...     tiled(np.multiply.outer, progress=progress)(np.ones(3, np.float32)).shape
        (3, 3)
    """
    with bar_or_lines(sys.stderr) as tell:

        def show(progress: Progress) -> None:
            if progress.message:
                print(progress.message, file=sys.stderr, flush=True)
            rate = f", {progress.rate:,.0f} pairs/s" if progress.rate else ""
            tell(progress.done / max(progress.total, 1), f"tiles: {progress.done} of {progress.total}{rate}")

        yield show


@contextlib.contextmanager
def bar_or_lines(out: TextIO) -> Iterator[Callable[[float, str], None]]:
    """A bar on the error stream; or lines in `out`, where that or the error stream is no terminal.

    It is told the fraction done and what is being done: "a stage", or "a stage: how it goes". A stage has a line as it
    begins, and a long one a line a minute.
    """
    if out.isatty() and sys.stderr.isatty():
        with _bar() as tell:
            yield tell
    else:
        yield _lines(out)


def _lines(out: TextIO) -> Callable[[float, str], None]:
    start, told, stage = time.monotonic(), 0.0, None

    def tell(fraction: float, text: str) -> None:
        nonlocal told, stage
        now, before = time.monotonic() - start, stage
        stage = text.partition(":")[0]
        if stage != before or now - told >= _SILENCE:
            told = now
            print(f"{datetime.timedelta(seconds=int(now))} {fraction:4.0%}  {text}", file=out, flush=True)

    return tell


@contextlib.contextmanager
def _bar() -> Iterator[Callable[[float, str], None]]:
    bar = rich.progress.Progress(
        rich.progress.BarColumn(),
        rich.progress.TaskProgressColumn(),
        rich.progress.TextColumn("elapsed"),
        rich.progress.TimeElapsedColumn(),
        rich.progress.TextColumn("left"),
        rich.progress.TimeRemainingColumn(),
        rich.progress.TextColumn("{task.description}"),
        console=rich.console.Console(stderr=True),
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
