"""Self-contained pages: their frame and style, figures as SVG of that style, tables."""

import contextlib
import html
import importlib.resources
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from npk import plots
from npk.folders import inside, replace
from npk.plots import COLORS, INK, PAPER


def write_page(folder: Path, figures: Mapping[str, Figure], render: Callable[[dict[str, str]], str]) -> Path:
    """Save the figures of a run as PNG and SVG; `render` makes of the SVG texts the page, report.html."""
    drawn = inside(folder, "figures")
    drawn.mkdir(exist_ok=True)
    svg = {name: plots.save(figure, drawn / name)[1] for name, figure in figures.items()}
    page = folder / "report.html"
    replace(page, render({name: path.read_text(encoding="utf-8") for name, path in svg.items()}).encode())
    return page


@contextlib.contextmanager
def of_a_run(folder: Path) -> Iterator[None]:
    """Errors of a run's file that has its checksum and not its parts, which no npk has written."""
    try:
        yield
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise ValueError(f"{folder} holds what no run does ({type(error).__name__}: {error}).") from error


def filled(template: str, title: str, run: dict[str, Any], svg: dict[str, str], words: dict[str, Any]) -> str:
    """The page of a run (`escaped`): a template beside this file, within the frame of all.

    In templates stand places of `str.format`: parts of the run, words, and figure_NAME.
    """
    places = {
        **run,
        "dataset": run["data"]["title"],
        "source": run["data"]["source"],
        "config_table": pairs({k: v for k, v in run["config"].items() if v is not None}),
        "versions_table": pairs({**run["versions"], **run["machine"]}),
        **{f"figure_{name}": inline(name, text) for name, text in svg.items()},
        **words,
    }
    body, title = _text(template).format(**places), title.format(**places)
    return _text("page_frame.html").format(title=title, body=body, style=_text("page_style.css"), **places)


def escaped(value: Any) -> Any:
    """What a run's file says, its text for a page: a run may be a stranger's, and none of its words is markup."""
    if isinstance(value, str):
        return html.escape(value)
    if isinstance(value, Mapping):
        return {name: escaped(part) for name, part in value.items()}
    return [escaped(part) for part in value] if isinstance(value, list) else value


def _text(name: str) -> str:
    return importlib.resources.files("npk.studies.pages").joinpath(name).read_text(encoding="utf-8")


def inline(name: str, svg: str) -> str:
    """An SVG for the page: its ink and paper follow the page's colours, its ids are its own."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r' (?:width|height)="[\d.]+pt"', "", svg, count=2)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = svg.replace(' id="', f' id="{name}-').replace('href="#', f'href="#{name}-').replace("url(#", f"url(#{name}-")
    svg = svg.replace(INK, "currentColor").replace(PAPER, "var(--card)")
    svg = svg.replace(COLORS[0], "var(--accent)")  # the one colour too dark for a dark page
    return svg.replace("<svg", '<svg aria-hidden="true"', 1).strip()


def table(head: Iterable[str], rows: Iterable[tuple[str, Iterable[str]]]) -> str:
    """A table with a heading over each column, and one before each row."""
    top = "".join(f"<th scope='col'>{name}</th>" for name in head)
    return f"<table><thead><tr>{top}</tr></thead>{_body(rows)}</table>"


def pairs(values: dict[str, Any]) -> str:
    """A table of names and (escaped) values."""
    rows = ((html.escape(k.replace("_", " ")), [str(v)]) for k, v in values.items())
    return f"<table class='pairs'>{_body(rows)}</table>"


def _body(rows: Iterable[tuple[str, Iterable[str]]]) -> str:
    lines = (
        f"<tr><th scope='row'>{name}</th>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
        for name, cells in rows
    )
    return f"<tbody>{''.join(lines)}</tbody>"
