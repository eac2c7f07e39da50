"""Path kernels of numbers in the memory of a host, by the plain rules: in NumPy, or compiled by kinds of terms."""

from typing import Any

import jax
import numpy as np

from npk.path_kernels.demands import Demands, Size, uses
from npk.path_kernels.interpreters import CompiledMoments, HostMoments
from npk.path_kernels.moments import output_moment
from npk.path_kernels.thresholds import Thresholds
from npk.paths import Form, Numbers
from npk.programs import block_of, samples_in

# Bytes of the numbers of all factors of a batch that are held from block to block.
_HELD = 1 << 27


def kernel(
    form: Form,
    fixed: dict[Any, Any],
    one: Any,
    two: Any,
    *,
    normalize: bool,
    binary: bool,
    dtype: Any,
    demands: Demands,
    size: Size,
    side: int,
    known: dict[Any, Any],
    thresholds: Thresholds,
) -> jax.Array:
    """H [n1, n2] of laid out batches, of several places [n1, n2, places]; `one` twice for a symmetric kernel.

    Args:
        form: of the network.
        fixed: `Form.fixed`.
        one: x [n1, 1, ...] and gates [n1, ...], arrays of NumPy.
        two: likewise.
        normalize: as of `path_kernel`.
        binary: whether all gates are 0 or 1.
        dtype: of the kernel.
        demands: of the form.
        size: of the demands.
        side: samples of a block.
        known: what was found of the form before, of shapes alone.
        thresholds: of the choice.
    """
    n1, n2 = samples_in(one), samples_in(two)
    small = is_small(size, n1 * n2, thresholds)
    asked = {} if small else uses(demands)

    def moments(*options: Any) -> HostMoments:
        if small:
            return HostMoments(*options, demands=demands)
        return CompiledMoments(*options, demands=demands, known_before=known, left=dict(asked))

    size1, size2 = (-(-n // -(-n // side)) for n in (n1, n2))  # blocks of equal size

    def numbers(batch: Any, start: int, count: int) -> Numbers:
        x, gates = batch if count == samples_in(batch) else block_of(batch, start, count)
        return Numbers(np, x, gates, fixed, dtype)

    held = n2 * size.factors * np.dtype(dtype).itemsize <= _HELD
    kept = {across: numbers(two, across, size2) for across in range(0, n2, size2)} if held else {}
    h = np.empty((n1, n2, *form.state[0].shape[1:-1]), dtype)
    for down in range(0, n1, size1):
        left = kept[down] if held and one is two else numbers(one, down, size1)
        for across in range(down if one is two else 0, n2, size2):
            own = one is two and across == down
            right = left if own else kept[across] if held else numbers(two, across, size2)
            with np.errstate(all="ignore"):  # what leaves the range is found in H
                block = output_moment(form.state, moments(size1, size2, normalize, (left, right), binary))
            block = np.asarray(block)[: n1 - down, : n2 - across]
            h[down : down + size1, across : across + size2] = block
            if one is two and not own:
                h[across : across + size2, down : down + size1] = block.swapaxes(0, 1)
    return jax.device_put(h, may_alias=True)


def is_small(size: Size, many: int, thresholds: Thresholds) -> bool:
    """Whether NumPy computes a kernel of so many pairs: to compile anything takes longer."""
    return many * size.operations <= thresholds.numpy_work


def repays(size: Size, many: int, thresholds: Thresholds) -> bool:
    """Whether it is computed here, not by one program for the whole network, which a deep one takes long to compile."""
    much = size.mixes and many * size.operations > size.terms * thresholds.whole_work
    return is_small(size, many, thresholds) or (size.terms > thresholds.whole_terms and not much)


def largest(form: Form, demands: Demands, fixed: dict[Any, Any], batch: Any, dtype: Any) -> float:
    """The largest number met for any one sample; no sum for a pair of samples exceeds it."""
    x, gates = jax.tree_util.tree_map(np.abs, batch)
    numbers = Numbers(np, x, gates, fixed, dtype)
    met: list[Any] = []
    with np.errstate(all="ignore"):
        output_moment(
            form.state,
            HostMoments(samples_in(x), 1, False, (numbers, numbers), diagonal=True, met=met, demands=demands),
        )
    return float(np.max(np.stack(met)))
