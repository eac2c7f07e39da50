"""The path kernel over position pairs: what the plan says, for all pairs of two batches, on all cores.

Known factors that are 0 or one other number are packed into words, others stay numbers. A block of samples a
side is laid out at a time, the second side's rows as the compiled loop reads them, for all of the first side.
"""

import concurrent.futures
import dataclasses
import queue
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from npk.path_kernels.engines import dense
from npk.path_kernels.engines.pairs import program, ring_program
from npk.path_kernels.engines.pairs.plan import PairPlan
from npk.path_kernels.engines.pairs.writing import REALS, WORDS, Code, Table
from npk.programs import block_of, cores, cuts

_BLOCK_BYTES = 1 << 28  # tables of one side's block
_CHUNK_NUMBERS = 1 << 24  # known factors computed at a time
_TASK = 64  # pairs a thread takes at a time

# What the general path takes for a position pair of one layer beyond what this engine does, and what this engine
# takes for each row of position pairs whatever its length: nanoseconds on two cores.
_SAVED, _ROW = 3.0, 100.0

# (samples of one side, numbers of the slots wanted) → their known factors [n, positions, channels]
Values = Callable[[Any, tuple[int, ...]], Sequence[Any]]


@dataclasses.dataclass(frozen=True, eq=False)
class PairSide:
    """One batch, a tree of arrays [n, ...]: for each slot its packed words [n, positions, words], or None."""

    samples: Any
    n: int
    words: tuple[np.ndarray | None, ...]
    scales: tuple[float, ...]


def saving(positions: Sequence[int]) -> float:
    """Nanoseconds that the engine is expected to save for a pair of samples.

    Args:
        positions: of what each step reads.

    Returns:
        Them, negative where the general path is faster.
    """
    return sum((_SAVED * p**2 - _ROW * p for p in positions), 0.0)


def path_kernel(plan: PairPlan, values: Values, one: Any, two: Any | None, dtype: Any) -> jax.Array | None:
    """H of two batches (of one, where `two` is None); None where it leaves the range of the dtype.

    Args:
        plan: the plan.
        values: computes known factors.
        one: a tree of arrays [n1, ...].
        two: a tree of arrays [n2, ...].
        dtype: float32 or float64.

    Returns:
        H [n1, n2].
    """
    left = side(plan, values, one)
    h = kernel(plan, values, left, None if two is None else side(plan, values, two), dtype)
    return jax.device_put(h, may_alias=True) if np.isfinite(h.min()) and np.isfinite(h.max()) else None


def side(plan: PairPlan, values: Values, samples: Any) -> PairSide:
    """Pack what can be packed of a batch.

    Args:
        plan: the plan.
        values: computes known factors.
        samples: a tree of arrays [n, ...].

    Returns:
        The side.
    """
    n = len(jax.tree_util.tree_leaves(samples)[0])
    open_slots = dict.fromkeys(range(len(plan.slots)), 0.0)  # those packed so far, with their one number
    parts: dict[int, list[np.ndarray]] = {slot: [] for slot in open_slots}
    for part in _chunks(plan, samples, n):
        wanted = tuple(open_slots)
        for slot, value in zip(wanted, values(part.samples, wanted), strict=True):
            value = np.asarray(value)[: part.n]
            number = _one_number(value, open_slots[slot])
            if number is None:
                del open_slots[slot]
                continue
            open_slots[slot] = number
            gates = (value != 0).reshape(-1, value.shape[-1])
            words = dense.pack(gates)
            assert words is not None
            parts[slot].append(words.words.reshape(part.n, value.shape[1], -1))
    words = tuple(np.concatenate(parts[s]) if s in open_slots else None for s in range(len(plan.slots)))
    return PairSide(samples, n, words, tuple(open_slots.get(s, 1.0) or 1.0 for s in range(len(plan.slots))))


def _one_number(value: np.ndarray, so_far: float) -> float | None:
    """The one number that a factor is where it is not 0 (0: it always is); None where there are several."""
    high, low = float(value.max()), float(value.min())
    number = so_far or high or low
    alike = all(end in (0.0, number) for end in (high, low))
    return number if alike and bool(((value == 0) | (value == number)).all()) else None


@dataclasses.dataclass(frozen=True)
class _Part:
    samples: Any
    n: int


