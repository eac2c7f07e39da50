"""GPU engine for convolutions with global pooling under hard gates: all layers of a pair of images in registers.

In displacement coordinates (p, d = p' - p) a convolution's sum over equal offsets is a box filter over p for
every d on its own. A thread owns one d and a strip of columns, and walks down the rows with all layers at once:
layer l+1 works `radius` rows behind layer l, and keeps the last rows of its window. Nothing but gates is
read, nothing but the sum is written, no thread waits for another.

Everything is circular. Convolutions that see zeros outside are circular ones of images with a margin of zeros as
wide as the largest radius: what a gate of 0 multiplies does not matter. Gates are packed, 32 channels an int32
(for which alone Triton counts bits), and read up to four words at once.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from npk.path_kernels.engines.pooled.chain import GapChain

# Threads of a block, each with one displacement and strip: a power of two, as Triton asks.
_LANES = 128
# Registers (of 255) that may hold earlier rows: with more, rows and addresses spill to memory.
_STATE_REGISTERS = 112
_WIDEST_STRIP = 16
# A known upper bound keeps addresses plain sums, whose constant parts cost no instruction (35 % fewer in all).
_ADDRESSES = (1 << 30) - 1


def _up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


# ------------------------------------------------------------------------------------------- the layout


@dataclasses.dataclass(frozen=True)
class _Table:
    """What one side's images hold: planes of rows × columns cells, `widths` numbers a cell, one array an image."""

    rows: int
    columns: int
    widths: tuple[int, ...]

    @property
    def cells(self) -> int:
        return _up(self.rows * self.columns, 4)  # so that each plane begins where its widest load may

    @property
    def size(self) -> int:
        return self.cells * sum(self.widths)

    def offset(self, plane: int) -> int:
        return self.cells * sum(self.widths[:plane])


