"""Random features whose products average to a kernel: estimates with a standard error for every entry.

A draw d gives every sample s a vector z_d(s) with E[⟨z_d(s), z_d(s')⟩] = K(s, s'). Draws are independent, so
their mean estimates K, and their spread says how well. Nothing here knows which kernel it is.
"""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special
from jaxtyping import Array, Float, UInt32
from numpy.typing import ArrayLike

from npk.programs import concrete, cuts, finite, in_blocks, known_true
from npk.solving import threads

# Samples a side of a block of standard errors: its float32 numbers stay in the cache while all draws pass.
_SIDE = 256
# Numbers of features of a block on the host.
_BLOCK_NUMBERS = 1 << 22


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class KernelSketch:
    """An unbiased estimate K̂ = ZZᵀ/D of a kernel from D independent draws, with its error.

    It is made by `sketch` or `sketch_ntk`. Without forming the kernel it is an operator: `shape`, `dtype`,
    `product`, `columns` and `diagonal`, which is all that an iterative solver or a pivoted Cholesky needs.

    Attributes:
        features: z [N, D, K], K numbers a draw (one an output of the network). The K numbers of one draw are
            correlated, different draws are independent.
        draws: what each draw was made of [D, words] (its random key). Sketches of two batches give a kernel
            between them only if they share all draws; sketches that are to be averaged must share none.

    Example:
        >>> import jax, jax.numpy as jnp, npk
        >>> z = npk.sketch(lambda w, x: x @ w)(jnp.ones((2, 1)), jnp.eye(2), features=400, key=jax.random.key(0))
        >>> z.shape, z.features.shape  # H = XXᵀ/2
        ((2, 2), (2, 400, 1))
        >>> error = abs(z.gram() - jnp.eye(2) / 2)
        >>> bool((error <= 3 * z.standard_error() + 1e-6).all())
        True

    Source: Achlioptas 2003 (random signs); Rahimi & Recht 2007 (random features of a kernel).
    """

    features: Float[Array | np.ndarray, "n draws k"]
    draws: UInt32[Array | np.ndarray, "draws words"]

    # ------------------------------------------------------------------------------------- the estimate

    def gram(self, other: "KernelSketch | None" = None) -> Float[Array, "n1 n2"]:
        """The estimate K̂(s, s') = (1/D) Σ_d ⟨z_d(s), z_d(s')⟩.

        Args:
            other: a sketch of other samples by the same draws; None for itself.

        Returns:
            K̂ [N1, N2] in the dtype of the features; positive semi-definite where other is None.

        Raises:
            ValueError: the two sketches are not of the same draws; the estimate leaves the range of its dtype.
        """
        estimate = _mean_product(jnp.asarray(self.features), jnp.asarray(self._same_draws(other).features))
        if concrete(estimate) and not known_true(finite, estimate):
            raise ValueError(f"the estimate leaves the range of {estimate.dtype}; use normalize=True or enable x64.")
        return estimate

    def standard_error(self, other: "KernelSketch | None" = None) -> Float[Array, "n1 n2"]:
        """The standard error of every entry of `gram(other)`, from the spread over draws.

        With P_d(s, s') = ⟨z_d(s), z_d(s')⟩ it is the root of Σ_d (P_d - K̂)² / (D (D - 1)), whose square is an
        unbiased estimate of the variance of K̂(s, s'). Products of signs have long tails in deep networks, so that
        errors of a few draws are themselves uncertain: take 50 draws at the least.

        Args:
            other: as of `gram`.

        Returns:
            Standard errors [N1, N2] in the dtype of the features.

        Raises:
            ValueError: as `gram`; there is one draw only.
        """
        self._require_draws(2, "a standard error")
        two = None if other is None else jnp.asarray(self._same_draws(other).features)
        return _standard_errors(jnp.asarray(self.features), two)

    def relative_error(self) -> float:
        """The standard error of the whole kernel, relative: the root of E‖K̂ - K‖² over ‖K‖ (Frobenius norms).

        Both norms are estimated without bias from products of pairs of draws; no kernel is formed.

        Returns:
            The estimate, a number.

        Raises:
            ValueError: there are fewer than two draws; all features are zero.
        """
        self._require_draws(2, "an error")
        return math.sqrt(_relative_variance(*_draw_products(self)) / len(self.draws))

    def features_for(self, relative_error: float, *, confidence: float = 0.95) -> int:
        """The number of features of which a sketch has a wanted relative error; this one serves as a pilot.

        One draw's relative variance R = E‖P_d - K‖²/‖K‖² is estimated from the pilot, and with it an upper limit
        of one-sided `confidence` (a jackknife over draws of log R); then D = R/ε² draws of K features each.

        Args:
            relative_error: ε, the wanted root of E‖K̂ - K‖² over ‖K‖ (Frobenius norms), between 0 and 1.
            confidence: the probability that the features suffice, at least 1/2, which takes R as estimated.

        Returns:
            A number of features m, a multiple of the features of one draw.

        Raises:
            ValueError: the numbers are out of range; the pilot has fewer than eight draws; all features are zero.
        """
        if not 0 < relative_error < 1:
            raise ValueError(f"relative_error must lie between 0 and 1, got {relative_error}.")
        if not 0.5 <= confidence < 1:
            raise ValueError(f"confidence must be at least 1/2 and below 1, got {confidence}.")
        self._require_draws(8, "a pilot")
        variance = _upper_variance(*_draw_products(self), confidence)
        return max(2, math.ceil(variance / relative_error**2)) * self.features.shape[2]

    # -------------------------------------------------------------------------------------- an operator

    @property
    def shape(self) -> tuple[int, int]:
        """(N, N), of the kernel."""
        return (self.features.shape[0], self.features.shape[0])

    @property
    def dtype(self) -> np.dtype:
        """Of what `product`, `columns` and `diagonal` return: float64."""
        return np.dtype(np.float64)

    def product(self, v: ArrayLike) -> Float[np.ndarray, "n k"]:
        """K̂v, in time and memory of the features alone.

        Args:
            v: vectors [N, K].

        Returns:
            K̂v [N, K] in float64.

        Raises:
            ValueError: v has another number of rows.
        """
        return self.against(self).product(v)

    def columns(self, places: ArrayLike) -> Float[np.ndarray, "n r"]:
        """Some columns of K̂.

        Args:
            places: which, whole numbers [r] from 0 to N - 1.

        Returns:
            K̂[:, places] [N, r] in float64.

        Raises:
            ValueError: a place is no column.
        """
        return self.against(self).columns(places)

    def diagonal(self) -> Float[np.ndarray, " n"]:
        """K̂(s, s), the mean squared length of the features.

        Returns:
            The diagonal [N] in float64.
        """
        return np.concatenate([(z * z).sum(1) for z in _rows(self)]) / len(self.draws)

    def against(self, other: "KernelSketch") -> "SketchBetween":
        """The kernel between two sets of samples as an operator.

        Args:
            other: a sketch of other samples by the same draws.

        Returns:
            An object with `shape`, `dtype`, `product` and `columns`.

        Raises:
            ValueError: as `gram`.
        """
        return SketchBetween(self, self._same_draws(other))

    # -------------------------------------------------------------------------------- more of the same

    def with_draws(self, *others: "KernelSketch") -> "KernelSketch":
        """The sketch of all draws together, of the same samples.

        Args:
            others: sketches of the same samples in the same order by other draws (another key, or the same key and
                another `first`).

        Returns:
            The sketch of D + D' + … draws.

        Raises:
            ValueError: numbers of samples or of outputs differ; a draw occurs twice.
        """
        for other in others:
            _agree(self, other, (0, 2), "samples and outputs")
        draws = np.concatenate([np.asarray(s.draws) for s in (self, *others)])
        if len(np.unique(draws, axis=0)) != len(draws):
            raise ValueError(
                "the sketches share draws, which would count twice: take another key, or the same key with `first` "
                "the number of draws there are."
            )
        return KernelSketch(_joined([self, *others], 1), draws)

    def with_samples(self, *others: "KernelSketch") -> "KernelSketch":
        """The sketch of all samples together, by the same draws.

        Args:
            others: sketches of other samples by the same draws.

        Returns:
            The sketch of N + N' + … samples, in the order given.

        Raises:
            ValueError: the sketches are not of the same draws.
        """
        for other in others:
            self._same_draws(other)
        return KernelSketch(_joined([self, *others], 0), self.draws)

    def of_samples(self, places: ArrayLike | slice) -> "KernelSketch":
        """The sketch of some of the samples.

        Args:
            places: which, whole numbers [n] or a slice.

        Returns:
            Their sketch, of the same draws.
        """
        return KernelSketch(self.features[places if isinstance(places, slice) else np.asarray(places)], self.draws)

    def _same_draws(self, other: "KernelSketch | None") -> "KernelSketch":
        if other is None or other is self:
            return self
        _agree(self, other, (1, 2), "draws and outputs")
        if not concrete(self.draws, other.draws) or np.array_equal(self.draws, other.draws):
            return other
        raise ValueError(
            "the sketches are of different draws, so that their products mean nothing: make both with one key, one "
            "`first` and as many features."
        )

    def _require_draws(self, least: int, what: str) -> None:
        if len(self.draws) < least:
            raise ValueError(f"{what} needs at least {least} independent draws, got {len(self.draws)}.")


