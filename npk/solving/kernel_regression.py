"""Kernel ridge regression for kernels of any size: exact Cholesky while it fits, else conjugate gradients.

Of a kernel (`operators`) only products, columns and the diagonal are asked for. Conjugate gradients run on all outputs,
and on several regularizations, side by side, so that a pass over the kernel serves them all; a low-rank approximation
of the kernel makes the passes few. Whatever the method, residuals are computed from the kernel once more at the end.

Why not a library's solver: SciPy's `cg` takes one right-hand side, and all outputs stacked into one share a step
length but no directions, which takes several times the passes; lineax's needs JAX 0.10 and computes in JAX's dtype,
float32 unless x64 is enabled.
"""

import dataclasses
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypedDict, Unpack, overload

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from npk.programs import available_memory, shown
from npk.solving import cholesky, conjugate_gradients
from npk.solving.checks import Passes, diagonal_of, vectors
from npk.solving.conjugate_gradients import Preconditioner, preconditioners
from npk.solving.iterates import Iterate
from npk.solving.low_rank import LowRank, pivoted_cholesky
from npk.solving.operators import KernelOperator, operator_of

Method = Literal["auto", "cholesky", "cg"]

# Part of the available memory that may be used.
_SHARE = 0.8


class NotConverged(UserWarning):
    """Conjugate gradients have stopped before the wanted residual; the result says where they are."""


class NotPositiveDefinite(ValueError):
    """K + r·k̄·I is not positive definite: there is no regression.

    Attributes:
        regularization: r.
        iterate: what conjugate gradients had when they found out, or None.
    """

    def __init__(self, regularization: float, iterate: Iterate | None = None):
        super().__init__(regularization, iterate)
        self.regularization, self.iterate = regularization, iterate

    def __str__(self) -> str:
        return (
            f"the kernel is not positive definite at regularization {self.regularization:g} "
            "(rounding, or no kernel at all): raise the regularization."
        )


@shown()
@dataclasses.dataclass(frozen=True, eq=False)
class Ridge:
    """A fitted kernel ridge regression, and how well it was fitted.

    Attributes:
        dual: coefficients of the training samples, of shape (N, K).
        mean: mean target, of shape (K,): what a sample is given that resembles none.
        regularization: r, relative to the kernel's mean diagonal k̄.
        residuals: ‖b - (K + r·k̄·I) dual‖ / ‖b‖ of every output, computed from the kernel at the end, of shape (K,).
        converged: whether none is above the tolerance.
        method: "cholesky" or "cg".
        why: the reason for the method: memory needed and available.
        products: passes over the kernel, those that checked residuals included.
        rank: columns of the preconditioner.

    Example:
        >>> import numpy as np
        >>> from npk.solving import kernel_ridge, one_hot
        >>> fit = kernel_ridge(np.eye(2), one_hot([0, 1]), regularization=1e-6)
        >>> fit.method, fit.converged, fit.predict(np.eye(2)).argmax(axis=1).tolist()
        ('cholesky', True, [0, 1])
    """

    dual: Float[np.ndarray, "n k"]
    mean: Float[np.ndarray, " k"]
    regularization: float
    residuals: Float[np.ndarray, " k"]
    converged: bool
    method: str
    why: str
    products: int
    rank: int

    def predict(self, kernel: Any) -> Float[np.ndarray, "m k"]:
        """Targets of new samples: K(new, training) · dual + mean, in one pass.

        Args:
            kernel: kernel of new samples with those of training, an operator or array of shape (M, N).

        Returns:
            Scores, of shape (M, K).

        Raises:
            ValueError: the kernel does not have one column a training sample.
        """
        operator = operator_of(kernel)
        if operator.shape[1] != len(self.dual):
            raise ValueError(
                f"kernel must be [new samples, {len(self.dual)} training samples], got shape {list(operator.shape)}."
            )
        return operator.product(self.dual) + self.mean


class _Options(TypedDict, total=False):
    """Of `kernel_ridge`, whatever it returns."""

    method: Method
    tolerance: float
    rank: int | None
    preconditioner: LowRank | None
    limit: int
    start: ArrayLike | Iterate | None
    callback: Callable[[Iterate], None] | None
    memory: int | None
    seed: int