@dataclasses.dataclass(frozen=True)
class Layout:
    """How a chain is cut into threads.

    `rows`, `columns` is the period: the image with its margin of zeros, if any; `height` rows are summed over.
    `radii` are those of the windows, `channels` those of the image and of every layer's gates, `shifts` what
    biases add. A thread owns `strip` columns.
    """

    rows: int
    columns: int
    height: int
    radii: tuple[tuple[int, int], ...]
    strip: int
    channels: tuple[int, ...]
    circular: bool
    shifts: tuple[float, ...]

    @property
    def lanes(self) -> int:
        return self.rows * self.columns * self.strips

    @property
    def strips(self) -> int:
        return -(-self.columns // self.strip)

    @property
    def blocks(self) -> int:
        return -(-self.lanes // _LANES)

    def reach(self, layer: int) -> int:
        """Columns beyond the strip that a layer's gated kernel is needed at, on either side."""
        return sum(width for _, width in self.radii[layer:])

    @property
    def delay(self) -> int:
        """Rows by which the last layer is behind the first."""
        return sum(height for height, _ in self.radii)

    def operations(self) -> dict[str, float]:
        """Of all threads for one pair of images: bit counts, and additions with their products."""
        rows = self.height + self.delay * (2 if self.circular else 1)
        cells = [self.strip + 2 * self.reach(layer) for layer in range(len(self.channels))]
        words = [-(-c // 32) for c in self.channels]
        box = [(2 * h) + (2 * w) + 1 for h, w in self.radii]  # sums down, sums across, the product with the overlap
        sums = sum(n * b for n, b in zip(cells[1:], box)) + cells[0] * sum(_values(self.channels[0]))
        counts = sum(n * w for n, w in zip(cells[1:], words[1:]))
        threads = self.blocks * _LANES
        return {"bit counts": float(threads * rows * counts), "multiply-adds": float(threads * rows * sums)}

    def planes(self, layer: int) -> range:
        """The planes of a layer's gates; layer 0 is the image, in a table of its own."""
        before = sum(len(_words(c)) for c in self.channels[1:layer])
        return range(before, before + len(_words(self.channels[layer])))

    def table(self, right: bool, image: bool) -> _Table:
        columns = self.strips * self.strip + 2 * self.reach(0) + right * (self.columns - 1)
        if image:
            return _Table(self.rows, columns, _values(self.channels[0]))
        return _Table(self.rows, columns, tuple(w for c in self.channels[1:] for w in _words(c)))


def _words(channels: int) -> tuple[int, ...]:
    """Gates as loads of four, two and one words of 32."""
    fours, rest = divmod(-(-channels // 32), 4)
    return (4,) * fours + (2,) * (rest // 2) + (1,) * (rest % 2)


def _values(channels: int) -> tuple[int, ...]:
    return (channels,) if channels <= 2 else (4,) * -(-channels // 4)


def layout(chain: GapChain, gate_channels: Sequence[int], dtype: Any) -> Layout | None:
    """The layout of a chain; None where its rows do not fit the registers of a thread."""
    height, width, channels = chain.image
    radii = tuple((c.window[0] // 2, c.window[1] // 2) for c in chain.convolutions)
    margins = (0, 0) if chain.circular else tuple(max(r[axis] for r in radii) for axis in (0, 1))
    found = [
        Layout(
            height + margins[0],
            width + margins[1],
            height,
            radii,
            strip,
            (channels, *(gate_channels[c.gate] for c in chain.convolutions)),
            chain.circular,
            _unscaled_shifts(chain),
        )
        for strip in range(1, min(_WIDEST_STRIP, width + margins[1]) + 1)
    ]
    budget = _STATE_REGISTERS // (np.dtype(dtype).itemsize // 4)
    fitting = [one for one in found if _state_size(one) <= budget]
    return min(fitting, key=_work, default=None)


def _unscaled_shifts(chain: GapChain) -> tuple[float, ...]:
    """The kernel leaves scales out until the end; a bias is then worth more."""
    scales = np.cumprod([c.scale for c in chain.convolutions])
    return tuple(float(c.shift / scale) for c, scale in zip(chain.convolutions, scales))


def _state_size(one: Layout) -> int:
    return sum(2 * h * (one.strip + 2 * one.reach(layer + 1)) for layer, (h, _) in enumerate(one.radii))


def _work(one: Layout) -> int:
    """Overlaps of gates for a row of one displacement."""
    return one.strips * sum(one.strip + 2 * one.reach(layer) for layer in range(len(one.radii) + 1))


# ------------------------------------------------------------------------------------------- the tables


def _spread(images: Any, one: Layout, table: _Table) -> Any:
    """Images [n, height, width, k] with their margins, repeated over the columns of a table."""
    height, width = images.shape[1:3]
    images = jnp.pad(images, ((0, 0), (0, one.rows - height), (0, one.columns - width), (0, 0)))
    return jnp.take(images, (np.arange(table.columns) - one.reach(0)) % one.columns, axis=2)


def _packed(gates: Any) -> Any:
    """Gates [n, height, width, channels] as int32 words."""
    *shape, channels = gates.shape
    bits = jnp.pad((gates != 0).astype(jnp.uint32), ((0, 0),) * 3 + ((0, -channels % 32),))
    bits = bits.reshape(*shape, -1, 32) << jnp.arange(32, dtype=jnp.uint32).reshape(1, 1, 1, 1, 32)
    return jax.lax.bitcast_convert_type(jnp.sum(bits, -1, dtype=jnp.uint32), jnp.int32)


def _planes(spread: Any, widths: Sequence[int], table: _Table) -> list[Any]:
    """[n, rows, columns, numbers] → for each width [n, cells · width]."""
    parts = jnp.split(spread, np.cumsum(widths)[:-1].tolist(), axis=3)
    flat = [part.reshape(part.shape[0], -1) for part in parts]
    return [jnp.pad(f, ((0, 0), (0, table.cells * w - f.shape[1]))) for f, w in zip(flat, widths)]


def _gate_table(gates: Sequence[Any], one: Layout, right: bool) -> Any:
    table, planes = one.table(right, False), []
    for layer, g in enumerate(gates, 1):
        spread = _spread(_packed(g), one, table)
        if layer == len(gates) and not right:  # the last strip may reach into the next period: counted once
            inside = np.arange(table.columns) < one.reach(0) + one.columns
            spread = spread * inside.astype(np.int32).reshape(1, 1, -1, 1)
        planes += _planes(spread, _words(g.shape[3]), table)
    return jnp.concatenate(planes, 1)


def _image_table(x: Any, one: Layout, right: bool) -> Any:
    table = one.table(right, True)
    x = jnp.pad(x, ((0, 0),) * 3 + ((0, sum(table.widths) - x.shape[3]),))
    return jnp.concatenate(_planes(_spread(x, one, table), table.widths, table), 1)


def tables(one: Layout, x: Any, gates: Sequence[Any]) -> dict[str, Any]:
    """What the kernel reads of a batch: x [n, height, width, channels], the gates of its convolutions likewise."""
    return {
        "gates": tuple(_gate_table(gates, one, right) for right in (False, True)),
        "images": tuple(_image_table(x, one, right) for right in (False, True)),
    }


# ------------------------------------------------------------------------------------------- the kernel


def _cursor(ref: Any, table: _Table, image: Any, cell: Any) -> Callable[[int, int], Any]:
    """A function (plane, column) → numbers [lanes] or [lanes, width], `cell` being each lane's first column."""

    @functools.cache
    def start(width: int) -> Any:
        at = (image * np.int32(table.size // width) + cell) & np.int32(_ADDRESSES // width)
        return at if width == 1 else at[:, None] * np.int32(width) + jnp.arange(width, dtype=jnp.int32)[None]

    def load(plane: int, column: int) -> Any:
        width = table.widths[plane]
        return ref[start(width) + np.int32(table.offset(plane) + column * width)]

    return load


def _total(parts: Sequence[Any], dtype: Any) -> Any:
    sums = [p if p.ndim == 1 else jnp.sum(p, 1, dtype=dtype) for p in parts]
    return functools.reduce(jnp.add, sums)


class _Pair:
    """What the lanes of one block read: two images at each lane's displacement and strip."""

    def __init__(self, one: Layout, refs: Sequence[Any]):
        from jax.experimental import pallas as pl

        lane = pl.program_id(0) * np.int32(_LANES) + jnp.arange(_LANES, dtype=jnp.int32)
        self.inside = lane < one.lanes
        lane = jnp.where(self.inside, lane, 0)
        strips, columns = np.int32(one.strips), np.int32(one.columns)
        self.right = jax.lax.rem(lane, columns)
        rest = jax.lax.div(lane, columns)
        self.first, self.down = jax.lax.rem(rest, strips) * np.int32(one.strip), jax.lax.div(rest, strips)
        self.images = pl.program_id(2), pl.program_id(1)
        self.layout, self.refs = one, refs

    def cursors(self, row: Any, image: bool) -> tuple[Callable[[int, int], Any], Callable[[int, int], Any]]:
        """Into row `row` of the left image and the row `down` below it of the right one."""
        one, rows = self.layout, np.int32(self.layout.rows)
        row = jax.lax.rem(row + np.int32(_up(one.delay, one.rows)), rows)
        other = row + self.down
        other = jnp.where(other >= rows, other - rows, other)
        left, right = (one.table(side, image) for side in (False, True))
        cells = (
            row * np.int32(left.columns) + self.first,
            other * np.int32(right.columns) + self.first + self.right,
        )
        refs = self.refs[2:] if image else self.refs[:2]
        return (
            _cursor(refs[0], left, self.images[0], cells[0]),
            _cursor(refs[1], right, self.images[1], cells[1]),
        )

    def products(self, row: Any, columns: Sequence[int], dtype: Any) -> list[Any]:
        """x · x' at some columns of a row."""
        a, b = self.cursors(row, True)
        planes = range(len(_values(self.layout.channels[0])))
        return [_total([a(p, c) * b(p, c) for p in planes], dtype) for c in columns]

    def overlaps(self, layer: int, row: Any, columns: Sequence[int], dtype: Any) -> list[Any]:
        """The number of channels of a layer that are on in both images."""
        a, b = self.cursors(row, False)
        planes = self.layout.planes(layer)
        counts = (_total([jax.lax.population_count(a(p, c) & b(p, c)) for p in planes], jnp.int32) for c in columns)
        return [count.astype(dtype) for count in counts]


def _kernel(one: Layout, dtype: Any, *refs: Any) -> None:
    *read, out = refs
    pair = _Pair(one, read)

    def columns(layer: int) -> range:
        return range(one.reach(0) - one.reach(layer), one.reach(0) + one.strip + one.reach(layer))

    def step(row: Any, carry: Any) -> Any:
        state, total = carry
        gated, kept = pair.products(row, columns(0), dtype), []
        for layer, (height, width) in enumerate(one.radii, 1):
            sums = [functools.reduce(jnp.add, gated[i : i + 2 * width + 1]) for i in range(len(columns(layer)))]
            window = (*state[layer - 1], tuple(sums))
            kept.append(window[1:])
            shift = one.shifts[layer - 1]
            k = [functools.reduce(jnp.add, cells) for cells in zip(*window)]
            k = [cell + np.asarray(shift, dtype) for cell in k] if shift else k
            row = row - np.int32(height)
            overlaps = pair.overlaps(layer, row, columns(layer), dtype)
            gated = [a * b for a, b in zip(k, overlaps)]
        found = functools.reduce(jnp.add, gated)
        return tuple(kept), total + jnp.where(row >= 0, found, jnp.zeros_like(found))

    zero = jnp.zeros((_LANES,), dtype)
    state = tuple(((zero,) * len(columns(layer)),) * (2 * h) for layer, (h, _) in enumerate(one.radii, 1))
    # Above the first row of a wrapped image are its last rows; above that of another are zeros.
    first, stop = (-one.delay if one.circular else 0), one.height + one.delay
    _, total = jax.lax.fori_loop(np.int32(first), np.int32(stop), step, (state, zero))
    out[0] = jnp.sum(jnp.where(pair.inside, total, jnp.zeros_like(total)))


def most_images(one: Layout) -> int:
    """The number of images of one batch that the kernel's addresses reach."""
    return _ADDRESSES // max(one.table(True, image).size for image in (False, True)) - 1


def pooled_sums(one: Layout, left: dict[str, Any], right: dict[str, Any], *, interpret: bool = False) -> Any:
    """Σ over all pairs of positions of the last layer's gated kernel, without scales: [n1, n2].

    Args:
        one: the layout of the chain.
        left: `tables` of the rows' batch.
        right: `tables` of the columns' batch.
        interpret: run by XLA on any device instead of compiling for a GPU.
    """
    from jax.experimental import pallas as pl  # late: not every build of jaxlib has them
    from jax.experimental.pallas import triton

    read = [left["gates"][0], right["gates"][1], left["images"][0], right["images"][1]]
    dtype = read[2].dtype
    n1, n2 = len(read[0]), len(read[1])
    assert max(n1, n2) <= most_images(one)
    partial = pl.pallas_call(
        functools.partial(_kernel, one, dtype),
        out_shape=jax.ShapeDtypeStruct((n1, n2, one.blocks), dtype),
        grid=(one.blocks, n2, n1),
        out_specs=pl.BlockSpec((None, None, 1), lambda block, j, i: (i, j, block)),
        compiler_params=triton.CompilerParams(num_warps=_LANES // 32, num_stages=1),
        interpret=interpret,
        name="pooled_path_kernel",
    )(*(r.reshape(-1) for r in read))
    return jnp.sum(partial, 2)
