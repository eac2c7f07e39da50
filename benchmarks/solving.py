"""Kernel ridge regression: exact Cholesky against conjugate gradients, with and without a preconditioner.

The kernel is the exact path kernel of an MLP (128 × 6) with random gates, in float32, on inputs whose covariance has
the eigenvalues 1/i², as images' falls off; ten outputs.
A pass over a kernel is measured three ways: from an array, from a memory map (a file in the page cache), and computed
anew tile by tile. What 60,000 samples would take is a pass's time scaled by pairs, times the passes counted here.

Needs about 15 minutes on two cores, 6 GiB and 2 GB of disk in the temporary folder; numba for the packed engine.
"""

import pathlib
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

import npk
from benchmarks import harness
from benchmarks.path_kernels import WIDTH, dense_case
from npk.solving import KernelOperator, NotConverged, kernel_operator, kernel_ridge, operator_of

OUTPUTS, TILE, WHOLE = 10, 4000, 60_000


def inputs(n: int) -> jax.Array:
    """n inputs, of which a few directions hold the most."""
    return jax.random.normal(jax.random.key(0), (n, WIDTH)) / (1.0 + jax.numpy.arange(WIDTH))[None]


def recomputed(n: int) -> KernelOperator:
    """The path kernel of n inputs, tile by tile."""
    f, params, _, _ = dense_case(1)
    x = inputs(n)
    kernel = npk.path_kernel(f)
    samples = jax.tree_util.tree_map(np.asarray, {"x": x, "gates": jax.jit(npk.gates(f))(params, x)})

    def tile(a: Any, b: Any) -> Any:
        a, b = jax.tree_util.tree_map(jax.numpy.asarray, (a, b))
        return kernel(params, a["x"], b["x"], gates1=a["gates"], gates2=b["gates"])

    return kernel_operator(tile, samples, tile=TILE)


def targets(n: int) -> np.ndarray:
    """Ten smooth functions of the inputs and noise."""
    x, random = np.asarray(inputs(n)), np.random.default_rng(0)
    return np.tanh(x @ random.normal(size=(WIDTH, OUTPUTS))) + 0.1 * random.normal(size=(n, OUTPUTS))


def fastest(function: Callable[[], Any], repeats: int) -> float:
    """Seconds of the fastest of some calls, after one that is not counted."""
    function()
    return min(harness.timed(function) for _ in range(repeats))


def passes(n: int, repeats: int, folder: pathlib.Path) -> tuple[dict[str, float], np.ndarray]:
    """Seconds of one pass for ten vectors, by where the kernel is; and the kernel."""
    operator, v = recomputed(n), np.random.default_rng(1).normal(size=(n, OUTPUTS))
    array = np.concatenate([operator.columns(np.arange(i, min(i + TILE, n))) for i in range(0, n, TILE)], axis=1)
    array = np.ascontiguousarray(array)
    np.save(folder / "kernel.npy", array)
    ways = {
        "array": operator_of(array),
        "memory map": operator_of(np.load(folder / "kernel.npy", mmap_mode="r"), symmetric=True),
        "recomputed": operator,
    }
    return {name: fastest(lambda way=way: way.product(v), repeats) for name, way in ways.items()}, array


def solved(kernel: Any, y: np.ndarray, **options: Any) -> dict[str, Any]:
    """One regression: seconds, passes, residual."""
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotConverged)
        found = kernel_ridge(kernel, y, **options)
    return {
        "seconds": time.perf_counter() - start,
        "passes": found.products,
        "rank": found.rank,
        "residual": float(found.residuals.max()),
        "converged": found.converged,
    }


def runs(
    n: int, kernel: np.ndarray, tolerances: list[float], ranks: list[int], dense: bool
) -> Iterator[dict[str, Any]]:
    """Every way to solve one system."""
    y = targets(n)
    if dense:
        yield {"N": n, "method": "Cholesky", "tolerance": None, **solved(kernel, y, method="cholesky")}
    for tolerance in tolerances:
        for rank in ranks:
            options = {"method": "cg", "rank": rank, "tolerance": tolerance}
            name = f"CG, rank {rank}" if rank else "CG, plain"
            yield {"N": n, "method": name, "tolerance": tolerance, **solved(kernel, y, **options)}


def row_of(run: dict[str, Any]) -> list[str]:
    """One regression as it is printed."""
    to = "" if run["tolerance"] is None else f", to {run['tolerance']:.0e}"
    return [
        f"N = {run['N']:,}, {run['method']}{to}",
        f"{run['seconds']:.1f} s",
        str(run["passes"]),
        f"{run['residual']:.1e}",
        "yes" if run["converged"] else "no",
    ]


def main() -> None:
    """Run all sizes."""
    parser = harness.parser(__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[4000, 10_000, 20_000])
    parser.add_argument("--ranks", type=int, nargs="+", default=[0, 300, 1000])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="one small size")
    args = parser.parse_args()
    if args.quick:
        args.sizes, args.ranks, args.repeats = [2000], [0, 200], 2
    harness.begin(__doc__, "numba")
    measured, one_pass = [], {}
    with tempfile.TemporaryDirectory() as folder:
        for n in harness.each(args.sizes, "N = {:,}".format):
            one_pass[n], kernel = passes(n, args.repeats, pathlib.Path(folder))
            for run in runs(n, kernel, [1e-2, 1e-3, 1e-6], args.ranks, dense=8 * n**2 < 4 * 2**30):
                measured.append(run)
                harness.say(" | ".join(row_of(run)))
    rows = [
        [f"N = {n:,}, one pass, {name}", f"{1e3 * s:.0f} ms", "–", f"{4 * n**2 / s / 1e9:.1f} GB/s of float32", "–"]
        for n, times in one_pass.items()
        for name, s in times.items()
    ]
    rows += map(row_of, measured)
    largest = args.sizes[-1]
    whole = {name: s * (WHOLE / largest) ** 2 for name, s in one_pass[largest].items()}
    rows += [
        [f"{WHOLE:,}: one pass, {name} (scaled from {largest:,})", f"{s:.0f} s", "–", "–", "–"]
        for name, s in whole.items()
    ]
    columns = ["what", "time", "passes", "largest residual", "converged"]
    data = {"one pass s": one_pass, "runs": measured, f"one pass at {WHOLE} s": whole, "outputs": OUTPUTS, "tile": TILE}
    harness.report("solving", "Kernel ridge regression, r = 1e-3, ten outputs", columns, rows, data)


if __name__ == "__main__":
    main()
