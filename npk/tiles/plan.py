"""Tiles of a kernel of two batches: which there are, what of the inputs each needs, what of its result is kept."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from npk.folders import plain_name
from npk.programs import block_of

Tree = Any
Tile = tuple[int, int]
Device = Any
_map = jax.tree_util.tree_map


@dataclasses.dataclass(frozen=True)
class TilePlan:
    """A grid of equal tiles over [N1, N2]; those of the last row and column may reach over the edge.

    Attributes:
        shape: (N1, N2).
        tile: samples of a tile, (rows, columns).
        symmetric: only tiles of the upper triangle are computed; each is also the mirrored one, transposed.
    """

    shape: tuple[int, int]
    tile: tuple[int, int]
    symmetric: bool

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tiles."""
        return -(-self.shape[0] // self.tile[0]), -(-self.shape[1] // self.tile[1])

    def tiles(self) -> list[Tile]:
        """The tiles to compute, row by row."""
        rows, columns = self.grid
        return [(i, j) for i in range(rows) for j in range(i if self.symmetric else 0, columns)]

    def places(self, tile: Tile) -> tuple[slice, slice]:
        """Rows and columns of the kernel that a tile covers."""
        starts = [number * side for number, side in zip(tile, self.tile)]
        rows, columns = (slice(s, min(s + b, n)) for s, b, n in zip(starts, self.tile, self.shape))
        return rows, columns

    def pairs(self, tile: Tile) -> int:
        """Pairs of samples in a tile."""
        rows, columns = self.places(tile)
        return (rows.stop - rows.start) * (columns.stop - columns.start)

    def copies(self, tile: Tile) -> tuple[Tile, ...]:
        """The tile itself and, where its transpose is another tile, that one."""
        return (tile, (tile[1], tile[0])) if self.symmetric and tile[0] != tile[1] else (tile,)


def balanced(samples: int, largest: int) -> int:
    """The size of equal blocks no larger than `largest`: the last one lacks fewer samples than there are blocks."""
    return -(-samples // -(-samples // min(samples, largest)))


def plan_of(shape: tuple[int, int], symmetric: bool, largest: int) -> TilePlan:
    """The grid of equal tiles of at most `largest` samples a side."""
    return TilePlan(shape, (balanced(shape[0], largest), balanced(shape[1], largest)), symmetric)


def check_tile(tile: Any) -> None:
    """The size of a tile is a whole number of samples."""
    if isinstance(tile, bool) or not isinstance(tile, int) or tile < 1:
        raise ValueError(f"tile must be a whole number of samples, at least 1, or None; got {tile!r}.")


# --------------------------------------------------------------------------------------------- inputs


@dataclasses.dataclass(frozen=True, eq=False)
class Batch:
    """One of the two batches, in the memory of the host.

    Attributes:
        leaves: arrays [N, ...].
        on_device: for each leaf whether it came as an array of JAX.
        tree: how the leaves hang together.
        samples: N.
    """

    leaves: tuple[np.ndarray, ...]
    on_device: tuple[bool, ...]
    tree: Any
    samples: int

    def block(self, start: int, size: int, device: Device) -> Tree:
        """Samples start … start + size on a device, the last sample repeated where they run out.

        NumPy's arrays stay NumPy's on a CPU, so that kernels in plain Python get what they were given.
        """
        keep = device.platform == "cpu"
        parts = block_of(self.leaves, start, size)
        put = [
            part if keep and not given else jax.device_put(part, device)
            for part, given in zip(parts, self.on_device, strict=True)
        ]
        return jax.tree_util.tree_unflatten(self.tree, put)

    def specs(self, size: int) -> Tree:
        """Shapes and dtypes of a block."""
        made = [jax.ShapeDtypeStruct((size, *a.shape[1:]), a.dtype) for a in self.leaves]
        return jax.tree_util.tree_unflatten(self.tree, made)

    def sample_bytes(self) -> int:
        """Bytes of one sample."""
        return sum(a.itemsize * math.prod(a.shape[1:]) for a in self.leaves)


def batch(tree: Tree, name: str) -> Batch:
    """Check a batch and bring it to the host.

    Raises:
        ValueError: it holds no arrays, or not all have the same number of samples, at least one.
    """
    found, structure = jax.tree_util.tree_flatten(tree)
    if not found:
        raise ValueError(f"{name} must hold at least one array [N, ...], got none.")
    for leaf in found:
        if not hasattr(leaf, "shape") or not hasattr(leaf, "dtype"):
            raise ValueError(f"{name} must hold arrays [N, ...], got {type(leaf).__name__}.")
        if leaf.ndim == 0 or isinstance(leaf, jax.core.Tracer) or jnp.issubdtype(leaf.dtype, jax.dtypes.extended):
            raise ValueError(f"{name} must hold arrays [N, ...] of known numbers, got {leaf.dtype}{list(leaf.shape)}.")
    sizes = sorted({leaf.shape[0] for leaf in found})
    if len(sizes) != 1 or sizes[0] == 0:
        raise ValueError(f"all arrays of {name} must have one number of samples N > 0, got {sizes}.")
    given = tuple(isinstance(leaf, jax.Array) for leaf in found)
    return Batch(tuple(np.asarray(leaf) for leaf in found), given, structure, sizes[0])


def inputs(plan: TilePlan, one: Batch, two: Batch | None, tile: Tile, device: Device) -> tuple[Tree, Tree]:
    """The two blocks of a tile, always of the tile's full size, so that a kernel is compiled once."""
    starts = [number * side for number, side in zip(tile, plan.tile)]
    left = one.block(starts[0], plan.tile[0], device)
    if two is None and tile[0] == tile[1]:
        return left, left
    return left, (one if two is None else two).block(starts[1], plan.tile[1], device)


# -------------------------------------------------------------------------------------------- results


@dataclasses.dataclass(frozen=True)
class Leaf:
    """One of the arrays that a kernel returns: its name, its dtype and the axes that follow those of the samples."""

    name: str
    dtype: np.dtype
    axes: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.name:
            plain_name(self.name, "the name of a kernel's array, which is a folder's")
        if self.name.endswith(".json"):
            raise ValueError(f"{self.name!r} cannot be the name of a kernel's array: files of a store are called so.")


def leaves_of(block: Tree, sides: tuple[int, int], dtype: Any, symmetric: bool) -> tuple[Leaf, ...]:
    """The arrays of a kernel's result (or their shapes) on a block of that size.

    Raises:
        ValueError: the result is not a tree of floating arrays [n1, n2, ...] with distinct names.
    """
    found = jax.tree_util.tree_flatten_with_path(block)[0]
    leaves = []
    for path, leaf in found:
        shape = tuple(np.shape(leaf))
        if len(shape) < 2 or shape[:2] != sides or not hasattr(leaf, "dtype"):
            what = f"{leaf.dtype}{list(shape)}" if hasattr(leaf, "dtype") else type(leaf).__name__
            raise ValueError(f"the kernel must return arrays {list(sides)} for blocks of so many samples, got {what}.")
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise ValueError(f"the kernel must return numbers of a floating dtype, got {leaf.dtype}.")
        if symmetric and len(shape) > 4:
            raise ValueError(
                f"a symmetric kernel has at most two axes beside its samples, got {list(shape)}: give two."
            )
        leaves.append(Leaf(_leaf_name(path), np.dtype(leaf.dtype if dtype is None else dtype), shape[2:]))
    names = [leaf.name for leaf in leaves]
    if not leaves or len(set(names)) < len(names) or (len(names) > 1 and "" in names):
        raise ValueError(f"the kernel must return at least one array, each of its own name; got {names}.")
    return tuple(leaves)


def _leaf_name(path: Sequence[Any]) -> str:
    """As in `value` or `blocks.params.Dense_0.kernel.value`: a folder's name; empty for a single array."""
    words = [str(next(getattr(key, a) for a in ("key", "name", "idx") if hasattr(key, a))) for key in path]
    return ".".join(words).replace("/", ".")


def mirrored(block: np.ndarray) -> np.ndarray:
    """K[s', s] of K[s, s']: further axes [K, K] are transposed as well."""
    return block.transpose(1, 0, *range(block.ndim - 1, 1, -1))


def kept(plan: TilePlan, leaves: Sequence[Leaf], tile: Tile, block: Tree) -> dict[str, np.ndarray]:
    """What is kept of a tile: cut at the edge, in the wanted dtype, symmetric on the diagonal, finite.

    Raises:
        ValueError: a number is not finite, a kernel said to be symmetric is not, or its result is another than
            before.
    """
    rows, columns = plan.places(tile)
    found = leaves_of(block, plan.tile, None, plan.symmetric)
    if [(f.name, f.axes) for f in found] != [(leaf.name, leaf.axes) for leaf in leaves]:
        raise ValueError(
            f"the kernel returned {[f.name for f in found]} for one tile and {[a.name for a in leaves]} before."
        )
    result = {}
    for leaf, array in zip(leaves, jax.tree_util.tree_leaves(block), strict=True):
        part = np.asarray(array)[: rows.stop - rows.start, : columns.stop - columns.start]
        if plan.symmetric and tile[0] == tile[1]:
            part = _made_symmetric(part, leaf.name)
        result[leaf.name] = _finite(part, leaf, (rows, columns))
    return result


def _finite(part: np.ndarray, leaf: Leaf, places: tuple[slice, slice]) -> np.ndarray:
    with np.errstate(over="ignore", invalid="ignore"):
        cast = np.ascontiguousarray(part, leaf.dtype)
        # A sum is one pass without a mask; only where it overflows each number is looked at.
        fine = (
            np.isfinite(np.sum(cast, dtype=np.float32 if cast.itemsize < 4 else cast.dtype)) or np.isfinite(cast).all()
        )
    if fine:
        return cast
    where = " x ".join(f"{place.start}:{place.stop}" for place in places)
    if np.isfinite(part).all():
        raise ValueError(f"the kernel leaves the range of {leaf.dtype} in samples {where}: choose a wider dtype.")
    raise ValueError(f"the kernel is not finite in samples {where}: nothing of this tile was kept.")


def _made_symmetric(block: np.ndarray, name: str) -> np.ndarray:
    """The upper triangle and its mirror image: matrix products may round K[s, s'] and K[s', s] differently."""
    other = mirrored(block)
    wide = np.float32 if block.dtype.itemsize < 4 else block.dtype
    with np.errstate(invalid="ignore"):
        difference = np.max(np.abs(block - other)).astype(wide)
        scale = np.max(np.abs(block)).astype(wide)
    rounding = math.sqrt(float(jnp.finfo(block.dtype).eps))
    if difference > rounding * scale:  # false where not finite, which is told elsewhere
        which = f" ({name})" if name else ""
        raise ValueError(
            f"the kernel{which} is not symmetric: K[s, s'] and K[s', s] differ by {difference:.3g} of {scale:.3g}. "
            "Give the second batch as well, and every tile is computed."
        )
    outputs = block.shape[-1] if block.ndim == 4 else 1
    first = np.arange(block.shape[0] * outputs).reshape(-1, outputs)
    left, right = (first[:, None, :, None], first[None, :, None, :]) if block.ndim == 4 else (first, first.T)
    if block.ndim == 3:
        left, right = left[..., None], right[..., None]
    return np.where(left <= right, block, other)


# ------------------------------------------------------------------------------------------- schedule


def share(tiles: Sequence[Tile], process: int, processes: int, start: int) -> list[Tile]:
    """All tiles in the order in which one of several processes takes them.

    Tile t belongs to process t mod P. A process takes its own first and then, from the end, what others have
    not done yet: so that a lost one is made up for, and two meet as late as they can. Processes that do not
    know of each other begin at different places.
    """
    own = [tile for t, tile in enumerate(tiles) if t % processes == process]
    others = [tile for t, tile in enumerate(tiles) if t % processes != process]
    start = start % len(own) if own else 0
    return [*own[start:], *own[:start], *reversed(others)]
