"""Plans of one grid as the loop over displacements takes them (`ring_loops`), and how such a plan is told."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from npk.path_kernels.engines.pairs.plan import Factor, Filter, Grid, PairPlan, Pool
from npk.path_kernels.engines.pairs.writing import LANES, WORDS, Code, Writer, integers, record

# A step's integers: its factors, where its node is (-1: the last sum), the shifts of its window's rows and
# columns and whether they go around, where the masks of the columns are.
STEP = integers(
    "factors n_factors out rows n_rows wrap_rows columns n_columns wrap_columns left right masks centre",
)
# Integers of the whole program: the grid, the length of a row of a table, places in memory.
SHAPE = integers("height width rounded table_row spare_k spare_o m t sum places")


@dataclasses.dataclass(frozen=True)
class RingLayout:
    """A grid whose rows are as long as a row of displacements from every column, around the ring."""

    grid: Grid

    @property
    def rounded(self) -> int:
        return -(-self.grid[1] // LANES) * LANES

    @property
    def row(self) -> int:
        return self.grid[1] + self.rounded

    @property
    def length(self) -> int:
        return self.grid[0] * self.row

    @property
    def positions(self) -> int:
        return self.grid[0] * self.grid[1]

    @property
    def source(self) -> np.ndarray:
        """The position that each place of a row holds."""
        columns = np.arange(self.row) % self.grid[1]
        return (np.arange(self.grid[0])[:, None] * self.grid[1] + columns).reshape(-1)


@dataclasses.dataclass(frozen=True, eq=False)
class Ring:
    """A plan in three parts: convolutions on one grid, the sum over all positions, then layers of one position."""

    grid: Grid
    filters: tuple[Filter, ...]
    last: Pool
    tail: tuple[Factor, ...]


def ring(plan: PairPlan) -> Ring | None:
    """The parts of a plan, or None where it is not of this form."""
    pools = [n for n, step in enumerate(plan.steps) if isinstance(step, Pool)]
    if len(pools) != 1:
        return None
    (n,) = pools
    before, last, after = plan.steps[:n], plan.steps[n], plan.steps[n + 1 :]
    assert isinstance(last, Pool)
    if last.add or np.sort(last.table.reshape(-1)).tolist() != list(range(last.grid[0] * last.grid[1])):
        return None
    if len(last.table) != 1 or not all(isinstance(s, Filter) and _around(s, last.grid) for s in before):
        return None
    tail, node = [], last.out
    for step in after:
        if not isinstance(step, Filter) or step.grid != (1, 1) or step.add or not all(a.plain for a in step.axes):
            return None
        if len(step.factors) != 1 or step.factors[0].nodes != (node,):
            return None
        tail.append(step.factors[0])
        node = step.out
    filters = tuple(step for step in before if isinstance(step, Filter))
    return Ring(last.grid, filters, last, tuple(tail))


def _around(step: Filter, grid: Grid) -> bool:
    """Whether a filter goes from the grid to itself with stride one."""
    same = all(axis.stride == 1 and axis.count == axis.size for axis in step.axes)
    near = all(abs(shift) < axis.size or axis.size == 1 for axis in step.axes for shift in axis.shifts)
    return step.grid == grid and same and near and not step.add


def code(parts: Ring, kinds: Sequence[tuple[int, int]], scales: Sequence[float]) -> Code:
    """Lay a plan out.

    Args:
        parts: the plan in parts.
        kinds: for each slot its kind and how many words or channels a position has.
        scales: for each slot what its overlaps are multiplied by.

    Returns:
        The program.
    """
    writer = _Writer(parts, kinds, scales)
    for step in parts.filters:
        writer.filtered(step)
    writer.step(parts.last.factors, {"out": -1})
    return writer.finished()


class _Writer(Writer):
    def __init__(self, parts: Ring, kinds: Sequence[tuple[int, int]], scales: Sequence[float]):
        self.parts, self.layout = parts, RingLayout(parts.grid)
        used = (*(f for s in parts.filters for f in s.factors), *parts.last.factors)
        super().__init__(kinds, scales, used, parts.grid[1] * LANES)
        self.fills: list[tuple[int, np.ndarray]] = []
        shifts = [abs(shift) for step in parts.filters for shift in step.axes[1].shifts]
        halo = max(shifts, default=0) * LANES
        self.spare = {name: self.reserve(self.row) for name in ("spare_k", "spare_o", "sum")}
        self.spare["m"] = self.reserve(self.row + 2 * halo) + halo
        self.spare["t"] = self.reserve(self.row * parts.grid[0])
        self.nodes = self.placed()

    def reserve(self, size: int) -> int:
        self.memory += size
        return self.memory - size

    def placed(self) -> dict[int, int]:
        """Where each node is; a layer may write over what it has read."""
        size, free = self.row * self.parts.grid[0], []
        places: dict[int, int] = {}
        steps = (*self.parts.filters, self.parts.last)
        last = {node: n for n, step in enumerate(steps) for f in step.factors for node in f.nodes}
        for n, step in enumerate(self.parts.filters):
            free += [places[node] for node, when in last.items() if when == n and node in places]
            places[step.out] = free.pop() if free else self.reserve(size)
        return places

    def step(self, factors: Sequence[Factor], fields: dict[str, int]) -> None:
        self.add(STEP, fields, factors, self.nodes, self.layout)

    def filtered(self, step: Filter) -> None:
        rows, columns = step.axes
        wrap = columns.wrap
        taps = [shift for shift in columns.shifts if wrap or shift != 0]
        self.step(
            step.factors,
            {
                "out": self.nodes[step.out],
                "rows": self.list_of(rows.shifts),
                "n_rows": rows.taps,
                "wrap_rows": int(rows.wrap),
                "columns": self.list_of([self.spare["m"] + shift * LANES for shift in taps]),
                "n_columns": len(taps),
                "wrap_columns": int(wrap),
                "left": max(0, -min(columns.shifts)),
                "right": max(0, *columns.shifts, 0),
                "masks": 0 if wrap else self.masks(taps),
                "centre": int(len(taps) < columns.taps),
            },
        )

    def masks(self, taps: Sequence[int]) -> int:
        """For each tap [displacement / lanes, column, lane]: 1 where it stays on the grid on both sides."""
        width, rounded = self.layout.grid[1], self.layout.rounded
        w, d = np.arange(width)[:, None], np.arange(rounded)
        other = (w + d) % width
        masks = [(0 <= w + s) & (w + s < width) & (0 <= other + s) & (other + s < width) for s in taps]
        laid = [m.reshape(width, rounded // LANES, LANES).transpose(1, 0, 2).reshape(-1) for m in masks]
        values = np.concatenate([*laid, np.zeros(0)])
        place = self.reserve(len(values))
        self.fills.append((place, values))
        return place

    def finished(self) -> Code:
        places = self.list_of([0] * max([1, *(step.axes[0].taps for step in self.parts.filters)]))
        shape = {
            "height": self.parts.grid[0], "width": self.parts.grid[1], "rounded": self.layout.rounded,
            "table_row": self.layout.row, "places": places, **self.spare,
        }  # fmt: skip
        return self.code(record(SHAPE, shape)[()], "ring_loops", self.fills)


def tail_layers(parts: Ring, scales: Sequence[float]) -> list[tuple[int | None, float, float]]:
    """Of the layers of one position: slot, what multiplies its overlap, what is added before."""
    return [(f.slot, f.scale * (1.0 if f.slot is None else scales[f.slot]), f.constant) for f in parts.tail]


def packed_tail(parts: Ring, kinds: Sequence[Any]) -> bool:
    """Whether all factors of the tail are bit words."""
    return all(f.slot is None or kinds[f.slot] == WORDS for f in parts.tail)
