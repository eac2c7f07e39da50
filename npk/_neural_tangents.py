"""neural-tangents 0.6.5 on current JAX: the one version patch for that library.

Its last release reads names that JAX has since moved or removed, and imports TensorFlow on the way in. The
loader below runs its modules with an `__import__` of their own, which hands them stand-ins for the few JAX
modules concerned: the real ones with the missing names added. `jax` itself is left as it is for everyone
else. Where the library works on the inside of an older JAX, `_neural_tangents_linearize` replaces functions of
its own module. Its TensorFlow part is a module that says what it lacks.
"""

import builtins
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
import threading
import types
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.core
import jax.extend
import jax.interpreters.ad
from jax.extend import core as jex_core

from npk import _neural_tangents_linearize as linearize

_PACKAGE = "neural_tangents"
_RELEASE = "0.6.5"
_WITHOUT_TENSORFLOW = f"pip install --no-deps neural-tangents=={_RELEASE} frozendict"


class _StandIn(types.ModuleType):
    """A module that adds names to another and passes every other name through.

    A primitive that JAX no longer has is met in no program: where the library asks for one (as the key of a table),
    a new primitive of that name will do.
    """

    def __init__(self, module: Any, added: Mapping[str, Any]):
        super().__init__(module.__name__)
        self.__dict__.update(added)
        self.__dict__["_module"] = module

    def __getattr__(self, name: str) -> Any:
        module = self.__dict__["_module"]
        if name.endswith("_p") and not hasattr(module, name):
            self.__dict__[name] = jex_core.Primitive(name.removesuffix("_p"))
            return self.__dict__[name]
        return getattr(module, name)


class _WithoutTensorFlow(types.ModuleType):
    """In the place of `neural_tangents.experimental`: any public name of it is an error that says why."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # what Python itself asks of a module
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        raise ImportError(
            f"{self.__name__}.{name} does not work here: {self.__name__} converts TensorFlow models and needs "
            "TensorFlow and tf2jax, which npk never imports. Everything else of neural-tangents is there; "
            "of a TensorFlow model take the tangent kernel in TensorFlow, or write the model in JAX."
        )


def _safe_map(function: Any, *sequences: Any) -> list[Any]:
    return [function(*values) for values in _safe_zip(*sequences)]


def _safe_zip(*sequences: Any) -> list[Any]:
    return list(zip(*sequences, strict=True))


def _stand_ins() -> dict[str, Any]:
    """Module name → what neural-tangents sees under it."""
    moved = ("Jaxpr", "JaxprEqn", "Var", "Primitive")
    core_names = {name: getattr(jex_core, name) for name in moved}
    core_names |= {name: getattr(jax.core, name, object) for name in ("ShapedArray", "AbstractValue", "DShapedArray")}
    core_names |= {"Value": Any, "Literal": linearize.Literal}
    core_names["eval_context"] = getattr(jax.core, "eval_context", jax.ensure_compile_time_eval)
    util = types.ModuleType("jax.util")
    util.__dict__.update(safe_map=_safe_map, safe_zip=_safe_zip)
    core = _StandIn(jax.core, core_names)
    ad = _StandIn(jax.interpreters.ad, linearize.AD_NAMES)
    lax = _StandIn(jax.lax, {})
    interpreters = _StandIn(jax.interpreters, {"ad": ad})
    # `linear_util` served the linearisation that is replaced: only its import is left.
    extend = _StandIn(jax.extend, {"linear_util": types.ModuleType("jax.extend.linear_util")})
    inside = {"core": core, "util": util, "lax": lax, "interpreters": interpreters, "extend": extend}
    seen = {f"jax.{name}": module for name, module in inside.items()}
    return {"jax": _StandIn(jax, inside), "jax.interpreters.ad": ad, **seen}


def _importer(stand_ins: Mapping[str, Any]) -> Callable[..., Any]:
    """An `__import__` that finds the stand-ins and leaves every other module to Python."""

    def importing(name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0) -> Any:
        if level == 0 and name in stand_ins:
            return stand_ins[name] if fromlist else stand_ins["jax"]
        result = builtins.__import__(name, globals, locals, fromlist, level)
        return stand_ins["jax"] if level == 0 and not fromlist and name.startswith("jax.") else result

    return importing


class _Loader(importlib.machinery.SourceFileLoader):
    """Runs a module of the package with an import of its own."""

    importer: Any = None

    def exec_module(self, module: types.ModuleType) -> None:
        module.__dict__["__builtins__"] = {**vars(builtins), "__import__": self.importer}
        super().exec_module(module)


class _Finder(importlib.abc.MetaPathFinder):
    """Finds modules of the package and gives them the loader above, all with the same stand-ins."""

    def __init__(self):
        self.importer = _importer(_stand_ins())

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != _PACKAGE and not name.startswith(_PACKAGE + "."):
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is not None and spec.origin and spec.origin.endswith(".py"):
            spec.loader = _Loader(name, spec.origin)
            spec.loader.importer = self.importer
        return spec


_lock = threading.Lock()
_loaded: list[Any] = []


def _forget() -> None:
    """Take the package's modules out of `sys.modules`."""
    for name in [n for n in sys.modules if n == _PACKAGE or n.startswith(_PACKAGE + ".")]:
        del sys.modules[name]


def _check() -> None:
    """Raise `ImportError` where loading is bound to fail or would give two copies of the package."""
    if _PACKAGE in sys.modules:
        raise ImportError(
            "neural_tangents was imported by other means before npk could load it for this JAX: "
            "remove that import, and take the module from npk instead, in a new process."
        )
    if importlib.machinery.PathFinder.find_spec(_PACKAGE) is None:
        raise ImportError(
            "neural-tangents is not installed: pip install 'npk[infinite]'. Its own requirements bring TensorFlow, "
            f"which npk never imports; without it: {_WITHOUT_TENSORFLOW}"
        )
    if importlib.util.find_spec("frozendict") is None:
        raise ImportError(f"neural-tangents needs frozendict, which is not installed: {_WITHOUT_TENSORFLOW}")


def _import() -> Any:
    """Import the package through the hook, which is gone again afterwards."""
    finder = _Finder()
    experimental = _WithoutTensorFlow(f"{_PACKAGE}.experimental")
    sys.modules[experimental.__name__] = experimental
    sys.meta_path.insert(0, finder)
    try:
        module = importlib.import_module(_PACKAGE)
    finally:
        sys.meta_path.remove(finder)
    if module.__version__ != _RELEASE:
        raise ImportError(f"npk knows neural-tangents {_RELEASE} alone, found {module.__version__}")
    linearize.install(sys.modules[f"{_PACKAGE}._src.empirical"])
    return module


def load() -> Any:
    """The module `neural_tangents`, working on the installed JAX and without TensorFlow.

    All of it works but `neural_tangents.experimental`, whose names raise an `ImportError` that says so. From
    here on `import neural_tangents` gives the same module anywhere in the process.

    Returns:
        The imported module; a second call returns the same one.

    Raises:
        ImportError: neural-tangents 0.6.5 or frozendict is not installed, neural-tangents was imported by
            other means before, or this JAX lacks something else that it reads.
    """
    with _lock:
        if not _loaded:
            _check()
            _forget()  # what an import that failed has left behind
            try:
                _loaded.append(_import())
            except BaseException as error:
                _forget()
                if isinstance(error, AttributeError | ModuleNotFoundError):
                    message = f"neural-tangents {_RELEASE} does not load on jax {jax.__version__}: {error}"
                    raise ImportError(message) from error
                raise
        return _loaded[0]
