"""The exact path kernel: dense networks against matrix products, convolution + GAP against neural-tangents.

The dense part ends with all pairs of 60,000 inputs in tiles, reduced to a checksum, so that no more than a
tile is held. The other side of the convolution part is neural-tangents' infinite-width kernel of the same
architecture: a different quantity of the same shape and position pairs, the nearest there is.

Needs about 5 minutes on two cores and 2 GiB; numba for the packed engine, neural-tangents for the peer's rows.
"""

import functools
import os
import resource
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

import npk
from benchmarks import harness
from npk import networks
from npk.infinite import neural_tangents

WIDTH, DEPTH, TILE = 128, 6, 4000


def dense_case(n: int) -> tuple[Any, Any, Any, Any]:
    """(f, parameters, inputs, gates) of a ReLU MLP of depth 6 and width 128 on n random inputs."""
    model = networks.MLP(width=WIDTH, depth=DEPTH, outputs=1, use_bias=False)
    x = jax.random.normal(jax.random.key(0), (n, WIDTH))
    params = model.init(jax.random.key(1), x[:1])
    return model.apply, params, x, jax.jit(npk.gates(model.apply))(params, x)


def operations(n1: int, n2: int) -> float:
    """Of the products: one for Σ and one for each layer of gates."""
    return 2.0 * n1 * n2 * WIDTH * DEPTH


def dense(repeats: int) -> dict[str, Any]:
    """The rate on one tile, side by side with the same products by matrix multiplication."""
    f, p, x, gates = dense_case(TILE)
    kernel = npk.path_kernel(f)

    @jax.jit
    def by_products(x: Any, gates: Any) -> Any:
        h = x @ x.T / WIDTH
        for g in gates:
            g = g.astype(jnp.bfloat16)
            h = h * (jnp.matmul(g, g.T, preferred_element_type=jnp.float32) / WIDTH)
        return h

    times = harness.side_by_side(
        {
            "npk.path_kernel": lambda: kernel(p, x, x, gates1=gates, gates2=gates),
            "matrix products, bfloat16": lambda: by_products(x, gates),
        },
        repeats,
    )
    difference = jnp.abs(kernel(p, x, x, gates1=gates, gates2=gates) - by_products(x, gates)).max()
    rates = {k: operations(TILE, TILE) / v["median"] / 1e6 for k, v in times.items()}
    return {"times": times, "GFLOP/s": rates, "largest difference": float(difference)}


def everything(n: int) -> dict[str, Any]:
    """All n × n pairs, tile by tile."""
    f, p, x, gates = dense_case(n)
    kernel = npk.path_kernel(f)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    total, start = 0.0, time.perf_counter()
    tiles = [slice(i, i + TILE) for i in range(0, n, TILE)]
    for rows in harness.each(tiles, lambda rows: f"rows {rows.start:,} … of {n:,}² pairs"):
        for columns in tiles:
            one, two = ([g[s] for g in gates] for s in (rows, columns))
            total += float(jnp.sum(kernel(p, x[rows], x[columns], gates1=one, gates2=two)))
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "N": n,
        "seconds": seconds,
        "GFLOP/s": operations(n, n) / seconds / 1e9,
        "checksum": total,
        "peak MiB of the process": peak / 1024,
        "of which tiles MiB": (peak - before) / 1024,
    }


# Images of the grid, images a side for npk (enough for its engine to repay compilation) and for neural-tangents.
GRIDS = {16: (96, 8), 32: (24, 2)}


def on_cores(count: int, function: Callable[[], Any]) -> Callable[[], Any]:
    """A call that may use so many cores."""

    def run() -> Any:
        cores = os.sched_getaffinity(0)
        os.sched_setaffinity(0, set(sorted(cores)[:count]))
        try:
            return jax.block_until_ready(function())
        finally:
            os.sched_setaffinity(0, cores)

    return run


