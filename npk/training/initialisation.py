"""The initial weights that the theory names (±σ, Gaussian, He), and those of PyTorch."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray, PyTree

#: The initialisations that `redraw` knows.
KINDS = ("default", "bernoulli", "gaussian", "he", "uniform")


def redraw(params: PyTree, key: PRNGKeyArray, kind: str, *, sigma: float | None = None) -> PyTree:
    """Draw the weights of a model anew, all else (biases, scales, statistics) as it is.

    Args:
        params: any tree of arrays; arrays of two or more axes, the last of which are outputs, are weights.
        key: of the draw; every weight array gets one of its own.
        kind: "bernoulli" (+σ or -σ with probability ½ each), "gaussian" (mean zero, standard deviation σ), "he"
            (gaussian with σ = √(2/fan-in)), "uniform" (between ±1/√fan-in, as PyTorch's layers begin), or "default"
            (params as they are).
        sigma: σ of all layers, of bernoulli and gaussian; None takes √(2/fan-in) of each.

    Returns:
        A tree of the same structure, shapes and dtypes.

    Raises:
        ValueError: the kind is unknown, sigma is not positive, or it is given for another kind.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from npk.training import redraw
        >>> drawn = redraw({"kernel": jnp.zeros((8, 4)), "bias": jnp.zeros(4)}, jax.random.key(0), "bernoulli")
        >>> sorted(set(drawn["kernel"].reshape(-1).tolist())), drawn["bias"].tolist()
        ([-0.5, 0.5], [0.0, 0.0, 0.0, 0.0])

    Source: Lakshminarayanan & Singh 2020, assumption 5.1 (symmetric Bernoulli); He et al. 2015.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown initialisation {kind!r}: choose one of {', '.join(KINDS)}.")
    if sigma is not None and (kind not in ("bernoulli", "gaussian") or not 0 < sigma < math.inf):
        raise ValueError(
            f"sigma must be positive and finite and is for bernoulli and gaussian alone, got {sigma} for {kind!r}."
        )
    if kind == "default":
        return params
    leaves, tree = jax.tree_util.tree_flatten(params)

    def draw(key: Any, leaf: Any) -> Any:
        if leaf.ndim < 2:
            return leaf
        fan_in, row = (
            math.prod(leaf.shape[:-1]),
            (leaf.size,),
        )  # drawn as one row, which compiles in a tenth of the time
        dtype = jnp.result_type(leaf)
        if kind == "uniform":
            bound = 1 / math.sqrt(fan_in)
            return jax.random.uniform(key, row, dtype, -bound, bound).reshape(leaf.shape)
        scale = jnp.asarray(math.sqrt(2 / fan_in) if sigma is None else sigma, dtype)
        signs_or_normal = jax.random.rademacher if kind == "bernoulli" else jax.random.normal
        return scale * signs_or_normal(key, row, dtype).reshape(leaf.shape)

    keys = jax.random.split(key, len(leaves))
    return jax.tree_util.tree_unflatten(tree, [draw(k, leaf) for k, leaf in zip(keys, leaves, strict=True)])
