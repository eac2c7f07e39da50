"""Products of a tile with a few vectors, accumulated in float64 whatever the tile's dtype.

A tile is widened a few rows at a time, which stay in the cache until they are multiplied: the tile itself is read from
memory once, in its own dtype. The threads are ours, each with a library of one thread: products as small as these
spend longer in waking a library's own threads than in multiplying.
"""

import concurrent.futures
import contextlib
import functools
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import threadpoolctl

from npk.programs import cores

# Elements of float64 that one thread widens at a time: 1 MiB.
_CHUNK = 1 << 17


class Threads:
    """Workers for the products of one pass over a kernel; made by `threads`."""

    def __init__(self, pool: concurrent.futures.Executor, number: int):
        self._pool, self._number = pool, number

    def add_product(self, out: np.ndarray, tile: np.ndarray, v: np.ndarray) -> None:
        """out [n1, k] += tile [n1, n2] · v [n2, k]."""
        self._share(len(tile), _rows, out, tile, np.ascontiguousarray(v))

    def add_transposed_product(self, out: np.ndarray, tile: np.ndarray, v: np.ndarray) -> None:
        """out [n2, k] += tileᵀ · v, tile [n1, n2] and v [n1, k]."""
        self._share(tile.shape[1], _columns, out, tile, np.ascontiguousarray(v))

    def _share(self, size: int, task: Any, out: np.ndarray, tile: np.ndarray, v: np.ndarray) -> None:
        if tile.size <= _CHUNK:
            return task(out, tile, v, 0, size)
        cuts = np.linspace(0, size, min(self._number, size) + 1).astype(int).tolist()
        list(self._pool.map(functools.partial(task, out, tile, v), cuts[:-1], cuts[1:]))


# Sums that overflow or are not numbers are told of by whoever asked for them, once, and not by every thread.
_quiet = np.errstate(invalid="ignore", over="ignore")


@_quiet
def _rows(out: np.ndarray, tile: np.ndarray, v: np.ndarray, start: int, stop: int) -> None:
    for low, wide in _widened(tile[start:stop]):
        out[start + low : start + low + len(wide)] += wide @ v


@_quiet
def _columns(out: np.ndarray, tile: np.ndarray, v: np.ndarray, start: int, stop: int) -> None:
    part = out[start:stop]
    for low, wide in _widened(tile[:, start:stop]):
        part += wide.T @ v[low : low + len(wide)]


class _Single:
    """The BLAS of the process, held at one thread from the first pass that begins until the last that ends.

    The setting belongs to the process: a pass that set and restored it by itself would take the one thread of another
    pass, which overlaps it in another thread of Python, for what there was before.
    """

    def __init__(self):
        self._lock, self._passes = threading.Lock(), 0

    def __enter__(self) -> None:
        with self._lock:
            if self._passes == 0:
                self._limit = _libraries().limit(limits=1, user_api="blas")
                _let_others_set()
            self._passes += 1

    def __exit__(self, *error: Any) -> None:
        with self._lock:
            self._passes -= 1
            if self._passes == 0:
                self._limit.restore_original_limits()
                _let_others_set()


def _let_others_set() -> None:
    """From threadpoolctl 3.8 on the thread that has set a limit is the only one that can, until it says so."""
    for library in _libraries().lib_controllers:
        if hasattr(library, "clear_controlling_thread"):
            library.clear_controlling_thread()


_single = _Single()


@contextlib.contextmanager
def threads() -> Iterator[Threads]:
    """As many workers as this process may use cores, for the length of a pass."""
    number = cores()
    with _single, concurrent.futures.ThreadPoolExecutor(number) as pool:
        yield Threads(pool, number)


@functools.cache
def _libraries() -> threadpoolctl.ThreadpoolController:
    """Those that are loaded; finding them takes longer than a small product."""
    return threadpoolctl.ThreadpoolController()


def _widened(tile: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """(first row, those rows in float64), a few rows at a time; the same memory is used again for the next."""
    if tile.size == 0:
        return
    rows = max(1, _CHUNK // tile.shape[1])
    buffer = None if tile.dtype == np.float64 else np.empty((min(rows, len(tile)), tile.shape[1]))
    for low in range(0, len(tile), rows):
        part = tile[low : low + rows]
        if buffer is not None:
            buffer[: len(part)] = part
            part = buffer[: len(part)]
        yield low, part
