"""neural-tangents, where it is installed."""

from typing import Any

from benchmarks.gpu.record import Part, described
from npk import infinite


def neural_tangents(part: Part) -> Any | None:
    """The library through npk's loader, or None, which is told."""
    try:
        return infinite.neural_tangents()
    except ImportError as error:
        part.left_out("neural-tangents", described(error))
        return None