def convolution(repeats: int, side: int) -> dict[str, Any]:
    """Milliseconds a pair of images side×side, 64 channels, 4 circular 3×3 layers + GAP."""
    n, few = GRIDS[side]
    model = networks.C4GAP(channels=64, outputs=1, padding="CIRCULAR", use_bias=False)
    x = jax.random.normal(jax.random.key(0), (2 * n, side, side, 3))
    params = model.init(jax.random.key(1), x[:1])
    gates = jax.jit(npk.gates(model.apply))(params, x)
    one, two = ([g[part] for g in gates] for part in (slice(n), slice(n, None)))
    kernel = npk.path_kernel(model.apply)

    def ours() -> Any:
        return kernel(params, x[:n], x[n:], gates1=one, gates2=two)

    candidates = {"npk.path_kernel": (ours, n), "npk.path_kernel, one core": (on_cores(1, ours), n)}
    why = harness.not_measured("neural-tangents")
    if not why:
        candidates |= {name: (call, few) for name, call in peers(x[:few], x[n : n + few]).items()}
    times = harness.side_by_side({name: function for name, (function, _) in candidates.items()}, repeats)
    per_pair = {name: times[name]["median"] / count**2 for name, (_, count) in candidates.items()}
    ratio = None if why else per_pair["neural-tangents ntk"] / per_pair["npk.path_kernel"]
    return {"times": times, "ms a pair": per_pair, "neural-tangents ntk ÷ npk": ratio, "left out": why}


def peers(x1: Any, x2: Any) -> dict[str, Callable[[], Any]]:
    """neural-tangents' kernels of the same architecture."""
    stax = neural_tangents().stax
    layer = (stax.Conv(1, (3, 3), padding="CIRCULAR", b_std=None), stax.Relu())
    _, _, infinite = stax.serial(*layer * 4, stax.GlobalAvgPool(), stax.Dense(1, b_std=None))
    compiled = {get: jax.jit(lambda a, b, g=get: infinite(a, b, g)) for get in ("nngp", "ntk")}
    return {f"neural-tangents {get}": functools.partial(kernel, x1, x2) for get, kernel in compiled.items()}


def convolutions(repeats: int) -> dict[int, dict[str, Any]]:
    """Of every size of images."""
    return {side: convolution(repeats, side) for side in harness.each(GRIDS, "convolutions, {0}×{0} images".format)}


def _convolution_rows(results: dict[int, dict[str, Any]]) -> list[list[str]]:
    rows = []
    for side, result in results.items():
        case = f"conv + GAP {side}×{side}×64, 4 layers"
        rows += [[f"{case}: {k}", f"{v:.3g} ms a pair"] for k, v in result["ms a pair"].items()]
        ratio = result["neural-tangents ntk ÷ npk"]
        rows.append([f"{case}: neural-tangents ntk ÷ npk", result["left out"] or f"{ratio:.0f}x"])
    return rows


def main() -> None:
    """Run all parts."""
    parser = harness.parser(__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--inputs", type=int, default=60_000, help="inputs of the all-pairs run")
    parser.add_argument("--only", choices=("dense", "convolution"), help="one part, printed and not written")
    parser.add_argument("--quick", action="store_true", help="few repetitions, few inputs")
    args = parser.parse_args()
    repeats, inputs = (2, 2 * TILE) if args.quick else (args.repeats, args.inputs)
    harness.begin(__doc__, "numba", "neural-tangents")
    if args.only == "convolution":
        for row in _convolution_rows(convolutions(repeats)):
            print(*row, sep=": ")
        return
    harness.say("matrix products of this machine")
    ceilings = harness.ceilings()
    harness.say(f"dense, {TILE:,}² pairs")
    one, whole = dense(repeats), everything(inputs)
    if args.only == "dense":
        print(one["GFLOP/s"], whole)
        return
    conv = convolutions(repeats)
    rows = [[f"machine: {k}", f"{v:.0f} GFLOP/s"] for k, v in ceilings.items()]
    rows += [[f"MLP {WIDTH} × {DEPTH}, {TILE}² pairs: {k}", f"{v:.0f} GFLOP/s"] for k, v in one["GFLOP/s"].items()]
    rows += [
        [f"MLP, all {whole['N']:,}² pairs", f"{whole['seconds']:.1f} s, {whole['GFLOP/s']:.0f} GFLOP/s"],
        ["  peak memory of the process", f"{whole['peak MiB of the process']:.0f} MiB"],
    ]
    rows += _convolution_rows(conv)
    data = {"ceilings": ceilings, "dense": one, "all pairs": whole, "convolution": conv}
    harness.report("path_kernels", "Exact path kernel", ["what", "measured"], rows, data)


if __name__ == "__main__":
    main()
