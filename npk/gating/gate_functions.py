"""Gate functions γ, hard and soft, and gates in another order of layers."""

from collections.abc import Sequence
from typing import Any

import jax
from jaxtyping import Array, Float

from npk.programs import UnsupportedOperation


class NoLinearForm(UnsupportedOperation):
    """Gates of a kind that no linear network makes; the message names where.

    Attributes:
        kind: of the gates: "pool" (max-pooling), "scale", "pattern" or "product".
    """

    def __init__(self, message: str, kind: str = ""):
        super().__init__(message)
        self.kind = kind


def soft_relu(q: Float[Array, "*shape"], beta: float = 4.0) -> Float[Array, "*shape"]:
    """The soft-ReLU a(q) = q·γ_β(q) with the soft gate γ_β(q) = 1/(1 + e^{-βq}).

    Args:
        q: pre-activations, any shape.
        beta: steepness β > 0 of the gate; β → ∞ gives ReLU.

    Returns:
        q·σ(βq), same shape and dtype as q; at q = 0 the gate is 1/2.

    Example:
        >>> import jax.numpy as jnp, npk
        >>> npk.soft_relu(jnp.array([0.0, 10.0])).tolist()
        [0.0, 10.0]

    Source: Lakshminarayanan & Singh 2020, section 4 (soft-ReLU).
    """
    return q * jax.nn.sigmoid(beta * q)


def soft_gate(
    q: Float[Array, "*shape"], beta: float | Float[Array, ""] = 4.0, epsilon: float = 0.1
) -> Float[Array, "*shape"]:
    """The papers' soft gate (1 + ε)·γ_β(q), γ_β(q) = 1/(1 + e^{-βq}).

    Args:
        q: pre-activations, any shape.
        beta: steepness β > 0.
        epsilon: how far above one an open gate goes, so that closed gates still learn at the same scale.

    Returns:
        Gates between 0 and 1 + ε, of the shape and dtype of q.

    Example:
        >>> import jax.numpy as jnp, npk
        >>> npk.soft_gate(jnp.array([0.0]), epsilon=0.0).tolist()
        [0.5]

    Source: Lakshminarayanan & Singh 2020, section 6 (soft gates of DL).
    """
    return (1 + epsilon) * jax.nn.sigmoid(beta * q)


def hard_gate(q: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """The hard gate 1{q > 0} of ReLU.

    Args:
        q: pre-activations, any shape.

    Returns:
        Gates 0 or 1, of the shape and dtype of q.

    Example:
        >>> import jax.numpy as jnp, npk
        >>> npk.hard_gate(jnp.array([-1.0, 0.0, 2.0])).tolist()
        [0.0, 0.0, 1.0]

    Source: Lakshminarayanan & Singh 2020, section 2.
    """
    return (q > 0).astype(q.dtype)


def permuted(found: Sequence[Any], permute: Sequence[int]) -> tuple[Any, ...]:
    """Gates in another order of layers: layer l gets those of layer permute[l].

    Args:
        found: gates as of `gates(f)`.
        permute: a permutation of 0 … L-1.

    Returns:
        The gates, as many.

    Raises:
        ValueError: permute is no permutation of the layers, or brings gates to a layer of another shape (the
            message names them all).

    Example:
        >>> import jax.numpy as jnp, npk
        >>> first, second = npk.permuted((jnp.zeros((1, 2)), jnp.ones((1, 2))), (1, 0))
        >>> first.tolist(), second.tolist()
        ([[1.0, 1.0]], [[0.0, 0.0]])

    Source: Lakshminarayanan & Singh 2021, section 4 (layers permuted).
    """
    if sorted(permute) != list(range(len(found))):
        raise ValueError(f"permute must be a permutation of 0 … {len(found) - 1} (the layers), got {tuple(permute)}.")
    wrong = [
        f"layer {i} has gates of shape {list(g.shape[1:])} and would get those of layer {j}, {list(found[j].shape[1:])}"
        for i, (g, j) in enumerate(zip(found, permute, strict=True))
        if g.shape[1:] != found[j].shape[1:]
    ]
    if wrong:
        raise ValueError("gates can only move between layers of one shape: " + "; ".join(wrong) + ".")
    return tuple(found[j] for j in permute)
