"""One function over all seeds of a configuration, in the form that is fastest on the device."""

import concurrent.futures
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from npk.programs import Once, cores


def over_seeds(function: Callable[..., Any], in_axes: tuple[int | None, ...]) -> Callable[..., Any]:
    """A function of one seed's arrays, compiled and run for all seeds.

    An accelerator gets one `vmap`. On CPU every core runs one seed after another: what one batch of a small
    network has to do is too little to share among cores, a `vmap` makes batched products of small matrices of
    it, and grouped convolutions, for which XLA on CPU has no fast form (thirty times slower).

    Args:
        function: what to run.
        in_axes: of every argument, 0 where its arrays have a first axis of seeds, None where seeds share it.

    Returns:
        The same function over all seeds: what it returns has a first axis of seeds.
    """
    if jax.default_backend() != "cpu":
        return jax.jit(jax.vmap(function, in_axes=in_axes))
    jitted = jax.jit(function)
    once = Once()

    def run(*args: Any) -> Any:
        args = tuple(jax.tree_util.tree_map(jnp.asarray, a) for a in args)
        own = [a for a, axis in zip(args, in_axes, strict=True) if axis is not None]

        def arguments(one: list[Any]) -> list[Any]:
            left = iter(one)
            return [a if axis is None else next(left) for a, axis in zip(args, in_axes, strict=True)]

        seeds = [arguments(one) for one in _unstacked(own)]
        # Compiled here, once: workers have none of this thread's settings (x64, precision of products).
        compiled = once(seeds[0], "compiled", lambda: jitted.lower(*seeds[0]).compile())
        with concurrent.futures.ThreadPoolExecutor(min(len(seeds), cores())) as pool:
            found = list(pool.map(lambda seed: jax.block_until_ready(compiled(*seed)), seeds))
        return _stacked(found)

    return run


@jax.jit
def _unstacked(trees: Any) -> list[Any]:
    count = len(jax.tree_util.tree_leaves(trees)[0])
    return [jax.tree_util.tree_map(lambda a, i=i: a[i], trees) for i in range(count)]


@jax.jit
def _stacked(trees: list[Any]) -> Any:
    return jax.tree_util.tree_map(lambda *a: jnp.stack(a), *trees)
