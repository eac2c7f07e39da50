"""The flags of a command, from the fields of a configuration: a new field is a new flag.

A field's type, default and `Setting` give its flag. A tuple of numbers is written with commas between; one of words
by repeating its flag.
"""

import dataclasses
import functools
import inspect
import re
import typing
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from npk.cli.terminal import one_line_errors
from npk.studies import setting_of

_LONGEST = 120  # letters of a folder's name


def configured(command: Callable[..., None]) -> Callable[..., None]:
    """The command with flags in place of its one parameter that is a configuration."""
    own = inspect.signature(command).parameters.values()
    (place,) = (parameter for parameter in own if dataclasses.is_dataclass(parameter.annotation))
    fields = _fields(place.annotation)

    @functools.wraps(command)
    def run(**given: Any) -> None:
        with one_line_errors():
            for name, value in given.items():
                check_path(f"--{name.replace('_', '-')}", value)
            values = {field.name: _value(field, given.pop(field.name)) for field in fields}
            for field in fields:
                if why := setting_of(field).refusal(values[field.name]):
                    raise ValueError(f"--{_name(field)} {why}")
            config = place.annotation(**values)
        command(**{place.name: config}, **given)

    # Within a panel flags stand as in the list; `late` ones come last.
    options = [_option(field) for field in sorted(fields, key=lambda field: setting_of(field).late)]
    shown = [p for parameter in own for p in (options if parameter is place else [parameter])]
    run.__dict__["__signature__"] = inspect.Signature([p.replace(kind=p.KEYWORD_ONLY) for p in shown])
    return run


def check_path(flag: str, value: Any) -> None:
    """Refuse, with a ValueError, a path of bytes that are no text: neither messages nor checkpoints can name it."""
    if isinstance(value, Path) and not _is_text(str(value)):
        raise ValueError(f"{flag} must be text, got {str(value)!r}: choose a path without undecodable bytes.")


def _is_text(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def words(config: Any) -> list[str]:
    """The flags of a configuration, as far as it is not the default one."""
    return [word for flag, value in _changed(config) for word in (f"--{flag}", value) if word]


def folder_of(command: str, config: Any, named: Sequence[str] = ()) -> Path:
    """The run folder of a configuration: fields that name every run, and what else is not the default."""
    changed = [(flag, value) for flag, value in _changed(config) if flag not in named]
    name = "-".join([command, *(flag + ("-" if value[:1].isalpha() else "") + value for flag, value in changed)])
    # "mnist:4,7" names no folder on every system.
    plain = re.sub(r"[^0-9A-Za-z_.]+", "-", name)
    return Path("runs") / (plain if len(plain) <= _LONGEST else f"{plain[:_LONGEST]}-{zlib.crc32(name.encode()):08x}")


def _changed(config: Any) -> Iterator[tuple[str, str]]:
    """The flags of what is not the default, each with its value; that of a switch is empty."""
    for field in _fields(config):
        value, name = getattr(config, field.name), _name(field)
        if value == field.default:
            continue
        if isinstance(value, bool):
            yield name if value else f"no-{name}", ""
        elif _items(field) is str:
            yield from ((name, item) for item in value)
        else:
            yield name, ",".join(map(str, value)) if _items(field) else str(value)


def _fields(config: Any) -> list[dataclasses.Field[Any]]:
    return [field for field in dataclasses.fields(config) if not setting_of(field).hidden]


def _name(field: dataclasses.Field[Any]) -> str:
    return setting_of(field).flag or field.name.replace("_", "-")


def _items(field: dataclasses.Field[Any]) -> type | None:
    """What a field that may be a tuple holds; None for another field."""
    kinds = (field.type, *typing.get_args(field.type))
    return next((typing.get_args(kind)[0] for kind in kinds if typing.get_origin(kind) is tuple), None)


def _option(field: dataclasses.Field[Any]) -> inspect.Parameter:
    about, name = setting_of(field), _name(field)
    option = typer.Option(
        f"--{name}/--no-{name}" if field.type is bool else f"--{name}",
        help=about.text,
        show_default=about.none or True,
        rich_help_panel=about.panel,
    )
    kind: Any = field.type
    if items := _items(field):
        kind = list[str] | None if items is str else str | None
    default = inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default
    return inspect.Parameter(
        field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, option]
    )


def _value(field: dataclasses.Field[Any], given: Any) -> Any:
    """A field's value from what its flag was given."""
    items = _items(field)
    # A flag that may be repeated, and is not given, is an empty list.
    if items is None or given is None or given == []:
        return given if items is None else None
    try:
        return tuple(items(part) for part in (given.split(",") if isinstance(given, str) else given))
    except ValueError:
        raise ValueError(
            f"--{_name(field)} must be whole numbers with commas between, as in 64,128,256; got {given!r}."
        ) from None
