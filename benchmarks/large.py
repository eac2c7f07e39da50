"""Kernels that users of neural-tangents could not compute: of all MNIST, of a large CNN, of conv + GAP.

Issues #166 (NTK of 60,000² pairs of MNIST), #30 (empirical NTK of a CNN of 2.5 million parameters on many images),
#100 and #146 (a convolution with global pooling, whose few parameters fill a GPU with 64 images). Each runs in a
process of its own and goes to a Zarr store by `npk.tiles`, tiles chosen from the memory that is free: wall time,
compilation included, and the process's peak resident memory.

Then, at a size that all can run and in one process, taking turns: `npk.ntk`, neural-tangents' empirical kernels in
`nt.batch` (under `jax.jit` where that takes less than 8 GiB), and the NTK from per-sample Jacobians of `torch.func`
(left out where torch is not installed). Peaks are what one call adds to a fresh process.

Needs about an hour on two cores, 12 GiB and 15 GB of disk in --folder (--quick: 5 minutes, 2 GiB, no disk);
neural-tangents and torch for the peers' rows.
"""

import argparse
import dataclasses
import functools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import npk
import npk.infinite
from benchmarks import harness
from npk.data import load
from npk.tiles import StoredKernel, fingerprint, progress_bar, stored

OUTPUTS = 10

# ------------------------------------------------------------------------------------------- networks


@dataclasses.dataclass(frozen=True)
class Layers:
    """A network as a list that each library reads; convolutions are 3×3, SAME, with biases; pools are means of 2×2."""

    layers: tuple[tuple[str, int], ...]
    shape: tuple[int, ...]


def mlp(width: int) -> Layers:
    hidden = (("dense", width), ("relu", 0))
    return Layers((("flatten", 0), *hidden, *hidden, ("dense", OUTPUTS)), (28, 28, 1))


def conv_gap(channels: int, side: int) -> Layers:
    return Layers((("conv", channels), ("relu", 0), ("gap", 0), ("dense", OUTPUTS)), (side, side, 3))


def cnn() -> Layers:
    """2.5 million parameters."""
    layers: list[tuple[str, int]] = []
    for channels, pools in ((64, True), (128, True), (256, True), (512, False), (208, False)):
        layers += [("conv", channels), ("relu", 0), *([("pool", 0)] if pools else [])]
    return Layers((*layers, ("gap", 0), ("dense", OUTPUTS)), (32, 32, 3))


class Flax(nn.Module):
    """The list as a Flax module."""

    layers: tuple[tuple[str, int], ...]

    @nn.compact
    def __call__(self, x: Any) -> Any:
        for kind, size in self.layers:
            if kind == "conv":
                x = nn.Conv(size, (3, 3))(x)
            elif kind == "dense":
                x = nn.Dense(size)(x)
            elif kind == "relu":
                x = nn.relu(x)
            elif kind == "pool":
                x = nn.avg_pool(x, (2, 2), (2, 2))
            else:
                x = x.mean((1, 2)) if kind == "gap" else x.reshape(x.shape[0], -1)
        return x


def ready(network: Layers, n: int) -> tuple[Any, Any, Any]:
    """(f, parameters, n random inputs)."""
    model = Flax(network.layers)
    x = np.random.default_rng(0).standard_normal((n, *network.shape), np.float32)
    return model.apply, model.init(jax.random.key(1), x[:1]), x


def torch_parameters(network: Layers, params: Any) -> list[dict[str, Any]]:
    """The same numbers as torch lays them out, one dictionary a layer."""
    import torch

    counts = {"conv": 0, "dense": 0}
    found: list[dict[str, Any]] = []
    for kind, _ in network.layers:
        if kind not in counts:
            found.append({})
            continue
        leaves = params["params"][f"{kind.capitalize()}_{counts[kind]}"]
        counts[kind] += 1
        order = (3, 2, 0, 1) if kind == "conv" else (1, 0)
        weight = np.ascontiguousarray(np.transpose(np.asarray(leaves["kernel"]), order))
        found.append({"weight": torch.from_numpy(weight), "bias": torch.tensor(np.asarray(leaves["bias"]))})
    return found


def torch_network(network: Layers, params: list[dict[str, Any]], x: Any) -> Any:
    """The outputs [K] of one sample, channels first."""
    from torch.nn import functional

    x = x[None]
    for (kind, _), own in zip(network.layers, params, strict=True):
        if kind == "conv":
            x = functional.conv2d(x, own["weight"], own["bias"], padding="same")
        elif kind == "dense":
            x = functional.linear(x, own["weight"], own["bias"])
        elif kind == "relu":
            x = functional.relu(x)
        elif kind == "pool":
            x = functional.avg_pool2d(x, 2)
        else:
            x = x.mean((2, 3)) if kind == "gap" else x.flatten(1)
    return x[0]


# ------------------------------------------------------------------------------- what could not be run


