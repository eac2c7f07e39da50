"""Configurations of experiments: what a field means stands beside it, once, for its documentation and its flag.

    @configuration
    class Config:
        epochs: int = setting(40, "Passes over the training set.", "Training", least=1)

is a frozen dataclass whose docstring lists its fields; a command of it has `--epochs`, with that text in that panel.
"""

import dataclasses
import inspect
from typing import Any, TypeVar, dataclass_transform

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
    least: int | None = None  # the smallest number that it may be
    positive: bool = False  # whether it must be


def setting(default: Any, *words: Any, **more: Any) -> Any:
    """A field with a default and a `Setting`."""
    return dataclasses.field(default=default, metadata={"setting": Setting(*words, **more)})


def setting_of(field: dataclasses.Field[Any]) -> Setting:
    """What a field says of itself; of a plain one, nothing."""
    return field.metadata.get("setting", Setting())


@dataclass_transform(frozen_default=True)
def configuration(kind: Class) -> Class:
    """A frozen dataclass whose docstring ends with its fields."""
    made = dataclasses.dataclass(frozen=True)(kind)
    said = ((field.name, setting_of(field)) for field in dataclasses.fields(made))
    lines = [f"    {name}: {a.text}" + (f" None: {a.none}." if a.none else "") for name, a in said]
    made.__doc__ = "\n".join([inspect.cleandoc(kind.__doc__ or ""), "", "Attributes:", *lines])
    return made


def check_ranges(config: Any) -> None:
    """Refuse, with a ValueError, a number out of its range: it could only fail later."""
    for field in dataclasses.fields(config):
        value, about = getattr(config, field.name), setting_of(field)
        if about.least is not None and value < about.least:
            raise ValueError(f"{field.name} must be at least {about.least}, got {value}.")
        if about.positive and not value > 0:
            raise ValueError(f"{field.name} must be positive, got {value}.")
