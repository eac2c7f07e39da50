"""Functions compiled by Numba, which is optional, and kept on disk between processes."""

import hashlib
import inspect
import sys
import types
from collections.abc import Callable
from typing import Any

_OPTIONS: dict[str, Any] = {"boundscheck": False, "nogil": True, "error_model": "numpy", "_nrt": False}


def available() -> bool:
    """Whether Numba can be imported."""
    try:
        import numba  # noqa: F401
    except ImportError:
        return False
    return True


def compiled(function: Callable[..., Any], *, inline: bool = False) -> Any:
    """A decorator: the function for others that are compiled."""
    import numba

    inner: dict[str, Any] = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True, "forceinline": inline}
    # The function itself, and not what a type checker may have wrapped around it.
    return numba.njit(**_OPTIONS, **inner)(inspect.unwrap(function))


def inlined(function: Callable[..., Any]) -> Any:
    """A decorator: the same, part of every function that calls it."""
    return compiled(function, inline=True)


def kept(function: Callable[..., Any], signature: Any, *modules: types.ModuleType) -> Any:
    """The function compiled for one signature, by this process or by one before it.

    Args:
        function: the function; compiled ones that it calls are globals of its module, as Numba tells two
            processes' functions apart by what is in closures.
        signature: Numba's, of arguments and result.
        modules: those that it calls functions of, beside its own.

    Returns:
        What Python calls.
    """
    import numba

    function = inspect.unwrap(function)
    assert isinstance(function, types.FunctionType)
    copy = types.FunctionType(function.__code__, function.__globals__, closure=function.__closure__)
    try:
        copy.__qualname__ = f"{function.__name__}_{_digest(function, signature, modules)}"
        return numba.njit(signature, cache=True, **_OPTIONS)(copy)
    except Exception:
        # There is no folder to write to, the disk is full, a file is damaged (for which Numba and pickle have errors of
        # every kind): all of this is nothing to a function that is not kept, and any other error comes again.
        return numba.njit(signature, **_OPTIONS)(function)


def source_of(spec: Any) -> str | None:
    """The source of a module, asked for while it is imported: that of its functions, whatever the file is later."""
    return spec.loader.get_source(spec.name)


def _digest(function: types.FunctionType, signature: Any, modules: tuple[types.ModuleType, ...]) -> str:
    """Of all that machine code depends on. Numba names its files by it.

    Numba itself asks for less, only whether the function's own file was changed, and takes one code for another where
    two processes write different ones to one name at once. Every module of compiled functions has its `SOURCE`; numbers
    that it has of other modules are taken as they are here.
    """
    import numba
    from llvmlite import binding

    read: tuple[Any, ...] = (sys.modules[function.__module__], *modules)
    sources = [module.SOURCE for module in read]
    if None in sources:
        raise ValueError("a module without source: nothing tells whether its functions have changed.")
    numbers = [(name, n) for module in read for name, n in sorted(vars(module).items()) if isinstance(n, int)]
    cells = [cell.cell_contents for cell in function.__closure__ or ()]
    machine = binding.get_host_cpu_name(), binding.get_host_cpu_features().flatten()
    known = (numba.__version__, machine, _OPTIONS, signature, cells, numbers, sources)
    return hashlib.blake2b(repr(known).encode(), digest_size=12).hexdigest()
