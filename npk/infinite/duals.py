"""What an activation makes of a covariance: E[a(u) a(v)] for jointly Gaussian pre-activations u and v.

ReLU and its kin have closed forms in the angle between u and v (the arc-cosine kernels). Smooth
activations are summed in Hermite polynomials: with a(σz) = Σ_k a_k(σ) h_k(z) and correlation ρ,

    E[a(u) a(v)] = Σ_k a_k(σ_u) a_k(σ_v) ρ^k,

whose coefficients need one Gauss-Hermite rule for each pre-activation, not one for each pair, and whose
truncation error is known: what the squares of the coefficients leave of E[a²].
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special


@dataclasses.dataclass(frozen=True, eq=False)
class Joint:
    """The joint distribution of pre-activations u and v, of mean zero, elementwise.

    `covariance` is E[uv]; `left` and `right` are E[u²] and E[v²], of shapes that broadcast with it. `equal` is
    true where u and v are the same variable, whatever rounding says; None means nowhere.
    """

    covariance: Any
    left: Any
    right: Any
    equal: Any = None

    def scale(self) -> Any:
        """√(E[u²] E[v²])."""
        return jnp.sqrt(self.left) * jnp.sqrt(self.right)

    def correlation(self) -> Any:
        """E[uv] / √(E[u²] E[v²]) in [-1, 1]; 0 where a variance is 0."""
        inverse = jnp.asarray(_inverse_root(self.left) * _inverse_root(self.right), self.covariance.dtype)
        rho = jnp.clip(self.covariance * inverse, -1.0, 1.0)
        return rho if self.equal is None else jnp.where(self.equal, jnp.ones((), rho.dtype), rho)


def _inverse_root(variance: Any) -> Any:
    positive = variance > 0
    return jnp.where(positive, jax.lax.rsqrt(jnp.where(positive, variance, 1.0)), 0.0)


# A dual maps a `Joint` to an expectation of its covariance's shape.
Dual = Callable[[Joint], Any]


@dataclasses.dataclass(frozen=True, eq=False)
class Duals:
    """The expectations an activation a(q) = q·γ(q) contributes.

    `value` is E[a(u) a(v)], `slope` E[a'(u) a'(v)] and `gate` E[γ(u) γ(v)].
    """

    value: Dual
    slope: Dual
    gate: Dual


# ------------------------------------------------------------------------------- piecewise linear


def piecewise(below: float, above: float) -> Duals:
    """a(q) = above·q for q > 0, below·q for q < 0. ReLU is (0, 1); there 2E[aa] is the arc-cosine kernel."""
    squares, product = (below**2 + above**2) / (2 * math.pi), below * above / math.pi

    def value(joint: Joint) -> Any:
        rho = joint.correlation()
        angle, sine = _angle(rho)
        same = sine + (math.pi - angle) * rho  # E over the half-planes where u and v have one sign
        total = squares * same - product * (sine - angle * rho) if product else squares * same
        return total * joint.scale()

    def slope(joint: Joint) -> Any:
        angle, _ = _angle(joint.correlation())
        return squares * (math.pi - angle) + product * angle if product else squares * (math.pi - angle)

    def gate(joint: Joint) -> Any:
        """The slope, but what has no variance is zero, where the gate is that of the flatter side."""
        zero = min(below, above, key=abs)
        left, right = (jnp.where(v > 0, (below + above) / 2, zero).astype(v.dtype) for v in (joint.left, joint.right))
        return jnp.where((joint.left > 0) & (joint.right > 0), slope(joint), left * right)

    return Duals(value, slope, gate)


@functools.partial(jax.jit, inline=True)  # traced once for a shape, not at every activation
def _angle(rho: Any) -> tuple[Any, Any]:
    """The angle of a correlation, and its sine.

    arccos(a) = √(1-a)·p(a) on [0, 1] with a smooth p: its polynomial is as accurate as the library's arccos, which
    on CPU takes forty times as long and would be nine tenths of a convolutional kernel's time.
    """
    size = jnp.abs(rho)
    root = jnp.sqrt(1 - size)
    place = 2 * size - 1
    high, *lower = _arccos_polynomial(rho.dtype == jnp.float64)
    p = jnp.full_like(rho, high)
    for c in lower:
        p = p * place + jnp.asarray(c, rho.dtype)
    acute = root * p
    return jnp.where(rho < 0, math.pi - acute, acute), root * jnp.sqrt(1 + size)


@functools.cache
def _arccos_polynomial(double: bool) -> tuple[float, ...]:
    """Coefficients, highest first, of arccos(a)/√(1-a) in 2a - 1; the next one would be below rounding."""

    def smooth_part(t: Any) -> Any:
        a = (t + 1) / 2
        return np.arccos(a) / np.sqrt(1 - a)

    fitted = np.polynomial.chebyshev.chebinterpolate(smooth_part, 21 if double else 10)
    return tuple(np.polynomial.chebyshev.cheb2poly(fitted)[::-1].tolist())


# ------------------------------------------------------------------------------------------- gelu


def gelu() -> Duals:
    """a(q) = q·Φ(q), Φ the normal distribution function.

    With A = 1 + E[u²], B = 1 + E[v²], D = AB - E[uv]²: E[Φ(u)Φ(v)] = 1/4 + arcsin(E[uv]/√(AB))/2π; E[a(u)a(v)]
    follows by Stein's lemma, and E[a'(u)a'(v)] is its derivative in E[uv] (Price's theorem).
    """

    def parts(joint: Joint) -> tuple[Any, Any, Any, Any]:
        a, b = 1 + joint.left, 1 + joint.right
        angle, _ = _angle(joint.covariance * (jax.lax.rsqrt(a) * jax.lax.rsqrt(b)))
        gate = 0.5 - angle / (2 * math.pi)
        return a, b, a * b - jnp.square(joint.covariance), gate

    def value(joint: Joint) -> Any:
        a, b, d, gate = parts(joint)
        root = jax.lax.rsqrt(d)
        return joint.covariance * gate + (d * (1 - 1 / a - 1 / b) + 1) * root / (2 * math.pi)

    def slope(joint: Joint) -> Any:
        a, b, d, gate = parts(joint)
        return gate + joint.covariance * (1 / a + 1 / b + 1 / d) * jax.lax.rsqrt(d) / (2 * math.pi)

    return Duals(value, slope, lambda joint: parts(joint)[3])


# ----------------------------------------------------------------------------------------- smooth


# Orders of series are multiples of this.
TERMS = 16


@functools.cache
def _rule(order: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Nodes and weights, and the orthonormal Hermite polynomials below `order` there times the weights."""
    # Exact to degree 4·order: a coefficient is then only mixed with those beyond three times the order.
    nodes, weights = scipy.special.roots_hermitenorm(2 * order)
    weights = weights / weights.sum()
    # √w·h_k by the three-term recurrence: neither factor is representable alone at the outer nodes.
    rows = [np.sqrt(weights), np.sqrt(weights) * nodes]
    for k in range(1, order - 1):
        rows.append((nodes * rows[k] - math.sqrt(k) * rows[k - 1]) / math.sqrt(k + 1))
    return nodes, weights, np.stack(rows[:order]) * np.sqrt(weights)


