"""A batch of samples cut into blocks of one size."""

import dataclasses
from collections.abc import Iterator

import jax
import numpy as np
from jaxtyping import PyTree


@dataclasses.dataclass(frozen=True, eq=False)
class Side:
    """A batch cut into blocks of equal size, the last one filled up with its last sample: one shape to compile."""

    batch: PyTree
    size: int
    block: int

    def blocks(self) -> Iterator[tuple[slice, PyTree]]:
        for start in range(0, self.size, self.block):
            yield slice(start, min(start + self.block, self.size)), self.samples(start)

    def samples(self, start: int) -> PyTree:
        if start + self.block > self.size:
            return self.taken(np.minimum(np.arange(start, start + self.block), self.size - 1))
        return jax.tree_util.tree_map(lambda a: a[start : start + self.block], self.batch)

    def taken(self, places: np.ndarray) -> PyTree:
        return jax.tree_util.tree_map(lambda a: a[places], self.batch)


def side_of(batch: PyTree, tile: int, name: str) -> Side:
    """The batch, in blocks of at most `tile` samples."""
    leaves = jax.tree_util.tree_leaves(batch)
    if any(np.ndim(leaf) == 0 for leaf in leaves):
        raise ValueError(f"{name} must hold arrays [N, ...], got a scalar.")
    sizes = {len(leaf) for leaf in leaves}
    if len(sizes) != 1 or 0 in sizes:
        raise ValueError(f"{name} must hold arrays of one leading axis N > 0, got lengths {sorted(sizes)}.")
    (size,) = sizes
    return Side(batch, size, -(-size // -(-size // tile)))
