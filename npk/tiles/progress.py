"""How far a kernel is: what a caller is told, and a bar for scripts."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator

import rich.console
import rich.progress


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
    """A bar on the error stream with tiles, rate and time left, for scripts; messages go above it.

    Returns:
        A context manager that gives a callback for `progress=` of `tiled` and `stored`.

    Example:
        >>> import numpy as np
        >>> from npk.tiles import progress_bar, tiled
        >>> with progress_bar() as progress:
        ...     tiled(np.multiply.outer, progress=progress)(np.ones(3, np.float32)).shape
        (3, 3)
    """
    console = rich.console.Console(stderr=True)
    bar = rich.progress.Progress(
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TextColumn("tiles, {task.fields[rate]} pairs/s, elapsed"),
        rich.progress.TimeElapsedColumn(),
        rich.progress.TextColumn("left {task.fields[left]}"),
        console=console,
        transient=True,
    )
    with bar:
        task = bar.add_task("", total=None, rate="–", left="–")

        def show(progress: Progress) -> None:
            if progress.message:
                console.print(progress.message, highlight=False, soft_wrap=True)
            left = progress.seconds_left
            clock = "–" if left is None else f"{int(left) // 3600}:{int(left) // 60 % 60:02}:{int(left) % 60:02}"
            rate = f"{progress.rate:,.0f}" if progress.rate else "–"
            bar.update(task, completed=progress.done, total=progress.total, rate=rate, left=clock)

        yield show
