"""Configurations of experiments: what a field means stands beside it, once, for its documentation and its flag.

    @configuration
    class Config:
        epochs: int = setting(40, "Passes over the training set.", "Training", least=1)

is a frozen dataclass whose docstring lists its fields; a command of it has `--epochs`, with that text in that panel.
"""

import dataclasses
import inspect
import math
import operator
import types
import typing
from typing import Any, TypeVar, dataclass_transform

from npk.programs import shown

# More can only be a mistake: of units or channels, which would fill any memory; of layers, which would be traced and
# compiled for hours; of draws or steps; of a learning rate; of the steepness of gates, whose derivative, in float32,
# would be zero at every sample.
MOST_WIDTH, MOST_DEPTH, MOST, MOST_RATE, MOST_BETA = 1_000_000, 2_000, 10_000_000, 1_000, 1_000

_BOUNDS = {"least": ("at least", operator.ge), "above": ("more than", operator.gt), "most": ("at most", operator.le)}

Class = TypeVar("Class", bound=type)


@dataclasses.dataclass(frozen=True)
class Setting:
    """What a field says of itself."""

    text: str = ""
    panel: str | None = None  # the group of flags that it belongs to
    none: str | None = None  # what its value None stands for
    flag: str | None = None  # the name of its flag; None is the field's own
    late: int = 0  # within a panel, flags of a larger number stand later
    hidden: bool = False  # whether it has no flag
    least: int | None = None  # the smallest number that it, or each of it, may be
    above: float | None = None  # what it must be more than
    most: float | None = None  # the largest that it may be
    among: tuple[str, ...] = ()  # the words that it may be
    parts: bool = False  # whether a choice of its parts may stand after such a word and a colon

    def refusal(self, value: Any) -> str | None:
        """Why a value is out of range, or None."""
        named = ((words, holds, getattr(self, name)) for name, (words, holds) in _BOUNDS.items())
        bounds = [(words, holds, bound) for words, holds, bound in named if bound is not None]
        said = [f"{words} {bound}" for words, _, bound in bounds]
        if value == ():
            return "must be at least one, got none."
        for one in value if isinstance(value, tuple) else (value,):
            if isinstance(one, str):
                if self.among and (one.partition(":")[0] if self.parts else one) not in self.among:
                    return f"must be one of {', '.join(self.among)}, got {one!r}."
            elif isinstance(one, float) and self.most is None and not math.isfinite(one):
                return f"must be {' and '.join([*said, 'finite'])}, got {one}."
            elif one is not None and not all(holds(one, bound) for _, holds, bound in bounds):
                return f"must be {' and '.join(said)}, got {one}."
        return None


def setting(default: Any, *words: Any, **more: Any) -> Any:
    """A field with a default and a `Setting`."""
    return dataclasses.field(default=default, metadata={"setting": Setting(*words, **more)})


def setting_of(field: dataclasses.Field[Any]) -> Setting:
    """What a field says of itself; of a plain one, nothing."""
    return field.metadata.get("setting", Setting())


@dataclass_transform(frozen_default=True)
def configuration(kind: Class) -> Class:
    """A frozen dataclass whose docstring ends with its fields."""
    made = shown()(dataclasses.dataclass(frozen=True)(kind))
    said = ((field.name, setting_of(field)) for field in dataclasses.fields(made))
    lines = [f"    {name}: {a.text}" + (f" None: {a.none}." if a.none else "") for name, a in said]
    made.__doc__ = "\n".join([inspect.cleandoc(kind.__doc__ or ""), "", "Attributes:", *lines])
    return made


def check_ranges(config: Any) -> None:
    """Refuse, with a ValueError, a value of another type or out of its range: it could only fail later."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if not _is_a(value, field.type):
            raise ValueError(f"{field.name} must be of type {inspect.formatannotation(field.type)}, got {value!r}.")
        if why := setting_of(field).refusal(value):
            raise ValueError(f"{field.name} {why}")


def _is_a(value: Any, kind: Any) -> bool:
    """Whether a value is of the type of a field; a whole number is one of floats too, a truth value none of numbers."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return any(_is_a(value, one) for one in inner)
    if origin is tuple:
        return isinstance(value, tuple) and all(_is_a(one, inner[0]) for one in value)
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, int | float if kind is float else kind)