@dataclasses.dataclass(frozen=True)
class Case:
    """One kernel: its issue, network, and number of inputs (and of a quick run)."""

    issue: str
    network: Callable[[], Layers]
    n: int
    quick: int


CASES = {
    "NTK of MNIST, MLP 784-512-512-10": Case("#166", lambda: mlp(512), 60_000, 2000),
    "NTK of a 2.5 M parameter CNN, 32×32×3": Case("#30", cnn, 1000, 24),
    "NTK of conv 3×3×128 + GAP, 32×32×3": Case("#100, #146", lambda: conv_gap(128, 32), 4096, 64),
}


def inputs(case: Case, n: int, data_dir: str | None) -> tuple[Any, Any, np.ndarray, str]:
    """(f, parameters, inputs, where they come from)."""
    f, params, x = ready(case.network(), n)
    if data_dir is None or not x.shape[1:] == (28, 28, 1):
        return f, params, x, "Gaussian inputs"
    return f, params, load("mnist", data_dir=data_dir).x_train[:n], "MNIST"


def run(name: str, quick: bool, data_dir: str | None, folder: str | None) -> dict[str, Any]:
    """One case in this process."""
    case = CASES[name]
    n = case.quick if quick else case.n
    f, params, x, source = inputs(case, n, data_dir)
    ntk = npk.ntk(f)
    with tempfile.TemporaryDirectory(dir=folder) as store, progress_bar() as progress:
        identity = {"kernel": "npk.ntk", "params": fingerprint(params)}
        fill = stored(lambda a, b: ntk(params, a, b), store, identity=identity, progress=progress)
        start = time.perf_counter()
        kernel = fill(x)
        seconds = time.perf_counter() - start
        assert isinstance(kernel, StoredKernel)
        trace, tile, tiles = float(kernel.diagonal().sum(dtype=np.float64)), kernel.tile[0], kernel.tiles[1]
    return {
        "case": name,
        "issue": case.issue,
        "N": n,
        "inputs": source,
        "parameters": sum(a.size for a in jax.tree_util.tree_leaves(params)),
        "seconds": seconds,
        "pairs a second": n * (n + 1) / 2 / seconds,
        "tile": tile,
        "tiles": tiles,
        "trace": trace,
        "peak MiB of the process": harness.resident("VmHWM"),
    }


def in_own_process(name: str, flags: Sequence[str]) -> dict[str, Any]:
    """One case in a fresh process, or what it died of."""
    command = [sys.executable, "-m", "benchmarks.large", "--one", name, *flags]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        return {"case": name, "issue": CASES[name].issue, "failed": f"exit status {done.returncode}"}
    return json.loads(done.stdout.splitlines()[-1])


# --------------------------------------------------------------------------------------- side by side

# name → (network, N, batch of nt.batch, and of a quick run)
SHARED = {
    "MLP 784-512-512-10": (lambda: mlp(512), 64, 16, 8),
    "CNN, 2.5 M parameters": (cnn, 16, 8, 4),
    "conv 3×3×128 + GAP": (lambda: conv_gap(128, 32), 64, 32, 8),
}
TORCH = "torch.func Jacobians"
_FITS = 8 << 30
# name → the package it needs
PACKAGES = {
    "npk.ntk": "jax",
    "nt.batch, implementation 1": "neural-tangents",
    "nt.batch, implementation 2": "neural-tangents",
    TORCH: "torch",
}


