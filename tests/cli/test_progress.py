"""What is shown of a command on its way: a bar in a terminal, a line a stage in a pipe; and tables."""

import builtins
import contextlib
import io
import os
import sys
import time
import types

import pytest
import rich.console

from npk.cli.terminal import running, show, table
from npk.tiles import Progress, bar_or_lines, progress_bar


class Terminal(io.StringIO):
    def isatty(self):
        return True


def screen_of(monkeypatch):
    """The error stream, a terminal."""
    made = Terminal()
    monkeypatch.setattr(sys, "stderr", made)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    return made


@pytest.fixture
def clock(monkeypatch):
    """Seconds since the beginning, as the test says."""
    now = types.SimpleNamespace(seconds=0.0)
    monkeypatch.setattr("npk.tiles.progress.time", types.SimpleNamespace(monotonic=lambda: now.seconds))
    return now


def test_a_stage_has_a_line_as_it_begins_and_a_long_one_a_line_a_minute(clock):
    out = io.StringIO()
    with bar_or_lines(out) as tell:
        for clock.seconds, text in (
            (0, "loading data"),
            (5, "training: 10%"),
            (64, "training: 55%"),
            (65, "training: 60%"),
            (66, "training: 61%"),
            (3661, "kernels"),
        ):
            tell(0.5, text)
    assert out.getvalue().splitlines() == [
        "0:00:00  50%  loading data",
        "0:00:05  50%  training: 10%",
        "0:01:05  50%  training: 60%",
        "1:01:01  50%  kernels",
    ]


def test_a_line_is_in_the_pipe_as_soon_as_it_is_told():
    end, start = os.pipe()
    with os.fdopen(start, "w") as pipe, bar_or_lines(pipe) as tell:
        os.set_blocking(end, False)
        tell(0.0, "loading data")
        assert os.read(end, 1000) == b"0:00:00   0%  loading data\n"
    os.close(end)


def test_a_terminal_shows_a_bar_and_a_pipe_beside_it_takes_its_place(monkeypatch):
    out, screen = Terminal(), screen_of(monkeypatch)
    with bar_or_lines(out) as tell:
        tell(0.25, "training")
        time.sleep(0.3)
    assert "25%" in screen.getvalue() and "training" in screen.getvalue() and not out.getvalue()
    shown, pipe = screen.getvalue(), io.StringIO()
    with bar_or_lines(pipe) as tell:
        tell(0.25, "training")
    assert pipe.getvalue() == "0:00:00  25%  training\n" and screen.getvalue() == shown


def test_what_a_builder_hides_of_its_own_hides_no_line(capsys):
    """tensorflow-datasets prints; stdout is another while it works."""
    with running("") as progress, contextlib.redirect_stdout(io.StringIO()) as hidden:
        progress(0.5, "encoding")
    assert capsys.readouterr().out == "0:00:00  50%  encoding\n" and not hidden.getvalue()


def test_a_kernel_on_its_way_tells_tiles_and_messages(clock, capsys):
    with progress_bar() as show:
        show(Progress(0, 4, message="tiles of 10"))
        clock.seconds = 70.0
        show(Progress(1, 4, pairs=100, left=300, seconds=2.0))
    out, errors = capsys.readouterr()
    assert not out
    assert errors.splitlines() == [
        "tiles of 10",
        "0:00:00   0%  tiles: 0 of 4",
        "0:01:10  25%  tiles: 1 of 4, 50 pairs/s",
    ]


def test_a_bar_goes_on_where_an_import_in_progress_has_replaced_pythons(monkeypatch):
    """As that of tensorflow-datasets does, in all threads: Rich imports as it draws."""

    def refuse(*args, **kwargs):
        raise ValueError("imports are replaced")

    screen = screen_of(monkeypatch)
    with bar_or_lines(Terminal()) as progress:
        progress(0.1, "before")
        time.sleep(0.3)
        with monkeypatch.context() as replaced:
            replaced.setattr(builtins, "__import__", refuse)
            time.sleep(0.3)
        progress(0.5, "after")
        time.sleep(0.5)
        assert "before" in screen.getvalue() and "after" in screen.getvalue()


def test_a_table_loses_no_letter_where_there_is_no_room(capsys, monkeypatch):
    made = table("stage", "gates flipped")
    made.add_row("1", "12.3%")
    monkeypatch.setattr("npk.cli.terminal.stdout", rich.console.Console(width=9))
    show(made)
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["gates"],
        ["stage", "flipped"],
        ["1", "12.3%"],
    ]
