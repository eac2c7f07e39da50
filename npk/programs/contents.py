"""What a function computes with besides its arguments, so that a change of it is seen.

A function reads its closure, its defaults and globals; a method its instance. `contents` writes all of it down in a
form that can be compared later: numbers, strings and small arrays by value, containers and functions by what they
hold in turn, arrays of JAX, which do not change, by identity. Code that is installed counts as it stands; functions,
classes and modules of the user's own are looked into. What could change unseen makes it unknown.
"""

import dataclasses
import dis
import functools
import sys
import sysconfig
import types
import weakref
from collections.abc import Iterator
from typing import Any

import jax
import jax.core
import numpy as np

# Larger arrays of NumPy, which could be written into, are not compared at every call.
_MOST_BYTES = 1 << 20
_INSTALLED = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})
_OWN = __name__.split(".")[0]
_SOURCES = "_npk_made_of"


class Unknown(Exception):  # noqa: N818 (no error: an answer)
    """Something that a function computes with could change without being seen."""


class _Same:
    """An object by its identity; it is kept alive only where it cannot be referred to weakly."""

    def __init__(self, value: Any):
        try:
            self.value = weakref.ref(value)
        except TypeError:
            self.value = lambda: value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.value() is not None and self.value() is other.value()

    __hash__ = None  # type: ignore[assignment]


def contents(f: Any) -> Any:
    """What f computes with, to be compared by `==`.

    Args:
        f: a function, a method, or an object that is called.

    Returns:
        A tree of tuples.

    Raises:
        Unknown: something in it could change unseen.
    """
    return _of(f, {})


def made_of(made: Any, *sources: Any) -> Any:
    """`made`, a function of our own that computes with nothing but what it was made of."""
    if isinstance(made, types.FunctionType):
        made.__dict__[_SOURCES] = (id(made), sources)
    return made


def _sources(f: types.FunctionType) -> tuple[Any, ...] | None:
    """What a function was made of; a wrapper, to which `functools.wraps` has brought the attribute, is another."""
    owner, sources = f.__dict__.get(_SOURCES, (None, None))
    return sources if owner == id(f) else None


_ATOMS = (int, complex, str, bytes, type(None), type(Ellipsis), np.dtype, types.BuiltinFunctionType, np.ufunc, range)


def _of(value: Any, met: dict[int, int]) -> Any:
    if isinstance(value, float):
        return float, value.hex()
    if isinstance(value, _ATOMS):
        return type(value), value
    if isinstance(value, jax.core.Tracer):
        raise Unknown
    if isinstance(value, jax.Array):
        return _Same(value)
    if isinstance(value, np.generic):
        return value.dtype.str, value.tobytes()
    if isinstance(value, np.ndarray):
        if value.nbytes > _MOST_BYTES or value.dtype.hasobject:
            raise Unknown
        return value.dtype.str, value.shape, value.tobytes()
    if id(value) in met:
        return "met", met[id(value)]
    met[id(value)] = len(met)
    return type(value), *_inside(value, met)


def _inside(value: Any, met: dict[int, int]) -> Iterator[Any]:
    """What an object holds, which may hold it in turn."""
    if isinstance(value, tuple | list):
        yield from (_of(item, met) for item in value)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from (_of(key, met), _of(item, met))
    elif isinstance(value, types.FunctionType):
        yield _Same(value)
        sources = _sources(value)
        yield from _of_function(value, met) if sources is None else (_of(source, met) for source in sources)
    elif isinstance(value, types.MethodType):
        yield from (_of(value.__func__, met), _of(value.__self__, met))
    elif isinstance(value, functools.partial):
        yield from (_of(value.func, met), _of(value.args, met), _of(value.keywords, met))
    elif isinstance(value, jax.custom_jvp | jax.custom_vjp):
        yield from (_Same(value), _of(value.__wrapped__, met))
    elif hasattr(value, "lower") and hasattr(value, "__wrapped__"):  # compiled by jax.jit
        yield from (_Same(value), _of(value.__wrapped__, met))
    elif isinstance(value, type):
        yield _Same(value)
        if not _is_installed(sys.modules.get(value.__module__)):
            held = {name: one for name, one in vars(value).items() if not name.startswith("__")}
            yield from (_of(one, met) for one in held.values() if not isinstance(one, property | staticmethod))
    elif isinstance(value, types.ModuleType):
        yield _Same(value)
    else:
        yield from (_Same(value), *_of_instance(value, met))


def _of_instance(value: Any, met: dict[int, int]) -> Iterator[Any]:
    parameters = getattr(type(value), "__dataclass_params__", None)
    if parameters is not None and (parameters.frozen or parameters.unsafe_hash):
        fields = [field.name for field in dataclasses.fields(value)]
        yield from (_of(getattr(value, name, None), met) for name in fields if name not in ("parent", "name"))
    elif type(type(value)) is type and hasattr(value, "__dict__") and not hasattr(type(value), "__slots__"):
        for name, one in vars(value).items():
            if not name.startswith("_npk_"):
                yield from (name, _of(one, met))
    else:
        raise Unknown  # instances of classes that keep elsewhere what they hold


def _of_function(f: types.FunctionType, met: dict[int, int]) -> Iterator[Any]:
    yield _Same(f.__code__)
    yield from (_of(f.__defaults__, met), _of(f.__kwdefaults__, met))
    for cell in f.__closure__ or ():
        try:
            held = cell.cell_contents
        except ValueError:  # not yet bound
            held = None
        yield _of(held, met)
    if _installed(f.__code__.co_filename) or f.__globals__.get("__name__", "").split(".")[0] == _OWN:
        return
    names, attributes = _names(f.__code__)
    for name in names:
        if name in f.__globals__:
            held = f.__globals__[name]
            yield from (name, _of(held, met))
            if isinstance(held, types.ModuleType) and not _is_installed(held):
                own = [a for a in attributes if a in vars(held)]
                yield from ((a, _of(getattr(held, a), met)) for a in own)


@functools.lru_cache(maxsize=1024)
def _names(code: types.CodeType) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The globals that code reads, and all names it has, those of functions defined inside it among them."""
    inner = [_names(const) for const in code.co_consts if isinstance(const, types.CodeType)]
    read = [i.argval for i in dis.get_instructions(code) if i.opname in ("LOAD_GLOBAL", "LOAD_NAME")]
    names = dict.fromkeys([*read, *(name for one, _ in inner for name in one)])
    return tuple(names), tuple(dict.fromkeys([*code.co_names, *(name for _, all_ in inner for name in all_)]))


def _is_installed(module: types.ModuleType | None) -> bool:
    """Whether a module is part of Python or of an installed package; that of a notebook has no file."""
    file = getattr(module, "__file__", None)
    return _installed(file) if file else getattr(module, "__name__", "") in sys.builtin_module_names


def _installed(file: str) -> bool:
    return file.startswith(_INSTALLED)
