"""Preconditioned conjugate gradients for several regularised systems (K + λI) X = B of one kernel, side by side.

A pass over K serves all systems and all columns of B. K right-hand sides with a matrix that is expensive to multiply
with are solved in the sum of their Krylov spaces: the best approximation in K times as many directions as a single one
has after as many products. The recursion keeps the residuals as an orthonormal basis times small coefficients, which
stays stable where residuals become dependent.

Source: O'Leary 1980; Dubrulle 2001, algorithm BCGrQ.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import scipy.linalg

from npk.solving.checks import Passes

OnStep = Callable[["Progress"], None]


@dataclasses.dataclass(frozen=True, eq=False)
class Preconditioner:
    """S = (I + F Fᵀ/μ)^(-1/2) = I + F · down · Fᵀ, and its inverse I + F · up · Fᵀ; without a factor, I.

    It makes K + λI nearly a multiple of the identity, F Fᵀ being a low-rank approximation of K. μ is λ plus the mean
    eigenvalue of what F Fᵀ leaves of K. With μ = λ, and a kernel that decays slowly, the small eigenvalues that the
    preconditioner does not know would become the largest, and passes more instead of fewer.
    """

    factor: np.ndarray | None = None
    down: np.ndarray | None = None
    up: np.ndarray | None = None

    def apply(self, v: np.ndarray) -> np.ndarray:
        """S v."""
        return v if self.factor is None else v + self.factor @ (self.down @ (self.factor.T @ v))

    def invert(self, v: np.ndarray) -> np.ndarray:
        """S⁻¹ v."""
        return v if self.factor is None else v + self.factor @ (self.up @ (self.factor.T @ v))


def preconditioners(factor: np.ndarray | None, shifts: Sequence[float]) -> list[Preconditioner]:
    """One for each μ; they share F and one eigendecomposition of FᵀF [r, r] (Woodbury's identity)."""
    if factor is None or factor.shape[1] == 0:
        return [Preconditioner() for _ in shifts]
    values, vectors = np.linalg.eigh(factor.T @ factor)
    values = np.maximum(values, np.finfo(np.float64).eps * values[-1])
    found = []
    for shift in shifts:
        half = 0.5 * np.log1p(values / shift)
        down, up = ((vectors * (np.expm1(power) / values)) @ vectors.T for power in (-half, half))
        found.append(Preconditioner(factor, down, up))
    return found


class _Indefinite(ArithmeticError):
    """A direction p with pᵀAp ≤ 0: the matrix is not positive definite."""


@dataclasses.dataclass(frozen=True, eq=False)
class State:
    """After some steps: the solution, directions P, and residuals B - A X = basis · coefficients."""

    solution: np.ndarray
    directions: np.ndarray
    basis: np.ndarray
    coefficients: np.ndarray


def _begun(right: np.ndarray) -> State:
    """Before the first step, for A X = right [N, K]; X = 0."""
    basis, sizes, rotation = np.linalg.svd(right, full_matrices=False)
    # Targets that sum to zero are dependent, and more targets than samples are.
    kept = sizes > 4 * np.finfo(np.float64).eps * sizes.max(initial=0.0)
    basis = np.ascontiguousarray(basis[:, kept])
    return State(np.zeros_like(right), basis, basis, sizes[kept, None] * rotation[kept])


def _advanced(state: State, product: np.ndarray) -> State:
    """One step, given product = A · state.directions."""
    p = state.directions
    gram = p.T @ product
    try:
        factor = scipy.linalg.cho_factor((gram + gram.T) / 2)
    except scipy.linalg.LinAlgError as error:
        raise _Indefinite from error
    solution = state.solution + p @ scipy.linalg.cho_solve(factor, state.coefficients)
    steps = scipy.linalg.cho_solve(factor, np.eye(len(gram)))
    basis, shrink = np.linalg.qr(state.basis - product @ steps)
    return State(solution, basis + p @ shrink.T, basis, shrink @ state.coefficients)


@dataclasses.dataclass(frozen=True, eq=False)
class Progress:
    """Where every system is: solutions at the last true residual, and the block recursion since (None where done)."""

    bases: tuple[np.ndarray, ...]
    states: tuple[State | None, ...]
    residuals: tuple[np.ndarray, ...]

    def arrays(self) -> dict[str, np.ndarray]:
        """All of it by name, without what there is not."""
        found = {f"base.{number}": base for number, base in enumerate(self.bases)}
        found |= {f"left.{number}": left for number, left in enumerate(self.residuals)}
        for number, state in enumerate(self.states):
            found |= {} if state is None else {f"state.{number}.{k}": v for k, v in vars(state).items()}
        return found

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, np.ndarray], systems: int) -> "Progress":
        """What `arrays` made, of so many systems; KeyError where something lacks."""
        fields = [field.name for field in dataclasses.fields(State)]
        states = [
            State(*(arrays[f"state.{n}.{name}"] for name in fields)) if f"state.{n}.{fields[0]}" in arrays else None
            for n in range(systems)
        ]
        bases, residuals = (tuple(arrays[f"{name}.{n}"] for n in range(systems)) for name in ("base", "left"))
        return cls(bases, tuple(states), residuals)

    def solutions(self, preconditioners: Sequence[Preconditioner]) -> tuple[np.ndarray, ...]:
        """X of every system."""
        return tuple(
            base if state is None else base + p.apply(state.solution)
            for base, state, p in zip(self.bases, self.states, preconditioners)
        )


