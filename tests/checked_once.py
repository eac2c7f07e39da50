"""beartype, once a signature, for the type hook of the tests.

A nested function is defined anew in every call of the one around it; beartype would write the same checks as often.
"""

from collections.abc import Callable, Hashable
from typing import Any

import beartype as _beartype

_CHECKS: dict[Hashable, Callable[..., Any]] = {}


def beartype(function: Callable[..., Any]) -> Callable[..., Any]:
    """The checks of a function that the hook has made of a signature; it has no body or state of its own."""
    signature = (
        function.__module__,
        function.__qualname__,
        function.__code__,
        len(function.__defaults__ or ()),
        frozenset(function.__kwdefaults__ or ()),
        tuple(function.__annotations__.items()),
    )
    if signature not in _CHECKS:
        _CHECKS[signature] = _beartype.beartype(function)
    return _CHECKS[signature]
