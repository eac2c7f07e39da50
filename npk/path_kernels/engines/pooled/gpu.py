"""Convolutions with global pooling on a GPU: when to use the fused kernel, and whether to trust it."""

import functools
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from npk.path_kernels.engines.pooled import pallas
from npk.path_kernels.engines.pooled.chain import GapChain
from npk.programs import concrete, finite, in_blocks, known_true

# Inputs [n, 1, height, width, channels] and gates [n, *their shape for one sample].
Batch = tuple[Any, Sequence[Any]]

_BLOCK_IMAGES = 256  # the partial sums of a block's pairs stay far below the memory of any GPU
_FACTOR_OF_EPS = 1000  # by how much sums of a million rounded products may differ


def usable(*values: Any) -> bool:
    """Whether these numbers are known and all on one GPU (those that are on none yet would go to one)."""
    if not concrete(values):
        return False
    leaves = [a for a in jax.tree_util.tree_leaves(values) if isinstance(a, jax.Array)]
    devices = {device for a in leaves for device in a.devices()} or {jax.devices()[0]}
    return len(devices) == 1 and all(device.platform == "gpu" for device in devices)


def fits(chain: GapChain, gates: Sequence[Any], dtype: Any) -> bool:
    """Whether the kernel can compute a chain in a dtype; sums are kept without scales, which must not overflow."""
    if pallas.layout(chain, [g.shape[-1] for g in gates], dtype) is None:
        return False
    channels = [chain.image[2], *(gates[c.gate].shape[-1] for c in chain.convolutions)]
    windows = [math.prod(c.window) for c in chain.convolutions]
    largest = math.prod(channels) * math.prod(windows) * math.prod(chain.image[:2]) ** 2
    return math.log2(largest) < 0.75 * float(np.log2(jnp.finfo(dtype).max))


def kernel(
    chain: GapChain, one: Batch, two: Batch, dtype: Any, *, symmetric: bool = False, interpret: bool = False
) -> Any:
    """H [n1, n2] of a chain under gates of 0 and 1, for a pair of batches.

    Args:
        chain: what `fits` accepts.
        one: the batch of the rows.
        two: that of the columns.
        dtype: to compute in.
        symmetric: whether both are the same; then half of the pairs are computed.
        interpret: run by XLA on any device instead of compiling for a GPU.
    """
    return _kernel(chain, *one, *two, dtype=jnp.dtype(dtype), symmetric=symmetric, interpret=interpret)


@functools.partial(jax.jit, static_argnames=("chain", "dtype", "symmetric", "interpret"))
def _kernel(
    chain: GapChain, x1: Any, gates1: Any, x2: Any, gates2: Any, *, dtype: Any, symmetric: bool, interpret: bool
) -> Any:
    layout = pallas.layout(chain, [g.shape[-1] for g in gates1], dtype)
    assert layout is not None
    one, two = (
        (x[:, 0].astype(dtype), [g[c.gate][:, 0] for c in chain.convolutions]) for x, g in ((x1, gates1), (x2, gates2))
    )
    sums = in_blocks(
        functools.partial(pallas.pooled_sums, layout, interpret=interpret),
        one,
        None if symmetric else two,
        min(_BLOCK_IMAGES, pallas.most_images(layout)),
        lambda batch: pallas.tables(layout, *batch),
    )
    h = sums * np.asarray(math.prod(c.scale for c in chain.convolutions) * chain.pooled**2, dtype)
    for dense in chain.dense:
        if dense.gate is not None:
            g1, g2 = (g[dense.gate].reshape(len(g[dense.gate]), -1).astype(dtype) for g in (gates1, gates2))
            h = h * jnp.matmul(g1, g2.T, precision=jax.lax.Precision.HIGHEST)
        h = h * np.asarray(dense.scale, dtype) + np.asarray(dense.shift, dtype)
    return h


def fused(
    chain: GapChain,
    one: Batch,
    two: Batch,
    dtype: Any,
    *,
    symmetric: bool,
    plain: Callable[[Batch], Any],
    once: Callable[[Callable[[], bool]], bool],
) -> Any | None:
    """H by the fused kernel, or None where it does not cover the chain, is not trusted, or leaves the dtype's range.

    Args:
        chain: the network.
        one: the batch of the rows.
        two: that of the columns.
        dtype: to compute in.
        symmetric: whether both are the same.
        plain: the kernel of a batch with itself by the plain rules.
        once: calls a function, and from then on gives its result for this network and shape.
    """
    if not fits(chain, one[1], dtype):
        return None
    compute = functools.partial(kernel, chain, dtype=dtype)
    if not once(lambda: agrees(lambda batch: compute(batch, batch), plain, probe(chain, one[1], dtype))):
        return None
    h = compute(one, two, symmetric=symmetric)
    return h if known_true(finite, h) else None


def probe(chain: GapChain, gates: Sequence[Any], dtype: Any) -> Batch:
    """A pair of random images with random gates of the shapes of a batch."""
    random = np.random.default_rng(0)
    x = jnp.asarray(random.uniform(-1, 1, (2, 1, *chain.image)), dtype)
    return x, tuple(jnp.asarray(random.random((2, *g.shape[1:])) < 0.5, dtype) for g in gates)


def agrees(fast: Callable[[Batch], Any], plain: Callable[[Batch], Any], batch: Batch) -> bool:
    """Whether a fast way compiles and computes the plain one's kernel of a batch with itself; else it warns.

    Args:
        fast: from a batch to H [n, n].
        plain: what is known to be right.
        batch: a few samples.
    """
    expected = np.asarray(plain(batch))
    try:
        found = np.asarray(fast(batch))
    except Exception as error:  # of whichever kind a compiler or driver raises: the plain rules do not need it
        first = (str(error).strip() or "no message").splitlines()[0]
        return _distrusted(f"failed ({type(error).__name__}: {first})")
    norms = np.sqrt(np.diagonal(expected))
    tolerance = _FACTOR_OF_EPS * np.finfo(expected.dtype).eps * norms[:, None] * norms
    if found.shape == expected.shape and bool((np.abs(found - expected) <= tolerance).all()):
        return True
    return _distrusted(f"computed {found.tolist()} where the plain rules give {expected.tolist()}")


def _distrusted(why: str) -> bool:
    message = f"the fused GPU path kernel is not used for this network, because on a pair of images it {why}"
    warnings.warn(f"{message}. The plain rules are used instead; the result is right, but slower.", stacklevel=2)
    return False
