"""How the pages are built: `make docs`. Pages of the API are written here, from the faces of the rooms."""

import ast
import functools
import importlib
import inspect
import pathlib
import re
import shutil
import sys
import textwrap
from typing import Any

from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.pycode import ModuleAnalyzer
from sphinx.util import logging

import npk

DOCS = pathlib.Path(__file__).parent
ROOMS = {name: importlib.import_module(f"npk.{name}") for name in npk._ROOMS}

project, author, release = "npk", "The npk authors", npk.__version__
copyright = author
html_title = f"npk {release}"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode", "sphinx_copybutton"]
extensions += ["sphinx-mathjax-offline"]
exclude_patterns = ["_build", "conf.py", "hero.py"]

default_role = "literal"  # what a docstring has in backticks is code
python_maximum_signature_line_length = 90
napoleon_use_rtype = False
napoleon_use_ivar = True  # fields once, where the docstring says them
napoleon_attr_annotations = False

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
nb_custom_formats = {".py": ["jupytext.reads", {"fmt": "py:percent"}]}
nb_execution_mode = "cache"
nb_execution_timeout = 600
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_merge_streams = True
nb_output_stderr = "warn"  # a cell that warns

html_theme = "sphinx_book_theme"
html_theme_options = {"show_toc_level": 2, "home_page_in_toc": True, "navbar_persistent": []}


def _pages(app: Sphinx) -> None:
    """Write a page for each room, and copy the notebooks to where Sphinx looks for pages."""
    (DOCS / "api").mkdir(exist_ok=True)
    for room, face in ROOMS.items():
        shown = "\n".join(_directive(room, name, getattr(face, name)) for name in face.__all__)
        intro = f".. py:module:: npk.{room}\n\n{_escaped(inspect.getdoc(face) or '')}\n"
        _write(f"api/{room}.md", f"# npk.{room}\n\n```{{eval-rst}}\n{intro}\n{shown}\n```\n")
    flat = "\n".join(f"| `npk.{name}` | {{py:obj}}`{_home(name)}` |" for name in npk.__all__)
    toc = "```{toctree}\n:maxdepth: 1\n" + "\n".join(ROOMS) + "\n```"
    intro = "Each room of the package is a page. What most programs need is in `npk` itself too:"
    _write(
        "api/index.md", f"# Rooms and functions\n\n{toc}\n\n{intro}\n\n| name | described under |\n|---|---|\n{flat}\n"
    )
    shutil.copytree(DOCS.parent / "notebooks", DOCS / "notebooks", dirs_exist_ok=True)


def _write(page: str, text: str) -> None:
    """Only where it has changed, so that a second build is quick."""
    path = DOCS / page
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


def _directive(room: str, name: str, value: Any) -> str:
    """How one public name is shown: by its docstring, or by the comment `#:` above it."""
    full = f"npk.{room}.{name}"
    if inspect.isfunction(value):
        return f".. autofunction:: {full}"
    if inspect.isclass(value):
        return f".. autoclass:: {full}\n   :members:"
    return f".. py:data:: {name}\n\n   {' '.join(_comment(room, name))}"


def _comment(room: str, name: str) -> list[str]:
    for module in [m for m in list(sys.modules) if m.startswith(f"npk.{room}")]:
        found = ModuleAnalyzer.for_module(module).find_attr_docs().get(("", name))
        if found:
            return found
    return []


def _home(name: str) -> str:
    """Where a name of `npk` is described."""
    rooms = (room for room, face in ROOMS.items() if getattr(face, name, None) is getattr(npk, name))
    return f"npk.{next(rooms, 'programs')}.{name}"


def _docstring(app: Sphinx, what: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    lines[:] = _escaped("\n".join(lines)).split("\n")


def _escaped(text: str) -> str:
    """Docstrings are written to be read as they are: outside code no sign but the backtick is markup."""
    paragraphs = re.split(r"(\n\s*\n)", text)
    return "".join(p if ">>> " in p else re.sub(r"(`[^`]+`)(\w)?|([*|]|\b_\b|_(?=\W))", _signs, p) for p in paragraphs)


def _signs(found: re.Match[str]) -> str:
    code, after, sign = found.groups()
    return f"\\{sign}" if sign else f"{code}\\ {after}" if after else code


def _signature(app: Sphinx, what: str, name: str, value: Any, options: Any, signature: str, returns: str) -> Any:
    """As it is written in the source, where aliases have names and shapes are short."""
    if inspect.isclass(value) or not inspect.isroutine(value) or isinstance(value, functools.cached_property):
        names = inspect.signature(value).parameters if signature else {}
        return (f"({', '.join(n for n in names if n != 'self')})" if signature else signature), None
    (node,) = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(value)))).body
    assert isinstance(node, ast.FunctionDef)
    node.args.args = [a for a in node.args.args if a.arg not in ("self", "cls")]
    return f"({ast.unparse(node.args)})", ast.unparse(node.returns) if node.returns else None


def _skip(app: Sphinx, what: str, name: str, value: Any, skip: bool, options: Any) -> bool | None:
    """Fields are said in the docstring of their class."""
    return None if inspect.isroutine(value) or isinstance(value, property | functools.cached_property) else True


def _undocumented(app: Sphinx, env: BuildEnvironment) -> None:
    """A public name that no page describes is a warning, which `make docs` takes for an error."""
    known = env.domaindata["py"]["objects"]
    for room, face in ROOMS.items():
        for name in face.__all__:
            value = getattr(face, name)
            said = inspect.isroutine(value) or inspect.isclass(value) or _comment(room, name)
            if f"npk.{room}.{name}" not in known or not said:
                logging.getLogger(__name__).warning("no page describes npk.%s.%s", room, name)


def setup(app: Sphinx) -> None:
    app.connect("builder-inited", _pages)
    app.connect("autodoc-process-docstring", _docstring, priority=100)  # before sections are read
    app.connect("autodoc-process-signature", _signature)
    app.connect("autodoc-skip-member", _skip)
    app.connect("env-check-consistency", _undocumented)
