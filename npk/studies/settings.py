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
    """What a field says of itself.

    Attributes:
        text: what it is.
        panel: the group of flags that it belongs to.
        none: what its value None stands for.
        flag: the name of its flag; None is the field's own.
        late: within a panel, flags of a larger number stand later.
        hidden: whether it has no flag.
        least: the smallest number it may be.
        above: the number it must be larger than.
    """

    text: str = ""
    panel: str | None = None
    none: str | None = None
    flag: str | None = None
    late: int = 0
    hidden: bool = False
    least: int | None = None
    above: float | None = None


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
    lines = [_line(field) for field in dataclasses.fields(made)]
    made.__doc__ = "\n".join([inspect.cleandoc(kind.__doc__ or ""), "", "Attributes:", *lines])
    return made


def _line(field: dataclasses.Field[Any]) -> str:
    about = setting_of(field)
    return f"    {field.name}: {about.text}" + (f" None: {about.none}." if about.none else "")


def check_ranges(config: Any) -> None:
    """Refuse what could only fail later.

    Raises:
        ValueError: a number is out of its range.
    """
    for field in dataclasses.fields(config):
        value, about = getattr(config, field.name), setting_of(field)
        if about.least is not None and value < about.least:
            raise ValueError(f"{field.name} must be at least {about.least}, got {value}.")
        if about.above is not None and not value > about.above:
            raise ValueError(
                f"{field.name} must be {f'above {about.above}' if about.above else 'positive'}, got {value}."
            )
