"""Which leaves of a tree of parameters are meant: by name, glob or predicate, or since a framework marks them.

Leaves are named by their place in the tree, keys joined by "/". Flax and Equinox are told by the names of their
classes: neither is imported for it.
"""

import difflib
import fnmatch
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import jax

from npk.programs.functions import comes_from
from npk.programs.tracing import path_name

Selection = str | Collection[str] | Callable[[str], bool] | None
Chosen = tuple[str, ...] | Callable[[str], bool] | None

# The classes by which frameworks mark what is no parameter, and the collection of Flax linen that is of statistics.
_MARKS = {"flax.nnx": ("BatchStat",), "equinox.nn": ("State", "StateIndex")}
_COLLECTION, _BESIDE = "batch_stats", "params"
_SHOWN = 5


def option_of(chosen: Selection, argument: str) -> Chosen:
    """A selection as a transform keeps it: hashable, names as a tuple.

    Args:
        chosen: None, a name, names, or a predicate on names.
        argument: what the user calls it, for messages.

    Returns:
        None, a tuple of names, or the predicate itself.

    Raises:
        TypeError: it is none of these.
    """
    if chosen is None or callable(chosen):
        return chosen
    if isinstance(chosen, str):
        return (chosen,)
    if (
        isinstance(chosen, Collection)
        and not isinstance(chosen, Mapping)
        and all(isinstance(name, str) for name in chosen)
    ):
        return tuple(sorted(chosen))
    raise TypeError(
        f"{argument} must be a name, names or a predicate on the names of leaves (keys joined by '/'), got "
        f"{type(chosen).__name__}."
    )


def paths_of(tree: Any) -> list[str]:
    """The names of all leaves, in their order."""
    return [path_name(path) for path, _ in jax.tree_util.tree_flatten_with_path(tree)[0]]


def named(paths: Sequence[str], chosen: Selection, argument: str) -> frozenset[int]:
    """The positions of the leaves that a selection names.

    A name is that of a leaf, or of what lies above it ("encoder" and "encoder/" are all of the encoder); in a glob
    `*` stands for any characters, "/" among them.

    Args:
        paths: the names of all leaves.
        chosen: a name, names, or a predicate on names; None names nothing.
        argument: what the user calls it, for messages.

    Returns:
        Positions in `paths`.

    Raises:
        ValueError: a name matches no leaf.
    """
    option = option_of(chosen, argument)
    if option is None:
        return frozenset()
    if callable(option):
        return frozenset(i for i, path in enumerate(paths) if option(path))
    found = {name: _matching(paths, name) for name in option}
    for name, positions in found.items():
        if not positions:
            near = difflib.get_close_matches(name, paths, _SHOWN) or paths[:_SHOWN]
            there = ", ".join(path or "'' (params is an array)" for path in near)
            more = ", …" if len(near) < len(paths) else ""
            raise ValueError(f"{argument}: {name!r} names no leaf of params; there are {there}{more}.")
    return frozenset().union(*found.values())


def _matching(paths: Sequence[str], name: str) -> set[int]:
    """The positions that a name means; it is a glob only where nothing is called so."""
    above = name.rstrip("/")
    exact = {i for i, path in enumerate(paths) if path == name or path.startswith(f"{above}/")}
    globs = (name, f"{above}/*")
    return exact or {i for i, path in enumerate(paths) if any(fnmatch.fnmatchcase(path, glob) for glob in globs)}


def statistics(tree: Any) -> frozenset[int]:
    """The positions of the leaves that a framework marks as statistics.

    These are the collection `batch_stats` of Flax (at the top, or beside `params` anywhere), `nnx.BatchStat`, and
    the state of Equinox. Nothing else is guessed from a name.

    Args:
        tree: of parameters.

    Returns:
        Positions among its leaves.
    """
    nodes = jax.tree_util.tree_flatten_with_path(tree, is_leaf=_is_marked)[0]
    keys = [tuple(map(_key, path)) for path, _ in nodes]
    holders = {path[:i] for path in keys for i, key in enumerate(path) if key == _BESIDE} | {()}
    found, at = set(), 0
    for path, (_, node) in zip(keys, nodes, strict=True):
        size = jax.tree_util.tree_structure(node).num_leaves
        if _is_marked(node) or any(key == _COLLECTION and path[:i] in holders for i, key in enumerate(path)):
            found.update(range(at, at + size))
        at += size
    return frozenset(found)


def _key(entry: Any) -> Any:
    """A key of a path: of a mapping, or the name of an attribute."""
    return getattr(entry, "key", getattr(entry, "name", entry))


def _is_marked(node: Any) -> bool:
    kind = type(node)
    if comes_from(kind, "flax.nnx") and not isinstance(node, Mapping):
        # The state of a variable, in the Flax that has one, says what it is the state of.
        of = getattr(node, "type", None)
        kind = of if isinstance(of, type) else kind
    return any(
        base.__name__ in names and f"{base.__module__}.".startswith(f"{package}.")
        for package, names in _MARKS.items()
        for base in kind.__mro__
    )