def _chunks(plan: PairPlan, samples: Any, n: int) -> Iterator[_Part]:
    """Samples some at a time, so that their known factors fit; the last part is padded."""
    each = sum(int(np.prod(np.shape(a)[1:])) for a in jax.tree_util.tree_leaves(samples))
    each += sum(int(np.prod(slot.grid)) * slot.channels for slot in plan.slots)
    size = min(n, max(1, _CHUNK_NUMBERS // max(each, 1)))
    for rows in cuts(n, size):
        yield _Part(block_of(samples, rows.start, size), rows.stop - rows.start)


def kernel(plan: PairPlan, values: Values, one: PairSide, two: PairSide | None, dtype: Any) -> np.ndarray:
    """H [n1, n2]; two=None for `one`, of whose symmetric kernel each of two mirrored pairs is computed once.

    Args:
        plan: the plan.
        values: computes known factors.
        one: the first batch.
        two: the second batch.
        dtype: float32 or float64.

    Returns:
        H, in memory that JAX can take over.
    """
    right = one if two is None else two
    kinds = [_kind(a, b) for a, b in zip(one.words, right.words, strict=True)]
    channels = _channels(plan, one, kinds)
    both_scales = zip(one.scales, right.scales, kinds, strict=True)
    scales = [a * b if kind == WORDS else 1.0 for a, b, kind in both_scales]
    sizes, h = list(zip(kinds, channels, strict=True)), dense.aligned((one.n, right.n), dtype)
    parts = ring_program.ring(plan)
    if parts is not None and ring_program.packed_tail(parts, kinds):
        code = ring_program.code(parts, sizes, scales)
    else:
        parts, code = None, program.code(plan, sizes, scales)
    rows, columns = (_blocks(code, s.n, number, dtype) for number, s in enumerate((one, right)))
    for down in rows:
        left = _tables(code, plan, values, one, down.start, down.stop, 0, dtype)
        for across in columns:
            if two is None and across.stop <= down.start:
                continue
            table = _tables(code, plan, values, right, across.start, across.stop, 1, dtype)
            _run(code, left, table, h[down, across], down.start - across.start if two is None else None)
    if parts is not None:
        _tail(parts, scales, one, right, h)
    if two is None:
        for i in range(1, one.n):
            h[i, :i] = h[:i, i]
    return h


def _tail(parts: ring_program.Ring, scales: Sequence[float], one: PairSide, two: PairSide, h: np.ndarray) -> None:
    """The layers of one position, for all pairs at once."""
    layers = ring_program.tail_layers(parts, scales)
    rows, columns = ([_row_words(batch, slot) for slot, _, _ in layers] for batch in (one, two))
    scale, shift = [layer[1] for layer in layers], [layer[2] for layer in layers]
    dense.multiply_overlaps(h, rows, columns, scale, shift, h)


def _row_words(batch: PairSide, slot: int | None) -> dense.Words:
    known = np.ones((batch.n, 1), np.uint64) if slot is None else batch.words[slot]
    assert known is not None
    return dense.Words(known.reshape(batch.n, -1), np.zeros(0, np.int64))


def _kind(one: Any, two: Any) -> int:
    return REALS if one is None or two is None else WORDS


def _channels(plan: PairPlan, one: PairSide, kinds: Sequence[int]) -> list[int]:
    """Words or channels a position of every slot."""
    sides = zip(kinds, plan.slots, one.words, strict=True)
    return [slot.channels if kind == REALS or w is None else w.shape[2] for kind, slot, w in sides]


def _blocks(code: Code, n: int, number: int, dtype: Any) -> list[slice]:
    bits, reals = (code.sizes[kind][number] for kind in (WORDS, REALS))
    size = max(1, _BLOCK_BYTES // max(1, 8 * bits + np.dtype(dtype).itemsize * reals))
    return cuts(n, size)


def _tables(
    code: Code, plan: PairPlan, values: Values, batch: PairSide, start: int, stop: int, number: int, dtype: Any
) -> tuple[np.ndarray, np.ndarray]:
    """The tables of samples start..stop as the first (`number` 0) or the second side reads them."""
    n = stop - start
    words = np.zeros((n, code.sizes[WORDS][number]), np.uint64)
    reals = np.zeros((n, code.sizes[REALS][number]), dtype)
    wanted = tuple(t.slot for t in code.tables if t.slot is not None and t.kind == REALS)
    for table in code.tables:
        if table.kind == WORDS:
            ones = np.ones((n, table.layout.positions, 1), np.uint64)
            known = ones if table.slot is None else batch.words[table.slot]
            assert known is not None
            _lay(words, table, ones if table.slot is None else known[start:stop], number)
    if wanted:
        places = {t.slot: t for t in code.tables}
        samples = jax.tree_util.tree_map(lambda a: a[start:stop], batch.samples)
        at = 0
        for part in _chunks(plan, samples, n):
            for slot, value in zip(wanted, values(part.samples, wanted), strict=True):
                _lay(reals[at : at + part.n], places[slot], np.asarray(value)[: part.n], number)
            at += part.n
    return words, reals


def _lay(out: np.ndarray, table: Table, value: np.ndarray, number: int) -> None:
    """Write a slot [n, positions, count] into a table."""
    if number == 0:
        own = out[:, table.one : table.one + value.shape[1] * table.count]
        own.reshape(len(value), value.shape[1], table.count)[:, :, : value.shape[2]] = value
        return
    source = table.layout.source
    for c in range(value.shape[2]):
        row = out[:, table.two + c * table.layout.length :][:, : table.layout.length]
        row[:, source >= 0] = value[:, source[source >= 0], c]


def _run(code: Code, one: Any, two: Any, h: np.ndarray, diagonal: int | None) -> None:
    """Fill h; with `diagonal` only columns j ≥ i + diagonal of row i."""
    loop = code.compiled(h.dtype)
    numbers = code.numbers.astype(h.dtype)
    tasks: queue.SimpleQueue = queue.SimpleQueue()
    for i in range(len(h)):
        first = 0 if diagonal is None else max(0, i + diagonal)
        for start in range(first, h.shape[1], _TASK):
            tasks.put((i, start, min(start + _TASK, h.shape[1])))

    def work() -> None:
        memory, lists = np.zeros(code.memory + 64, h.dtype), code.lists.copy()
        for place, values in code.fills:
            memory[place : place + len(values)] = values
        while True:
            try:
                task = tasks.get_nowait()
            except queue.Empty:
                return
            loop(code.steps, code.factors, numbers, lists, *one, *two, memory, code.result, h, *task)

    threads = min(cores(), max(1, tasks.qsize()))
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        # Plain threads: OpenMP's would wait for XLA's, which keep the cores busy for a while after a call.
        for done in [pool.submit(work) for _ in range(threads)]:
            done.result()
