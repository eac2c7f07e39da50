"""Self-contained pages: their frame, style and script, figures as SVG of that style, tables."""

import base64
import contextlib
import dataclasses
import html
import importlib.resources
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jinja2
import PIL.Image
from markupsafe import Markup
from matplotlib.figure import Figure

from npk import plots
from npk.folders import inside, replace
from npk.plots import COLORS, INK, PAPER
from npk.studies.pages.hovering import marks_of

_SHADES = 64  # of a heat map: more cannot be told apart
_PIXELS = 128  # of a page, at most, to an inch of a figure: its letters are as large as the text


@dataclasses.dataclass(frozen=True, eq=False)
class Picture:
    """A figure, what it is called, and what it shows, for whoever cannot see it."""

    figure: Figure
    title: str
    text: str


def write_page(folder: Path, pictures: Mapping[str, Picture], render: Callable[[dict[str, Markup]], str]) -> Path:
    """Save the figures of a run as PNG and SVG; `render` makes of the pictures the page, report.html."""
    drawn = inside(folder, "figures")
    drawn.mkdir(exist_ok=True)
    svg = {name: plots.save(picture.figure, drawn / name)[1] for name, picture in pictures.items()}
    page = folder / "report.html"
    shown = {name: inline(name, path.read_text(encoding="utf-8"), pictures[name]) for name, path in svg.items()}
    replace(page, render(shown).encode())
    return page


@contextlib.contextmanager
def of_a_run(folder: Path) -> Iterator[None]:
    """Errors of a run's file that has its checksum and not its parts, which no npk has written."""
    try:
        yield
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, jinja2.UndefinedError) as error:
        raise ValueError(f"{folder} holds what no run does ({type(error).__name__}: {error}).") from error


def filled(
    template: str, run: dict[str, Any], pictures: Mapping[str, Markup], words: Mapping[str, Any], data: Any = None
) -> str:
    """The page of a run: a template beside this file, within the frame of all.

    A run may be a stranger's: none of its words is markup. `data` are what the page's script reads.
    """
    places = {
        **run,
        "dataset": run["data"]["title"],
        "source": run["data"]["source"],
        "config_table": pairs({k: v for k, v in run["config"].items() if v is not None}),
        "versions_table": pairs({**run["versions"], **run["machine"]}),
        "figures": pictures,
        "style": Markup(_text("page_style.css")),
        "script": Markup(_text("page_script.js")),
        "page_data": "" if data is None else Markup(json.dumps(data).replace("<", "\\u003c")),
        **words,
    }
    return _templates().get_template(template).render(places)


def _templates() -> jinja2.Environment:
    made = jinja2.Environment(
        loader=jinja2.FunctionLoader(_text), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    made.filters.update(percent=percent, count=lambda x: f"{x:,}", decimals=decimals, short=short, rank=rank)
    return made


def percent(value: Any, decimals: int = 1) -> str:
    """A share in per cent; what is no number as it is."""
    return f"{value:.{decimals}%}" if isinstance(value, int | float) else str(value)


def decimals(value: float, count: int = 3) -> str:
    """A number with so many decimals."""
    return f"{value:.{count}f}"


def rank(value: float) -> str:
    """An effective rank: of a few directions their tenths are told apart."""
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}"


def short(value: float) -> str:
    """A number without needless digits."""
    return f"{value:g}"


def _text(name: str) -> str:
    return importlib.resources.files("npk.studies.pages").joinpath(name).read_text(encoding="utf-8")


def inline(name: str, svg: str, picture: Picture) -> Markup:
    """An SVG for the page: its ink and paper follow the page's colours, its ids are its own; it says what it shows."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r' (?:width|height)="[\d.]+pt"', "", svg, count=2)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = svg.replace(' id="', f' id="{name}-').replace('href="#', f'href="#{name}-').replace("url(#", f"url(#{name}-")
    svg = svg.replace(INK, "currentColor").replace(PAPER, "var(--card)")
    svg = svg.replace(COLORS[0], "var(--accent)")  # the one colour too dark for a dark page
    svg = re.sub(r'"data:image/png;base64,([^"]+)"', _in_few_colours, svg)
    marks = json.dumps(marks_of(picture.figure), separators=(",", ":"))
    width = round(_PIXELS * picture.figure.get_figwidth())
    said = f'role="img" aria-label="{html.escape(picture.title)}" aria-describedby="{name}-says" '
    said += f'style="max-width:{width}px"'
    svg = svg.replace("<svg", f'<svg {said} data-marks="{html.escape(marks)}"', 1)
    describes = f'<desc id="{name}-says">{html.escape(picture.text)}</desc>'
    return Markup(re.sub(r"(<svg[^>]*>)", lambda found: found.group(1) + describes, svg, count=1).strip())


def _in_few_colours(found: re.Match[str]) -> str:
    """An image with a palette, a quarter of the size."""
    image = PIL.Image.open(io.BytesIO(base64.b64decode(found.group(1)))).convert("RGB")
    small = io.BytesIO()
    image.quantize(_SHADES, dither=PIL.Image.Dither.NONE).save(small, "PNG", optimize=True)
    return f'"data:image/png;base64,{base64.b64encode(small.getvalue()).decode()}"'


def table(head: Iterable[str], rows: Iterable[tuple[str, Iterable[str]]]) -> Markup:
    """A table with a heading over each column, and one before each row; headings are markup, cells are text."""
    top = "".join(f"<th scope='col'>{name}</th>" for name in head)
    return Markup(f"<table><thead><tr>{top}</tr></thead>{_body(rows)}</table>")


def pairs(values: Mapping[str, Any]) -> Markup:
    """A table of names and values."""
    said = {k: ", ".join(map(str, v)) if isinstance(v, list | tuple) else str(v) for k, v in values.items()}
    rows = ((html.escape(k.replace("_", " ")), [text]) for k, text in said.items())
    return Markup(f"<table class='pairs'>{_body(rows)}</table>")


def _body(rows: Iterable[tuple[str, Iterable[str]]]) -> str:
    lines = (
        f"<tr><th scope='row'>{name}</th>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>"
        for name, cells in rows
    )
    return f"<tbody>{''.join(lines)}</tbody>"