@dataclasses.dataclass(frozen=True, eq=False)
class SketchBetween:
    """The estimated kernel between the samples of two sketches, as an operator that is never formed.

    Attributes:
        left: the sketch of the rows.
        right: the sketch of the columns, by the same draws.

    Example:
        >>> import jax, jax.numpy as jnp, numpy as np, npk
        >>> make = lambda x: npk.sketch(lambda w, x: x @ w)(jnp.ones((2, 1)), x, features=16, key=jax.random.key(0))
        >>> between = make(jnp.eye(2)).against(make(jnp.ones((3, 2))))
        >>> between.shape, between.product(np.ones((3, 1))).shape
        ((2, 3), (2, 1))
    """

    left: KernelSketch
    right: KernelSketch

    @property
    def shape(self) -> tuple[int, int]:
        """(N1, N2)."""
        return (self.left.features.shape[0], self.right.features.shape[0])

    @property
    def dtype(self) -> np.dtype:
        """Of what `product` and `columns` return: float64."""
        return np.dtype(np.float64)

    def product(self, v: ArrayLike) -> Float[np.ndarray, "n1 k"]:
        """K̂v [N1, K] in float64, for v [N2, K]."""
        v = np.asarray(v, np.float64)
        if v.ndim != 2 or v.shape[0] != self.shape[1]:
            raise ValueError(f"v must be of shape [{self.shape[1]}, K], one row a column, got {list(v.shape)}.")
        inner = np.zeros((math.prod(self.right.features.shape[1:]), v.shape[1]))
        with threads() as pool:
            for rows, z in _blocks(self.right):
                pool.add_transposed_product(inner, z, v[rows])
        return self._from_the_left(inner)

    def columns(self, places: ArrayLike) -> Float[np.ndarray, "n1 r"]:
        """K̂[:, places] [N1, r] in float64."""
        places = np.asarray(places)
        if places.ndim != 1 or not np.issubdtype(places.dtype, np.integer):
            raise ValueError(f"places must be whole numbers [r], got {places.dtype}{list(places.shape)}.")
        if places.size and not (0 <= places.min() and places.max() < self.shape[1]):
            raise ValueError(f"places must lie between 0 and {self.shape[1] - 1}, got {places.min()} … {places.max()}.")
        return self._from_the_left(np.asarray(self.right.features[places], np.float64).reshape(len(places), -1).T)

    def _from_the_left(self, inner: np.ndarray) -> np.ndarray:
        out = np.zeros((self.shape[0], inner.shape[1]))
        with threads() as pool:
            for rows, z in _blocks(self.left):
                pool.add_product(out[rows], z, inner)
        return out / len(self.left.draws)