class Breakdown(ArithmeticError):
    """A system is not positive definite; `progress` is where it was found."""

    def __init__(self, system: int, progress: Progress):
        super().__init__(system, progress)
        self.system, self.progress = system, progress


@dataclasses.dataclass(frozen=True, eq=False)
class Systems:
    """(K + λI) X = right, for every λ in shifts; columns of `right` [N, K] have norm 1, or are zero."""

    multiply: Passes
    shifts: Sequence[float]
    preconditioners: Sequence[Preconditioner]
    right: np.ndarray

    def products(self, vectors: dict[int, np.ndarray]) -> dict[int, np.ndarray]:
        """(K + λI) v of some systems in one pass."""
        ends = np.cumsum([v.shape[1] for v in vectors.values()])[:-1]
        parts = np.split(self.multiply(np.hstack(list(vectors.values()))), ends, axis=1)
        return {i: part + self.shifts[i] * v for (i, v), part in zip(vectors.items(), parts)}

    def checked(self, solutions: Sequence[np.ndarray]) -> Progress:
        """The true residuals of solutions."""
        found = self.products(dict(enumerate(solutions)))
        residuals = tuple(self.right - found[i] for i in range(len(solutions)))
        return Progress(tuple(solutions), (None,) * len(solutions), residuals)

    def zero(self) -> Progress:
        """Before anything is known; its residuals cost nothing."""
        zeros = tuple(np.zeros_like(self.right) for _ in self.shifts)
        return Progress(zeros, (None,) * len(zeros), (self.right,) * len(zeros))

    def begun(self, progress: Progress, tolerance: float) -> Progress:
        """A recursion for every system whose residual is above the tolerance."""
        states = tuple(
            _begun(p.apply(residual)) if worst(residual) > tolerance else None
            for p, residual in zip(self.preconditioners, progress.residuals)
        )
        return dataclasses.replace(progress, states=states)

    def stepped(self, progress: Progress, tolerance: float) -> Progress:
        """One step of every system whose recursion is above the tolerance; one pass."""
        going = {i: s for i, s in enumerate(progress.states) if s and worst(progress.residuals[i]) > tolerance}
        images = self.products({i: self.preconditioners[i].apply(s.directions) for i, s in going.items()})
        states, residuals = list(progress.states), list(progress.residuals)
        for i, state in going.items():
            p = self.preconditioners[i]
            try:
                states[i] = new = _advanced(state, p.apply(images[i]))
            except _Indefinite as error:
                raise Breakdown(i, progress) from error
            residuals[i] = p.invert(new.basis) @ new.coefficients
        return dataclasses.replace(progress, states=tuple(states), residuals=tuple(residuals))


def worst(residual: np.ndarray) -> float:
    """The largest residual of an output."""
    return float(np.linalg.norm(residual, axis=0).max(initial=0.0))


def solve(systems: Systems, start: Progress, tolerance: float, limit: int, on_step: OnStep) -> Progress:
    """Solve all systems; the residuals of the result are true ones, computed from K once more.

    Where they are above the tolerance though the recursion was not (rounding), the recursion begins anew on them, until
    that no longer halves the worst.

    Args:
        systems: with their right-hand sides.
        start: from `Systems.zero`, `Systems.checked`, or what `on_step` was given in an earlier run.
        tolerance: for every output's residual.
        limit: the most passes over the kernel in all.
        on_step: called after every step.

    Returns:
        The solutions, as `bases`, and their residuals.
    """
    progress = start
    before = np.inf
    while True:
        if all(state is None for state in progress.states):
            now = max(map(worst, progress.residuals))
            if now <= tolerance or now > before / 2 or systems.multiply.count + 2 > limit:
                return progress
            before, progress = now, systems.begun(progress, tolerance)
        while max(map(worst, progress.residuals)) > tolerance and systems.multiply.count + 1 < limit:
            progress = systems.stepped(progress, tolerance)
            on_step(progress)
        progress = systems.checked(progress.solutions(systems.preconditioners))
