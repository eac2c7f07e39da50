"""Reads the plan of the pair engine off the terms of a network, or finds that it has none.

What a term's known factor is, as a function of the position of the base that it multiplies, is seen from which elements
of the gates it holds where (`labels`). So what is found holds for all values, and nothing has to be known of how the
network was written.
"""

import dataclasses
import hashlib
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from npk.path_kernels.engines import UNKNOWN, covering, require
from npk.path_kernels.engines.pairs.plan import Axis, Factor, Filter, Grid, PairPlan, Pool, Slot, Step, fitted_axis
from npk.paths import Base, Form, Layer, Numbers, Term, Window, bases_of, labels, over

_TRIVIAL = Window(1, 1, 1, 0, 0, 1)
_LARGEST = 1 << 26  # numbers of one factor; larger networks stay with the general path


def owners(state: Sequence[Term]) -> list[tuple[Layer | None, tuple[Term, ...]]]:
    """All layers below an output with the terms they read, inputs first; last None with the output's."""
    return [*((layer, layer.inputs) for layer in bases_of(state)), (None, tuple(state))]


def _places(owner: Layer | None, term: Term) -> tuple[list[int], list[int], list[int]]:
    """The dims of a term by what becomes of them: positions, summed, contracted."""
    rank, n_summed = len(term.sizes), len(term.summed)
    first, last = (owner.n_batch, owner.n_batch + owner.n_kept) if owner else (0, 0)
    return list(range(first, last)), list(range(rank - n_summed, rank)), list(range(last, rank - n_summed))


def _arranged(owner: Layer | None, term: Term, g: np.ndarray) -> np.ndarray:
    """Numbers of a term's known factor [n, *dims] as [n, positions · summed, contracted]."""
    positions, summed, contracted = _places(owner, term)
    g = np.broadcast_to(g, (g.shape[0], *term.sizes))
    first = len(contracted) + (owner.n_batch if owner else 0)
    order = [*positions, *summed, *range(owner.n_batch if owner else 0), *contracted]
    g = np.transpose(g, (0, *(1 + d for d in order)))
    rows = math.prod(term.sizes[d] for d in (*positions, *summed))
    return g.reshape(g.shape[0], rows, math.prod(g.shape[g.ndim - first :]))


def slot_values(form: Form, numbers: Numbers, slots: Sequence[Slot]) -> tuple[Any, ...]:
    """The known factors of a batch, whose numbers are NumPy's: for each slot [n, positions, channels]."""
    terms = [(owner, term) for owner, read in owners(form.state) for term in read]
    values = []
    for slot in slots:
        owner, term = terms[slot.term]
        g = np.take(_arranged(owner, term, numbers.of(term.g)), np.maximum(slot.where, 0), axis=1)
        g = g if owner else g[:, :, :1]
        g = g if (slot.where >= 0).all() else np.where(slot.where[:, None] >= 0, g, np.zeros((), g.dtype))
        values.append(np.broadcast_to(g, (len(numbers.x[0]), *g.shape[1:])))
    return tuple(values)


@covering
def covers(form: Form, normalize: bool) -> PairPlan:
    """The plan of a network, or why it has none."""
    require(len(form.program.x) == 1, "several inputs")
    (x,) = form.program.x
    largest = max(math.prod(shape) for shape in (x.shape, *form.gate_shapes))
    require(largest <= _LARGEST, f"a factor of more than {_LARGEST:,} numbers a sample")
    require(not form.traced, "f closes over numbers that are being traced")
    found = owners(form.state)
    for owner, terms in found:  # what structure alone tells takes no arrays
        if owner is not None:
            _windows(owner)
        for term in terms:
            _table(owner, term)
    return _Reader(normalize).read(found)


