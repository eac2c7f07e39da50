"""Several regularised systems (K + λI) X = B of one kernel, solved side by side: a pass over K serves them all."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from npk.solving import block_cg
from npk.solving.block_cg import State
from npk.solving.passes import Passes
from npk.solving.preconditioner import Preconditioner

OnStep = Callable[["Progress"], None]


@dataclasses.dataclass(frozen=True, eq=False)
class Progress:
    """Where every system is: solutions at the last true residual, and the block recursion since (None where done)."""

    bases: tuple[np.ndarray, ...]
    states: tuple[State | None, ...]
    residuals: tuple[np.ndarray, ...]

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
            block_cg.begin(p.apply(residual)) if worst(residual) > tolerance else None
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
                states[i] = new = block_cg.advance(state, p.apply(images[i]))
            except block_cg.Indefinite as error:
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