@overload
def kernel_ridge(
    kernel: Any, targets: ArrayLike, *, regularization: float = 1e-3, **options: Unpack[_Options]
) -> Ridge: ...
@overload
def kernel_ridge(
    kernel: Any, targets: ArrayLike, *, regularization: Sequence[float], **options: Unpack[_Options]
) -> tuple[Ridge, ...]: ...
def kernel_ridge(
    kernel: Any,
    targets: ArrayLike,
    *,
    regularization: float | Sequence[float] = 1e-3,
    method: Method = "auto",
    tolerance: float = 1e-6,
    rank: int | None = None,
    preconditioner: LowRank | None = None,
    limit: int = 500,
    start: ArrayLike | Iterate | None = None,
    callback: Callable[[Iterate], None] | None = None,
    memory: int | None = None,
    seed: int = 0,
) -> Ridge | tuple[Ridge, ...]:
    """Fit (K + r·k̄·I) dual = targets - mean, with k̄ the mean diagonal of K.

    Cholesky holds the kernel in float64, 8N² bytes; whether that fits is found out before anything is computed.
    Conjugate gradients hold the preconditioner's factor, 8·N·rank bytes, and about 10 arrays [N, K] a regularization;
    several regularizations share their passes over the kernel.

    Args:
        kernel: of the training samples, an operator or array of shape (N, N).
        targets: of shape (N, K), e.g. from `one_hot`; centred here.
        regularization: r > 0, relative to the mean diagonal, so that it means the same for every kernel; or several.
        method: "cholesky", "cg", or "auto": Cholesky if it fits.
        tolerance: for ‖b - A x‖/‖b‖ of every output, b its centred targets.
        rank: of the preconditioner, a randomly pivoted Cholesky factor; 0 for none, None for 10√N or what a quarter of
            the memory holds.
        preconditioner: a low-rank approximation that is there already, in place of `rank`.
        limit: the most passes over the kernel, those that check residuals included.
        start: for conjugate gradients: coefficients to start from, of shape (N, K); or an `Iterate` of an earlier run
            with the same arguments, which is continued as if it had not been interrupted.
        callback: called with an `Iterate` after every pass of conjugate gradients.
        memory: bytes that may be used; None is 0.8 of what is available.
        seed: of the pivots.

    Returns:
        A `Ridge`, or one for each of several regularizations. If its `converged` is False, the limit was reached or
        rounding allows no smaller residual: a `NotConverged` warning says so, and it holds the best there is.

    Raises:
        ValueError: shapes do not match, an entry is not finite, r is not positive, the kernel is not symmetric, or
            Cholesky is asked for and does not fit.
        NotPositiveDefinite: a regularised kernel is not positive definite.

    Example:
        >>> import numpy as np
        >>> from npk.solving import kernel_operator, kernel_ridge, one_hot
        >>> x, y = np.random.default_rng(0).normal(size=(40, 5)), one_hot(np.arange(40) % 2)
        >>> kernel = kernel_operator(lambda a, b: (1 + a @ b.T) ** 2, x, tile=16)
        >>> fit = kernel_ridge(kernel, y, method="cg", rank=10)
        >>> fit.converged, fit.dual.shape
        (True, (40, 2))
        >>> [round(float(fit.dual[0, 0]), 3) for fit in kernel_ridge(np.eye(2), np.eye(2), regularization=(1.0, 3.0))]
        [0.25, 0.125]

    Source: Rasmussen & Williams 2006, algorithm 2.1; Díaz, Epperly, Frangella, Tropp & Webber 2023.
    """
    operator = operator_of(kernel)
    diagonal = diagonal_of(operator)
    targets = vectors(targets, len(diagonal), "targets")
    several = np.ndim(regularization) > 0
    regularizations = tuple(map(float, np.atleast_1d(regularization)))
    _check_options(regularizations, method, tolerance, limit)
    problem = _Problem(operator, targets, regularizations, float(diagonal.mean()), tolerance)
    memory = int(_SHARE * available_memory()) if memory is None else memory
    chosen, why = _choice(method, problem, memory)
    if chosen == "cholesky":
        fits = _exact(problem, why)
    else:
        approximation = _approximation(operator, rank, preconditioner, memory, seed)
        fits = _iterative(problem, approximation, why, limit, start, callback)
    return fits if several else fits[0]


@dataclasses.dataclass(frozen=True, eq=False)
class _Problem:
    """(K + r·k̄·I) X = centred targets, for every r. Solved with every column scaled to norm 1."""

    operator: KernelOperator
    targets: np.ndarray
    regularizations: tuple[float, ...]
    scale: float
    tolerance: float

    @property
    def mean(self) -> np.ndarray:
        return self.targets.mean(axis=0)

    @property
    def shifts(self) -> list[float]:
        return [r * self.scale for r in self.regularizations]

    @property
    def norms(self) -> np.ndarray:
        norms = np.linalg.norm(self.targets - self.mean, axis=0)
        # A constant target is its own mean: what centring leaves of it is rounding.
        rounding = np.finfo(np.float64).eps * np.linalg.norm(self.targets, axis=0)
        return np.where(norms > 4 * rounding, norms, np.inf)

    @property
    def right(self) -> np.ndarray:
        return (self.targets - self.mean) / self.norms

    def dual(self, solution: np.ndarray) -> np.ndarray:
        return solution * np.where(np.isinf(self.norms), 0.0, self.norms)

    def solved(self, solutions: Sequence[np.ndarray], residuals: Sequence[np.ndarray], **rest: Any) -> tuple:
        return tuple(
            self._one(r, x, np.linalg.norm(left, axis=0), rest)
            for r, x, left in zip(self.regularizations, solutions, residuals)
        )

    def _one(self, r: float, solution: np.ndarray, residuals: np.ndarray, rest: dict[str, Any]) -> Ridge:
        converged = bool((residuals <= self.tolerance).all())
        if not converged:
            warnings.warn(
                f"{rest['method']} at regularization {r:g}: the largest residual is {residuals.max():.2e} after "
                f"{rest['products']} passes over the kernel, not {self.tolerance:.0e} or less.",
                NotConverged,
                stacklevel=6,
            )
        return Ridge(self.dual(solution), self.mean, r, residuals, converged, **rest)


