"""A user's model as f(params, x), in evaluation mode, with parameters of its structure.

A model is of a framework where it is of that framework's class of modules, which then has been imported already: none
is imported to tell.
"""

import inspect
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from npk.programs import trace

Function = Callable[[PyTree, Any], Any]

_TAKEN = (
    "a pair (f, params) of a function f(params, x) and its parameters, a module of Flax (linen or NNX), or a module of "
    "Equinox"
)
# The function to write where a model takes more than x; `needs` are its further arguments.
_REMEDIES = {
    "flax.linen": "f = lambda params, x: model.apply(params, x{needs}), params = model.init(key, x{needs})",
    "flax.nnx": (
        "graph, state, params = nnx.split(model, nnx.RngState, ...), f = lambda params, x: nnx.merge(graph, state, "
        "params)(x{needs})"
    ),
    "equinox": (
        "params, static = eqx.partition(model, eqx.is_array), f = lambda params, x: jax.vmap(lambda x: "
        "eqx.combine(params, static)(x{needs}))(x), and the output alone where it returns a state beside it"
    ),
}


def function_of(model: Any, x: Any, *, key: jax.Array | None = None) -> tuple[Function, PyTree]:
    """A model as a function f(params, x) → [N, K] in evaluation mode, and parameters of the structure that f takes.

    A module of Flax linen becomes `model.apply` and what `model.init` draws: numbers to be replaced by trained ones. An
    NNX module is split into its graph, its random state, and params: all its other variables, batch statistics too. An
    Equinox module is parted into its arrays, which are params, and the rest, and is mapped over the batch. The
    parameters of the last two are those that the module holds. The module itself is not changed.

    Args:
        model: a pair (f, params), which is taken as it is, or a module of Flax linen, NNX or Equinox.
        x: a batch of inputs, of shape (N, …), as the model takes them.
        key: of what `model.init` draws; None is `jax.random.key(0)`.

    Returns:
        (f, params). Keep f: npk remembers on it what it makes of it.

    Raises:
        TypeError: it is nothing of these; it takes more than x (a flag without a default, a state, random numbers); or
            it fails for x.
        ValueError: f does not return one array [N, K]; or x is no batch of samples.

    Example:
        >>> import flax.linen as nn, jax.numpy as jnp, npk
        >>> f, params = npk.loading.function_of(nn.Dense(2), jnp.ones((4, 3)))
        >>> params["params"]["kernel"].shape, f(params, jnp.ones((4, 3))).shape
        ((3, 2), (4, 2))
    """
    if len(getattr(x, "shape", ())) < 1 or x.shape[0] < 1:
        raise ValueError(f"x must be a batch of at least one sample, an array [N, …], got {_shown(x)}.")
    if isinstance(model, tuple) and len(model) == 2:
        f, params = _pair(*model)
        _check_output(f, params, x, "")
        return f, params
    framework = _framework(model)
    if framework is None:
        also = ": parameters belong to it, (f, params)" if callable(model) and not isinstance(model, type) else ""
        raise TypeError(f"model must be {_TAKEN}, got {_shown(model)}{also}.")
    if isinstance(model, type):
        raise TypeError(f"{model.__name__} is a class: pass a model, {model.__name__}(…).")
    _check_arguments(model, framework)
    if framework == "flax.linen":
        f, params = _of_linen(model, x, jax.random.key(0) if key is None else key)
    else:
        f, params = (_of_nnx if framework == "flax.nnx" else _of_equinox)(model)
    _check_output(f, params, x, framework)
    return f, params


def params_of(model: Any) -> PyTree:
    """The parameters that an NNX or Equinox module holds, in the structure that f of `function_of` takes.

    In a training loop of such a module it is what a recorder and `analyse` are given.

    Args:
        model: a module of NNX or Equinox.

    Returns:
        Of NNX the state without random streams, of Equinox the arrays; nothing is copied.

    Raises:
        TypeError: it is none of these. (Parameters of Flax linen are apart from the module already.)

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> from npk.loading import function_of, params_of
        >>> model = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
        >>> f, _ = function_of(model, jnp.ones((1, 3)))
        >>> f(params_of(model), jnp.ones((4, 3))).shape
        (4, 2)
    """
    framework = _framework(model)
    if framework == "flax.nnx" and not isinstance(model, type):
        from flax import nnx

        return nnx.split(model, nnx.RngState, ...)[2]
    if framework == "equinox" and not isinstance(model, type):
        import equinox as eqx

        return eqx.partition(model, eqx.is_array)[0]
    raise TypeError(f"params_of takes a module of NNX or Equinox, got {_shown(model)}: parameters of others are apart.")


