"""Which leaves of a checkpoint are the parameters of a model: by name and shape, never by order.

A checkpoint holds more than parameters: the state of an optimiser, a step, the same parameters averaged. The place of
the parameters in it is found where there is exactly one, and asked for where there are several.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

Keys = tuple[str, ...]
Shape = tuple[int, ...]

_KEY = re.compile(r"""[^/.\[\]'"]+""")
_VARIABLE = "value"  # the attribute in which a variable of Flax keeps its array
_OPTIMISER = "opt_state"  # of Flax's TrainState: Optax's moments there have the names and shapes of parameters
_COLLECTIONS = {"params", "batch_stats"}  # of Flax linen
_SHOWN = 5


def keys_of(name: str) -> Keys:
    """The keys that a name is made of: `a/b/0`, `a.b.0`, `.a.b[0]` and `['a']['b'][0]` are one.

    A last key `value`, that of a Flax variable, is left out.

    Args:
        name: of a leaf.
    """
    keys = tuple(_KEY.findall(name))
    return keys[:-1] if keys[-1:] == (_VARIABLE,) else keys


def matched(there: Mapping[str, Any], wanted: Mapping[str, Any], where: str, at: str | None) -> dict[str, str]:
    """For every wanted leaf the one of a checkpoint that it is.

    Args:
        there: what has a shape and a dtype, by name: all leaves of the checkpoint.
        wanted: as `there`, the model's parameters.
        where: what the checkpoint is called, for messages.
        at: the place below which to look; None is everywhere.

    Returns:
        The checkpoint's name by the model's name.

    Raises:
        ValueError: the parameters are not there, or in several places, or two names are one.
    """
    held, model = _table(there, where), _table(wanted, "the model")
    drawing = _streams({keys: there[name] for keys, name in held.items()})
    if not _streams({keys: wanted[name] for keys, name in model.items()}):
        held = {keys: name for keys, name in held.items() if keys not in drawing}
    below = held if at is None else _below(held, keys_of(at))
    if not below:
        tops = sorted({keys[0] for keys in held if keys})
        raise ValueError(f"{where} holds nothing at {at!r}; there are {_some(tops)}.")
    shapes = {keys: tuple(there[name].shape) for keys, name in held.items()}
    first = () if at is None else keys_of(at)
    needed = {keys: tuple(wanted[name].shape) for keys, name in model.items()}
    if {keys: shapes[(*first, *keys)] for keys in below} == needed:
        return {name: below[keys] for keys, name in model.items()}
    places: dict[str, Keys] = {}
    for part, leaves in _parts(needed).items():
        found = _places(shapes, first, leaves)
        if not found and places:  # a collection beside the one that was named, or anywhere
            everywhere = _places(shapes, (), leaves)
            found = [p for p in everywhere if p[:-1] == places["params"][:-1]] or everywhere
        if len(found) > 1:
            named = ", ".join(repr("/".join(place)) for place in found[:_SHOWN])
            more = ", …" if len(found) > _SHOWN else ""
            raise ValueError(
                f"{where} holds {part or 'these parameters'} in several places, {named}{more}: choose one with "
                f"at={'/'.join(found[0] or found[1])!r}."
            )
        if not found:
            raise ValueError(f"{where} {_differences(shapes, first, leaves, part)}")
        places[part] = found[0]
    result = {}
    for keys, name in model.items():
        part, rest = (keys[0], keys[1:]) if keys and keys[0] in places else ("", keys)
        result[name] = held[(*places[part], *rest)]
    return result


def _table(names: Iterable[str], where: str) -> dict[Keys, str]:
    """Names by their keys."""
    found: dict[Keys, str] = {}
    for name in names:
        keys = keys_of(name)
        if keys in found:
            raise ValueError(f"{where} has two leaves of one name, {found[keys]!r} and {name!r}.")
        found[keys] = name
    return found


def _streams(leaves: Mapping[Keys, Any]) -> set[Keys]:
    """The leaves by which NNX draws random numbers: a key and a count, alone beside each other."""
    beside: dict[Keys, set[Keys]] = {}
    for keys in leaves:
        beside.setdefault(keys[:-1], set()).add(keys)

    def draws(place: Keys, found: set[Keys]) -> bool:
        count, key = (*place, "count"), (*place, "key")
        if found != {count, key} or any(np.dtype(leaves[keys].dtype) != np.uint32 for keys in found):
            return False
        return tuple(leaves[count].shape) == () and tuple(leaves[key].shape) in ((2,), (4,))

    return {keys for place, found in beside.items() if draws(place, found) for keys in found}


def _below(held: Mapping[Keys, str], place: Keys) -> dict[Keys, str]:
    return {keys[len(place) :]: name for keys, name in held.items() if keys[: len(place)] == place}


def _parts(needed: Mapping[Keys, Shape]) -> dict[str, dict[Keys, Shape]]:
    """What is looked for as one: all of it, or each collection of Flax linen, `params` first."""
    tops = {keys[0] if keys else "" for keys in needed}
    if "params" not in tops or not tops <= _COLLECTIONS:
        return {"": dict(needed)}
    return {
        top: {keys[1:]: shape for keys, shape in needed.items() if keys[0] == top} for top in sorted(tops, reverse=True)
    }


def _subtrees(shapes: Mapping[Keys, Shape], first: Keys) -> dict[Keys, dict[Keys, Shape]]:
    """Every subtree at or below a place, but those of an optimiser's state."""
    found: dict[Keys, dict[Keys, Shape]] = {}
    for keys, shape in shapes.items():
        if keys[: len(first)] != first:
            continue
        for end in range(len(first), len(keys) + 1):
            if end > len(first) and keys[end - 1] == _OPTIMISER:
                break
            found.setdefault(keys[:end], {})[keys[end:]] = shape
    return found


def _places(shapes: Mapping[Keys, Shape], first: Keys, needed: Mapping[Keys, Shape]) -> list[Keys]:
    """Where a subtree has the names and shapes that are needed, and no others."""
    return [place for place, leaves in _subtrees(shapes, first).items() if leaves == needed]


def _differences(shapes: Mapping[Keys, Shape], first: Keys, needed: Mapping[Keys, Shape], part: str) -> str:
    """In words, what keeps the subtree that comes closest from being the one that is needed."""

    def closeness(place: Keys) -> tuple[int, int, int, int]:
        leaves = subtrees[place]
        named = needed.keys() & leaves.keys()
        return sum(leaves[keys] == needed[keys] for keys in named), len(named), -len(leaves), -len(place)

    subtrees = _subtrees(shapes, first)
    place = max(subtrees, key=closeness)
    if not closeness(place)[1]:  # no name is the same anywhere
        place = first
    leaves = subtrees[place]
    missing = ["/".join(keys) for keys in needed if keys not in leaves]
    beside = ["/".join(keys) for keys in leaves if keys not in needed]
    other = [
        f"{'/'.join(keys)} ({list(leaves[keys])} there, {list(shape)} here)"
        for keys, shape in needed.items()
        if leaves.get(keys, shape) != shape
    ]
    said = [
        f"{what} {_some(names)}"
        for what, names in (("missing:", missing), ("not of the model:", beside), ("of another shape:", other))
        if names
    ]
    closest = f"below {'/'.join(place)!r}, which comes closest, " if place else ""
    return f"does not hold {part or 'the parameters'} of the model; {closest}{'; '.join(said)}."


def _some(names: Sequence[str]) -> str:
    more = f", … ({len(names)} in all)" if len(names) > _SHOWN else ""
    return ", ".join(name or "the whole, one array" for name in names[:_SHOWN]) + more
