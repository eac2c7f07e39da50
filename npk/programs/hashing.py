"""What a function computes, as one name: the same in every process, another for every other program.

By it a folder knows what its numbers were computed with. Names, lines and addresses of the code are no part of it;
the numbers that it closes over are.
"""

import functools
import hashlib
import itertools
import re
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core as jex_core

# What a function or an object is called after where it lies in memory.
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
# Parameters of primitives that name what they do, or say where it was written.
_NAMES = frozenset(("debug_info", "name", "name_stack", "source_info"))
_CALLBACKS = frozenset(("io_callback", "pure_callback"))
_SET = re.compile(r"\{([^{}:]*)\}")


def program_hash(f: Callable[..., Any], *args: Any) -> str | None:
    """SHA-256 of everything that f computes of arguments of these shapes; a call by `jax.jit` is what it computes.

    Args:
        f: a function that JAX can trace.
        args: trees of arrays, or of `jax.ShapeDtypeStruct`.

    Returns:
        64 hexadecimal digits: equal for the same equations of the same constants, in whatever process. None where f
        calls back into Python, of which a program does not say what it computes.

    Raises:
        Exception: whatever f raises where it cannot be traced.

    Example:
        >>> import jax.numpy as jnp
        >>> from npk.programs import program_hash
        >>> x = jnp.ones(3)
        >>> program_hash(lambda x: 2 * x, x) == program_hash(lambda y: 2 * y, x) != program_hash(lambda x: 3 * x, x)
        True
    """
    closed = jax.make_jaxpr(f)(*args)
    found = hashlib.sha256()
    try:
        for word in _words(closed.jaxpr, closed.consts):
            found.update(word if isinstance(word, bytes) else f"{word};".encode())
    except _Unknown:
        return None
    return found.hexdigest()


class _Unknown(Exception):  # noqa: N818 (no error: an answer)
    """A program calls what cannot be looked into."""


def _words(jaxpr: Any, consts: Iterable[Any]) -> Iterable[str | bytes]:
    """A jaxpr word by word, its variables numbered in the order in which they are made."""
    numbers: dict[Any, Any] = {}
    count = itertools.count()

    def made(variables: Iterable[Any]) -> Iterable[str]:
        for var in variables:
            numbers[var] = f"v{next(count)}"
            yield _ADDRESS.sub("", str(var.aval))

    yield from made((*jaxpr.constvars, *jaxpr.invars))
    for const in consts:
        yield from _said(const)
    yield from _lines(jaxpr, numbers, made)
    yield "return"
    yield from _read(jaxpr.outvars, numbers)


def _lines(
    jaxpr: Any, numbers: dict[Any, Any], made: Callable[[Iterable[Any]], Iterable[str]]
) -> Iterable[str | bytes]:
    """The equations of a jaxpr; those of a call that does nothing but compile stand in its place."""
    for eqn in jaxpr.eqns:
        name = eqn.primitive.name
        if name in _CALLBACKS:
            raise _Unknown
        if name in ("jit", "pjit"):
            body = eqn.params["jaxpr"]
            yield from made(body.jaxpr.constvars)
            for const in body.consts:
                yield from _said(const)
            numbers |= dict(zip(body.jaxpr.invars, [_atom(a, numbers) for a in eqn.invars], strict=True))
            yield from _lines(body.jaxpr, numbers, made)
            numbers |= dict(zip(eqn.outvars, [_atom(a, numbers) for a in body.jaxpr.outvars], strict=True))
            continue
        yield name
        yield from _read(eqn.invars, numbers)
        for key in sorted(set(eqn.params) - _NAMES):
            yield key
            yield from _said(eqn.params[key])
        yield from made(eqn.outvars)


def _atom(atom: Any, numbers: dict[Any, Any]) -> Any:
    """The number of a variable, or a literal itself, wherever it has come from."""
    return atom if isinstance(atom, jex_core.Literal) else numbers[atom]


def _read(atoms: Iterable[Any], numbers: dict[Any, Any]) -> Iterable[str | bytes]:
    for atom in atoms:
        found = _atom(atom, numbers)
        if isinstance(found, jex_core.Literal):
            yield from _said(np.asarray(found.val, jnp.result_type(found.aval)))
        else:
            yield found


def _said(value: Any) -> Iterable[str | bytes]:
    """A parameter or a constant."""
    if hasattr(value, "jaxpr") and hasattr(value, "consts"):
        yield from _words(value.jaxpr, value.consts)
    elif hasattr(value, "eqns"):
        yield from _words(value, ())
    elif isinstance(value, tuple | list):
        yield f"{type(value).__name__} {len(value)}"
        for item in value:
            yield from _said(item)
    elif isinstance(value, set | frozenset):
        yield from _said(sorted(value, key=repr))
    elif isinstance(value, dict):
        yield from _said(sorted(value.items(), key=repr))
    elif isinstance(value, jax.Array | np.ndarray | np.generic):
        if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
            yield str(value.dtype)
            value = jax.random.key_data(value)  # type: ignore[arg-type]
        array = np.ascontiguousarray(value)
        yield f"{array.dtype} {np.shape(value)}"
        yield array.reshape(-1).view(np.uint8).tobytes()
    elif isinstance(value, functools.partial):
        yield from _said((value.func, value.args, value.keywords))
    elif callable(value):  # a rule of derivatives, a policy: what it does shows where it is used
        yield f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', type(value).__qualname__)}"
    else:
        yield _ADDRESS.sub("", _sorted_sets(repr(value)))


def _sorted_sets(text: str) -> str:
    """The text of an object with the members of its sets in order, which is another in every process."""
    return _SET.sub(lambda found: "{" + ", ".join(sorted(found[1].split(", "))) + "}", text)
