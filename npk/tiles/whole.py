"""Kernels of whole data sets, tile by tile: of any size, on many devices, in memory or on disk, never computed twice.

A kernel here is any function of two batches, `kernel(a, b)` → [n1, n2]: batches are arrays, or trees of arrays,
whose first axis is the sample. What it computes is not known here; it must not mix samples.
"""

import dataclasses
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from npk.folders import fingerprint, versions
from npk.programs import available_memory
from npk.tiles import disk, ledger, memory, records, store
from npk.tiles.devices import Work, devices_of, process_of
from npk.tiles.filling import Filling, compute
from npk.tiles.plan import Batch, Device, Leaf, Tile, TilePlan, batch, check_tile, inputs, kept, mirrored, plan_of
from npk.tiles.progress import Meter, Progress
from npk.tiles.records import Record
from npk.tiles.stored_kernel import StoredKernel, stored_kernels

Kernel = Callable[[Any, Any], Any]
Stored = StoredKernel | dict[str, StoredKernel]


def tiled(
    kernel: Kernel,
    *,
    tile: int | None = None,
    dtype: Any = None,
    mesh: jax.sharding.Mesh | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Callable[..., PyTree]:
    """Transform a kernel of two batches into one of two batches of any size, computed tile by tile into memory.

    K[s, s'] of all pairs; where the second batch is left out, K[s', s] = K[s, s'] and only tiles of the upper triangle
    are computed; the result is symmetric bit for bit. Every tile has the same size, the last ones are filled up with
    repeated samples and cut, so that a kernel is compiled once. While a tile is computed, the inputs of the next one
    are put on the device and the result before it is copied.

    Args:
        kernel: `kernel(a, b)` → [n1, n2, ...], or a tree of such arrays; traceable or plain Python. On a CPU, NumPy
            arrays reach it as such; else it gets arrays of JAX.
        tile: the largest number of samples a side of a tile. None: chosen from the memory that is free and from what
            the compiled kernel needs of it, which takes two small compilations.
        dtype: of the result; None for what the kernel returns.
        mesh: the tiles are spread over its devices (those of this process); None is the first device. The numbers do
            not depend on it, as far as devices are alike.
        progress: called with a `Progress` after every tile, in the caller's thread.

    Returns:
        A function (one, two=None) → [N1, N2, ...] as NumPy array. Of a kernel that returns a tree: a
        dictionary of such arrays by name, e.g. `value`, `feature`, `cross`.

    Raises:
        ValueError: a batch is empty or its arrays do not match; the kernel does not return floating numbers
            [n1, n2, ...], returns some that are not finite or leave the dtype, or is not symmetric when two is None.
        MemoryError: the result does not fit the memory that is free.

    Example:
        >>> import numpy as np
        >>> from npk.tiles import tiled
        >>> x = np.arange(5, dtype=np.float32)
        >>> tiled(np.multiply.outer, tile=2)(x).tolist() == np.outer(x, x).tolist()
        True
    """
    _check_arguments(tile, dtype, None)

    def whole(one: PyTree, two: PyTree | None = None) -> PyTree:
        batches = _Batches.of(one, two)
        devices = devices_of(mesh)
        leaves = batches.result_of(kernel, dtype, devices[0])
        side, why = (tile, "as given") if tile else batches.choose_side(kernel, leaves, devices)
        plan = plan_of(batches.shape, batches.symmetric, side)
        _check_fits(plan, leaves)
        results = [np.empty((*plan.shape, *leaf.axes), leaf.dtype) for leaf in leaves]

        def keep(place: Tile, block: Any) -> None:
            parts = kept(plan, leaves, place, block)
            for leaf, result in zip(leaves, results, strict=True):
                for copy, part in zip(plan.copies(place), (parts[leaf.name], mirrored(parts[leaf.name]))):
                    result[plan.places(copy)] = part

        tiles = plan.tiles()
        meter = Meter(progress, len(tiles))
        meter.say(_chosen(plan, why))
        compute(batches.work(kernel, plan, keep), plan, tiles, devices, meter, 0)
        named = {leaf.name: result for leaf, result in zip(leaves, results, strict=True)}
        return named.get("", named)

    return whole


def stored(
    kernel: Kernel,
    path: str | os.PathLike[str],
    *,
    identity: Mapping[str, Any] | None = None,
    tile: int | None = None,
    dtype: Any = None,
    mesh: jax.sharding.Mesh | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Callable[..., Stored]:
    """Transform a kernel of two batches into one of any size on disk, which may be interrupted at any moment.

    As `tiled`, into a Zarr store (version 3, a chunk a tile, with checksums). A tile is written beside, synchronised
    and renamed: it is there whole or not at all; a list of checksums beside says which chunk belongs where. Given
    again, the same command checks the tiles that are there, computes one of them again to see that the store is of this
    kernel, then what is missing or damaged, and ends with the same bits. Several processes may work on one store: those
    of `jax.distributed` share the tiles (tile t is of process t mod P), others begin at different tiles; each then goes
    on with what the others have not done, so a lost one is made up for.

    Args:
        kernel: as of `tiled`.
        path: folder of the store; made if it is not there. An array lies in it, or one array a name in folders of their
            own where the kernel returns a tree.
        identity: what the kernel is, in plain values: its name, and `fingerprint`s of its parameters and of whatever
            else its numbers depend on. The batches, the shape and the versions of npk and JAX are added, and, where the
            kernel can be traced, a hash of its program with all numbers it closes over: then it may be left out. A
            kernel in plain Python cannot be looked into, and needs one.
        tile: as of `tiled`; None for that of the store, where there is one.
        dtype: float32, float64 or bfloat16; None for what the kernel returns, or that of the store. bfloat16 numbers
            lie on disk as compressed float32, which any Zarr reader reads.
        mesh: as of `tiled`; the tiles are spread over its processes as well. None: over all processes of
            `jax.distributed`, on the first device of each.
        progress: as of `tiled`.

    Returns:
        A function (one, two=None) → `StoredKernel`, or a dictionary of them by name, once all tiles
        are there.

    Raises:
        ValueError: as `tiled`; the store is of another configuration (all that differs is named), or holds other
            numbers than the kernel gives; a kernel that cannot be traced has no identity.
        FileExistsError: the folder holds something else.
        OSError: the store cannot be written, or the disk is full; the tiles that are done are safe.

    Example:
        >>> import numpy as np, tempfile
        >>> from npk.tiles import stored
        >>> x = np.arange(5, dtype=np.float32)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     run = stored(np.multiply.outer, f"{folder}/k", identity={"name": "outer"}, tile=2)
        ...     run(x).read(rows=slice(3, 5)).tolist()
        [[0.0, 3.0, 6.0, 9.0, 12.0], [0.0, 4.0, 8.0, 12.0, 16.0]]
    """
    _check_arguments(tile, dtype, identity)
    path = Path(path)
    if str(path) != str(path).encode(errors="replace").decode():
        raise ValueError(f"the path of a store must be text, got {str(path)!r}: choose one without undecodable bytes.")
    named = json.loads(json.dumps(dict(identity or {})))

    def whole(one: PyTree, two: PyTree | None = None) -> Stored:
        batches = _Batches.of(one, two)
        devices = devices_of(mesh)
        plan = TilePlan(batches.shape, batches.shape, batches.symmetric)
        here = Record(plan, (), named, batches.data(), versions(devices[0].platform))
        there, why = ledger.find(path), "as in the store"
        if there is None:
            leaves = batches.result_of(kernel, dtype, devices[0])
            _check_storable(leaves)
            side, why = (tile, "as given") if tile else batches.choose_side(kernel, leaves, devices)
            plan = plan_of(batches.shape, batches.symmetric, side)
            here = dataclasses.replace(here, program=batches.program_of(kernel, plan, named))
            disk.check_writable(path, lambda: "nothing was begun")
            there = dataclasses.replace(here, plan=plan, leaves=leaves)
        else:
            here = dataclasses.replace(here, program=batches.program_of(kernel, there.plan, named))
        records.refuse_other(path, there, wanted := _wanted(here, there, tile, dtype))
        records.refuse_other(path, records.begin(path, there), wanted)  # another process may have been first
        run = Filling(path, there, Meter(progress, len(there.plan.tiles())))
        run.meter.say(_chosen(there.plan, why))
        run.fill(batches.work(kernel, there.plan, run.keep), devices, process_of(mesh))
        return stored_kernels(path, there, run.arrays)

    return whole


def open_kernel(path: str | os.PathLike[str]) -> Stored:
    """Open a stored kernel to read it.

    Args:
        path: the folder that was given to `stored`.

    Returns:
        A `StoredKernel`, or a dictionary of them by name.

    Raises:
        FileNotFoundError: there is no store.
        FileExistsError: there is something else.
        ValueError: its description is damaged.

    Example:
        >>> from npk.tiles import open_kernel
        >>> open_kernel("nowhere")
        Traceback (most recent call last):
        FileNotFoundError: nowhere holds no kernel: make one with npk.tiles.stored.
    """
    path = Path(path)
    if (record := ledger.find(path)) is None:
        raise FileNotFoundError(f"{path} holds no kernel: make one with npk.tiles.stored.")
    if not (path / "zarr.json").exists():
        raise ValueError(
            f"{path} has lost its zarr.json: give the command that made it again, or `npk verify --repair {path}`."
        )
    return stored_kernels(path, record, store.arrays_of(path, record))


# --------------------------------------------------------------------------------------------- inputs


@dataclasses.dataclass(frozen=True, eq=False)
class _Batches:
    """The batches of a kernel; `two` is None for `one`."""

    one: Batch
    two: Batch | None

    @staticmethod
    def of(one: PyTree, two: PyTree | None) -> "_Batches":
        return _Batches(batch(one, "one"), None if two is None else batch(two, "two"))

    @property
    def symmetric(self) -> bool:
        return self.two is None

    @property
    def other(self) -> Batch:
        return self.one if self.two is None else self.two

    @property
    def shape(self) -> tuple[int, int]:
        return self.one.samples, self.other.samples

    def data(self) -> dict[str, str | None]:
        """Fingerprints, with None for a second batch that is the first."""
        trees = [None if b is None else jax.tree_util.tree_unflatten(b.tree, b.leaves) for b in (self.one, self.two)]
        one, two = (None if tree is None else fingerprint(tree) for tree in trees)
        return {"one": one, "two": two}

    def program_of(self, kernel: Kernel, plan: TilePlan, named: Any) -> str | None:
        """The hash of a kernel's program; where there is none it must have a name."""
        found = memory.program_of(kernel, self.one, self.other, plan.tile)
        if found is None and not named:
            raise ValueError(
                "the kernel cannot be traced, or calls back into Python, so that nothing tells it from another one: "
                'name it and what its numbers depend on, identity={"name": …, "params": '
                "npk.tiles.fingerprint(params)}."
            )
        return found

    def result_of(self, kernel: Kernel, dtype: Any, device: Device) -> tuple[Leaf, ...]:
        return memory.result_of(kernel, self.one, self.other, dtype, self.symmetric, device)

    def choose_side(self, kernel: Kernel, leaves: Sequence[Leaf], devices: Sequence[Device]) -> tuple[int, str]:
        return memory.choose_side(kernel, self.one, self.other, leaves, devices)

    def work(self, kernel: Kernel, plan: TilePlan, keep: Callable[[Tile, Any], None]) -> Work:
        def load(tile: Tile, device: Device) -> tuple[Any, Any]:
            return inputs(plan, self.one, self.two, tile, device)

        return Work(lambda tile: False, load, kernel, keep)


def _check_arguments(tile: Any, dtype: Any, identity: Any) -> None:
    if tile is not None:
        check_tile(tile)
    if dtype is not None and not jnp.issubdtype(jnp.dtype(dtype), jnp.floating):
        raise ValueError(f"dtype must be a floating one or None, got {dtype}.")
    if identity is None:
        return
    if dtype is not None and jnp.dtype(dtype).name not in records.DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(records.DTYPES)}, got {dtype}.")
    try:
        json.dumps(dict(identity), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"identity must be a mapping of plain values (strings, numbers, fingerprints), got {identity!r} ({error})."
        ) from None


def _check_storable(leaves: Sequence[Leaf]) -> None:
    for leaf in leaves:
        if leaf.dtype.name not in records.DTYPES:
            raise ValueError(
                f"the kernel returns {leaf.dtype}, a store holds {', '.join(records.DTYPES)}: give dtype=."
            )


def _check_fits(plan: TilePlan, leaves: Sequence[Leaf]) -> None:
    needed = math.prod(plan.shape) * sum(leaf.dtype.itemsize * math.prod(leaf.axes) for leaf in leaves)
    free = available_memory()
    if needed > free:
        raise MemoryError(
            f"the kernel {list(plan.shape)} takes {needed / 1e9:,.1f} GB and {free / 1e9:,.1f} GB are free: keep it on "
            "disk by npk.tiles.stored, or choose a smaller dtype."
        )


# ---------------------------------------------------------------------------------------------- store


def _wanted(here: Record, there: Record, tile: int | None, dtype: Any) -> Record:
    """The record that a store must have to be gone on with: what is not given is the store's own."""
    if tile is None:
        plan = dataclasses.replace(here.plan, tile=there.plan.tile)
    else:
        plan = plan_of(here.plan.shape, here.plan.symmetric, tile)
    leaves = there.leaves
    if dtype is not None:
        leaves = tuple(dataclasses.replace(leaf, dtype=np.dtype(jnp.dtype(dtype))) for leaf in leaves)
    # Where its kernel could not be traced a tile of it is compared.
    program = None if there.program is None else here.program
    return dataclasses.replace(here, plan=plan, leaves=leaves, program=program)


def _chosen(plan: TilePlan, why: str) -> str:
    rows, columns = plan.grid
    number = len(plan.tiles())
    return f"tiles of {plan.tile[0]:,} x {plan.tile[1]:,} samples, {rows} x {columns}, {number:,} to compute: {why}"