def _check_options(regularizations: tuple[float, ...], method: str, tolerance: float, limit: int) -> None:
    if not regularizations or not all(0 < r < np.inf for r in regularizations):
        raise ValueError(f"regularization must be positive, got {', '.join(map(str, regularizations)) or 'none'}.")
    if method not in ("auto", "cholesky", "cg"):
        raise ValueError(f"method must be 'auto', 'cholesky' or 'cg', got {method!r}.")
    if not tolerance > 0:
        raise ValueError(f"tolerance must be positive, got {tolerance}.")
    if limit < 2:
        raise ValueError(f"limit must be at least 2 passes, one of which checks the residuals; got {limit}.")


def _choice(method: str, problem: _Problem, memory: int) -> tuple[str, str]:
    n, k = problem.targets.shape
    needed = cholesky.needed_memory(n, k * len(problem.regularizations))
    why = f"Cholesky needs {needed / 2**30:.3g} GiB, {memory / 2**30:.3g} GiB may be used"
    if method == "cholesky" and needed > memory:
        raise ValueError(f"method 'cholesky' does not fit into memory: {why}. Conjugate gradients ('cg') need less.")
    if method != "auto":
        return method, f"asked for; {why}"
    return ("cholesky" if needed <= memory else "cg"), why


def _approximation(
    operator: KernelOperator, rank: int | None, given: LowRank | None, memory: int, seed: int
) -> LowRank | None:
    n = operator.shape[0]
    if given is not None:
        if rank is not None:
            raise ValueError("give rank or preconditioner, not both.")
        if given.factor.shape[0] != n:
            raise ValueError(f"the preconditioner must be of {n} samples, got {given.factor.shape[0]}.")
        return given
    if rank is None:
        rank = min(n, round(10 * np.sqrt(n)), memory // (4 * 8 * n))
    if rank < 0:
        raise ValueError(f"rank must not be negative, got {rank}.")
    try:
        return pivoted_cholesky(operator, rank, seed=seed) if rank else None
    except ValueError:
        Passes(operator)(np.empty((n, 0)))  # if it is not even symmetric, that is the error to report
        raise


def _exact(problem: _Problem, why: str) -> tuple[Ridge, ...]:
    try:
        solutions, residuals, count = cholesky.solve(problem.operator, problem.shifts, problem.right, problem.tolerance)
    except cholesky.Indefinite as error:
        raise NotPositiveDefinite(problem.regularizations[error.shift]) from error
    return problem.solved(solutions, residuals, method="cholesky", why=why, products=count, rank=0)


def _iterative(
    problem: _Problem,
    approximation: LowRank | None,
    why: str,
    limit: int,
    start: Any,
    callback: Callable[[Iterate], None] | None,
) -> tuple[Ridge, ...]:
    passes = Passes(problem.operator)
    prepared = _prepared(approximation, problem.shifts)
    systems = conjugate_gradients.Systems(passes, problem.shifts, prepared, problem.right)

    def iterate(progress: conjugate_gradients.Progress) -> Iterate:
        duals = tuple(problem.dual(x) for x in progress.solutions(systems.preconditioners))
        residuals = tuple(np.linalg.norm(left, axis=0) for left in progress.residuals)
        return Iterate(passes.count, problem.regularizations, duals, residuals, progress)

    on_step = (lambda progress: None) if callback is None else (lambda progress: callback(iterate(progress)))
    try:
        found = conjugate_gradients.solve(systems, _started(systems, problem, start), problem.tolerance, limit, on_step)
    except conjugate_gradients.Breakdown as error:
        raise NotPositiveDefinite(problem.regularizations[error.system], iterate(error.progress)) from error
    rank = 0 if approximation is None else approximation.factor.shape[1]
    return problem.solved(found.bases, found.residuals, method="cg", why=why, products=passes.count, rank=rank)


def _prepared(approximation: LowRank | None, shifts: list[float]) -> list[Preconditioner]:
    if approximation is None:
        return preconditioners(None, shifts)
    n, rank = approximation.factor.shape
    rest = approximation.residual / max(n - rank, 1)
    return preconditioners(approximation.factor, [shift + rest for shift in shifts])


def _started(systems: conjugate_gradients.Systems, problem: _Problem, start: Any) -> conjugate_gradients.Progress:
    if start is None:
        return systems.zero()
    if not isinstance(start, Iterate):
        dual = vectors(start, len(problem.targets), "start")
        if dual.shape != problem.targets.shape:
            raise ValueError(f"start must be {list(problem.targets.shape)}, got {list(dual.shape)}.")
        return systems.checked([dual / problem.norms] * len(problem.shifts))
    if start.regularizations != problem.regularizations or start.duals[0].shape != problem.targets.shape:
        raise ValueError(
            f"start is of regularizations {start.regularizations} and targets {list(start.duals[0].shape)}, not of "
            f"{problem.regularizations} and {list(problem.targets.shape)}."
        )
    return start.progress
