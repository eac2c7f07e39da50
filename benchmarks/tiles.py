"""The exact path kernel of a whole training set on disk: time, memory, rate, and what it is good for.

    python -m benchmarks.tiles --data-dir DATA            # 60,000 images of MNIST; 15 GB of disk in --folder
    python -m benchmarks.tiles --quick                    # 2,000 made-up images

A trained MLP's kernel H of all pairs goes to a Zarr store; ridge regression with it is put beside the network.
Then the same tiles by one and two cores, two processes and eight simulated devices: time and whether bits agree.

Needs about 10 minutes on two cores, 4 GiB and 18 GB of disk in --folder (--quick: 2 minutes, 1 GiB); numba for the
packed engine.
"""

import argparse
import hashlib
import json
import os
import pathlib
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from typing import Any

import jax
import numpy as np

import npk
from benchmarks import harness
from npk import networks, solving
from npk.data import load
from npk.solving import joined, kernel_operator
from npk.tiles import StoredKernel, fingerprint, progress_bar, stored
from npk.training import train

WIDTH, DEPTH, CLASSES = 128, 6, 10
REGULARIZATIONS = (1e-1, 1e-2, 1e-3)
CHOSEN_ON = 10_000  # training images whose kernel chooses among them


def made_up(n: int, test: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Images of MNIST's shape without MNIST: ten smooth prototypes, deformed by noise of few directions."""
    random = np.random.default_rng(0)
    prototypes, directions = random.standard_normal((CLASSES, 784)), random.standard_normal((40, 784))
    labels = random.integers(0, CLASSES, n + test)
    x = prototypes[labels] + 2 * random.standard_normal((n + test, 40)) @ directions / 6
    x = np.maximum(x + random.standard_normal(x.shape), 0).astype(np.float32) / 3
    return x[:n], labels[:n].astype(np.int32), x[n:], labels[n:].astype(np.int32)


def data(args: argparse.Namespace) -> tuple[str, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """A name, training images [N, 784] and labels, test images and labels."""
    if args.data_dir is None:
        return "made-up images", *made_up(args.samples, max(500, args.samples // 6))
    found = load("mnist", data_dir=args.data_dir)
    flat = [np.asarray(x, np.float32).reshape(len(x), -1) for x in (found.x_train, found.x_test)]
    n = args.samples
    return "MNIST", flat[0][:n], found.y_train[:n], flat[1], found.y_test


def gates_of(f: Any, params: Any, x: np.ndarray) -> tuple[np.ndarray, ...]:
    """The gates of a data set as NumPy arrays, a part at a time."""
    gates = jax.jit(npk.gates(f))
    parts = [[np.asarray(g) for g in gates(params, x[i : i + 10_000])] for i in range(0, len(x), 10_000)]
    return tuple(map(np.concatenate, zip(*parts)))


def operations(n1: int, n2: int, inputs: int) -> float:
    """Of the products for all pairs: one for Σ and one for each layer of gates."""
    return 2.0 * n1 * n2 * (inputs + WIDTH * (DEPTH - 1))


def directory_bytes(folder: pathlib.Path) -> int:
    """What a store takes."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def timed(function: Any) -> tuple[Any, float]:
    """A result and its seconds."""
    start = time.perf_counter()
    return function(), time.perf_counter() - start


def whole(args: argparse.Namespace, folder: pathlib.Path) -> dict[str, Any]:
    """Train, store H of all pairs of training images and of test with training images, regress."""
    name, x, y, x_test, y_test = data(args)
    harness.say(f"training on {name}, {len(x):,} of them")
    model = networks.MLP(width=WIDTH, depth=DEPTH, outputs=CLASSES, use_bias=False)
    params = model.init(jax.random.key(1), x[:1])
    trained = train(model.apply, params, x, y, key=jax.random.key(2), epochs=args.epochs)
    params = trained.stages[-1]
    logits = np.concatenate([model.apply(params, x_test[i : i + 1000]) for i in range(0, len(x_test), 1000)])
    path_kernel = npk.path_kernel(model.apply)
    one, two = ({"x": a, "gates": gates_of(model.apply, params, a)} for a in (x, x_test))

    def kernel(a: Any, b: Any) -> Any:
        return path_kernel(params, a["x"], b["x"], gates1=a["gates"], gates2=b["gates"])

    identity = {"kernel": "npk.path_kernel", "params": fingerprint(params)}
    small = {"x": x[:1024], "gates": [g[:1024] for g in one["gates"]]}
    kernel(small, small)  # compiles
    harness.say("the kernel of all pairs")
    with progress_bar() as progress:
        run = stored(kernel, folder / "train", identity=identity, progress=progress)
        h, seconds = timed(lambda: run(one))
        test_run = stored(kernel, folder / "test", identity=identity, progress=progress)
        h_test, test_seconds = timed(lambda: test_run(two, one))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    assert isinstance(h, StoredKernel) and isinstance(h_test, StoredKernel)
    _, pass_seconds = timed(lambda: h.product(np.ones((len(x), CLASSES))))
    _, check_seconds = timed(lambda: run(one))
    # Columns of the preconditioner are computed anew: from the store they would cost a pass over all tiles.
    operator = joined(h, kernel_operator(kernel, one, tile=h.tile[0]))
    few = slice(min(len(x), CHOSEN_ON))
    ridge = regress(operator, h.read(few, few), h_test, y, y_test)
    return {
        "data": name,
        "N": len(x),
        "tile": h.tile,
        "seconds": seconds,
        "all pairs GFLOP/s": operations(len(x), len(x), x.shape[1]) / seconds / 1e9,
        "test kernel seconds": test_seconds,
        "product seconds": pass_seconds,
        "resume of a finished store seconds": check_seconds,
        "bytes": directory_bytes(folder / "train"),
        "peak MiB of the process": peak,
        "network test accuracy": solving.accuracy(logits, y_test),
        "ridge": ridge,
        "peak MiB with the solver": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def regress(h: Any, h_few: np.ndarray, h_test: StoredKernel, y: np.ndarray, y_test: np.ndarray) -> dict[str, Any]:
    """Ridge regression; the regularization is chosen on the first training images, whose kernel fits into memory.

    The network has been trained on all of them, those held out too: accuracies there are no estimates of the test's.
    """
    start = time.perf_counter()
    best, tried = solving.choose_ridge(h_few, y[: len(h_few)], candidates=REGULARIZATIONS)
    chosen = time.perf_counter() - start
    harness.say(f"regularization {best:g} of {tried}, chosen in {chosen:.0f} s")
    rank = min(1_000, len(y) // 4)

    def say(iterate: solving.Iterate) -> None:
        harness.say(f"pass {iterate.products}")

    solved = solving.kernel_ridge(
        h, solving.one_hot(y, CLASSES), regularization=best, tolerance=1e-2, rank=rank, callback=say
    )
    return {
        "solver": solved.method,
        "why": solved.why,
        "regularization": best,
        "validation": tried,
        "seconds to choose": chosen,
        "seconds": time.perf_counter() - start - chosen,
        "products": solved.products,
        "rank": solved.rank,
        "largest residual": float(max(solved.residuals)),
        "test accuracy": solving.accuracy(solved.predict(h_test), y_test),
    }


# ----------------------------------------------------------------------------- devices and processes


def child(options: dict[str, Any]) -> None:
    """Fill a store in a process of its own; prints its seconds and the devices."""
    os.sched_setaffinity(0, options["cores"])  # before JAX counts them
    if options.get("address"):
        jax.distributed.initialize(options["address"], 2, options["process"])
    n, tile = options["n"], options["tile"]
    model = networks.MLP(width=WIDTH, depth=DEPTH, outputs=1, use_bias=False)
    x = np.random.default_rng(0).standard_normal((n, WIDTH)).astype(np.float32)
    params = jax.device_get(model.init(jax.random.key(1), x[:1]))
    one = {"x": x, "gates": gates_of(model.apply, params, x)}
    path_kernel = npk.path_kernel(model.apply)

    @jax.jit
    def kernel(a: Any, b: Any) -> Any:
        return path_kernel(params, a["x"], b["x"], gates1=a["gates"], gates2=b["gates"])

    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("tiles",))
    run = {
        name: stored(kernel, f"{options['folder']}{name}", identity={}, tile=tile, mesh=mesh) for name in ("", "-warm")
    }
    run["-warm"](jax.tree_util.tree_map(lambda a: a[: tile * len(jax.devices())], one))
    start = time.perf_counter()
    run[""](one)
    print(json.dumps({"seconds": time.perf_counter() - start, "devices": len(jax.devices())}), flush=True)


def launch(folder: pathlib.Path, args: argparse.Namespace, devices: int, cores: set[int], **options: Any) -> Any:
    """Start a child on some cores."""
    words = {"folder": str(folder), "n": args.spread, "tile": args.tile, "cores": sorted(cores), **options}
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
    }
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.tiles", "--child", json.dumps(words)],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )


def finished(*processes: Any) -> float:
    """Seconds of the slowest."""
    outputs = [process.communicate()[0] for process in processes]
    assert all(process.returncode == 0 for process in processes)
    return max(json.loads(output.splitlines()[-1])["seconds"] for output in outputs)


def hash_of(folder: pathlib.Path) -> str:
    """Of every byte of a store."""
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            found.update(path.name.encode() + path.read_bytes())
    return found.hexdigest()


def spread(args: argparse.Namespace, folder: pathlib.Path) -> dict[str, Any]:
    """The same store by more and more: seconds, and whether its bytes are the same."""
    cores = sorted(os.sched_getaffinity(0))[:2]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    rows: dict[str, Any] = {}

    def measure(name: str, *launched: tuple[int, set[int], dict[str, Any]]) -> None:
        harness.say(name)
        where = folder / f"spread-{len(rows)}"
        seconds = finished(*(launch(where, args, devices, on, **options) for devices, on, options in launched))
        rows[name] = {"seconds": seconds, "hash": hash_of(where)}
        for path in folder.glob(f"{where.name}*"):
            shutil.rmtree(path)

    both = set(cores)
    measure("one device on one core", (1, {cores[0]}, {}))
    measure("one device on two cores", (1, both, {}))
    measure("two devices on two cores", (2, both, {}))
    measure("eight simulated devices on two cores", (8, both, {}))
    two = [(1, {core}, {"address": address, "process": i}) for i, core in enumerate(cores)]
    measure("two processes, a core each", *two)
    alone = rows["one device on one core"]["hash"]
    for row in rows.values():
        row["identical"] = row.pop("hash") == alone
    return rows


def main() -> None:
    """Run all parts."""
    parser = harness.parser(__doc__)
    parser.add_argument("--data-dir", help="prepared MNIST; else images are made up")
    parser.add_argument("--folder", type=pathlib.Path, help="where the stores go; else a temporary folder")
    parser.add_argument("--keep", action="store_true", help="leave the stores there")
    parser.add_argument("--quick", action="store_true", help="2,000 images")
    parser.add_argument("--samples", type=int, default=60_000)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--spread", type=int, default=12_000, help="samples of the part on devices and processes")
    parser.add_argument("--tile", type=int, default=1_500, help="tile of that part")
    parser.add_argument("--child", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        return child(args.child)
    harness.begin(__doc__, "numba")
    if args.quick:
        args.samples, args.epochs, args.spread, args.tile = min(args.samples, 2_000), 3, 1_500, 200
    if args.folder:
        args.folder.mkdir(parents=True, exist_ok=True)
    folder = pathlib.Path(tempfile.mkdtemp(prefix="tiles-", dir=args.folder))
    try:
        report(args, harness.ceilings()["float32 k=4096"], whole(args, folder), spread(args, folder))
    finally:
        if not args.keep:
            shutil.rmtree(folder)


def report(args: argparse.Namespace, ceiling: float, one: dict[str, Any], rows: dict[str, Any]) -> None:
    """Table and JSON."""
    n, rate, ridge = one["N"], one["all pairs GFLOP/s"], one["ridge"]
    share = (n + one["tile"][0]) / (2 * n)  # of the pairs, those that were computed; the rest is their mirror image
    table = [
        ["machine: float32 matrix product", f"{ceiling:.0f} GFLOP/s"],
        [f"H of {one['data']}, {n:,}² pairs, to a Zarr store", f"{one['seconds']:.1f} s"],
        ["  products of all pairs by that time", f"{rate:.0f} GFLOP/s, {rate / ceiling:.0%} of the machine's"],
        ["  products of the upper triangle alone", f"{rate * share:.0f} GFLOP/s, {rate * share / ceiling:.0%}"],
        ["  peak memory of the process, training included", f"{one['peak MiB of the process']:.0f} MiB"],
        ["  on disk", f"{one['bytes'] / 1e9:.2f} GB in tiles of {one['tile'][0]:,}²"],
        ["  K·v for 10 vectors, from disk", f"{one['product seconds']:.1f} s"],
        ["  the same command again: all checksums compared", f"{one['resume of a finished store seconds']:.1f} s"],
        ["  test accuracy: network", f"{one['network test accuracy']:.2%}"],
        ["  test accuracy: ridge regression with H", f"{ridge['test accuracy']:.2%}"],
        [
            f"  one regression ({ridge['solver']}, {ridge['products']} passes, rank {ridge['rank']})",
            f"{ridge['seconds']:.0f} s, residual {ridge['largest residual']:.0e}",
        ],
        ["  peak memory of the process, regression included", f"{one['peak MiB with the solver']:.0f} MiB"],
    ]
    base = rows["one device on one core"]["seconds"]
    table += [
        [
            f"{args.spread:,}² pairs: {name}",
            f"{r['seconds']:.1f} s ({base / r['seconds']:.2f}x), same bytes: {r['identical']}",
        ]
        for name, r in rows.items()
    ]
    content = {"ceiling GFLOP/s": ceiling, "whole": one, "spread": rows}
    harness.report(
        "tiles-quick" if args.quick else "tiles", "Kernels of whole data sets", ["what", "measured"], table, content
    )


if __name__ == "__main__":
    main()