@dataclasses.dataclass(frozen=True, eq=False)
class _Known:
    """A known factor: the leaves that it is made of, and which elements of them it holds, [q, c · leaves].

    Elements count from 1, 0 is a factor of zero.
    """

    leaves: tuple[bytes, ...]
    elements: np.ndarray

    @property
    def channels(self) -> int:
        return self.elements.shape[1] // max(1, len(self.leaves))

    @property
    def digest(self) -> tuple[Any, ...]:
        return self.leaves, self.elements.shape, hashlib.blake2b(self.elements.tobytes(), digest_size=16).digest()

    def rows(self, where: np.ndarray) -> "_Known":
        """Some rows, zeros where `where` is -1."""
        return _Known(self.leaves, np.where(where[:, None] >= 0, self.elements[np.maximum(where, 0)], 0))


def _known(owner: Layer | None, term: Term) -> _Known:
    """The factor of a term at its positions; all units of the output must have the same."""
    leaves, found = labels(term.g)
    elements = _arranged(owner, term, found)
    if owner is None:
        alike = np.array_equal(elements, np.broadcast_to(elements[:, :, :1], elements.shape))
        require(alike, "outputs under different gates")  # the plain rules say that there is no one kernel
        elements = elements[:, :, :1]
    return _Known(leaves, np.moveaxis(elements, 0, 2).reshape(elements.shape[1], -1))


@dataclasses.dataclass(frozen=True, eq=False)
class _Reading:
    """A term as read: a node (None: the number one) on a grid, its factor [q, c] there, and who reads what.

    `table` [positions, summed] says which place q of the grid is read, -1 for none.
    """

    node: int | None
    grid: Grid
    known: _Known
    where: np.ndarray
    table: np.ndarray
    term: int


class _Reader:
    def __init__(self, normalize: bool):
        self.normalize = normalize
        self.nodes: dict[Base, int] = {}
        self.grids: list[Grid] = []
        self.slots: dict[Any, tuple[int, Slot]] = {}
        self.steps: list[Step] = []

    def read(self, found: Sequence[tuple[Layer | None, tuple[Term, ...]]]) -> PairPlan:
        first = 0
        for owner, terms in found:
            read = list(zip(range(first, first + len(terms)), terms))
            first += len(terms)
            if owner is None:
                self.lower(None, read, (1, 1), (Axis(1, 1), Axis(1, 1)), 1.0)
            else:
                windows, grid = _windows(owner)
                self.nodes[owner] = self.lower(owner, read, grid, windows, self.variance(owner))
        slots = tuple(slot for _, slot in self.slots.values())
        return PairPlan(tuple(self.grids), slots, tuple(self.steps))

    def variance(self, layer: Layer) -> float:
        if self.normalize:
            return 1 / layer.fan_in
        require(layer.number is not None, UNKNOWN)
        return float(layer.number or 0) ** 2

    def node(self, grid: Grid) -> int:
        self.grids.append(grid)
        return len(self.grids) - 1

    # -- one layer ---------------------------------------------------------------------------------

    def lower(self, owner: Layer | None, read: Any, grid: Grid, windows: Any, variance: float) -> int:
        """The steps from what a layer reads to its own node."""
        groups: dict[Any, list[_Reading]] = {}
        for reading in self.readings(owner, read, grid, windows):
            groups.setdefault((reading.grid, reading.table.shape, reading.table.tobytes()), []).append(reading)
        out = -1
        for group in groups.values():
            out = self.filtered(out, group[0], self.factors(group, variance), grid, windows)
        return out

    def readings(self, owner: Layer | None, read: Any, grid: Grid, windows: Any) -> list[_Reading]:
        """The terms of layers first: the others then take over their grids if they can."""
        found: list[_Reading] = []
        for place, term in sorted(read, key=lambda item: not isinstance(item[1].base, Layer)):
            table, known = _table(owner, term), _known(owner, term)
            if isinstance(term.base, Layer):
                found.append(self.of_layer(term, place, known, table, grid))
            else:
                tables = [(r.grid, r.table) for r in found] + _wrapped(grid, windows)
                found.append(self.of_root(term, place, known, grid, tables))
        return found

    def of_layer(self, term: Term, place: int, known: _Known, table: np.ndarray, grid: Grid) -> _Reading:
        node = self.nodes[term.base]
        base_grid = self.grids[node]
        read = _at_base(known, table, math.prod(base_grid))
        if read is not None:
            return _Reading(node, base_grid, *read, place)
        require(table.shape[1] == 1, "a sum over places whose factor is no function of the place")
        # A factor that is no function of the base's position: lay the base out first.
        laid = self.node(grid)
        self.steps.append(Pool(laid, base_grid, (Factor(None, (node,), 0.0, 1.0),), table, False))
        return _Reading(laid, grid, *_at_own(known), place)

    def of_root(
        self, term: Term, place: int, known: _Known, grid: Grid, tables: Sequence[tuple[Grid, np.ndarray]]
    ) -> _Reading:
        require(not term.summed, "a sum over places of the input or of a bias")
        for base_grid, table in tables:
            read = _at_base(known, table, math.prod(base_grid)) if table.shape[1] == 1 else None
            if read is not None:
                return _Reading(None, base_grid, *read, place)
        return _Reading(None, grid, *_at_own(known), place)

    def factors(self, group: Sequence[_Reading], variance: float) -> tuple[Factor, ...]:
        """One factor for each known factor that is met, with all that it multiplies."""
        found: dict[int, list[_Reading]] = {}
        for reading in group:
            found.setdefault(self.slot(reading), []).append(reading)
        return tuple(
            Factor(
                slot,
                tuple(r.node for r in readings if r.node is not None),
                float(sum(r.node is None for r in readings)),
                variance,
            )
            for slot, readings in found.items()
        )

    def slot(self, reading: _Reading) -> int:
        new = len(self.slots), Slot(reading.term, reading.where, reading.grid, reading.known.channels)
        return self.slots.setdefault((reading.grid, *reading.known.digest), new)[0]

    def filtered(self, out: int, like: _Reading, factors: Any, grid: Grid, windows: Any) -> int:
        """Add what one group of terms brings to the node `out` (-1: the first)."""
        counts = tuple(len(w.chosen) if isinstance(w, _Places) else w.count for w in windows)
        add = out >= 0
        axes = _axes(like, grid, windows)
        if axes is None:  # lay the product out on the layer's own grid, and filter that
            plain = _own_axes(grid, windows)
            direct = all(axis.plain for axis in plain)
            target = out if direct and add else self.node((counts[0], counts[1]) if direct else grid)
            self.steps.append(Pool(target, like.grid, factors, like.table, add and direct))
            if direct:
                return target
            axes, factors, like_grid = plain, (Factor(None, (target,), 0.0, 1.0),), grid
        else:
            like_grid = like.grid
        out = out if add else self.node((counts[0], counts[1]))
        self.steps.append(Filter(out, like_grid, factors, axes, add))
        return out