# ----------------------------------------------------------------------------------------- its numbers


@jax.jit
def _mean_product(one: Any, two: Any) -> Any:
    """K̂ of two blocks of features [n, D, K]: one matrix product."""
    flat = [a.reshape(a.shape[0], -1) for a in (one, two)]
    return jnp.matmul(flat[0], flat[1].T, precision=jax.lax.Precision.HIGHEST) / one.shape[1]


def _joined(sketches: list[KernelSketch], axis: int) -> np.ndarray:
    return np.concatenate([np.asarray(s.features) for s in sketches], axis)


def _agree(one: KernelSketch, two: KernelSketch, axes: tuple[int, ...], what: str) -> None:
    sizes = [[s.features.shape[a] for a in axes] for s in (one, two)]
    if sizes[0] != sizes[1]:
        raise ValueError(f"the sketches must agree in their numbers of {what}, got {sizes[0]} and {sizes[1]}.")


def _blocks(sketch: KernelSketch) -> Iterator[tuple[slice, np.ndarray]]:
    """Blocks of features [n, D·K] on the host, and which samples they are of."""
    n, *rest = sketch.features.shape
    size = max(1, _BLOCK_NUMBERS // math.prod(rest))
    for rows in cuts(n, size):
        yield rows, np.asarray(sketch.features[rows]).reshape(rows.stop - rows.start, -1)


def _rows(sketch: KernelSketch) -> Iterator[np.ndarray]:
    """Blocks of features [n, D·K] in float64."""
    return (z.astype(np.float64) for _, z in _blocks(sketch))


@jax.jit
def _standard_errors(one: Any, two: Any | None) -> Any:
    return in_blocks(_errors, one, two, _SIDE, lambda block: block)


def _errors(one: Any, two: Any) -> Any:
    """Standard errors of all pairs of two blocks [n, D, K]: two passes over the draws, the mean first."""
    draws, mean = one.shape[1], _mean_product(one, two)

    def add(total: Any, z: tuple[Any, Any]) -> tuple[Any, None]:
        a, b = z[0], z[1].T
        products = a * b if a.shape[1] == 1 else jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)
        return total + jnp.square(products - mean), None

    total, _ = jax.lax.scan(add, jnp.zeros_like(mean), (jnp.swapaxes(one, 0, 1), jnp.swapaxes(two, 0, 1)))
    return jnp.sqrt(total / (draws * (draws - 1)))


