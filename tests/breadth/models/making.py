"""Models, how they are entered, and numbers for them."""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

SAMPLES, TOKENS, WIDTH, WORDS = 3, 3, 2, 3


@dataclasses.dataclass(frozen=True)
class Model:
    """f(params, x), and the number of its gates: None where f itself is refused."""

    f: Callable[[Any, Any], Any]
    params: Any
    x: Any
    gates: int | None
    precision: float = 1e-10  # relative
    affine: bool = True  # given its gates: not where a part of f sees all samples
    arc_cosine: bool = False  # ReLU layers of weights alone


MODELS: dict[str, dict[str, Callable[[], Model]]] = {}


def model(group: str, name: str):
    def enter(make: Callable[[], Model]):
        MODELS.setdefault(group, {})[name] = make
        return make

    return enter


def drawn(shapes: Any) -> Any:
    """Parameters of these shapes: a tree of tuples or of what `jax.eval_shape` returns."""
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        shape = leaf if isinstance(leaf, tuple) else leaf.shape
        name = jax.tree_util.keystr(path)
        if any(part in name for part in ("scale", "var", "weight_norm")):
            return jnp.asarray(rng.uniform(0.5, 1.5, shape))
        return jnp.asarray(rng.normal(size=shape) * 0.7)

    return jax.tree_util.tree_map_with_path(draw, shapes, is_leaf=_is_shape)


def _is_shape(leaf: Any) -> bool:
    return isinstance(leaf, tuple) and all(isinstance(size, int) for size in leaf)


def batch(*shape: int) -> Any:
    return jnp.asarray(np.random.default_rng(1).normal(size=(SAMPLES, *shape)))


def sentences() -> Any:
    return jnp.asarray([[1, 2, 1], [2, 1, 0], [1, 1, 2]], jnp.int32)


def plain(f, gates, *shape, x=None, precision=1e-10, affine=True, **leaves) -> Model:
    """A function of a dictionary of arrays."""
    return Model(f, drawn(leaves), batch(*shape) if x is None else x, gates, precision, affine)


def linen(module: nn.Module, gates, *shape, x=None, f=None, precision=1e-10, **options) -> Model:
    x = batch(*shape) if x is None else x
    variables = jax.eval_shape(lambda: module.init(jax.random.key(0), x, **options))
    apply = (lambda p, x: module.apply(p, x, **options)) if options else module.apply
    return Model(f or apply, drawn(variables), x, gates, precision)


def of_nnx(make: Callable[[nnx.Rngs], nnx.Module], gates, *shape, x=None, precision=1e-10) -> Model:
    graph, state, rest = nnx.split(nnx.eval_shape(lambda: make(nnx.Rngs(0))), (nnx.Param, nnx.BatchStat), ...)
    rest = nnx.split(make(nnx.Rngs(0)), (nnx.Param, nnx.BatchStat), ...)[2] if jax.tree.leaves(rest) else rest

    def f(params, x):
        return nnx.merge(graph, params, rest)(x)

    return Model(f, drawn(state), batch(*shape) if x is None else x, gates, precision)


def equinox(make: Callable[[Any], Any], gates, *shape) -> Model:
    """Equinox writes models of one sample."""
    params, static = eqx.partition(eqx.filter_eval_shape(make, jax.random.key(0)), _is_float)

    def f(params, x):
        return jax.vmap(eqx.combine(params, static))(x)

    return Model(f, drawn(params), batch(*shape), gates)


def _is_float(leaf: Any) -> bool:
    return isinstance(leaf, jax.ShapeDtypeStruct) and jnp.issubdtype(leaf.dtype, jnp.floating)
