"""A kernel on disk as an operator: read, multiplied, looked into, never all in memory."""

import collections
import dataclasses
import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike

from npk.programs import shown
from npk.solving import threads
from npk.tiles.plan import Tile, mirrored
from npk.tiles.records import Record
from npk.tiles.store import TileArray

_AHEAD = 3  # tiles that are read while one is used
_FEW = 16  # of as many rows or columns at most one is asked for: reading what is between would take longer


@shown()
@dataclasses.dataclass(frozen=True, eq=False)
class StoredKernel:
    """A kernel [N1, N2] in a Zarr store, made by `stored` and opened by `open_kernel`.

    Attributes:
        path: its folder, which any Zarr reader opens: `zarr.open(path, mode="r")[:100, :100]`.
        shape: (N1, N2).
        dtype: of its numbers. bfloat16 lies on disk as float32, which every Zarr reader knows.
        symmetric: whether it is of one batch with itself.

    An unfinished or damaged part is never read as numbers: it is an error.

    Example:
        >>> import numpy as np, tempfile
        >>> from npk.tiles import stored
        >>> x = np.arange(6.0, dtype=np.float32).reshape(3, 2)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     kernel = stored(lambda a, b: a @ b.T, f"{folder}/gram", identity={"name": "gram"})(x)
        ...     kernel.shape, kernel.product(np.ones((3, 1))).ravel().tolist(), kernel.diagonal().tolist()
        ((3, 3), [9.0, 39.0, 69.0], [1.0, 13.0, 41.0])
    """

    path: Path
    shape: tuple[int, int]
    dtype: np.dtype
    symmetric: bool
    _tiles: TileArray = dataclasses.field(repr=False)

    @property
    def tile(self) -> tuple[int, int]:
        """Samples of a tile, which is a chunk of the store."""
        return self._tiles.plan.tile

    @property
    def tiles(self) -> tuple[int, int]:
        """How many tiles are done, and how many there are."""
        every = _every(self._tiles)
        return sum(map(self._tiles.is_written, every)), len(every)

    def verify(self) -> tuple[tuple[int, int], ...]:
        """Read every tile, compare its checksum and its place in the store, and of mirrored ones the numbers.

        Returns:
            The tiles (row, column) that are missing or damaged; none of a whole kernel.
        """
        return tuple(sorted(set(damaged(self._tiles, _every(self._tiles)))))

    def read(self, rows: Any = slice(None), columns: Any = slice(None)) -> np.ndarray:
        """A part of the kernel.

        Args:
            rows: a slice, or an array of row numbers.
            columns: a slice, or an array of column numbers.

        Returns:
            K[rows][:, columns], [n1, n2, ...], in the kernel's dtype.

        Raises:
            IndexError: a number lies outside.
            ValueError: a tile of the part is missing or damaged.
        """
        places = tuple(_places(p, n, w) for p, n, w in zip((rows, columns), self.shape, ("rows", "columns")))
        plan = self._tiles.plan
        touched = [np.unique(p // side) for p, side in zip(places, plan.tile)]
        result = np.empty((*map(len, places), *self._tiles.leaf.axes), self.dtype)
        few = min(map(len, places)) * _FEW < min(self.shape)
        for tile, block in self._blocks([(i, j) for i in touched[0].tolist() for j in touched[1].tolist()], few):
            here = [np.flatnonzero(p // side == t) for p, side, t in zip(places, plan.tile, tile)]
            inside = [p[h] - t * side for p, h, t, side in zip(places, here, tile, plan.tile)]
            result[np.ix_(*here)] = block[np.ix_(*inside)]
        return result

    def _blocks(self, tiles: list[Tile], few: bool) -> Iterator[tuple[Tile, np.ndarray]]:
        """Tiles and their numbers; for a few of them, of tiles that were checked before, as they lie on disk."""
        direct = self._tiles.checked if few and self._tiles.raw else set()
        known = {t for t in tiles if t in direct and self._tiles.exists(t) and not self._tiles.wrong(t)}
        yield from ((tile, self._tiles.mapped(tile)) for tile in tiles if tile in known)
        yield from read_ahead(self._tiles, [tile for tile in tiles if tile not in known])

    def product(self, v: ArrayLike) -> Float[np.ndarray, "n1 k"]:
        """K v, one pass over the tiles (over the upper triangle of a symmetric kernel), summed in float64.

        Args:
            v: [N2, K], converted to float64.

        Returns:
            [N1, K] in float64.

        Raises:
            ValueError: the shapes do not match, or a tile is missing or damaged.
        """
        self._check_matrix("product")
        v = np.asarray(v, np.float64)
        if v.ndim != 2 or len(v) != self.shape[1]:
            raise ValueError(f"v must be [{self.shape[1]}, K], got shape {list(v.shape)}.")
        result = np.zeros((self.shape[0], v.shape[1]))
        plan = self._tiles.plan
        with threads() as pool:
            for tile, block in read_ahead(self._tiles, plan.tiles()):
                rows, columns = plan.places(tile)
                pool.add_product(result[rows], block, v[columns])
                if plan.symmetric and tile[0] != tile[1]:
                    pool.add_transposed_product(result[columns], block, v[rows])
        return result

    def columns(self, places: Int[np.ndarray, " r"]) -> np.ndarray:
        """Some columns; of a symmetric kernel read as rows.

        A tile is read whole, to compare its checksum, the first time that this object meets it; from then on only
        what is asked for is read.

        Args:
            places: their numbers, [r].

        Returns:
            [N1, r] in the kernel's dtype.

        Raises:
            IndexError: a number lies outside.
            ValueError: a tile of them is missing or damaged.
        """
        places = np.asarray(places)
        if self.symmetric:
            return mirrored(self.read(rows=places))
        return self.read(columns=places)

    def diagonal(self) -> np.ndarray:
        """The kernel of every sample with itself.

        Returns:
            [N] (or [N, ...]) in the kernel's dtype.

        Raises:
            ValueError: the kernel is not square, or a tile on its diagonal is missing or damaged.
        """
        if self.shape[0] != self.shape[1]:
            raise ValueError(f"only a square kernel has a diagonal, this one is {list(self.shape)}.")
        plan = self._tiles.plan
        result = np.empty((self.shape[0], *self._tiles.leaf.axes), self.dtype)
        for tile, block in read_ahead(self._tiles, ((i, i) for i in range(plan.grid[0]))):
            places = np.arange(len(block))
            result[plan.places(tile)[0]] = block[places, places]
        return result

    def _check_matrix(self, what: str) -> None:
        if self._tiles.leaf.axes:
            raise ValueError(f"{what} is of kernels [N1, N2], this one is {[*self.shape, *self._tiles.leaf.axes]}.")


def stored_kernels(
    path: Path, record: Record, arrays: dict[str, TileArray]
) -> "StoredKernel | dict[str, StoredKernel]":
    """One kernel, or one a name."""
    made = {
        name: StoredKernel(path / name, record.plan.shape, a.leaf.dtype, record.plan.symmetric, a)
        for name, a in arrays.items()
    }
    return made.get("", made)


def read_ahead(array: TileArray, tiles: Iterable[Tile], strict: bool = True) -> Iterator[tuple[Tile, Any]]:
    """Tiles and their numbers, a few of them read in advance.

    Raises:
        ValueError: a tile is missing or damaged; unless not `strict`: then None stands for its numbers.
    """
    waiting: collections.deque[tuple[Tile, Any]] = collections.deque()
    for tile in itertools.chain(tiles, [None] * _AHEAD):
        if tile is not None:
            waiting.append((tile, array.read(tile) if array.exists(tile) else None))
        if waiting and (tile is None or len(waiting) > _AHEAD):
            yield _arrived(array, *waiting.popleft(), strict)


def damaged(array: TileArray, tiles: Iterable[Tile]) -> Iterator[Tile]:
    """Those that are missing or damaged; of a tile and its mirror image both, where their numbers are not the same."""
    plan, wanted = array.plan, set(tiles)
    pairs = [copy for tile in plan.tiles() for copy in plan.copies(tile) if copy in wanted]
    last: tuple[Tile, Any] | None = None
    for tile, block in read_ahead(array, pairs, strict=False):
        if block is None:
            yield tile
        elif last is not None and last[0] == (tile[1], tile[0]) and plan.symmetric:
            if not np.array_equal(block, mirrored(last[1])):
                yield from (last[0], tile)
        last = None if block is None else (tile, block)


def _arrived(array: TileArray, tile: Tile, future: Any, strict: bool) -> tuple[Tile, Any]:
    if future is not None:
        try:
            if wrong := array.wrong(tile):
                raise ValueError(wrong)
            numbers = future.result().astype(array.leaf.dtype, copy=False)
            array.checked.add(tile)
            return tile, numbers
        except ValueError as error:
            if "PERMISSION_DENIED" in str(error):
                raise PermissionError(f"{array.file(tile)} cannot be read: {error}") from error
            problem, reason = f"is damaged ({_short(error)})", error
    else:
        problem, reason = "is missing", None
    if not strict:
        return tile, None
    done = sum(map(array.is_written, _every(array)))
    raise ValueError(
        f"tile {tile} of {array.path} {problem}; {done} of {len(_every(array))} tiles are there. Give the command that "
        "made the store again: it computes what is missing or damaged."
    ) from reason


def _short(error: Exception) -> str:
    return str(error).rsplit('": ', 1)[-1]


def _every(array: TileArray) -> list[Tile]:
    rows, columns = array.plan.grid
    return [(i, j) for i in range(rows) for j in range(columns)]


def _places(places: Any, n: int, what: str) -> np.ndarray:
    """Numbers of rows or columns, all inside."""
    if isinstance(places, slice):
        return np.arange(n)[places]
    found = np.asarray(places)
    if found.ndim != 1 or not (np.issubdtype(found.dtype, np.integer) or found.size == 0):
        raise ValueError(
            f"{what} must be a slice or an array of whole numbers [r], got {found.dtype}{list(found.shape)}."
        )
    if found.size and (found.min() < -n or found.max() >= n):
        raise IndexError(f"{what} must lie in {-n} … {n - 1}, got {found.min()} … {found.max()}.")
    return found.astype(np.int64) % n
