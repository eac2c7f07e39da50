"""A kernel of two batches as an operator that computes its tiles anew at every product, column and diagonal."""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree
from numpy.typing import ArrayLike

from npk.programs import block_of, cuts, shown
from npk.solving.accumulate import threads
from npk.solving.checks import check_symmetric, finite, indices, square, vectors
from npk.solving.operators import KernelOperator

# Samples a side of the tiles whose diagonal alone is wanted.
_DIAGONAL_SIDE = 64


@shown()
@dataclasses.dataclass(frozen=True, eq=False)
class _Batch:
    """A batch cut into blocks of equal size, the last one filled up with its last sample: one shape to compile."""

    batch: PyTree
    size: int
    block: int

    def blocks(self) -> Iterator[tuple[slice, PyTree]]:
        return ((rows, block_of(self.batch, rows.start, self.block)) for rows in cuts(self.size, self.block))

    def taken(self, places: np.ndarray) -> PyTree:
        return jax.tree_util.tree_map(lambda a: a[places], self.batch)


def _batch_of(batch: PyTree, tile: int, name: str) -> _Batch:
    """The batch, in blocks of at most `tile` samples."""
    leaves = jax.tree_util.tree_leaves(batch)
    if any(np.ndim(leaf) == 0 for leaf in leaves):
        raise ValueError(f"{name} must hold arrays [N, ...], got a scalar.")
    sizes = {len(leaf) for leaf in leaves}
    if len(sizes) != 1 or 0 in sizes:
        raise ValueError(f"{name} must hold arrays of one leading axis N > 0, got lengths {sorted(sizes)}.")
    (size,) = sizes
    return _Batch(batch, size, -(-size // -(-size // tile)))


@shown("shape")
@dataclasses.dataclass(frozen=True, eq=False)
class _Recomputed:
    """A kernel of two batches, computed tile by tile at every use."""

    kernel: Callable[[PyTree, PyTree], Any]
    one: _Batch
    two: _Batch
    given_diagonal: Any

    @property
    def shape(self) -> tuple[int, int]:
        return self.one.size, self.two.size

    @functools.cached_property
    def dtype(self) -> Any:
        return self._tile(self.one.taken(np.zeros(1, int)), self.two.taken(np.zeros(1, int)), (1, 1)).dtype

    def product(self, v: np.ndarray) -> np.ndarray:
        v = vectors(v, self.shape[1])
        out = np.zeros((self.shape[0], v.shape[1]))
        with threads() as pool:
            for rows, columns, tile in self._tiles():
                pool.add_product(out[rows], tile, v[columns])
                if self.one is self.two and rows != columns:
                    pool.add_transposed_product(out[columns], tile, v[rows])
        return finite(out, "the kernel")

    def columns(self, places: np.ndarray) -> np.ndarray:
        places = indices(places, self.shape[1])
        out = np.empty((self.shape[0], len(places)), self.dtype)
        for some in cuts(len(places), self.two.block):
            taken = self.two.taken(places[some])
            for rows, samples in self.one.blocks():
                tile = self._tile(samples, taken, (self.one.block, some.stop - some.start))
                out[rows, some] = tile[: rows.stop - rows.start]
        return out

    def diagonal(self) -> np.ndarray:
        square(self)
        return self._diagonal

    @functools.cached_property
    def _diagonal(self) -> np.ndarray:
        if self.given_diagonal is not None:
            return np.asarray(self.given_diagonal)
        side = min(_DIAGONAL_SIDE, self.one.block)
        one, two = (dataclasses.replace(s, block=side) for s in (self.one, self.two))
        parts = []
        for (places, a), (_, b) in zip(one.blocks(), two.blocks(), strict=True):
            parts.append(np.diagonal(self._tile(a, b, (side, side)))[: places.stop - places.start])
        return np.concatenate(parts)

    def _tiles(self) -> Iterator[tuple[slice, slice, np.ndarray]]:
        """(rows, columns, tile) of every tile, of the upper triangle alone where the kernel is symmetric.

        A tile is asked for before the one before it is read: JAX computes it while that one is multiplied.
        """
        pending = None
        for rows, columns, tile in self._asked():
            if pending is not None:
                yield self._read(*pending)
            pending = (rows, columns, tile)
        if pending is not None:
            yield self._read(*pending)

    def _asked(self) -> Iterator[tuple[slice, slice, Any]]:
        same = self.one is self.two
        for rows, a in self.one.blocks():
            for columns in cuts(self.two.size, self.two.block):
                if same and columns.start < rows.start:
                    continue
                b = a if same and columns == rows else block_of(self.two.batch, columns.start, self.two.block)
                yield rows, columns, self.kernel(a, b)

    def _read(self, rows: slice, columns: slice, tile: Any) -> tuple[slice, slice, np.ndarray]:
        tile = _checked(tile, (self.one.block, self.two.block))
        tile = tile[: rows.stop - rows.start, : columns.stop - columns.start]
        if self.one is self.two and rows == columns:
            check_symmetric(tile)
        return rows, columns, tile

    def _tile(self, a: PyTree, b: PyTree, shape: tuple[int, int]) -> np.ndarray:
        return _checked(self.kernel(a, b), shape)


def _checked(tile: Any, shape: tuple[int, int]) -> np.ndarray:
    tile = np.asarray(tile)
    if tile.shape != shape:
        raise ValueError(
            f"kernel(a, b) must be [n1, n2], one entry a pair of samples: expected {list(shape)}, got "
            f"{list(tile.shape)}."
        )
    return tile


def kernel_operator(
    kernel: Callable[[PyTree, PyTree], Any],
    one: PyTree,
    two: PyTree | None = None,
    *,
    tile: int,
    diagonal: ArrayLike | None = None,
) -> KernelOperator:
    """The operator of a kernel of two batches, which computes every tile anew at each product.

    No more than two tiles are in memory. With two=None the kernel is symmetric: only tiles of the upper triangle are
    computed, and each is used twice. Batches are cut into blocks of equal size, at most `tile`; the last block is
    filled up by repeating a sample, so that `kernel` meets one shape alone.

    Args:
        kernel: (a, b) → [n1, n2] for two batches of samples; it must not mix samples. A function of JAX or of the
            host.
        one: a tree of arrays whose leading axis is the sample, of N1 samples.
        two: the same of N2 samples, None for `one`.
        tile: the largest number of samples a side of a tile.
        diagonal: the kernel's diagonal, of shape (N1,), where it is known; None computes it by small tiles.

    Returns:
        A `KernelOperator` of shape (N1, N2).

    Raises:
        ValueError: an empty batch, arrays of different lengths, a tile below 1, or a diagonal of another shape. When
            the operator is used: the kernel's result is not [n1, n2], is not finite, or (two=None) is not symmetric.

    Example:
        >>> import numpy as np
        >>> from npk.solving import kernel_operator
        >>> x = np.arange(5.0)[:, None]
        >>> kernel_operator(lambda a, b: a @ b.T, x, tile=2).product(np.ones((5, 1))).ravel().tolist()
        [0.0, 10.0, 20.0, 30.0, 40.0]
    """
    if tile < 1:
        raise ValueError(f"tile must be at least 1, got {tile}.")
    left = _batch_of(one, tile, "one")
    right = left if two is None else _batch_of(two, tile, "two")
    if diagonal is not None and np.shape(diagonal) != (left.size,):
        raise ValueError(f"diagonal must have shape [{left.size}], got {list(np.shape(diagonal))}.")
    return _Recomputed(kernel, left, right, diagonal)
