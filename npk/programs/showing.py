"""How results show themselves: shapes, dtypes and a few numbers in a few lines; in notebooks as a table."""

import dataclasses
import html
import inspect
import math
import reprlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from npk.programs.checks import concrete, on_host

Class = TypeVar("Class", bound=type)

_LINES, _COLUMNS = 10, 100
_WORDS = 60  # characters of one value
_FEW, _MANY = 4, 1 << 20  # numbers that are written out, and those whose range is looked up


def shown(*properties: str) -> Callable[[Class], Class]:
    """Let a dataclass print itself as `Name(field=summary, …)`, of ten lines at the most; private fields are left out.

    Nothing is computed but the range of arrays that are on the host and not large, and nothing is known of traced ones.

    Args:
        *properties: what else of it is shown, first; it must cost nothing.

    Returns:
        A decorator of classes, to be written above `dataclass`.
    """

    def mark(kind: Class) -> Class:
        def parts(self: Any) -> Iterator[tuple[str, str]]:
            public = [f.name for f in dataclasses.fields(self) if f.repr and not f.name.startswith("_")]
            return ((name, _summary(_told(self, name))) for name in (*properties, *public))

        def text(self: Any) -> str:
            return _wrapped(kind.__name__.lstrip("_"), [f"{name}={value}" for name, value in parts(self)])

        def table(self: Any) -> str:
            rows = (f"<tr><th>{name}</th><td>{html.escape(value)}</td></tr>" for name, value in parts(self))
            return f"<table><caption>{kind.__name__.lstrip('_')}</caption>{''.join(rows)}</table>"

        methods: Any = kind
        methods.__repr__ = text
        methods._repr_html_ = vars(kind).get("_repr_html_", table)  # it may have a page of its own
        return kind

    return mark


def _told(held: Any, name: str) -> Any:
    """A field or property; of a tree in which something else stands for arrays the latter may fail."""
    try:
        return getattr(held, name)
    except Exception:  # to be printed is not to be checked
        return None


def _wrapped(name: str, parts: list[str]) -> str:
    """The parts on as few lines as hold them, the rest left out."""
    lines = [f"{name}("]
    for i, part in enumerate(parts):
        part += ")" if i == len(parts) - 1 else ", "
        if len(lines[-1]) + len(part.rstrip()) > _COLUMNS:
            lines.append("    ")
        lines[-1] += part
    lines = [line.rstrip() for line in lines]
    return "\n".join(lines if len(lines) <= _LINES else [*lines[: _LINES - 1], "    …)"]) + ("" if parts else ")")


def _summary(value: Any) -> str:
    text = " ".join(_words(value).split())
    return text if len(text) <= _WORDS else f"{text[: _WORDS - 1]}…"


def _words(value: Any) -> str:
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return _of_array(value)
    if isinstance(value, float):
        return repr(float(f"{value:.6g}"))
    if inspect.isroutine(value):
        return f"<{getattr(value, '__qualname__', 'function')}>"
    if isinstance(value, Mapping) or (isinstance(value, tuple | list) and not _plain(value)):
        return _of_tree(value)
    if isinstance(value, str):
        return repr(value[:_WORDS])
    return repr(value) if hasattr(type(value), "_repr_html_") else reprlib.repr(value)


def _plain(values: tuple | list) -> bool:
    return len(values) <= _FEW and all(isinstance(v, str | int | float | None) for v in values)


def _of_array(array: Any) -> str:
    kind = f"{array.dtype}{list(array.shape)}"
    real = jnp.issubdtype(array.dtype, jnp.floating) or jnp.issubdtype(array.dtype, jnp.signedinteger)
    gone = concrete(array) and isinstance(array, jax.Array) and array.is_deleted()
    known = isinstance(array, np.ndarray) or (isinstance(array, jax.Array) and not gone and on_host(array))
    if not (real and known and 0 < array.size <= _MANY):
        return kind
    if array.size <= _FEW:
        return f"{kind} {', '.join(f'{float(v):.4g}' for v in np.ravel(array))}"
    low, high = (f"{float(v):.4g}" for v in (np.min(array), np.max(array)))
    return f"{kind} {low} … {high}"


def _of_tree(tree: Any) -> str:
    """A container by the numbers of its arrays, and by its names."""
    leaves = [leaf for leaf in jax.tree_util.tree_leaves(tree) if hasattr(leaf, "shape")]
    numbers = sum(math.prod(leaf.shape) for leaf in leaves)
    held = f"{len(leaves)} arrays of {numbers:,} numbers" if leaves else f"{len(tree)} entries"
    names = ", ".join(map(str, list(tree)[:_WORDS])) if isinstance(tree, Mapping) or not leaves else ""
    return f"<{held}{': ' if names else ''}{names}>"
