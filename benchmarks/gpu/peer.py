"""neural-tangents, where it is installed."""

from typing import Any

from benchmarks.gpu.record import Part, described
from npk import _neural_tangents


def neural_tangents(part: Part) -> Any | None:
    """The library through npk's loader, or None, which is told."""
    try:
        return _neural_tangents.load()
    except ImportError as error:
        part.left_out("neural-tangents", described(error))
        return None