def _draw_products(sketch: KernelSketch) -> tuple[np.ndarray, np.ndarray]:
    """Of the kernel P_d = Z_d Z_dᵀ of every draw ‖P_d‖² and Σ_e ⟨P_d, P_e⟩, both [D]; all draws' norms at once.

    Σ_e ⟨P_d, P_e⟩ is Σ_k z_dkᵀ (ZZᵀ) z_dk, or the sum of squares of Z_dᵀZ: whichever of N and D·K is smaller is
    squared, a block at a time.
    """
    n, draws, k = sketch.features.shape
    blocks = list(_rows(sketch)) if n * draws * k <= _BLOCK_NUMBERS else None

    def rows() -> Iterator[np.ndarray]:
        return iter(blocks) if blocks else _rows(sketch)

    each = (z.reshape(len(z), draws, k) for z in rows())
    own = np.square(sum(np.einsum("ndk,ndl->dkl", z, z) for z in each)).sum((1, 2))
    if not own.any():
        raise ValueError("all features are zero, so that there is no relative error.")
    if n <= draws * k:
        along = sum((z * sum((z @ other.T) @ other for other in rows())).sum(0) for z in rows())
    else:
        side = max(1, _BLOCK_NUMBERS // (draws * k))
        cuts = (slice(start, start + side) for start in range(0, draws * k, side))
        along = np.concatenate([np.square(sum(z[:, cut].T @ z for z in rows())).sum(1) for cut in cuts])
    return own, np.reshape(along, (draws, k)).sum(1)


def _relative_variance(own: np.ndarray, along: np.ndarray) -> float:
    """E‖P_d - K‖²/‖K‖² of one draw, numerator and denominator each without bias."""
    draws, trace, everything = len(own), own.sum(), along.sum()
    norm = (everything - trace) / (draws * (draws - 1))
    return float((trace - everything / draws) / (draws - 1) / norm) if norm > 0 else math.inf


def _upper_variance(own: np.ndarray, along: np.ndarray, confidence: float) -> float:
    """An upper confidence limit of `_relative_variance`: leave one draw out after another, on a log scale."""
    draws = len(own)
    trace, everything = own.sum() - own, along.sum() - 2 * along + own
    rest = draws - 1
    spread = np.maximum((trace - everything / rest) / (rest - 1), np.finfo(float).tiny)
    norm = np.maximum((everything - trace) / (rest * (rest - 1)), np.finfo(float).tiny)
    logs = np.log(spread / norm)
    error = math.sqrt(rest / draws * np.square(logs - logs.mean()).sum())
    return _relative_variance(own, along) * math.exp(float(scipy.special.stdtrit(draws - 1, confidence)) * error)
