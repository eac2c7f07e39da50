"""From raw weights to NTK parameterisation: θ = σ/√fan-in · ω, ω of unit variance.

Kernels at infinite width are those of ω. The derivative by ω is the derivative by θ times its scale: so each
parameter's part of a tangent kernel is multiplied by its variance σ²/fan-in, and gradient descent on ω with step η
is gradient descent on θ with step η·σ²/fan-in. No model has to be written in ω for that.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from npk.infinite.kernels import HE
from npk.programs import path_name
from npk.readings import Reading
from npk.tangent_kernels import NTKSplit


def variances(
    params: PyTree, *, weight_std: float = HE, bias_std: float = 0.0, reading: Reading | None = None
) -> PyTree:
    """The variance of every parameter in NTK parameterisation: weight_std²/fan-in, of a bias bias_std².

    Args:
        params: any tree of arrays; arrays of two or more axes, the last of which are outputs, are weights.
        weight_std: √2 is He's.
        bias_std: of all other parameters.
        reading: of `npk.explain(f)`, from which weights and fan-ins are taken instead of from shapes: for kernels that
            are transposed, and scales. What is on no path (a feature network's) is taken by its shape.

    Returns:
        A tree of the same structure, a number for each array.

    Raises:
        ValueError: a standard deviation is negative; parts of one leaf are weights of different fan-ins.

    Example:
        >>> import jax.numpy as jnp
        >>> from npk.infinite import variances
        >>> round(variances({"kernel": jnp.ones((8, 4))})["kernel"], 6)
        0.25

    Source: Jacot et al. 2018, section 2.
    """
    for name, std in (("weight_std", weight_std), ("bias_std", bias_std)):
        if not std >= 0:
            raise ValueError(f"{name} must not be negative, got {std}.")

    def of_leaf(path: Any, leaf: Any) -> float:
        guess = math.prod(leaf.shape[:-1]) if leaf.ndim > 1 else None
        fan_in = guess if reading is None else _fan_in(reading, path_name(path), guess)
        return bias_std**2 if fan_in is None else weight_std**2 / fan_in

    return jax.tree_util.tree_map_with_path(of_leaf, params)


def _fan_in(reading: Reading, name: str, guess: int | None) -> int | None:
    """As paths have it; what they do not have (a feature network's) by its shape."""
    found = {p.fan_in for p in reading.parameters if p.name == name and p.role in ("weight", "bias")}
    if len(found) > 1:
        raise ValueError(f"parts of {name} have different roles (fan-ins {sorted(found, key=str)}): no one variance.")
    return next(iter(found), guess)


def ntk_parameterised(
    split: NTKSplit,
    params: PyTree,
    *,
    weight_std: float = HE,
    bias_std: float = 0.0,
    outputs: int = 1,
    reading: Reading | None = None,
) -> NTKSplit:
    """The split tangent kernel of the same network in NTK parameterisation: what tends to `npk.infinite.ntk`.

    K = Σ over parameters of σ²/fan-in · K of that parameter, of one output. With weights drawn with these variances
    and gates independent of them, the mean of K^V is d·∏σ² H, d the number of weights on a path.

    Args:
        split: of `npk.split_ntk(f)(params, …)`, with its blocks: those of the leaves that counted there.
        params: whose shapes give the fan-ins.
        weight_std: as of `variances`.
        bias_std: as of `variances`.
        outputs: over how many outputs the split is summed; the result is their mean.
        reading: as of `variances`.

    Returns:
        An `NTKSplit`, blocks included.

    Raises:
        ValueError: the blocks are not those of params, or a standard deviation is negative.

    Example:
        >>> import jax.numpy as jnp, npk
        >>> from npk.infinite import ntk_parameterised
        >>> f, p, x = lambda p, x: x @ p["w"], {"w": jnp.ones((4, 1))}, jnp.ones((1, 4))
        >>> ntk_parameterised(npk.split_ntk(f)(p, x), p, weight_std=1.0).total.tolist()  # |x|²/4
        [[1.0]]

    Source: Jacot et al. 2018, section 4.
    """
    scales = variances(params, weight_std=weight_std, bias_std=bias_std, reading=reading)
    factors = {path_name(path): scale / outputs for path, scale in jax.tree_util.tree_flatten_with_path(scales)[0]}
    if not split.blocks or not split.blocks.keys() <= factors.keys():
        raise ValueError(f"the split has blocks {sorted(split.blocks)} and params are {sorted(factors)}: not the same.")
    blocks = {name: _scaled(block, factors[name]) for name, block in split.blocks.items()}
    value, feature, cross = (
        functools.reduce(jnp.add, [getattr(block, part) for block in blocks.values()])
        for part in ("value", "feature", "cross")
    )
    return NTKSplit(value, feature, cross, blocks=blocks)


def _scaled(split: NTKSplit, factor: Any) -> NTKSplit:
    return dataclasses.replace(
        split, value=factor * split.value, feature=factor * split.feature, cross=factor * split.cross
    )
