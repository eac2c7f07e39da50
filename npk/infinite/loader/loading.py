"""neural-tangents 0.6.5 on current JAX: the one version patch for that library.

Its last release reads names that JAX has since moved or removed, and imports TensorFlow on the way in. The
loader below runs its modules with an `__import__` of their own, which hands them stand-ins for the few JAX
modules concerned: the real ones with the missing names added. `jax` itself is left as it is for everyone
else. Where the library works on the inside of an older JAX, `linearize` replaces functions of
its own module. Its TensorFlow part is a module that says what it lacks.
"""

import builtins
import importlib
import importlib.abc
import importlib.machinery
import importlib.metadata
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
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jax.extend import core as jex_core

from npk.infinite.loader import linearize

_PACKAGE = "neural_tangents"
_RELEASE = "0.6.5"
_WITHOUT_TENSORFLOW = f"pip install --no-deps neural-tangents=={_RELEASE} frozendict"


class _StandIn(types.ModuleType):
    """A module that adds names to another and passes every other name through."""

    def __init__(self, module: Any, added: Mapping[str, Any]):
        super().__init__(module.__name__)
        self._module = module
        self.__dict__.update(added)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


class _WithoutTensorFlow(types.ModuleType):
    """In the place of `neural_tangents.experimental`: whatever is asked of it, or imported from it, is an error."""

    def __getattr__(self, name: str) -> Any:
        # Python asks modules for names of its own (`__wrapped__`); `__path__` it asks for to import from below.
        if name.startswith("_") and name != "__path__":
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        raise ImportError(
            f"{self.__name__} does not work here: it converts TensorFlow models and needs TensorFlow and tf2jax, "
            "which npk never imports. Everything else of neural-tangents is there; of a TensorFlow model take the "
            "tangent kernel in TensorFlow, or write the model in JAX."
        )


def _safe_map(function: Any, *sequences: Any) -> list[Any]:
    return [function(*values) for values in _safe_zip(*sequences)]


def _safe_zip(*sequences: Any) -> list[Any]:
    return list(zip(*sequences, strict=True))


def _stand_ins() -> dict[str, Any]:
    """Module name → what neural-tangents sees under it."""
    moved = {name: getattr(jex_core, name) for name in ("Jaxpr", "JaxprEqn", "Var", "Primitive")}
    # `Value` is only annotated with; no value's type is `DShapedArray`, with or without that class.
    core = _StandIn(jax.core, moved | {"Literal": linearize.Literal, "Value": Any, "DShapedArray": object})
    # The key of a table, of a primitive that no program has had for years.
    unused = {"zeros_like_p": jex_core.Primitive("zeros_like")}
    ad = _StandIn(jax.interpreters.ad, linearize.AD_NAMES | unused)
    util = types.ModuleType("jax.util")
    util.__dict__.update(safe_map=_safe_map, safe_zip=_safe_zip)
    # `linear_util` served the linearisation that is replaced: only its import is left.
    extend = _StandIn(jax.extend, {"linear_util": types.ModuleType("jax.extend.linear_util")})
    # JAX is about to refuse the size of an abstract array and an array as a dtype; NumPy's and this take both.
    numpy = _StandIn(jnp, {"size": np.size, "dtype": jnp.result_type})
    interpreters = _StandIn(jax.interpreters, {"ad": ad})
    inside = {"core": core, "util": util, "interpreters": interpreters, "extend": extend, "numpy": numpy}
    seen = {f"jax.{name}": module for name, module in inside.items()}
    return {"jax": _StandIn(jax, inside), "jax.interpreters.ad": ad, **seen}


def _eigvalsh(matrix: Any, eigvals: tuple[int, int]) -> Any:
    """SciPy's function, with the former name of an argument."""
    return scipy.linalg.eigvalsh(matrix, subset_by_index=eigvals)


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
            "neural_tangents was imported by other means before npk could load it for this JAX: take it from "
            "npk.infinite.neural_tangents() first, in a new process; a later `import neural_tangents` gives the same."
        )
    try:
        found = importlib.metadata.version("neural-tangents")
    except importlib.metadata.PackageNotFoundError as error:
        raise ImportError(
            "neural-tangents is not installed: pip install 'npk[infinite]'. Its own requirements bring TensorFlow, "
            f"which npk never imports; without it: {_WITHOUT_TENSORFLOW}"
        ) from error
    if found != _RELEASE:
        raise ImportError(f"npk knows neural-tangents {_RELEASE} alone, found {found}: {_WITHOUT_TENSORFLOW}")
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
    inside = _PACKAGE + "._src."
    linearize.install(sys.modules[inside + "empirical"])
    scipy_of_old = types.SimpleNamespace(linalg=types.SimpleNamespace(eigvalsh=_eigvalsh))
    sys.modules[inside + "predict"].__dict__["sp"] = scipy_of_old
    return module


def load() -> Any:
    """The module, imported at the first call: `npk.infinite.neural_tangents`, where its promises are written."""
    with _lock:
        if not _loaded:
            _check()
            _forget()  # what an import that failed has left behind
            try:
                _loaded.append(_import())
            except BaseException as error:
                _forget()
                if isinstance(error, Exception):
                    message = f"neural-tangents {_RELEASE} does not load on jax {jax.__version__}: {error}"
                    raise ImportError(message) from error
                raise
        return _loaded[0]