def _coefficients(function: Callable[[Any], Any], variance: Any, order: int) -> tuple[Any, Any]:
    """a_k of function(√variance·z) for k < order, [order, *variance.shape], and E[function²]."""
    nodes, weights, table = (jnp.asarray(a, variance.dtype) for a in _rule(order))
    values = function(jnp.multiply.outer(jnp.sqrt(variance), nodes))
    a = jnp.einsum("...q,kq->k...", values, table, precision=jax.lax.Precision.HIGHEST)
    return a, jnp.einsum("...q,q->...", jnp.square(values), weights, precision=jax.lax.Precision.HIGHEST)


def _series(function: Callable[[Any], Any], order: int, note: Callable[[Any], None] | None) -> Dual:
    def dual(joint: Joint) -> Any:
        left, square = _coefficients(function, joint.left, order)
        right = left if joint.right is joint.left else _coefficients(function, joint.right, order)[0]
        if note is not None:
            square = square[None]
            rest = (square - jnp.cumsum(jnp.square(left), 0)) / jnp.maximum(square, jnp.finfo(square.dtype).tiny)
            note(jnp.max(rest.reshape(order, -1), 1))
        return _power_series(left, right, joint.correlation())

    return dual


def _power_series(left: Any, right: Any, rho: Any) -> Any:
    """Σ_k left_k right_k ρ^k by Horner's rule, some terms at a time so that the loop stays in cache."""

    def several(total: Any, terms: tuple[Any, Any]) -> tuple[Any, None]:
        for k in reversed(range(TERMS)):
            total = total * rho + terms[0][k] * terms[1][k]
        return total, None

    parts = tuple(c.reshape(-1, TERMS, *c.shape[1:]) for c in (left, right))
    shape = jnp.broadcast_shapes(rho.shape, left.shape[1:], right.shape[1:])
    return jax.lax.scan(several, jnp.zeros(shape, rho.dtype), parts, reverse=True)[0]


def smooth(gate: Callable[[Any], Any], order: int, note: Callable[[Any], None] | None = None) -> Duals:
    """a(q) = q·gate(q) by `order` Hermite polynomials.

    `note` is told, for k = 1 … order, the largest share of E[a²] that k polynomials leave out.
    """

    def activation(q: Any) -> Any:
        return q * gate(q)

    def derivative(q: Any) -> Any:
        return jax.jvp(activation, (q,), (jnp.ones_like(q),))[1]

    return Duals(*(_series(part, order, note) for part in (activation, derivative, gate)))
