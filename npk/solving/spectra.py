"""Trace, norm, effective rank, log-determinant and eigenvalue counts of a kernel: exact, or without forming it.

Of an array they are exact. Of an operator each is a trace tr f(K), estimated: a few directions Q, found by one pass,
take the largest eigenvalues out of it, and their share is computed as it is; of the rest, random probes estimate the
mean. Intervals are Student's over the probes, corrected for skewness (Hall 1992), and where functions of K are computed
by Lanczos they also hold what that leaves uncertain.

For the host's operators, in float64, Lanczos is ours: matfree computes in JAX's dtype, float32 unless x64 is enabled.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from npk.programs import available_memory, shown
from npk.solving.checks import Passes, diagonal_of, finite, square, symmetric_part
from npk.solving.operators import is_operator, operator_of
from npk.solving.traces import NO_WEIGHT, Estimate, Starts, above, gauss, known, lanczos, radau, starts_of

# Of a sum of weights, relative to the number of eigenvalues: what an interval must hold besides chance.
_ROUNDING = 1e-13


@shown()
@dataclasses.dataclass(frozen=True)
class Moments:
    """The first two moments of a spectrum.

    Attributes:
        trace: Σ λ.
        frobenius_norm: √Σ λ².
        participation_ratio: (Σ λ)² / Σ λ², an effective rank that large eigenvalues dominate.

    Example:
        >>> import numpy as np
        >>> from npk.solving import moments
        >>> round(moments(np.eye(4)).participation_ratio.value, 6)
        4.0
    """

    trace: Estimate
    frobenius_norm: Estimate
    participation_ratio: Estimate


def moments(
    kernel: Any,
    *,
    sketch: int = 32,
    probes: int = 32,
    confidence: float = 0.95,
    seed: int = 0,
    use_diagonal: bool = True,
) -> Moments:
    """Trace, Frobenius norm and participation ratio: of an array exactly, of an operator by Hutch++ in two passes.

    Args:
        kernel: an array of shape (N, N), symmetric; or an operator, symmetric and positive semi-definite, which needs
            no `diagonal`. `operator_of` makes an operator of an array. What follows is of operators alone.
        sketch: directions that are taken out of the spectrum; 0 is Hutchinson's estimate.
        probes: random vectors for the rest, at least 2.
        confidence: of the intervals, in (0, 1).
        seed: of the random vectors.
        use_diagonal: whether the trace is read off the diagonal, exactly, where there is one.

    Returns:
        `Moments`.

    Raises:
        ValueError: the kernel is not square, finite or symmetric; sketch, probes or confidence are out of range; an
            array does not fit into memory.

    Example:
        >>> import numpy as np
        >>> from npk.solving import kernel_operator, moments
        >>> x = np.array([[1.0, 0.0], [0.0, 2.0]])
        >>> moments(x @ x.T).trace
        Estimate(value=5.0, low=5.0, high=5.0)
        >>> norm = moments(kernel_operator(lambda a, b: a @ b.T, x, tile=1)).frobenius_norm
        >>> round(norm.value, 6), round(17**0.5, 6)
        (4.123106, 4.123106)

    Source: Meyer, Musco, Musco & Woodruff 2021; Epperly, Tropp & Webber 2024 (probes of equal length).
    """
    if not is_operator(kernel):
        matrix = _in_memory(kernel)
        norm = float(np.linalg.norm(matrix))
        return Moments(*map(known, (np.trace(matrix), norm, _ratio(np.trace(matrix), norm**2))))
    operator = operator_of(kernel)
    product = Passes(operator)
    starts = starts_of(product, sketch, probes, confidence, seed)
    images = product(starts.vectors)
    exact = use_diagonal and hasattr(operator, "diagonal")
    first = np.einsum("ns,ns->s", starts.vectors, images)
    second = np.square(images).sum(axis=0)
    # The two intervals of the ratio hold together with the wanted confidence.
    both = confidence if exact else (1 + confidence) / 2
    traces = [known(diagonal_of(operator).sum())] * 2 if exact else [starts.total(first, c) for c in (confidence, both)]
    squares = [starts.total(second, c) for c in (confidence, both)]
    norm = Estimate(*np.sqrt([squares[0].value, squares[0].low, squares[0].high]).tolist())
    ratio = Estimate(
        _ratio(traces[1].value, squares[1].value),
        _ratio(traces[1].low, squares[1].high),
        _ratio(traces[1].high, squares[1].low),
    )
    return Moments(traces[0], norm, ratio)


def _ratio(trace: float, square: float) -> float:
    return float(trace**2 / square) if square > 0 else 0.0


def _in_memory(kernel: Any) -> np.ndarray:
    """The symmetric part of an array, beside which there is room for what is made of it."""
    needed, free = 4 * 8 * np.size(kernel), available_memory()
    if needed > free:
        raise ValueError(
            f"exact numbers of this array take {needed / 2**30:.3g} GiB of {free / 2**30:.3g} GiB available: give "
            "operator_of(kernel), of which they are estimated."
        )
    return symmetric_part(kernel)


@shown()
@dataclasses.dataclass(frozen=True, eq=False)
class Spectrum:
    """A kernel's eigenvalues, or what Lanczos has found out about them; made by `spectrum`.

    Attributes:
        size: N.
        trace: Σ λ.
        nodes: of the Gauss rules, of shape (starts, steps); where the spectrum is exact the eigenvalues, (1, N).
        weights: their weights, so that zᵀ f(K) z ≈ Σ weights · f(nodes) for every start z; or ones.
        exact: whether the nodes are the eigenvalues.

    Example:
        >>> import numpy as np
        >>> from npk.solving import spectrum
        >>> found = spectrum(np.diag([1.0, 2.0, 3.0, 4.0]))
        >>> round(found.log_determinant(0.0).value, 6), round(float(np.log(24)), 6)
        (3.178054, 3.178054)
    """

    size: int
    trace: Estimate
    nodes: Float[np.ndarray, "starts steps"]
    weights: Float[np.ndarray, "starts steps"]
    exact: bool
    _starts: Starts
    _radau: tuple[np.ndarray, np.ndarray]
    _ended: np.ndarray

    @classmethod
    def of(cls, eigenvalues: ArrayLike) -> "Spectrum":
        """The exact spectrum of eigenvalues that are known.

        Args:
            eigenvalues: in any order, of shape (N,).

        Returns:
            A `Spectrum`.

        Raises:
            ValueError: they are not one axis of finite numbers.
        """
        values = np.sort(np.asarray(eigenvalues, dtype=np.float64))
        if values.ndim != 1 or values.size == 0:
            raise ValueError(f"eigenvalues must be one axis [N], got shape {list(values.shape)}.")
        rule = finite(values, "eigenvalues")[None], np.ones((1, len(values)))
        starts = Starts(np.empty((len(values), 0)), sketch=1, confidence=1.0)
        return cls(len(values), known(values.sum()), *rule, True, starts, rule, np.array([True]))

    @property
    def eigenvalues(self) -> Float[np.ndarray, " n"]:
        """All N of an exact spectrum, largest first. Those below zero by rounding are not cut off.

        Raises:
            ValueError: they are estimated, and not known one by one.
        """
        if not self.exact:
            raise ValueError("eigenvalues are known one by one of an array alone; ask for counts or trace_of.")
        return self.nodes[0, ::-1]

    def trace_of(self, function: Callable[[np.ndarray], np.ndarray]) -> Estimate:
        """Σ f(λ) over all eigenvalues λ.

        The interval holds the statistical one of two quadrature rules, between which the truth lies where the
        derivatives of f of even order have one sign and those of odd order the other, as of logarithms, powers below 1,
        λ log λ, exp(-λ) and 1/(λ + r).

        Args:
            function: f, from an array of eigenvalues to one of the same shape. Rounding may put them slightly below 0.

        Returns:
            An `Estimate`.

        Raises:
            ValueError: f is not finite on the nodes.
        """
        values, lows, highs = zip(*(self._starts.spread(rule) for rule in self._rules(function)))
        return Estimate(sum(values) / 2, min(lows), max(highs))

    def _rules(self, function: Callable[[np.ndarray], np.ndarray]) -> list[np.ndarray]:
        """zᵀ f(K) z of every start by the Gauss and by the Radau rule."""
        found = []
        for nodes, weights in ((self.nodes, self.weights), self._radau):
            with np.errstate(all="ignore"):
                values = np.asarray(function(nodes), dtype=np.float64)
            carried = weights > NO_WEIGHT * weights.sum(axis=1, keepdims=True)
            if not np.isfinite(values[carried]).all():
                raise ValueError("the function must be finite on the spectrum, but is NaN or infinite at a node.")
            found.append(np.where(carried, weights * np.where(carried, values, 0.0), 0.0).sum(axis=1))
        return found

    def log_determinant(self, shift: float) -> Estimate:
        """log det(K + shift · I).

        Args:
            shift: not negative, e.g. r times the mean diagonal.

        Returns:
            An `Estimate`.

        Raises:
            ValueError: the shift is negative, or so small that K + shift · I is singular up to rounding.
        """
        if not shift >= 0:
            raise ValueError(f"shift must not be negative, got {shift}.")
        return self.trace_of(lambda values: np.log(values + shift))

    def effective_rank(self) -> Estimate:
        """The number of directions that carry the spectrum: exp of the entropy of the normalised eigenvalues.

        Eigenvalues below zero count as zero.

        Returns:
            An `Estimate`, between 1 (one direction) and N (all alike).

        Raises:
            ValueError: no eigenvalue is positive.

        Source: Roy & Vetterli 2007.
        """
        trace = self.trace.value + self.trace_of(lambda values: np.maximum(-values, 0.0)).value
        if not trace > 0:
            raise ValueError("effective_rank needs at least one positive eigenvalue.")

        def entropy(values: np.ndarray) -> np.ndarray:
            share = np.maximum(values, 0.0) / trace
            return -share * np.log(np.where(share > 0, share, 1.0))

        found = self.trace_of(entropy)
        if self.trace.low < self.trace.high:
            # To first order an error δ of the trace moves the entropy by δ/trace · (1 - entropy): taken together.
            inner = found.value
            moved = self.trace_of(lambda values: entropy(values) + (1 - inner) * np.maximum(values, 0.0) / trace)
            found = Estimate(inner, inner + moved.low - moved.value, inner + moved.high - moved.value)
        low, value, high = np.clip(np.exp([found.low, found.value, found.high]), 1.0, self.size)
        return Estimate(float(value), float(low), float(high))

    def counts(self, thresholds: ArrayLike) -> list[Estimate]:
        """How many eigenvalues exceed each threshold; differences give the spectral density.

        Between two nodes a Gauss rule says how much of the spectrum lies below only up to their weights
        (Chebyshev, Markov, Stieltjes): the interval holds that too.

        Args:
            thresholds: of shape (t,).

        Returns:
            An `Estimate` for each threshold.

        Raises:
            ValueError: thresholds are not one axis of numbers.
        """
        levels = np.asarray(thresholds, dtype=np.float64)
        if levels.ndim != 1 or np.isnan(levels).any():
            raise ValueError(f"thresholds must be numbers [t], got shape {list(levels.shape)}.")
        return [self._count(float(level)) for level in levels]

    def _count(self, level: float) -> Estimate:
        rules = zip(self.nodes, self.weights, self._ended)
        bounds = np.array([above(nodes, weights, level, bool(ended)) for nodes, weights, ended in rules])
        (least, low, _), (most, _, high) = (self._starts.spread(side) for side in bounds.T)
        value, rounding = (least + most) / 2, 0.0 if self.exact else _ROUNDING * self.size
        ends = value, low - rounding, high + rounding
        return Estimate(*(float(np.clip(v, 0, self.size)) for v in ends))


def spectrum(
    kernel: Any, *, steps: int = 30, sketch: int = 16, probes: int = 16, confidence: float = 0.95, seed: int = 0
) -> Spectrum:
    """The spectrum of a kernel: of an array exactly, of an operator by stochastic Lanczos quadrature.

    That takes `steps` + 1 passes and holds 8·N·steps·(sketch + probes) bytes: all vectors are kept, and made orthogonal
    to each other.

    Args:
        kernel: an array of shape (N, N), symmetric; or an operator, symmetric and positive semi-definite, which needs
            no `diagonal`. `operator_of` makes an operator of an array. What follows is of operators alone.
        steps: of Lanczos; more tell small eigenvalues apart.
        sketch: directions that are taken out of the spectrum.
        probes: random vectors for the rest, at least 2.
        confidence: of the intervals, in (0, 1).
        seed: of the random vectors.

    Returns:
        A `Spectrum`, which answers questions about the eigenvalues without further passes.

    Raises:
        ValueError: the kernel is not square, finite or symmetric; a number is out of range, or the vectors or the array
            do not fit into memory.

    Example:
        >>> import numpy as np
        >>> from npk.solving import operator_of, spectrum
        >>> spectrum(np.diag([1.0, 3.0, 2.0])).eigenvalues.tolist()
        [3.0, 2.0, 1.0]
        >>> [round(c.value) for c in spectrum(operator_of(np.eye(5))).counts([0.5, 1.5])]
        [5, 0]

    Source: Ubaru, Chen & Saad 2017; Chen, Trogdon & Ubaru 2021 (counts); Meyer et al. 2021 (the directions).
    """
    if not is_operator(kernel):
        return Spectrum.of(np.linalg.eigvalsh(_in_memory(kernel)))
    operator = operator_of(kernel)
    n, product = square(operator), Passes(operator)
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}.")
    needed, free = 8 * n * min(steps, n) * (min(sketch, n) + probes), available_memory()
    if needed > free:
        raise ValueError(
            f"Lanczos would hold {needed / 2**30:.3g} GiB of {free / 2**30:.3g} GiB available: ask for fewer steps, a "
            "smaller sketch or fewer probes."
        )
    starts = starts_of(product, sketch, probes, confidence, seed)
    matrix = lanczos(product, starts.vectors, min(steps, n))
    nodes, weights = gauss(matrix)
    largest = float(np.abs(nodes).max())
    lower = radau(matrix, min(0.0, float(nodes.min())) - 1e-12 * max(largest, np.finfo(np.float64).tiny))
    exact = hasattr(operator, "diagonal")
    trace = known(diagonal_of(operator).sum()) if exact else starts.total((nodes * weights).sum(axis=1))
    return Spectrum(n, trace, nodes, weights, False, starts, lower, (matrix.below == 0).any(axis=1))
