"""What an engine says of a network: its plan, or why it has none."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

from npk.paths import Form

_Plan = TypeVar("_Plan")


UNKNOWN = "weights times a constant that is being traced, or as large as their own numbers"


class NotCovered(Exception):
    """The network has something that an engine does not compute; the message says what."""


def require(condition: Any, met: str) -> None:
    """Raise `NotCovered` for what was met unless a condition holds."""
    if not condition:
        raise NotCovered(met)


def covering(read: Callable[[Form, bool], _Plan]) -> Callable[[Form, bool], _Plan | str]:
    """A reader of plans that returns why there is none, in place of raising it."""

    @functools.wraps(read)
    def covers(form: Form, normalize: bool) -> _Plan | str:
        try:
            require(len(form.state[0].shape) == 2, "outputs at several places")
            return read(form, normalize)
        except NotCovered as why:
            return str(why)

    return covers
