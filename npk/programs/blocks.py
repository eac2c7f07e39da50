"""Batches in blocks, where what is needed of all samples at once would not fit.

`in_blocks` goes over all pairs of two batches under one trace; `cuts`, `block_of` and `in_parts` are the host's loops.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Tree = Any
_map = jax.tree_util.tree_map


def in_blocks(
    kernel: Callable[[Tree, Tree], Tree], one: Tree, two: Tree | None, side: int, prepare: Callable[[Tree], Tree]
) -> Tree:
    """Fill arrays [N1, N2, ...] with kernel(prepare(block of one), prepare(block of two)).

    Args:
        kernel: from two prepared blocks to a tree of arrays [n1, n2, ...]; it must not mix samples.
        one: a tree of arrays [N1, ...].
        two: a tree of arrays [N2, ...]; None for `one`, of whose symmetric kernel only one of two mirrored
            blocks is computed. Symmetric means K[s, s'] = K[s', s], with further axes [K, K] transposed.
        side: the largest number of samples of a block. Blocks are of equal size, the last one padded.
        prepare: what a kernel needs of a block, done once for a row of blocks.

    Returns:
        The tree of arrays [N1, N2, ...].
    """
    left, n1, b1 = _cut(one, side)
    right, n2, b2 = (left, n1, b1) if two is None else _cut(two, side)
    rows, columns = -(-n1 // b1), -(-n2 // b2)
    first = (_map(lambda t: t[0], tree) for tree in (left, right))
    block = jax.eval_shape(lambda a, b: kernel(prepare(a), prepare(b)), *first)
    empty = _map(lambda t: jnp.zeros((rows * b1, columns * b2, *t.shape[2:]), t.dtype), block)

    def put(filled: Tree, row: Any, column: Any, block: Tree) -> Tree:
        def place(whole: Any, part: Any) -> Any:
            return jax.lax.dynamic_update_slice(whole, part, (row * b1, column * b2, *(0,) * (part.ndim - 2)))

        return _map(place, filled, block)

    def one_row(filled: Tree, a: tuple[Any, Tree]) -> tuple[Tree, None]:
        row, prepared = a[0], prepare(a[1])

        def one_block(filled: Tree, b: tuple[Any, Tree]) -> tuple[Tree, None]:
            return put(filled, row, b[0], kernel(prepared, prepare(b[1]))), None

        return jax.lax.scan(one_block, filled, (np.arange(columns), right))

    def one_own_row(filled: Tree, a: tuple[Any, Tree]) -> tuple[Tree, None]:
        """A block with itself and with the half of the others that follow it (cyclically): all pairs once."""
        row, prepared = a[0], prepare(a[1])

        def one_block(filled: Tree, offset: Any) -> tuple[Tree, None]:
            column = (row + offset) % rows
            block = kernel(prepared, prepare(_map(lambda t: t[column], left)))
            return put(put(filled, row, column, block), column, row, _map(_mirrored, block)), None

        filled = put(filled, row, row, kernel(prepared, prepared))
        return jax.lax.scan(one_block, filled, np.arange(1, rows // 2 + 1))

    if two is None:
        filled, _ = jax.lax.scan(one_own_row, empty, (np.arange(rows), left))
    else:
        filled, _ = jax.lax.scan(one_row, empty, (np.arange(rows), left))
    return _map(lambda t: t[:n1, :n2], filled)


def _cut(tree: Tree, side: int) -> tuple[Tree, int, int]:
    """The tree as [blocks, size, ...], its number of samples, and the size."""
    n = jax.tree_util.tree_leaves(tree)[0].shape[0]
    blocks = -(-n // min(side, n))
    size = -(-n // blocks)

    def cut(a: Any) -> Any:
        padded = jnp.pad(a, [(0, blocks * size - n)] + [(0, 0)] * (a.ndim - 1), mode="edge")
        return padded.reshape(blocks, size, *a.shape[1:])

    return _map(cut, tree), n, size


def _mirrored(block: Any) -> Any:
    order = (1, 0) if block.ndim == 2 else (1, 0, *range(block.ndim - 1, 1, -1))
    return jnp.transpose(block, order)


def cuts(n: int, size: int) -> list[slice]:
    """The places 0 … n - 1, `size` at a time and in order.

    Args:
        n: how many there are.
        size: of a block, at least 1; the last one may be shorter.

    Returns:
        The slices.
    """
    return [slice(start, min(start + size, n)) for start in range(0, n, size)]


def block_of(tree: Tree, start: int, size: int) -> Tree:
    """Samples start … start + size - 1, the last there is repeated where they run out: one shape, one program.

    Args:
        tree: arrays [n, ...] of equal n.
        start: the first.
        size: how many.

    Returns:
        The tree of arrays [size, ...].
    """

    def of_leaf(leaf: Any) -> Any:
        if start + size <= leaf.shape[0]:
            return leaf[start : start + size]
        return leaf[np.minimum(np.arange(start, start + size), leaf.shape[0] - 1)]

    return _map(of_leaf, tree)


def in_parts(function: Callable[[Any], Any], x: Any, size: int = 1000) -> np.ndarray:
    """function(x) of samples that do not see each other, some at a time, put together on the host.

    Args:
        function: [n, ...] → [n, ...].
        x: inputs [N, ...].
        size: of a part.

    Returns:
        An array [N, ...].
    """
    return np.concatenate([np.asarray(function(x[rows])) for rows in cuts(len(x), size)])
