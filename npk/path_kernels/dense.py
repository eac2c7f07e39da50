"""Fully connected networks: H = Σ ⊙ Λ, the input Gram matrix times the overlaps of the gates, layer by layer."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from npk.path_kernels.counts import check_counts, exact_or_nan, is_binary
from npk.path_kernels.network import Gates
from npk.programs import check_finite, check_pair, concrete, finite, known_true, unsharded, working_dtype


def gram(
    x1: Float[Array | np.ndarray, "n1 *d"],
    x2: Float[Array | np.ndarray, "n2 *d"] | None = None,
    *,
    normalize: bool = True,
) -> Float[Array, "n1 n2"]:
    """The input Gram matrix Σ = X₁X₂ᵀ, divided by the input dimension unless `normalize=False`.

    Args:
        x1: inputs [N1, ...]; all axes but the first are flattened.
        x2: inputs [N2, ...], None for x1.
        normalize: divide by the number of input features.

    Returns:
        Σ [N1, N2] in the dtype that JAX gives the inputs (NumPy's float64 is float32 without x64); of half precision
        it is accumulated in and returned as float32.

    Raises:
        ValueError: empty, not finite, integer or mismatched inputs, or Σ leaves the range of its dtype.

    Example:
        >>> import jax.numpy as jnp, npk
        >>> npk.gram(jnp.array([[1.0, 2.0]]), normalize=False).tolist()
        [[5.0]]

    Source: Lakshminarayanan & Singh 2020, section 5.1.
    """
    check_pair(x1, x2, floating=True)
    return _gram(x1, x2, normalize, "the Gram matrix leaves the range of {}: scale the inputs, or enable x64.")


def _gram(x1: Any, x2: Any, normalize: bool, refusal: str) -> Any:
    x1, x2 = unsharded((x1, x2))
    a, b = (jnp.reshape(x, (len(x), -1)).astype(working_dtype(x)) for x in (x1, x1 if x2 is None else x2))
    product = jnp.matmul(a, b.T, precision=jax.lax.Precision.HIGHEST)
    if concrete(product) and not known_true(finite, product):
        raise ValueError(refusal.format(product.dtype))
    return product / a.shape[1] if normalize else product


def layer_overlaps(
    gates1: Gates, gates2: Gates | None = None, *, normalize: bool = True
) -> tuple[Float[Array, "n1 n2"], ...]:
    """The overlaps G_l G_lᵀ of every layer: how many gates are on for both inputs.

    Args:
        gates1: gates as of `gates(f)`, each [N1, width] (further axes are flattened).
        gates2: gates of the other inputs, None for gates1.
        normalize: divide each overlap by its width, so that it is a fraction.

    Returns:
        A tuple of [N1, N2], one a layer, in the gates' dtype (of half precision float32, as of `gram`).

    Raises:
        ValueError: the two tuples differ in number or shapes, or hold numbers that are not finite; an overlap leaves
            the range of its dtype.

    Example:
        >>> import jax.numpy as jnp, npk
        >>> npk.layer_overlaps((jnp.array([[1.0, 1.0], [1.0, 0.0]]),))[0].tolist()
        [[1.0, 0.5], [0.5, 0.5]]

    Source: Lakshminarayanan & Singh 2020, section 5.1.
    """
    gates2 = gates1 if gates2 is None else gates2
    if len(gates1) != len(gates2):
        raise ValueError(f"gates1 and gates2 must hold as many layers, got {len(gates1)} and {len(gates2)}.")
    result = []
    for number, (g1, g2) in enumerate(zip(gates1, gates2, strict=True)):
        check_finite(g1, f"gates1[{number}]")
        check_finite(g2, f"gates2[{number}]")
        if g1.shape[1:] != g2.shape[1:]:
            raise ValueError(f"gates1[{number}] and gates2[{number}] differ: {list(g1.shape)} and {list(g2.shape)}.")
        check_pair(g1, g2, floating=True)
        refusal = f"the overlap of layer {number} leaves the range of {{}}: scale the gates, or enable x64."
        result.append(_gram(g1, g2, normalize, refusal))
    return tuple(result)


def overlap(gates1: Gates, gates2: Gates | None = None, *, normalize: bool = True) -> Float[Array, "n1 n2"]:
    """The overlap Λ = ∏_l G_l G_lᵀ: the number of paths from one input node that are active for both inputs.

    For a dense network without biases H = Σ ⊙ Λ: `path_kernel(f)(p, x) == gram(x) * overlap(gates(f)(p, x))`.

    Args:
        gates1: gates as of `gates(f)`, each [N1, width].
        gates2: gates of the other inputs, None for gates1.
        normalize: divide each layer's overlap by its width.

    Returns:
        Λ [N1, N2] in the gates' dtype (of half precision float32, as of `gram`).

    Raises:
        ValueError: as `layer_overlaps`; there are no gates; Λ leaves the range of its dtype, or is a count of paths
            that it cannot hold exactly (hard gates, from 2^24 on in float32). Under `jit` such a count is NaN.

    Example:
        >>> import jax.numpy as jnp, npk
        >>> g = jnp.array([[1.0, 1.0], [1.0, 0.0]])
        >>> npk.overlap((g, g), normalize=False).tolist()
        [[4.0, 1.0], [1.0, 1.0]]

    Source: Lakshminarayanan & Singh 2020, section 5.1 (Λ).
    """
    if len(gates1) == 0:
        raise ValueError("overlap needs the gates of at least one layer, got none.")
    product = functools.reduce(jnp.multiply, layer_overlaps(gates1, gates2, normalize=normalize))
    both = (tuple(gates1), tuple(gates1 if gates2 is None else gates2))
    if not (normalize or concrete(both)):
        return exact_or_nan(product, product, (), both)
    if not normalize and is_binary(both):
        check_counts(float(jnp.max(product)), product.dtype)
    if concrete(product) and not known_true(finite, product):
        raise ValueError(
            f"the overlap leaves the range of {product.dtype}: use normalize=True, or npk.log_path_kernel of the "
            "network, which gives its logarithm."
        )
    return product
