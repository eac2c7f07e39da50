"""What is taken for f, a function of (params, x), and what is said of everything else.

Flax and Equinox are told by the names of their modules: neither is imported for it.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import jax

_P = ParamSpec("_P")
_T = TypeVar("_T")

# Where a class comes from, and what of it is a function of (params, x).
_MODELS = {
    "flax.linen": "a Flax module is no function of (params, x): pass its `apply`, {call}",
    "flax.nnx": (
        "an NNX module holds its own parameters: split it, graph, params = nnx.split({model}), and pass the function "
        "lambda p, x: nnx.merge(graph, p)(x)"
    ),
}
PARTITION = (
    "an Equinox model is parted into arrays and the rest, params, static = eqx.partition(model, eqx.is_array); f is "
    "lambda p, x: jax.vmap(eqx.combine(p, static))(x)"
)


def comes_from(value: Any, package: str) -> bool:
    """Whether an object or a class is of a class that a package defines."""
    kind = value if isinstance(value, type) else type(value)
    return any(f"{base.__module__}.".startswith(f"{package}.") for base in kind.__mro__)


def transformation(taking: str = "params, x") -> Callable[[Callable[_P, _T]], Callable[_P, _T]]:
    """Mark a public function as a transformation of f: what is no function of (params, x) is told how to be one.

    Args:
        taking: the arguments of the function that it returns, for messages.

    Returns:
        A decorator.
    """

    def mark(public: Callable[_P, _T]) -> Callable[_P, _T]:
        name = public.__name__

        @functools.wraps(public)
        def checked(*args: _P.args, **options: _P.kwargs) -> _T:
            if len(args) > 1 or not options.keys().isdisjoint(("params", "x", "x1", "key")):
                raise TypeError(
                    f"{name} takes f alone and returns a function: call it as {name}(f)({taking}). Options of {name} "
                    "are given by name."
                )
            for f in args:
                check_function(f, name)
            return public(*args, **options)

        return checked

    return mark


def check_function(f: Any, name: str, call: str = "{name}({f})(params, x)") -> None:
    """Raise for what can never be called as f(params, x).

    Args:
        f: what was given.
        name: of the public function that it was given to.
        call: how that is called, of a `name` and an `f`.
    """
    for package, advice in _MODELS.items():
        if comes_from(f, package):
            model = f"{f.__name__}(…)" if isinstance(f, type) else "model"
            raise TypeError(f"{advice.format(call=call.format(name=name, f=f'{model}.apply'), model=model)}.")
    if not callable(f):
        raise TypeError(f"{name} transforms a function f(params, x), got {type(f).__name__}.")


def diagnose(f: Callable[..., Any], params: Any, x: Any) -> None:
    """After f(params, x) has failed: raise what is wrong with f where it can be told."""
    if comes_from(inspect.unwrap(f), "equinox"):
        raise TypeError(f"f must be a function of (params, x): {PARTITION}.") from None
    try:
        signature = inspect.signature(f)
        signature.bind(params, x)
    except TypeError:
        takes = ", ".join(signature.parameters)
        raise TypeError(
            f"f must be a function of (params, x), and takes ({takes}): wrap it, lambda params, x: …"
        ) from None
    except ValueError:  # a function of C has no signature
        pass
    if len(getattr(x, "shape", ())) > 0 and tried(f, params, x.shape[1:], x.dtype) is not None:
        raise ValueError(
            f"f takes a single sample {list(x.shape[1:])} and fails for a batch {list(x.shape)}: pass "
            "jax.vmap(f, (None, 0))."
        ) from None


def check_takes(f: Callable[..., Any], params: Any, x: Any, what: str = "params") -> Any:
    """Refuse, with a ValueError, params that f does not take.

    Args:
        f: a function of (params, x).
        params: what it is given.
        x: a batch.
        what: what the params are called, for the message.

    Returns:
        The shapes of what f returns.
    """
    try:
        return jax.eval_shape(f, params, x)
    except Exception as error:  # of many types: what frameworks say of a tree that is not theirs
        diagnose(f, params, x)
        said = next(iter(str(error).splitlines()), "")
        raise ValueError(
            f"f(params, x) fails for {what} ({type(error).__name__}: {said}). Of an NNX or Equinox model params are "
            "npk.loading.params_of(model)."
        ) from error


def tried(f: Callable[..., Any], params: Any, shape: tuple[int, ...], dtype: Any) -> Any:
    """The shapes of what f returns for an input of that shape, or None where it takes none such."""
    try:
        return jax.eval_shape(f, params, jax.ShapeDtypeStruct(shape, dtype))
    except Exception:  # whatever a model raises for a shape that is not its own
        return None