# ------------------------------------------------------------------------------------------- windows


@dataclasses.dataclass(frozen=True, eq=False)
class _Places:
    """One axis of positions of a layer: which element of its input each output and tap reads."""

    chosen: np.ndarray
    size: int
    window: Window

    @property
    def count(self) -> int:
        return len(self.chosen)


def _windows(layer: Layer) -> tuple[tuple[Any, Any], Grid]:
    """The layer's two axes of positions, and the grid of what it reads."""
    shape = layer.inputs[0].shape
    require(all(s == 1 for s in shape[: layer.n_batch]), "a layer with groups")
    live = []
    for number in range(layer.n_kept):
        size = shape[layer.n_batch + number]
        window = layer.windows[number] if number < len(layer.windows) else _TRIVIAL
        chosen = window.chosen(size)
        if size > 1 or chosen.shape[0] > 1:
            live.append(_Places(chosen, size, window))
        else:
            require((chosen >= 0).sum() == 1, "an axis of one position that a layer reads more than once")
    require(len(live) <= 2, "a layer of more than two axes of positions")
    live = [_Places(np.zeros((1, 1), int), 1, _TRIVIAL)] * (2 - len(live)) + live
    return (live[0], live[1]), (live[0].size, live[1].size)


def _own_axes(grid: Grid, windows: Any) -> tuple[Axis, Axis]:
    axes = _fitted([np.arange(s) for s in grid], grid, windows)
    require(axes, "a window that reads irregular places")
    assert axes is not None
    return axes