def _framework(model: Any) -> str | None:
    """The framework whose module an object or a class is."""
    for name in _REMEDIES:
        module = getattr(sys.modules.get(name), "Module", None)
        if module is not None and issubclass(model if isinstance(model, type) else type(model), module):
            return name
    return None


def _pair(f: Any, params: PyTree) -> tuple[Function, PyTree]:
    framework = _framework(f)
    if framework == "flax.linen":
        raise TypeError("a Flax module is no function of (params, x): pass (model.apply, params).")
    if framework == "flax.nnx":
        raise TypeError("an NNX module holds its own parameters: pass the module alone.")
    if not callable(f):
        raise TypeError(f"of a pair (f, params) the first is a function f(params, x), got {_shown(f)}.")
    return f, params


def _of_linen(model: Any, x: Any, key: jax.Array) -> tuple[Function, PyTree]:
    try:
        return model.apply, model.init(key, jnp.asarray(x[:1]))
    except Exception as error:  # of many types: random numbers that are missing, a shape that does not fit
        raise TypeError(_failure(model, "flax.linen", f"model.init(key, x) with x {list(x.shape)}", error)) from error


def _of_nnx(model: Any) -> tuple[Function, PyTree]:
    from flax import nnx

    evaluated = nnx.clone(model)  # the user's own stays in the mode it is in
    evaluated.eval()
    graph, state, params = nnx.split(evaluated, nnx.RngState, ...)
    return lambda params, x: nnx.merge(graph, state, params)(x), params


def _of_equinox(model: Any) -> tuple[Function, PyTree]:
    import equinox as eqx

    params, static = eqx.partition(eqx.nn.inference_mode(model), eqx.is_array)
    return lambda params, x: jax.vmap(eqx.combine(params, static))(x), params


def _check_arguments(model: Any, framework: str) -> None:
    """Raise where a module asks for more than x."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    if not callable(model):
        raise TypeError(f"{type(model).__name__} has no __call__: pass (f, params) with f a function of (params, x).")
    asked = [p for p in inspect.signature(model).parameters.values() if p.default is p.empty]
    after = [p for p in asked if p.kind in kinds][1:] + [p for p in asked if p.kind == inspect.Parameter.KEYWORD_ONLY]
    if after:
        names = ", ".join(p.name for p in after)
        needs = "".join(f", {p.name}=…" for p in after)
        raise TypeError(
            f"{type(model).__name__} takes more than x ({names}): pass (f, params) with "
            f"{_REMEDIES[framework].format(needs=needs)}."
        )


def _check_output(f: Function, params: PyTree, x: Any, framework: str) -> None:
    """Raise unless f gives [N, K] for a batch of x's samples; only shapes are computed."""
    batch = jax.ShapeDtypeStruct((2, *x.shape[1:]), jax.dtypes.canonicalize_dtype(x.dtype))
    try:
        out = jax.eval_shape(f, params, batch)
    except Exception as error:  # whatever a model raises
        if framework:
            raise TypeError(_failure(None, framework, f"the model on a batch {list(batch.shape)}", error)) from error
        trace(f, params, batch)  # says what is wrong with f, where that can be told
        raise
    if len(getattr(out, "shape", ())) != 2 or out.shape[0] != 2:
        found = ", ".join(str(list(leaf.shape)) for leaf in jax.tree_util.tree_leaves(out))
        raise ValueError(
            f"f(params, x) must return one array [N, K]: for a batch {list(batch.shape)} it returns {found or 'none'}. "
            "Pass (f, params) with a function that chooses the output, and has it of two axes."
        )


def _failure(model: Any, framework: str, tried: str, error: Exception) -> str:
    """What was tried, how it ended, and the function to write where a flag or a state is what is missing."""
    what = "" if model is None else f" of {type(model).__name__}"
    said = next(iter(str(error).splitlines()), "")
    return (
        f"{tried}{what} fails ({type(error).__name__}: {said}). Where it needs a flag, a state or random numbers, pass "
        f"(f, params) with {_REMEDIES[framework].format(needs=', …')}."
    )


def _shown(value: Any) -> str:
    if isinstance(value, type):
        return f"the class {value.__name__}"
    return f"{type(value).__name__} {list(value.shape)}" if hasattr(value, "shape") else type(value).__name__
