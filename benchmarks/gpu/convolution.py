"""The exact path kernel of convolutions with global pooling: a slab of pairs, and what all of CIFAR-10 would take.

From the measured slab follow the hours for all pairs of 50,000 images. Beside them stands what neural-tangents
publishes for a network of 21 layers, 2.70 ms an entry on a V100: another card and a deeper network, so the time
a layer is given too. The roofline counts the work of the fused kernel's threads, repeated columns and rows
included, against rates measured in the same run.
"""

import functools
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import npk
from benchmarks import harness
from benchmarks.gpu.record import Part, compared
from benchmarks.gpu.sizes import Sizes, Slab
from npk import networks
from npk.path_kernels.engines import pooled
from npk.paths import form_of

LAYERS, IMAGES = 4, 50_000
PUBLISHED_MS, PUBLISHED_LAYERS = 2.70, 21
_CHAINED = 128  # operations on one number between reading and writing it: arithmetic, not memory, is measured


def ceilings(elements: int) -> dict[str, float]:
    """Operations a second of bit counts and of float32 multiply-adds."""

    def count(y: Any) -> Any:
        for i in range(_CHAINED):
            y = y + jax.lax.population_count(y ^ np.int32(i))
        return y

    def multiply_add(y: Any) -> Any:
        for i in range(_CHAINED):
            y = y * np.float32(0.999) + np.float32(i)
        return y

    def rate(function: Callable[[Any], Any], dtype: Any) -> float:
        y, compiled = jax.random.randint(jax.random.key(0), (elements,), 0, 100).astype(dtype), jax.jit(function)
        times = [harness.timed(lambda: compiled(y)) for _ in range(8)]
        return y.size * _CHAINED / float(np.median(times[2:]))

    return {"bit counts": rate(count, jnp.int32), "multiply-adds": rate(multiply_add, jnp.float32)}


def chain_of(f: Callable[..., Any], params: Any, x: Any) -> pooled.GapChain:
    """What the engine reads off the network."""
    chain = pooled.covers(form_of(f, params, x), True)
    assert not isinstance(chain, str), chain
    return chain


def measure(slab: Slab, repeats: int, rates: dict[str, float]) -> dict[str, Any]:
    """Microseconds a pair: of `path_kernel` with all its checks and, on a GPU, of the fused kernel alone."""
    model = networks.C4GAP(channels=slab.channels, outputs=1, padding=slab.padding, use_bias=False)
    x = jax.random.normal(jax.random.key(0), (slab.rows + slab.columns, *slab.image))
    params = model.init(jax.random.key(1), x[:1])
    gates = jax.jit(npk.gates(model.apply))(params, x)
    first, second = slice(slab.rows), slice(slab.rows, None)
    one, two = ([g[part] for g in gates] for part in (first, second))
    kernel = npk.path_kernel(model.apply)
    candidates = {"path_kernel": lambda: kernel(params, x[first], x[second], gates1=one, gates2=two)}
    layout = None
    if jax.default_backend() == "gpu":
        chain = chain_of(model.apply, params, x[:1])
        layout = pooled.layout(chain, [slab.channels] * LAYERS, jnp.float32)
        batches = [(x[part][:, None], tuple(g[:, None] for g in gs)) for part, gs in ((first, one), (second, two))]
        candidates["fused kernel"] = lambda: pooled.kernel(chain, *batches, jnp.float32)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")  # the fused kernel tells when it is not used
        found, _ = compared(candidates, repeats)
    us = {name: 1e3 * ms / (slab.rows * slab.columns) for name, ms in found["ms"].items()}
    hours = us["path_kernel"] * IMAGES * (IMAGES + 1) / 2 / 3.6e9
    result = {
        "pairs": f"{slab.rows}×{slab.columns}",
        "µs a pair": us,
        f"hours, {IMAGES:,} images of this size": hours,
        "× a published layer": 1e3 * PUBLISHED_MS / PUBLISHED_LAYERS / (us["path_kernel"] / LAYERS),
    }
    if layout is not None:
        result["µs at least, by ceilings"] = {name: 1e6 * n / rates[name] for name, n in layout.operations().items()}
    warned = {"warnings": "; ".join(str(w.message)[:300] for w in told)} if told else {}
    return result | warned | found


def run(sizes: Sizes, part: Part) -> None:
    """Every slab, the ceilings before them."""
    rates: dict[str, float] = {}
    if jax.default_backend() == "gpu":
        rates |= ceilings(sizes.elements)
        part.row("ceilings, operations a second", rates)
    else:
        part.left_out("the fused kernel and its ceilings", "they need a GPU; correctness runs the kernel by XLA")
    for slab in sizes.slabs:
        height, width, _ = slab.image
        name = f"{LAYERS} layers of {slab.channels}, {slab.padding}, {height}×{width}"
        part.case(name, functools.partial(measure, slab, sizes.repeats, rates))
