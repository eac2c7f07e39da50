"""neural-tangents 0.6.5 on current JAX: the one version patch for that library.

Its last release reads names that JAX has since moved or removed, and imports TensorFlow on the way in. The
loader below runs its modules with an `__import__` of their own, which hands them stand-ins for the few JAX
modules concerned: the real ones with the missing names added. `jax` itself is left as it is for everyone
else, and the package's TensorFlow part is replaced by an empty module.
"""

import builtins
import importlib.abc
import importlib.machinery
import importlib.util
import sys
import types
from collections.abc import Mapping
from typing import Any

import jax
import jax.core
import jax.interpreters.ad
from jax.extend import core as jex_core

_PACKAGE = "neural_tangents"


class _StandIn(types.ModuleType):
    """A module that adds names to another and passes every other name through."""

    def __init__(self, module: Any, added: Mapping[str, Any]):
        super().__init__(module.__name__)
        self.__dict__.update(added)
        self.__dict__["_module"] = module

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_module"], name)


def _safe_map(function: Any, *sequences: Any) -> list[Any]:
    return [function(*values) for values in _safe_zip(*sequences)]


def _safe_zip(*sequences: Any) -> list[Any]:
    return list(zip(*sequences, strict=True))


def _stand_ins() -> dict[str, Any]:
    """Module name → what neural-tangents sees under it."""
    moved = ("Jaxpr", "JaxprEqn", "Literal", "Var", "Primitive", "ClosedJaxpr", "jaxpr_as_fun")
    core_names = {name: getattr(jex_core, name) for name in moved}
    core_names |= {name: getattr(jax.core, name, object) for name in ("ShapedArray", "AbstractValue", "DShapedArray")}
    core_names["Value"] = Any
    ad_names: dict[str, Any] = {"reducing_transposes": {}, "config": types.SimpleNamespace(jax_enable_checks=False)}
    if not hasattr(jax.interpreters.ad, "zeros_like_p"):
        ad_names["zeros_like_p"] = jex_core.Primitive("zeros_like")  # only a key of a table there
    core = _StandIn(jax.core, core_names)
    ad = _StandIn(jax.interpreters.ad, ad_names)
    util = types.ModuleType("jax.util")
    util.__dict__.update(safe_map=_safe_map, safe_zip=_safe_zip)
    interpreters = _StandIn(jax.interpreters, {"ad": ad})
    top = _StandIn(jax, {"core": core, "util": util, "interpreters": interpreters})
    return {
        "jax": top,
        "jax.core": core,
        "jax.util": util,
        "jax.interpreters": interpreters,
        "jax.interpreters.ad": ad,
    }


class _Loader(importlib.machinery.SourceFileLoader):
    """Runs a module of the package with the redirected import."""

    def exec_module(self, module: types.ModuleType) -> None:
        stand_ins = _stand_ins_once()

        def importing(name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0) -> Any:
            if level == 0 and name in stand_ins:
                return stand_ins[name] if fromlist else stand_ins["jax"]
            result = builtins.__import__(name, globals, locals, fromlist, level)
            return stand_ins["jax"] if level == 0 and not fromlist and name.startswith("jax.") else result

        module.__dict__["__builtins__"] = {**vars(builtins), "__import__": importing}
        super().exec_module(module)


_made: dict[str, Any] = {}


def _stand_ins_once() -> dict[str, Any]:
    if not _made:
        _made.update(_stand_ins())
    return _made


class _Finder(importlib.abc.MetaPathFinder):
    """Finds modules of the package and gives them the loader above."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != _PACKAGE and not name.startswith(_PACKAGE + "."):
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is not None and spec.origin and spec.origin.endswith(".py"):
            spec.loader = _Loader(name, spec.origin)
        return spec


def load() -> Any:
    """The module `neural_tangents`, working on the installed JAX and without TensorFlow.

    Kernels of `stax` and the empirical implementations 1 and 2 work; implementation 3 (structured
    derivatives) does not on JAX after 0.4, whose linearisation it reads.

    Returns:
        The imported module; a second call returns the same one.

    Raises:
        ImportError: neural-tangents is not installed, or was already imported by other means and failed.
    """
    if _PACKAGE in sys.modules:
        return sys.modules[_PACKAGE]
    if importlib.machinery.PathFinder.find_spec(_PACKAGE) is None:
        raise ImportError(
            "neural-tangents is not installed. Its own requirements bring TensorFlow, which npk does not need: "
            "pip install --no-deps neural-tangents==0.6.5 frozendict"
        )
    finder = _Finder()
    experimental = types.ModuleType(f"{_PACKAGE}.experimental")
    sys.modules[experimental.__name__] = experimental
    sys.meta_path.insert(0, finder)
    try:
        return importlib.import_module(_PACKAGE)
    except BaseException:
        for name in [n for n in sys.modules if n == _PACKAGE or n.startswith(_PACKAGE + ".")]:
            del sys.modules[name]
        raise
    finally:
        sys.meta_path.remove(finder)
