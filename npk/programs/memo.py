"""What is known of a function is found once: transforms of it, and what depends on shapes alone.

Where a transformation is written afresh in a loop (`npk.path_kernel(f)(params, x)`), f is the same, and so are its
compiled programs. They are kept on f itself, in an attribute: a cycle, which the garbage collector ends when f is
let go; a table elsewhere would keep f alive, since what it holds of f holds f. As under `jax.jit`, a function counts
as what it was when it was first used.
"""

import dataclasses
import functools
import types
import weakref
from collections.abc import Callable
from typing import Any

import jax
import jax.core
import jax.numpy as jnp

_ATTRIBUTE = "_npk_remembered"
# Transforms kept of one function: options that are written afresh at each call must not pile up.
_MOST = 64


def remembered(make: Callable[..., Any], f: Callable[..., Any], *options: Any) -> Any:
    """`make(f, *options)`, carried out once for each f and options.

    A bound method counts as its instance and its function, `functools.partial` as what it is made of, so that
    `model.apply` of one model is one f. An instance that can change is remembered only while nothing that it holds
    has changed; where that cannot be seen, where f can hold no attribute, or where an option cannot be hashed, all is
    made afresh.

    Args:
        make: a function of f and hashable options, always the same object.
        f: what is transformed.
        *options: what else the result depends on.

    Returns:
        What `make` returned.
    """
    place = _place(f)
    if place is None:
        return make(f, *options)
    known, part = place
    key = (make, part, options)
    try:
        made = known.get(key)
    except TypeError:  # an option that cannot be hashed
        return make(f, *options)
    if made is None:
        made = known[key] = make(f, *options)
        for old in list(known)[:-_MOST]:
            known.pop(old, None)
    return made


class _Known(dict[Any, Any]):
    """What is known of its owner. Copied or pickled along with the owner it is empty: a copy is another function."""

    def __init__(self, owner: Any = None, contents: tuple[Any, ...] = ()):
        super().__init__()
        self.owner = (lambda: None) if owner is None else weakref.ref(owner)
        self.contents = contents

    def __reduce__(self) -> tuple[Any, ...]:
        return _Known, ()


def _place(f: Any) -> tuple[_Known, Any] | None:
    """Where things of f are kept, and which part of the owner f is."""
    if isinstance(f, types.MethodType):
        known = _known(f.__self__)
        return None if known is None else (known, f.__func__)
    if isinstance(f, functools.partial):
        inner = _place(f.func)
        if inner is None or not all(map(_stays, (*f.args, *f.keywords.values()))):
            return None
        known, part = inner
        return known, (part, f.args, tuple(sorted(f.keywords.items())))
    known = _known(f)
    return None if known is None else (known, None)


def _known(owner: Any) -> _Known | None:
    contents = () if _is_function(owner) else _contents(owner)
    if contents is None:
        return None
    try:
        attributes = vars(owner)
        known = attributes.get(_ATTRIBUTE)
        # `functools.wraps` and `copy.copy` take attributes along to another owner.
        if known is None or known.owner() is not owner or not _same(known.contents, contents):
            known = _Known(owner, contents)
            attributes[_ATTRIBUTE] = known
        return known
    except TypeError:  # no attributes, or no weak references
        return None


def _is_function(owner: Any) -> bool:
    """Functions, and compiled ones: they are what they do."""
    return isinstance(owner, types.FunctionType) or (hasattr(owner, "__wrapped__") and hasattr(owner, "lower"))


def _contents(owner: Any) -> tuple[Any, ...] | None:
    """What an instance holds, to be compared later; empty where its class says that it stays, None where unknown."""
    if _is_value(owner):
        return ()
    if type(type(owner)) is not type or not hasattr(owner, "__dict__"):
        return None  # classes that register their instances elsewhere (as trees, as graphs) see every attribute
    held = {name: value for name, value in vars(owner).items() if name != _ATTRIBUTE}
    return tuple(held.items()) if all(map(_stays, held.values())) else None


def _same(one: tuple[Any, ...], two: tuple[Any, ...]) -> bool:
    return len(one) == len(two) and all(a == b and v is w for (a, v), (b, w) in zip(one, two, strict=True))


def _is_value(owner: Any) -> bool:
    """Whether a class says that its instances do not change: a dataclass that is frozen or hashes by its fields."""
    parameters = getattr(type(owner), "__dataclass_params__", None)
    return parameters is not None and (parameters.frozen or parameters.unsafe_hash)


_ATOMS = (int, float, complex, str, bytes, type(None), type, jnp.dtype, types.FunctionType)


def _stays(value: Any) -> bool:
    """Whether a value cannot change under the same name."""
    if isinstance(value, tuple | frozenset):
        return all(map(_stays, value))
    return isinstance(value, _ATOMS) or _is_array(value) or (_is_value(value) and _holds_values(value))


def _is_array(value: Any) -> bool:
    return isinstance(value, jax.Array) and not isinstance(value, jax.core.Tracer)


def _holds_values(value: Any) -> bool:
    return all(_stays(getattr(value, field.name, None)) for field in dataclasses.fields(value))


def shapes_of(tree: Any) -> tuple[Any, ...]:
    """What programs depend on: structure, shapes and dtypes of a tree of arrays, and whether x64 is enabled."""
    leaves, structure = jax.tree_util.tree_flatten(tree)
    return structure, tuple(map(_shape_of, leaves)), jnp.result_type(float)


def _shape_of(leaf: Any) -> tuple[Any, ...]:
    return jnp.shape(leaf), jnp.result_type(leaf), getattr(leaf, "weak_type", False)


class Once:
    """What depends on shapes alone, found at the first asking for each."""

    def __init__(self) -> None:
        self.known: dict[Any, Any] = {}

    def __call__(self, tree: Any, what: Any, find: Callable[[], Any]) -> Any:
        """The result of `find()`, which depends on the shapes of the tree and on `what` alone."""
        key = (what, *shapes_of(tree))
        if key not in self.known:
            self.known[key] = find()
        return self.known[key]
