"""What is known of a function is found once: transforms of it, and what depends on shapes alone.

Where a transformation is written afresh in a loop (`npk.path_kernel(f)(params, x)`), f is the same, and so are its
compiled programs. They are kept on f itself, in an attribute: a cycle, which the garbage collector ends when f is
let go; a table elsewhere would keep f alive, since what it holds of f holds f.

JAX keeps traces by the identity of a function. So f is traced under another name, a new one whenever what it computes
with has changed: a transform written afresh is never of what f was before.
"""

import functools
import types
import weakref
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from npk.programs.contents import Unknown, contents, made_of

_ATTRIBUTE = "_npk_remembered"
# Transforms kept of one function: options that are written afresh at each call must not pile up.
_MOST = 64


def remembered(make: Callable[..., Any], f: Callable[..., Any], *options: Any) -> Any:
    """`make(f, *options)`, carried out once for each f and options, as long as f computes with the same.

    A bound method counts as its instance and its function, `functools.partial` as what it is made of, so that
    `model.apply` of one model is one f. Where what f computes with has changed since (a global, a closure's variable,
    an attribute), or could change unseen, or where f can hold no attribute or an option cannot be hashed, all is made
    afresh. A transform that is held stays what it was when it was made, as a jitted function does.

    Args:
        make: a function of f and hashable options, always the same object.
        f: what is transformed.
        *options: what else the result depends on.

    Returns:
        What `make` returned.
    """
    found = _place(f, options)
    if found is None:
        return made_of(make(_renamed(f), *options), f, *options)
    known, part, held = found
    key = (make, part, options)
    made, of = known.get(key, (None, None))
    if made is None or of != held:
        made = make(known.names.setdefault(part, _renamed(f)), *options)
        known[key] = made_of(made, f, *options), held
        for old in list(known)[:-_MOST]:
            known.pop(old, None)
    return made


def _renamed(f: Callable[..., Any]) -> Callable[..., Any]:
    """f as a function that JAX has not met."""

    @functools.wraps(f, assigned=("__module__",), updated=())
    def renamed(*args: Any, **keywords: Any) -> Any:
        return f(*args, **keywords)

    return renamed


class _Known(dict[Any, Any]):
    """What is known of its owner. Copied or pickled along with the owner it is empty: a copy is another function."""

    def __init__(self, owner: Any = None):
        super().__init__()
        self.owner = (lambda: None) if owner is None else weakref.ref(owner)
        self.held: dict[Any, Any] = {}
        self.names: dict[Any, Callable[..., Any]] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return _Known, ()


def _place(f: Any, options: tuple[Any, ...]) -> tuple[_Known, Any, Any] | None:
    """Where things of f are kept, which part of the owner f is, and what options that are functions compute with.

    None where nothing can be kept.
    """
    owner, part = f, None
    while isinstance(owner, functools.partial):
        part = (part, owner.args, tuple(sorted(owner.keywords.items())))
        owner = owner.func
    if isinstance(owner, types.MethodType):
        owner, part = owner.__self__, (part, owner.__func__)
    try:
        hash((part, options))
        held, attributes = contents(f), vars(owner)
        known = attributes.get(_ATTRIBUTE)
        # `functools.wraps` and `copy.copy` take attributes along to another owner.
        if known is None or known.owner() is not owner:
            known = attributes[_ATTRIBUTE] = _Known(owner)
        if part not in known.held or known.held[part] != held:
            _forget(known, part)
            known.held[part] = held
        return known, part, tuple(contents(option) for option in options if callable(option))
    except (TypeError, Unknown, RecursionError):  # no attributes, no weak references, or nothing is sure
        return None


def _forget(known: _Known, part: Any) -> None:
    known.names.pop(part, None)
    for key in [key for key in known if key[1] == part]:
        del known[key]


def shapes_of(tree: Any) -> tuple[Any, ...]:
    """What programs depend on: structure, shapes and dtypes of a tree of arrays, and what JAX is told of precision."""
    leaves, structure = jax.tree_util.tree_flatten(tree)
    config: Any = jax.config
    precision = jnp.result_type(float), config.jax_default_matmul_precision  # both are written into a trace
    return structure, tuple(map(_shape_of, leaves)), precision


def _shape_of(leaf: Any) -> tuple[Any, ...]:
    if isinstance(leaf, np.ndarray | jax.Array):  # what JAX makes of a dtype is a part of the key
        return leaf.shape, leaf.dtype, getattr(leaf, "weak_type", False)
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
