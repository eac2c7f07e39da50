"""What the pair engine computes: nodes of position pairs, and the steps from one to the next.

A node is the second moment K[p, p'] of a base at all pairs of positions of its grid. A step multiplies nodes
by overlaps of known factors, Σ_c g[p, c] g'[p', c], and then sums over windows (`Filter`) or over groups of
positions (`Pool`). Grids are two-dimensional; (1, n) and (1, 1) are the smaller ones.
"""

import dataclasses

import numpy as np

Grid = tuple[int, int]


@dataclasses.dataclass(frozen=True, eq=False)
class Slot:
    """A known factor g[q, c] of every sample: row `where[q]` of the factor of term `term` (-1: zero)."""

    term: int
    where: np.ndarray
    grid: Grid
    channels: int


@dataclasses.dataclass(frozen=True)
class Factor:
    """(Σ nodes + constant) · scale · the overlap of a slot (one, where that is None)."""

    slot: int | None
    nodes: tuple[int, ...]
    constant: float
    scale: float


@dataclasses.dataclass(frozen=True)
class Axis:
    """Output o reads o·stride + tap·dilation - offset, zero or from the other end where that is outside."""

    size: int
    count: int
    taps: int = 1
    stride: int = 1
    dilation: int = 1
    offset: int = 0
    wrap: bool = False

    @property
    def shifts(self) -> list[int]:
        """Of the taps, at output 0."""
        return [tap * self.dilation - self.offset for tap in range(self.taps)]

    @property
    def reads(self) -> list[list[int]]:
        """[output][tap] → the place read, before it is wrapped or found to be outside."""
        return [[o * self.stride + shift for shift in self.shifts] for o in range(self.count)]

    @property
    def before(self) -> int:
        """How far places lie before the first."""
        return max(0, -min(map(min, self.reads)))

    @property
    def after(self) -> int:
        """How far places lie after the last."""
        return max(0, max(map(max, self.reads)) - self.size + 1)

    @property
    def plain(self) -> bool:
        """Whether output o reads place o alone."""
        return self == Axis(self.size, self.size)


@dataclasses.dataclass(frozen=True)
class Filter:
    """out[o, o'] (+)= Σ over the window's offsets of the factors' product at equal offsets from o and o'."""

    out: int
    grid: Grid
    factors: tuple[Factor, ...]
    axes: tuple[Axis, Axis]
    add: bool


@dataclasses.dataclass(frozen=True, eq=False)
class Pool:
    """out[i, i'] (+)= Σ_{s, s'} product[table[i, s], table[i', s']]; -1 is no position."""

    out: int
    grid: Grid
    factors: tuple[Factor, ...]
    table: np.ndarray
    add: bool


Step = Filter | Pool


@dataclasses.dataclass(frozen=True, eq=False)
class PairPlan:
    """Steps in order; the kernel is the last node, of one position."""

    grids: tuple[Grid, ...]
    slots: tuple[Slot, ...]
    steps: tuple[Step, ...]

    @property
    def positions(self) -> list[int]:
        """The number of positions of what each step reads."""
        return [step.grid[0] * step.grid[1] for step in self.steps]


def fitted_axis(places: np.ndarray, size: int, stride: int, dilation: int) -> Axis | None:
    """The axis that reads `places` [output, tap] (-1: nothing) of `size`, or None. Strides are guesses."""
    count, taps = places.shape
    valid = places >= 0
    if not valid.any():
        return None
    o, tap = np.argwhere(valid)[0]
    for wrap in (False, True):
        for s in _steps(places, 0, size, stride):
            for d in _steps(places, 1, size, dilation):
                offset = int(o * s + tap * d - places[o, tap])
                if wrap:  # of the offsets that are the same around the ring, the nearest
                    offset = (offset + size // 2) % size - size // 2
                axis = Axis(size, count, taps, s, d, offset, wrap)
                reads = np.array(axis.reads)
                found = reads % size if wrap else np.where((reads >= 0) & (reads < size), reads, -1)
                if np.array_equal(found, places) and max(axis.before, axis.after) <= (size if wrap else np.inf):
                    return axis
    return None


def _steps(places: np.ndarray, along: int, size: int, guess: int) -> list[int]:
    """Distances between neighbours that are met, and the one expected."""
    if places.shape[along] == 1:
        return [1]
    before, after = (np.take(places, r, along) for r in (range(places.shape[along] - 1), range(1, places.shape[along])))
    met = {int(step) for step in ((after - before)[(before >= 0) & (after >= 0)] % size).tolist()}
    return sorted((met | {guess}) - {0})