def _fitted(maps: Sequence[np.ndarray], grid: Grid, windows: Any) -> tuple[Axis, Axis] | None:
    """A layer's axes on a grid of which its input reads the places `maps`, if they are regular."""
    axes = []
    for places, size, window in zip(maps, grid, windows, strict=True):
        if isinstance(window, Axis):
            axes.append(window)
            continue
        chosen = np.where(window.chosen >= 0, places[np.maximum(window.chosen, 0)], -1)
        step = abs(int(places[1] - places[0])) if len(places) > 1 and (places[:2] >= 0).all() else 1
        axis = fitted_axis(chosen, size, window.window.stride * step, window.window.dilation * step)
        if axis is None:
            return None
        axes.append(axis)
    return axes[0], axes[1]


def _axes(like: _Reading, grid: Grid, windows: Any) -> tuple[Axis, Axis] | None:
    """The layer's axes on the grid of a term's base; None where the term is not read regularly."""
    if like.table.shape[1] != 1:
        return None
    table = like.table.reshape(grid)
    rows, columns = (table >= 0).any(1), (table >= 0).any(0)
    if not rows.any():
        return None
    height = np.where(rows, table[:, np.argmax(columns)] // like.grid[1], -1)
    width = np.where(columns, table[np.argmax(rows)] % like.grid[1], -1)
    both = np.where(np.logical_and.outer(rows, columns), height[:, None] * like.grid[1] + width, -1)
    return _fitted((height, width), like.grid, windows) if np.array_equal(both, table) else None


def _wrapped(grid: Grid, windows: Any) -> list[tuple[Grid, np.ndarray]]:
    """Smaller grids that a known factor may be a wrapped copy of: circular padding of the input."""
    candidates = []
    reach = [1 if isinstance(w, Axis) else (w.chosen.shape[1] - 1) * w.window.dilation for w in windows]
    for low in np.ndindex(*(r + 1 for r in reach)):
        inner = tuple(s - r for s, r in zip(grid, reach, strict=True))
        if min(inner) >= 1 and max(reach) > 0:
            rows, columns = ((np.arange(s) - b) % n for s, b, n in zip(grid, low, inner, strict=True))
            table = (rows[:, None] * inner[1] + columns).reshape(-1, 1)
            candidates.append(((inner[0], inner[1]), table))
    return candidates


# --------------------------------------------------------------------------------------------- terms


def _table(owner: Layer | None, term: Term) -> np.ndarray:
    """[positions, summed] → the place of the base's grid that is read."""
    positions, summed, contracted = _places(owner, term)
    apart = (*positions, *summed)
    shape = tuple(term.sizes[d] for d in apart)
    place = np.zeros(shape, int)
    for index, axis in zip(term.index, term.base.axes, strict=True):
        if axis.size == 1:
            continue
        met = "values that are flattened: positions that a layer contracts, or units that it does not"
        require(set(index.dims) <= set(contracted if axis.independent else apart), met)
        if not axis.independent:
            place = place * axis.size + over(term, index, apart)
    count = math.prod(term.sizes[d] for d in positions)
    return place.reshape(count, -1)


def _at_base(known: _Known, table: np.ndarray, places: int) -> tuple[_Known, np.ndarray, np.ndarray] | None:
    """A factor at [positions · summed] as (itself by place of the base, where its rows stand, who reads which).

    None where two positions read one place with different factors.
    """
    flat = table.reshape(-1)
    read = (known.elements != 0).any(1)
    where = np.full(places, -1)
    where[flat[read][::-1]] = np.flatnonzero(read)[::-1]
    own = known.rows(where)
    if not np.array_equal(own.elements[flat[read]], known.elements[read]):
        return None
    return own, where, np.where(read, flat, -1).reshape(table.shape)


def _at_own(known: _Known) -> tuple[_Known, np.ndarray, np.ndarray]:
    """Likewise, every position a place of its own."""
    read = _at_base(known, np.arange(len(known.elements))[:, None], len(known.elements))
    assert read is not None
    return read
