"""The exact path kernel of convolutions with global pooling on a GPU: a slab of pairs of CIFAR-10's shape.

From the measured slab follow the hours for all pairs of 50,000 images. Beside them stands what neural-tangents
publishes for a network of 21 layers, 2.70 ms an entry on a V100: another card and a deeper network, so the time
a layer is given too. The roofline counts the work of the kernel's threads, repeated columns and rows included,
against rates measured in the same run.
"""

import argparse
import functools
import math
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import npk
from benchmarks import _harness
from npk import networks
from npk.gating import gate_shapes, sample_program
from npk.path_kernels.engines import pooled
from npk.path_kernels.engines.pooled import pallas

IMAGE, LAYERS, IMAGES = (32, 32, 3), 4, 50_000
PUBLISHED_MS, PUBLISHED_LAYERS = 2.70, 21
_CHAINED = 128  # operations on one number between reading and writing it: arithmetic, not memory, is measured


def ceilings() -> dict[str, float]:
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
        y, compiled = jnp.ones(1 << 26, dtype), jax.jit(function)
        times = [_harness.timed(lambda: compiled(y)) for _ in range(8)]
        return y.size * _CHAINED / float(np.median(times[2:]))

    return {"bit counts": rate(count, jnp.int32), "multiply-adds": rate(multiply_add, jnp.float32)}


def chain_of(f: Callable[..., Any], params: Any, x: Any) -> pooled.GapChain:
    """What the engine reads off the network."""
    program = sample_program(f, params, x)
    chain = pooled.gap_chain(program, [g.shape for g in gate_shapes(program)], True)
    assert chain is not None
    return chain


def work(layout: pooled.Layout) -> dict[str, float]:
    """Operations of all threads for one pair of images."""
    rows = layout.height + layout.delay * (2 if layout.circular else 1)
    cells = [layout.strip + 2 * layout.reach(layer) for layer in range(LAYERS + 1)]
    words = [-(-c // 32) for c in layout.channels]
    threads = layout.blocks * pallas._LANES
    box = [(2 * h) + (2 * w) + 1 for h, w in layout.radii]  # sums down, sums across, the product with the overlap
    sums = sum(n * b for n, b in zip(cells[1:], box)) + cells[0] * sum(pallas._values(layout.channels[0]))
    counts = sum(n * w for n, w in zip(cells[1:], words[1:]))
    return {"bit counts": float(threads * rows * counts), "multiply-adds": float(threads * rows * sums)}


def slab(channels: int, padding: str, rows: int, columns: int, repeats: int, rates: dict[str, float]) -> dict[str, Any]:
    """Microseconds a pair: of `path_kernel` with all its checks, and of the fused kernel alone."""
    model = networks.C4GAP(channels=channels, outputs=1, padding=padding, use_bias=False)
    x = jax.random.normal(jax.random.key(0), (rows + columns, *IMAGE))
    params = model.init(jax.random.key(1), x[:1])
    gates = jax.jit(npk.gates(model.apply))(params, x)
    one, two = ([g[part] for g in gates] for part in (slice(None, rows), slice(rows, None)))
    kernel = npk.path_kernel(model.apply)
    chain = chain_of(model.apply, params, x[:1])
    batches = [(a[:, None], tuple(g[:, None] for g in gs)) for a, gs in ((x[:rows], one), (x[rows:], two))]
    layout = pooled.layout(chain, [channels] * LAYERS, jnp.float32)
    assert layout is not None
    times = _harness.side_by_side(
        {
            "path_kernel": lambda: kernel(params, x[:rows], x[rows:], gates1=one, gates2=two),
            "fused kernel": lambda: pooled.kernel(chain, *batches, jnp.float32),
        },
        repeats,
    )
    us = {name: 1e3 * t["median"] / (rows * columns) for name, t in times.items()}
    least = {name: 1e6 * n / rates[name] for name, n in work(layout).items()}
    hours = us["path_kernel"] * IMAGES * (IMAGES + 1) / 2 / 3.6e9
    return {
        "channels": channels,
        "padding": padding,
        "pairs": [rows, columns],
        "times": times,
        "us a pair": us,
        "us a pair at the measured ceilings": least,
        "GPU-hours for all pairs": hours,
    }


def row(result: dict[str, Any]) -> list[str]:
    us, least = result["us a pair"], result["us a pair at the measured ceilings"]
    return [
        f"{LAYERS} layers of {result['channels']}, {result['padding']}",
        f"{us['path_kernel']:.2f}",
        f"{us['fused kernel']:.2f}",
        ", ".join(f"{name} {t:.2f}" for name, t in least.items()),
        f"{result['GPU-hours for all pairs']:.2f}",
        f"{1e3 * PUBLISHED_MS / PUBLISHED_LAYERS / (us['path_kernel'] / LAYERS):.0f}",
    ]


def main() -> None:
    """Measure, or say why not."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="one network, a small slab")
    args = parser.parse_args()
    if jax.default_backend() != "gpu":
        print(f"benchmarks.gpu is skipped: it needs a GPU, and JAX's devices are {jax.devices()}.")
        return
    rows, columns = (64, 256) if args.quick else (256, 2048)
    cases = [(64, "SAME")] if args.quick else [(c, p) for c in (64, 96, 128) for p in ("SAME", "CIRCULAR")]
    rates = ceilings()
    measure = functools.partial(slab, rows=rows, columns=columns, repeats=args.repeats, rates=rates)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the fused kernel tells when it is not used
        results = [measure(*case) for case in cases]
    pairs = math.comb(IMAGES, 2) + IMAGES
    published = PUBLISHED_MS * pairs / 3.6e6
    lines = [row(result) for result in results]
    lines.append(
        [f"neural-tangents, {PUBLISHED_LAYERS} layers, V100 (published)", "2700", "", "", f"{published:.0f}", "1"]
    )
    title = f"Path kernel of convolutions with pooling, {IMAGE[0]}×{IMAGE[1]}, one {jax.devices()[0].device_kind}"
    names = ["network", "µs a pair", "µs, kernel alone", "µs at least, by ceilings", "GPU-hours, 50,000 images"]
    data = {"ceilings": rates, "slabs": results, "published ms": PUBLISHED_MS}
    _harness.report("gpu", title, [*names, "times faster a layer"], lines, data)


if __name__ == "__main__":
    main()
