"""A plan as the compiled loop takes it: lists of integers that say what is where in memory, and when.

Rows of position pairs [p'] are laid out with some columns to spare, so that a window that looks over the edge
of a row reads them and a shift of the whole grid is one number. Kernels of nodes take over each other's memory.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from npk.path_kernels.engines.pairs.plan import Axis, Filter, Grid, PairPlan, Pool, Step
from npk.path_kernels.engines.pairs.writing import LANES, Code, Writer, integers

# The kinds of steps and of events.
PRODUCT, FILTER, POOL = range(3)
EMIT, COMPUTE = range(2)

STEP = integers(
    "kind factors n_factors out out_length out_pitch out_height out_width add",
    "in_length in_pitch in_height in_width row_stride column_stride direct",
    "vertical n_vertical horizontal n_horizontal wrap_rows wrap_columns",
    "top bottom left right m m_length n_m front t t_length t_slot n_t",
    "spare_k spare_o spare_d table table_width places",
)


def _up(size: int) -> int:
    return -(-size // LANES) * LANES


@dataclasses.dataclass(frozen=True)
class Layout:
    """Of a grid: the distance between its rows, and the length of all of them, in numbers."""

    grid: Grid
    pitch: int

    @property
    def length(self) -> int:
        return _up(self.grid[0] * self.pitch)

    @property
    def positions(self) -> int:
        return self.grid[0] * self.grid[1]

    @property
    def source(self) -> np.ndarray:
        """The position that each place of a row holds, -1 for none."""
        found = np.full(self.length, -1)
        found[self.places] = np.arange(self.positions)
        return found

    @property
    def places(self) -> np.ndarray:
        """Where each position is in a row of pairs."""
        return (np.arange(self.grid[0])[:, None] * self.pitch + np.arange(self.grid[1])).reshape(-1)


def layouts(plan: PairPlan) -> dict[Grid, Layout]:
    """A layout for every grid, with room for the windows of all steps that read it."""
    spare = dict.fromkeys((*plan.grids, *(s.grid for s in plan.slots)), 0)
    for step in plan.steps:
        if isinstance(step, Filter):
            axis = step.axes[1]
            need = axis.before + axis.after if axis.wrap else max(axis.before, axis.after)
            wide = (axis.count - 1) * axis.stride + 1 - axis.size
            spare[step.grid] = max(spare[step.grid], need, wide)
    return {grid: Layout(grid, grid[1] + extra) for grid, extra in spare.items()}


def code(plan: PairPlan, kinds: Sequence[tuple[int, int]], scales: Sequence[float]) -> Code:
    """Lay a plan out.

    Args:
        plan: the plan.
        kinds: for each slot its kind and how many words or channels a position has.
        scales: for each slot what its overlaps are multiplied by.

    Returns:
        The program.
    """
    writer = _Writer(plan, kinds, scales)
    for number in range(len(plan.steps)):
        writer.step(number)
    return writer.code(writer.places[plan.steps[-1].out], "loops")


class _Writer(Writer):
    def __init__(self, plan: PairPlan, kinds: Sequence[tuple[int, int]], scales: Sequence[float]):
        self.plan, self.layouts = plan, layouts(plan)
        factors = [factor for step in plan.steps for factor in step.factors]
        super().__init__(kinds, scales, factors, _longest(plan, self.layouts))
        self.places, self.memory = _memory(plan, self.layouts, self.memory)
        self.scratch = self.memory

    def step(self, number: int) -> None:
        step = self.plan.steps[number]
        source, target = self.layouts[step.grid], self.layouts[self.plan.grids[step.out]]
        fields: dict[str, int] = dict(
            add=int(step.add), out=self.places[step.out], out_length=target.length, out_pitch=target.pitch,
            out_height=target.grid[0], out_width=target.grid[1],
            in_length=source.length, in_pitch=source.pitch, in_height=source.grid[0], in_width=source.grid[1],
        )  # fmt: skip
        at = self.scratch
        reach = _reach(step, source, target)
        for name in ("spare_k", "spare_o", "spare_d"):
            fields[name] = at
            at += reach
        if isinstance(step, Pool):
            fields.update(kind=POOL, **self.pooled(step, source))
        elif all(axis.plain for axis in step.axes):
            fields.update(kind=PRODUCT)
        else:
            filtered, at = self.filtered(step, source, target, at)
            fields.update(kind=FILTER, **filtered)
        self.memory = max(self.memory, at)
        self.add(STEP, fields, step.factors, self.places, source)

    def pooled(self, step: Pool, layout: Layout) -> dict[str, int]:
        places = np.where(step.table >= 0, layout.places[np.maximum(step.table, 0)], -1)
        return {
            "table": self.list_of(step.table.reshape(-1).tolist()),
            "places": self.list_of(places.reshape(-1).tolist()),
            "table_width": step.table.shape[1],
        }

    def filtered(self, step: Filter, source: Layout, target: Layout, at: int) -> tuple[dict[str, int], int]:
        rows, columns = step.axes
        shifts = columns.shifts
        front, back = _up(max(0, -min(shifts))), _up(max(0, *shifts, columns.after)) + LANES
        m_length = front + source.length + back
        t_length = _up((rows.before + rows.size + rows.after) * source.pitch) + 2 * LANES
        t_slot = t_length * columns.count
        m = at
        horizontal, n_m = _schedule(columns)
        t = m + n_m * m_length
        vertical, n_t = _schedule(rows)
        above = rows.before * source.pitch
        fields = {
            "row_stride": rows.stride, "column_stride": columns.stride,
            "direct": int(rows.stride == columns.stride == 1 and source.pitch == target.pitch),
            "horizontal": self.events(horizontal, m + front, m_length, shifts, 1), "n_horizontal": len(horizontal),
            "vertical": self.events(vertical, t, t_slot, rows.shifts, source.pitch, above), "n_vertical": len(vertical),
            "wrap_rows": int(rows.wrap and rows.before + rows.after > 0),
            "wrap_columns": int(columns.wrap and columns.before + columns.after > 0),
            "top": rows.before, "bottom": rows.after, "left": columns.before, "right": columns.after,
            "m": m, "m_length": m_length, "n_m": n_m, "front": front,
            "t": t, "t_length": t_length, "t_slot": t_slot, "n_t": n_t,
        }  # fmt: skip
        return fields, t + n_t * t_slot

    def events(self, events: Any, base: int, length: int, shifts: Sequence[int], unit: int, offset: int = 0) -> int:
        """Write a schedule: [COMPUTE, row, place] or [EMIT, output, taps, a place for each tap]."""
        values: list[int] = []
        for kind, index, slot, taps in events:
            if kind == COMPUTE:
                values += [kind, index, base + slot * length]
            else:
                places = [base + s * length + offset + shifts[tap] * unit for tap, s in taps]
                values += [kind, index, len(places), *places]
        return self.list_of(values)


def _reach(step: Step, source: Layout, target: Layout) -> int:
    """The length of a row of pairs while a step works on it."""
    stride = step.axes[0].stride if isinstance(step, Filter) else 1
    return max(source.length, _up(((target.grid[0] - 1) * stride + 1) * source.pitch))


def _longest(plan: PairPlan, known: dict[Grid, Layout]) -> int:
    return max(_reach(step, known[step.grid], known[plan.grids[step.out]]) for step in plan.steps)


def _schedule(axis: Axis) -> tuple[list[tuple[int, int, int, list[tuple[int, int]]]], int]:
    """When to compute which row into which slot and when to emit which output: (kind, index, slot, taps), slots.

    Rows are computed where they are first read, and their slots are taken over when they were last read.
    """
    reads = []
    for places in axis.reads:
        kept = [(tap, p % axis.size if axis.wrap else p) for tap, p in enumerate(places)]
        reads.append([(tap, p) for tap, p in kept if 0 <= p < axis.size])
    last = {p: o for o, taps in enumerate(reads) for _, p in taps}
    slots: dict[int, int] = {}
    free: list[int] = []
    events, count = [], 0
    for o, taps in enumerate(reads):
        for p in sorted({p for _, p in taps} - set(slots)):
            if not free:
                free, count = [count], count + 1
            slots[p] = free.pop()
            events.append((COMPUTE, p, slots[p], []))
        events.append((EMIT, o, 0, [(tap, slots[p]) for tap, p in taps]))
        free += [slots.pop(p) for p in list(slots) if last[p] == o]
    return events, max(count, 1)


# ------------------------------------------------------------------------------------------- memory


def _memory(plan: PairPlan, known: dict[Grid, Layout], end: int) -> tuple[dict[int, int], int]:
    """Where each node's kernel is, from place `end` on; a node that is not read again leaves its place to others."""
    last = {step.out: n for n, step in enumerate(plan.steps)}
    last.update({node: n for n, step in enumerate(plan.steps) for f in step.factors for node in f.nodes})
    last[plan.steps[-1].out] = len(plan.steps)
    places: dict[int, int] = {}
    free: list[tuple[int, int]] = []  # (size, place)
    for n, step in enumerate(plan.steps):
        dying = [node for node in _read(step) if last[node] == n]
        if step.out not in places:
            layout = known[plan.grids[step.out]]
            size = layout.positions * layout.length + LANES
            heir = next((d for d in dying if _in_place(step, plan.grids[d], layout, known)), None)
            if heir is not None:
                places[step.out] = places[heir]
                dying.remove(heir)
            else:
                fitting = sorted(f for f in free if f[0] >= size)
                if fitting:
                    free.remove(fitting[0])
                    places[step.out] = fitting[0][1]
                else:
                    places[step.out], end = end, end + size
        for node in dying:
            layout = known[plan.grids[node]]
            free.append((layout.positions * layout.length + LANES, places[node]))
    return places, end


def _read(step: Step) -> list[int]:
    return list(dict.fromkeys(node for factor in step.factors for node in factor.nodes))


def _in_place(step: Step, grid: Grid, layout: Layout, known: dict[Grid, Layout]) -> bool:
    """Whether a filter may write where it reads: each row is written after it was read for the last time."""
    if not isinstance(step, Filter) or grid != layout.grid or step.grid != layout.grid:
        return False
    if any(axis.stride != 1 for axis in step.axes):
        return False
    computed: set[int] = set()
    for kind, index, _, _ in _schedule(step.axes[0])[0]:
        if kind == COMPUTE:
            computed.add(index)
        elif index not in computed:
            return False
    return True
