"""Random features whose products average to a kernel: estimates with a standard error for every entry.

A draw d gives every sample s a vector z_d(s) with E[⟨z_d(s), z_d(s')⟩] = K(s, s'). Draws are independent, so
their mean estimates K, and their spread says how well. Nothing here knows which kernel it is.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt32
from numpy.typing import ArrayLike

from npk.programs import concrete, finite, known_true, shown, working_dtype
from npk.sketches.draws import (
    blocks,
    draw_products,
    mean_product,
    relative_variance,
    rows_of,
    standard_errors,
    upper_variance,
)
from npk.solving import threads


@shown("shape")
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
            K̂ [N1, N2] in the dtype of the features (of half precision float32); positive semi-definite where other is
            None.

        Raises:
            ValueError: the two sketches are not of the same draws; the estimate leaves the range of its dtype.
        """
        estimate = mean_product(_wide(self.features), _wide(self._same_draws(other).features))
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
            Standard errors [N1, N2] in the dtype of `gram`.

        Raises:
            ValueError: as `gram`; there is one draw only.
        """
        self._require_draws(2, "a standard error")
        two = None if other is None else _wide(self._same_draws(other).features)
        return standard_errors(_wide(self.features), two)

    def relative_error(self) -> float:
        """The standard error of the whole kernel, relative: the root of E‖K̂ - K‖² over ‖K‖ (Frobenius norms).

        Both norms are estimated without bias from products of pairs of draws; no kernel is formed.

        Returns:
            The estimate, a number.

        Raises:
            ValueError: there are fewer than two draws; all features are zero.
        """
        self._require_draws(2, "an error")
        return math.sqrt(relative_variance(*draw_products(self.features)) / len(self.draws))

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
        variance = upper_variance(*draw_products(self.features), confidence)
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
        return np.concatenate([(z * z).sum(1) for z in rows_of(self.features)]) / len(self.draws)

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


@shown("shape")
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
            for rows, z in blocks(self.right.features):
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
            for rows, z in blocks(self.left.features):
                pool.add_product(out[rows], z, inner)
        return out / len(self.left.draws)


# ----------------------------------------------------------------------------------------- its numbers


def _wide(features: Any) -> Any:
    """What an estimate is summed of: of half precision in single."""
    return jnp.asarray(features, working_dtype(features))


def _joined(sketches: list[KernelSketch], axis: int) -> np.ndarray:
    return np.concatenate([np.asarray(s.features) for s in sketches], axis)


def _agree(one: KernelSketch, two: KernelSketch, axes: tuple[int, ...], what: str) -> None:
    sizes = [[s.features.shape[a] for a in axes] for s in (one, two)]
    if sizes[0] != sizes[1]:
        raise ValueError(f"the sketches must agree in their numbers of {what}, got {sizes[0]} and {sizes[1]}.")