@functools.cache
def candidate(case: str, name: str, quick: bool) -> Callable[[], Any]:
    """A call that returns the NTK [N, N], summed over outputs."""
    make, n, batch, small = SHARED[case]
    n, batch = (small, small // 2) if quick else (n, batch)
    network = make()
    f, params, x = ready(network, n)
    if name == "npk.ntk":
        kernel, x = npk.ntk(f), jnp.asarray(x)
        return lambda: kernel(params, x)
    if name == TORCH:
        return torch_candidate(network, params, x)
    nt = npk.infinite.neural_tangents()
    own = nt.empirical_ntk_fn(f, trace_axes=(-1,), vmap_axes=0, implementation=int(name[-1]))
    batched, x = nt.batch(own, batch_size=batch, device_count=0), jnp.asarray(x)
    plain = lambda x: batched(x, None, params) * OUTPUTS  # noqa: E731 (it averages over outputs)
    # Compiled as a whole where that fits: by itself `nt.batch` compiles anew in every call.
    whole = jax.jit(plain).lower(x).compile()
    fits = whole.memory_analysis().temp_size_in_bytes < _FITS
    return lambda: (whole if fits else plain)(x)


def torch_candidate(network: Layers, params: Any, x: np.ndarray) -> Callable[[], Any]:
    """What a user of PyTorch writes: Jacobians of all samples, then their products."""
    import torch

    own = torch_parameters(network, params)
    data = torch.from_numpy(x if x.ndim == 2 else np.ascontiguousarray(np.moveaxis(x, -1, 1)))
    jacobian = torch.func.vmap(torch.func.jacrev(functools.partial(torch_network, network)), (None, 0))

    def kernel() -> Any:
        with torch.no_grad():
            leaves = [j.flatten(2) for layer in jacobian(own, data) for j in layer.values()]
            return sum(torch.einsum("nkp,mkp->nm", j, j) for j in leaves).numpy()

    return kernel


def available() -> tuple[list[str], dict[str, str]]:
    """The candidates that can run here, and why the others cannot."""
    skipped = {name: why for name, package in PACKAGES.items() if (why := harness.not_measured(package))}
    return [name for name in PACKAGES if name not in skipped], skipped


def side_by_side(case: str, quick: bool, repeats: int) -> dict[str, Any]:
    """Agreement first, then times in turns, then each one's memory in a process of its own."""
    names, skipped = available()
    calls = {name: candidate(case, name, quick) for name in names}
    ours = np.asarray(calls["npk.ntk"]())
    differences = {n: float(np.abs(np.asarray(c()) - ours).max() / np.abs(ours).max()) for n, c in calls.items()}
    times = harness.side_by_side(calls, repeats)
    which = f"{case} quick" if quick else case
    return {
        "case": case,
        "N": len(ours),
        "times": times,
        "MiB": {name: harness.peak_memory("benchmarks.large", which, name) for name in names},
        "largest difference from npk.ntk": differences,
        "left out": skipped,
    }


def kept(name: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The cases of the last run, and the machine, commit and command that gave them."""
    record = json.loads((harness.RESULTS / f"{name}.json").read_text())
    return record["cases"], record["cases by"]


def case_rows(results: Sequence[dict[str, Any]]) -> list[list[str]]:
    rows = []
    for r in results:
        label = f"{r['case']} ({r['issue']})"
        if "failed" in r:
            rows.append([label, "–", f"failed: {r['failed']}", "–"])
            continue
        seconds = f"{r['seconds']:.1f} s, {r['pairs a second']:,.0f} pairs/s"
        pairs = f"{r['N']:,}² ({r['inputs']}, tiles of {r['tile']:,}²)"
        rows.append([label, pairs, seconds, f"{r['peak MiB of the process']:,.0f} (process)"])
    return rows


def shared_rows(results: Sequence[dict[str, Any]]) -> list[list[str]]:
    rows = []
    for r in results:
        best = r["times"]["npk.ntk"]["median"]
        for name, t in r["times"].items():
            ratio = "" if name == "npk.ntk" else f" ({t['median'] / best:.1f}x)"
            mib = r["MiB"][name]
            memory = "–" if mib is None else f"{mib:,.0f} (added)"
            rows.append([f"{r['case']}: {name}", f"{r['N']}²", f"{t['median']:.1f} ms{ratio}", memory])
        rows += [[f"{r['case']}: {name}", "–", why, "–"] for name, why in r["left out"].items()]
    return rows


def main() -> None:
    """Run the cases and the comparison."""
    parser = harness.parser(__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes")
    parser.add_argument(
        "--cases",
        nargs="*",
        type=int,
        default=list(range(len(CASES))),
        help="which, by number from 0; none keeps those of the last run",
    )
    parser.add_argument("--no-comparison", action="store_true")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--data-dir", help="folder with MNIST prepared by `npk data prepare`; else Gaussian inputs")
    parser.add_argument("--folder", help="folder for the temporary stores (MNIST's takes 14.4 GB)")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--peak", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peak:
        case, name = args.peak
        call = candidate(case.removesuffix(" quick"), name, case.endswith(" quick"))
        call()
        print(harness.added_memory(call))
        return
    if args.one:
        print(json.dumps(run(args.one, args.quick, args.data_dir, args.folder)))
        return
    harness.begin(__doc__, "neural-tangents", "torch")
    flags = ["--quick"] if args.quick else []
    flags += ["--data-dir", args.data_dir] if args.data_dir else []
    flags += ["--folder", args.folder] if args.folder else []
    repeats = 3 if args.quick else args.repeats
    name = "large-quick" if args.quick else "large"
    cases, by = ([], harness.machine()) if args.cases else kept(name)
    shared: list[dict[str, Any]] = []

    def report() -> None:  # after every part: the next may take an hour, or die
        rows = [*case_rows(cases), *shared_rows(shared)]
        title = "Tangent kernels that did not fit, and side by side"
        data = {"cases": cases, "cases by": by, "side by side": shared}
        harness.report(name, title, ["case", "pairs", "time", "peak MiB"], rows, data)

    for case in harness.each([list(CASES)[number] for number in args.cases]):
        cases.append(in_own_process(case, flags))
        report()
    for case in harness.each(() if args.no_comparison else SHARED, "side by side, {}".format):
        shared.append(side_by_side(case, args.quick, repeats))
        report()


if __name__ == "__main__":
    main()
