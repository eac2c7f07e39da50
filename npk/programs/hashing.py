"""What a function computes, as one name: the same in every process, another for every other program.

By it a folder knows what its numbers were computed with. Names, lines and addresses of the code are no part of it;
the numbers that it closes over are.
"""

import hashlib
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


def program_hash(f: Callable[..., Any], *args: Any) -> str:
    """SHA-256 of everything that f computes of arguments of these shapes.

    Args:
        f: a function that JAX can trace.
        args: trees of arrays, or of `jax.ShapeDtypeStruct`.

    Returns:
        64 hexadecimal digits: equal for the same equations of the same constants, in whatever process.

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
    for word in _words(closed.jaxpr, closed.consts):
        found.update(word if isinstance(word, bytes) else f"{word};".encode())
    return found.hexdigest()


def _words(jaxpr: Any, consts: Iterable[Any]) -> Iterable[str | bytes]:
    """A jaxpr word by word, its variables numbered in the order in which they are made."""
    numbers: dict[Any, int] = {}

    def made(variables: Iterable[Any]) -> Iterable[str]:
        for var in variables:
            numbers[var] = len(numbers)
            yield _ADDRESS.sub("", str(var.aval))

    def read(atoms: Iterable[Any]) -> Iterable[str | bytes]:
        for atom in atoms:
            if isinstance(atom, jex_core.Literal):
                yield from _said(np.asarray(atom.val, jnp.result_type(atom.aval)))
            else:
                yield f"v{numbers[atom]}"

    yield from made((*jaxpr.constvars, *jaxpr.invars))
    for const in consts:
        yield from _said(const)
    for eqn in jaxpr.eqns:
        yield eqn.primitive.name
        yield from read(eqn.invars)
        for key in sorted(set(eqn.params) - _NAMES):
            yield key
            yield from _said(eqn.params[key])
        yield from made(eqn.outvars)
    yield "return"
    yield from read(jaxpr.outvars)


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
    elif isinstance(value, dict):
        yield from _said(sorted(value.items(), key=repr))
    elif hasattr(value, "dtype") and hasattr(value, "shape") and not isinstance(value, jax.ShapeDtypeStruct):
        if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
            yield str(value.dtype)
            value = jax.random.key_data(value)
        array = np.ascontiguousarray(value)
        yield f"{array.dtype} {np.shape(value)}"
        yield array.reshape(-1).view(np.uint8).tobytes()
    elif callable(value) and hasattr(value, "__qualname__"):
        yield f"{getattr(value, '__module__', '')}.{value.__qualname__}"
    else:
        yield _ADDRESS.sub("", repr(value))
