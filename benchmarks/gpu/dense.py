"""The path kernel of a dense network: its share of measured product rates, and all pairs of MNIST's size."""

import functools
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import npk
from benchmarks import harness
from benchmarks.gpu.record import Part, compared, relative
from benchmarks.gpu.sizes import Sizes
from npk import networks

DEPTH = 6


def rates(side: int, depth: int) -> dict[str, float]:
    """TFLOP/s of products side × depth × side, by their dtype."""
    found = {}
    for name, accumulator in (("bfloat16", "float32"), ("int8", "int32")):
        a = jnp.asarray(np.random.default_rng(0).integers(0, 2, (side, depth)), name)
        product = jax.jit(lambda x, y, t=accumulator: jnp.matmul(x, y.T, preferred_element_type=t))
        seconds = np.median([harness.timed(lambda p=product, a=a: p(a, a)) for _ in range(8)][2:])
        found[name] = float(2e-12 * side * side * depth / seconds)
    return found


def operations(sizes: Sizes, pairs: float) -> float:
    """Of the products alone: one for Σ, one for each layer of gates."""
    return 2.0 * pairs * (sizes.features + sizes.width * (DEPTH - 1))


def case(sizes: Sizes, n: int) -> tuple[Any, Any, Any, Any]:
    """(f, parameters, n random inputs, gates in the dtype of the inputs)."""
    model = networks.MLP(width=sizes.width, depth=DEPTH, outputs=1, use_bias=False)
    x = jax.random.normal(jax.random.key(0), (n, sizes.features))
    params = model.init(jax.random.key(1), x[:1])
    gates = jax.jit(npk.gates(model.apply))
    return model.apply, params, x, gates(params, x)


def ceilings(sizes: Sizes) -> dict[str, Any]:
    """Rates at a large product and at a layer's depth."""
    deep, layer = rates(sizes.product, sizes.product), rates(sizes.product, sizes.width)
    return {"TFLOP/s": deep, f"TFLOP/s, depth {sizes.width}": layer}


def one_tile(sizes: Sizes) -> dict[str, Any]:
    """A tile under given gates, beside the same products written down."""
    f, p, x, gates = case(sizes, 2 * sizes.tile)
    n = sizes.tile
    one, two = ([g[part] for g in gates] for part in (slice(n), slice(n, None)))
    kernel = npk.path_kernel(f)

    @jax.jit
    def products(x1: Any, x2: Any, one: Any, two: Any) -> Any:
        h = jnp.matmul(x1, x2.T, precision="highest") / sizes.features
        for a, b in zip(one, two, strict=True):
            a, b = a.astype(jnp.bfloat16), b.astype(jnp.bfloat16)
            h = h * (jnp.matmul(a, b.T, preferred_element_type=jnp.float32) / sizes.width)
        return h

    found, results = compared(
        {
            "path_kernel": lambda: kernel(p, x[:n], x[n:], gates1=one, gates2=two),
            "products": lambda: products(x[:n], x[n:], one, two),
        },
        sizes.repeats,
    )
    speed = {name: operations(sizes, n * n) / ms / 1e9 for name, ms in found["ms"].items()}
    deep = rates(sizes.product, sizes.product)
    share = {name: speed["path_kernel"] / rate for name, rate in deep.items()}
    difference = relative(results["path_kernel"], results["products"])
    return {**found, "TFLOP/s": speed, "share of the measured rate": share, "difference": difference}


def all_pairs(sizes: Sizes) -> dict[str, Any]:
    """All n² pairs, tile by tile; of each tile only the sum stays."""
    f, p, x, gates = case(sizes, sizes.inputs)
    kernel, n = npk.path_kernel(f), sizes.inputs
    tiles = [slice(i, i + sizes.tile) for i in range(0, n, sizes.tile)]

    def tile(rows: slice, columns: slice) -> Any:
        one, two = ([g[s] for g in gates] for s in (rows, columns))
        return jnp.sum(kernel(p, x[rows], x[columns], gates1=one, gates2=two))

    harness.timed(lambda: tile(tiles[0], tiles[-1]))
    start = time.perf_counter()
    total = jax.block_until_ready(sum(tile(rows, columns) for rows in tiles for columns in tiles))
    seconds = time.perf_counter() - start
    rate = operations(sizes, n * n) / seconds / 1e12
    return {"pairs": f"{n:,}²", "seconds": seconds, "TFLOP/s": rate, "ns a pair": 1e9 * seconds / n**2} | {
        "checksum": float(total)
    }


def run(sizes: Sizes, part: Part) -> None:
    """The ceilings, a tile, and all tiles."""
    part.case("ceilings", functools.partial(ceilings, sizes))
    part.case(f"MLP {sizes.width} × {DEPTH}, {sizes.tile:,}² pairs", functools.partial(one_tile, sizes))
    part.case(f"MLP {sizes.width} × {DEPTH}, all pairs", functools.partial(all_pairs, sizes))
