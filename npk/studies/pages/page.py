"""Parts of self-contained pages: the style they share, figures as SVG of that style, tables of pairs."""

import html
import importlib.resources
import re
from typing import Any

from npk.plots import COLORS, INK, PAPER


def template(name: str) -> str:
    """A page's frame, or the style sheet of all: a file beside this one."""
    return importlib.resources.files("npk.studies.pages").joinpath(name).read_text(encoding="utf-8")


def style() -> str:
    """The style sheet, light and dark."""
    return template("page_style.css")


def inline(name: str, svg: str) -> str:
    """An SVG for the page: its ink and paper follow the page's colours, its ids are its own."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r' (?:width|height)="[\d.]+pt"', "", svg, count=2)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = svg.replace(' id="', f' id="{name}-').replace('href="#', f'href="#{name}-').replace("url(#", f"url(#{name}-")
    svg = svg.replace(INK, "currentColor").replace(PAPER, "var(--card)")
    svg = svg.replace(COLORS[0], "var(--accent)")  # the one colour too dark for a dark page
    return svg.replace("<svg", '<svg aria-hidden="true"', 1).strip()


def pairs(values: dict[str, Any]) -> str:
    """A table of names and values."""
    rows = (
        f"<tr><th scope='row'>{html.escape(k.replace('_', ' '))}</th><td>{html.escape(str(v))}</td></tr>"
        for k, v in values.items()
    )
    return f"<table class='pairs'><tbody>{''.join(rows)}</tbody></table>"
