"""What the programs of both compiled loops are made of: tables, factors and lists of integers, as they are written."""

import dataclasses
import importlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from npk.path_kernels.engines.pairs.plan import Factor

LANES = 8  # numbers that go through the loops at once
CHANNELS = 4  # real numbers are multiplied so many channels at a time

# The kinds of tables; what a row of a factor's numbers holds.
WORDS, REALS = range(2)
CONSTANT, SCALE = range(2)


def integers(*names: str) -> np.dtype:
    """A record of integers, which the loops read by name."""
    return np.dtype([(name, np.int64) for text in names for name in text.split()])


# Kind, place in the first side's table, in the second's, words or channels, nodes, the row of its constant.
FACTOR = integers("kind one two count nodes n_nodes row length")


def record(kind: np.dtype, fields: dict[str, int]) -> np.ndarray:
    written = np.zeros((), kind)
    for name, value in fields.items():
        written[name] = value
    return written


@dataclasses.dataclass(frozen=True, eq=False)
class Table:
    """Where a slot is in the tables of the two sides: bit words or real numbers, `count` of them a position."""

    slot: int | None  # None: ones
    layout: Any
    kind: int
    count: int
    one: int
    two: int


@dataclasses.dataclass(frozen=True, eq=False)
class Code:
    """The program: as the compiled loop takes it, the tables that it reads, and numbers it finds in memory."""

    steps: np.ndarray
    factors: np.ndarray
    numbers: np.ndarray
    lists: np.ndarray
    memory: int
    result: Any  # where the result is, or the shape of the grid
    tables: tuple[Table, ...]
    sizes: dict[int, tuple[int, int]]  # kind of table → numbers a sample on each side
    fills: tuple[tuple[int, np.ndarray], ...]
    loop: str  # the module of the compiled loop

    def compiled(self, dtype: Any) -> Callable[..., None]:
        """The loop for float32 or float64, of a module that imports Numba."""
        return importlib.import_module(f"npk.path_kernels.engines.pairs.{self.loop}").pairs(dtype)


class Writer:
    """Writes the parts of a program. Memory begins with a row of zeros, then a row for each constant of a factor."""

    def __init__(
        self, kinds: Sequence[tuple[int, int]], scales: Sequence[float], factors: Sequence[Factor], row: int
    ) -> None:
        self.kinds, self.scales, self.row = kinds, scales, row
        self.lists: list[int] = []
        self.steps: list[np.ndarray] = []
        self.factors: list[tuple[int, ...]] = []
        self.numbers: list[list[float]] = []
        self.sizes = {kind: (0, 0) for kind in (WORDS, REALS)}
        self.tables: dict[Any, Table] = {}
        constants = sorted({factor.constant for factor in factors})
        self.constants = {constant: row * (1 + i) for i, constant in enumerate(constants)}
        self.memory = row * (1 + len(constants))

    def list_of(self, values: Sequence[int]) -> int:
        self.lists += [int(v) for v in values]
        return len(self.lists) - len(values)

    def table(self, slot: int | None, layout: Any) -> Table:
        """The table of a slot, which is laid out at its first use; of ones, one for each grid."""
        key = layout.grid if slot is None else slot
        if key not in self.tables:
            kind, count = (WORDS, 1) if slot is None else self.kinds[slot]
            count = count if kind == WORDS else -(-count // CHANNELS) * CHANNELS
            one, two = self.sizes[kind]
            self.tables[key] = Table(slot, layout, kind, count, one, two)
            self.sizes[kind] = (one + layout.positions * count, two + layout.length * count)
        return self.tables[key]

    def add(
        self, kind: np.dtype, fields: dict[str, int], factors: Sequence[Factor], places: dict[int, int], layout: Any
    ) -> None:
        """Write a step, a record of `kind`, zero where `fields` has nothing; its factors read the nodes at `places`."""
        self.steps.append(record(kind, fields | {"factors": len(self.factors), "n_factors": len(factors)}))
        for factor in factors:
            known, nodes = self.table(factor.slot, layout), self.list_of([places[node] for node in factor.nodes])
            place = known.kind, known.one, known.two, known.count
            self.factors.append((*place, nodes, len(factor.nodes), self.constants[factor.constant], self.row))
            scale = 1.0 if factor.slot is None else self.scales[factor.slot]
            self.numbers.append([factor.constant, factor.scale * scale])

    def code(self, result: Any, loop: str, fills: Sequence[tuple[int, np.ndarray]] = ()) -> Code:
        return Code(
            np.array(self.steps),
            np.array(self.factors, FACTOR),
            np.array(self.numbers, np.float64),
            np.array(self.lists, np.int64),
            self.memory,
            result,
            tuple(self.tables.values()),
            self.sizes,
            tuple(fills),
            loop,
        )
