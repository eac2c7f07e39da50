"""The tangent kernel and its split beside neural-tangents' empirical NTK, implementations 1, 2 and 3.

Implementations 1 and 2 run in the same process on the same JAX (through npk's import hook), 3 needs JAX
0.4: give an interpreter of such an environment with `--old-python` (jax 0.4.36, flax 0.10.2,
neural-tangents 0.6.5). Peers that would take minutes are left out of a case and named.
"""

import argparse
import functools
import json
import pathlib
import subprocess
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

import npk
from benchmarks import _harness
from npk import _neural_tangents, networks

SHAPES = {"MLP": (256, 784), "C4GAP": (64, 16, 16, 3), "ResNet-20": (32, 32, 32, 3)}
# neural-tangents' 1 and 2 take minutes or exhaust memory here at full size; they are timed at this N.
SMALLER = {"C4GAP": 16, "ResNet-20": 2}


def network(name: str, outputs: int, activation: Any = jax.nn.relu) -> Any:
    """The benchmark's networks."""
    if name == "MLP":
        return networks.MLP(width=512, depth=5, outputs=outputs, activation=activation)
    if name == "C4GAP":
        return networks.C4GAP(channels=64, outputs=outputs, activation=activation)
    return networks.ResNet(depth=20, outputs=outputs, activation=activation)


@functools.cache
def case(name: str, outputs: int, soft: bool = False) -> tuple[Any, Any, Any]:
    """(f, parameters, inputs); batch norm's statistics are closed over and are no parameters."""
    model = network(name, outputs, npk.soft_relu if soft else jax.nn.relu)
    x = jax.random.normal(jax.random.key(0), SHAPES[name])
    variables = model.init(jax.random.key(1), x[:1])
    rest = {k: v for k, v in variables.items() if k != "params"}
    return (lambda p, x: model.apply({"params": p, **rest}, x)), variables["params"], x


def ours(name: str, outputs: int) -> dict[str, Callable[[], Any]]:
    """Our candidates of a case."""
    f, p, x = case(name, outputs)
    g, q, _ = case(name, outputs, soft=True)
    calls = {
        "ntk": (npk.ntk(f), p),
        "split, hard gates": (npk.split_ntk(f), p),
        "ntk, soft gates": (npk.ntk(g), q),
        "split, soft gates": (npk.split_ntk(g), q),
    }
    return {label: functools.partial(kernel, params, x) for label, (kernel, params) in calls.items()}


def fewer(name: str, outputs: int, n: int) -> Callable[[], Any]:
    """Our kernel of the first n inputs."""
    f, p, x = case(name, outputs)
    return functools.partial(npk.ntk(f), p, x[:n])


def peer(name: str, outputs: int, implementation: int) -> tuple[Callable[[], Any], int]:
    """neural-tangents' kernel of a case, and the N it is called with."""
    nt = _neural_tangents.load()
    f, p, x = case(name, outputs)
    n = SMALLER.get(name, x.shape[0])
    kernel = nt.empirical_ntk_fn(lambda q, t: f(q, t), trace_axes=(-1,), vmap_axes=0, implementation=implementation)
    return functools.partial(jax.jit(lambda t, q: kernel(t, None, q)), x[:n], p), n


def old(python: str | None, name: str, outputs: int) -> dict[str, Any]:
    """Implementation 3 in its own environment."""
    if python is None:
        return {"note": "not measured: no --old-python"}
    script = pathlib.Path(__file__).parent / "_old_neural_tangents.py"
    done = subprocess.run(
        [python, str(script), name, str(outputs), *map(str, SHAPES[name])],
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    if done.returncode:
        return {"note": done.stderr.strip().splitlines()[-1][:200] if done.stderr else f"exit {done.returncode}"}
    return json.loads(done.stdout.splitlines()[-1])


def measure(name: str, outputs: int, repeats: int, python: str | None) -> dict[str, Any]:
    """One case: agreement first, then times, then peak memory."""
    result: dict[str, Any] = {"case": name, "outputs": outputs, "N": SHAPES[name][0]}
    candidates = ours(name, outputs)
    peers = {}
    if outputs == 1:  # with ten outputs both take from seconds to minutes a call
        for implementation in (1, 2):
            call, n = peer(name, outputs, implementation)
            f, p, x = case(name, outputs)
            mine = npk.ntk(f)(p, x[:n])
            result[f"difference from implementation {implementation}"] = float(
                jnp.abs(call() * outputs - mine).max() / jnp.abs(mine).max()
            )
            peers[f"neural-tangents {implementation} (N={n})"] = call
            if n != x.shape[0]:
                candidates[f"ntk (N={n})"] = fewer(name, outputs, n)
    result["times"] = _harness.side_by_side({**candidates, **peers}, repeats)
    result["neural-tangents 3, JAX 0.4.36"] = old(python, name, outputs)
    result["peak MiB"] = {
        label: _harness.peak_memory("benchmarks.ntk", f"{name}/{outputs}", label)
        for label in ("ntk", "split, soft gates", *(k for k in candidates if k.startswith("ntk (N=")), *peers)
    }
    return result


def at_one_n(peaks: dict[str, Any]) -> list[str]:
    """The labels of peaks that were measured at one N: ours, then the peers."""
    smaller = [k for k in peaks if k.startswith("ntk (N=")]
    return [*(smaller or ["ntk"]), *(k for k in peaks if k.startswith("neural-tangents"))]


def main() -> None:
    """Run all cases."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--old-python", help="interpreter with jax 0.4.36 and neural-tangents 0.6.5")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--cases", nargs="*", default=list(SHAPES))
    parser.add_argument("--outputs", nargs="*", type=int, default=[1, 10])
    parser.add_argument("--peak", nargs=2, metavar=("CASE", "NAME"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peak:
        name, outputs = args.peak[0].split("/")
        label = args.peak[1]
        if label.startswith("neural-tangents"):
            call, _ = peer(name, int(outputs), int(label.split()[1]))
        elif label.startswith("ntk (N="):
            call = fewer(name, int(outputs), int(label[7:-1]))
        else:
            call = ours(name, int(outputs))[label]
        print(_harness.added_memory(call))
        return
    results = [measure(n, k, args.repeats, args.old_python) for k in args.outputs for n in args.cases]
    rows = []
    for r in results:
        t = {k: v["median"] for k, v in r["times"].items()}
        old_ms = r["neural-tangents 3, JAX 0.4.36"].get("median")
        nt = {
            i: next((f"{v:.0f} {k[k.index('(') :]}" for k, v in t.items() if k.startswith(f"neural-tangents {i}")), "–")
            for i in (1, 2)
        }
        rows.append(
            [
                f"{r['case']}, K={r['outputs']}, N={r['N']}",
                f"{t['ntk']:.1f}",
                f"{t['split, hard gates']:.1f}",
                f"{t['split, soft gates']:.1f} ({t['split, soft gates'] / t['ntk, soft gates']:.2f}x)",
                nt[1],
                nt[2],
                "–" if old_ms is None else f"{old_ms:.1f}",
                " / ".join(
                    "–" if v is None else f"{v:.0f}" for k, v in r["peak MiB"].items() if k in at_one_n(r["peak MiB"])
                ),
            ]
        )
    columns = [
        "case",
        "ntk ms",
        "split hard ms",
        "split soft ms (÷ ntk soft)",
        "nt 1 ms",
        "nt 2 ms",
        "nt 3 ms",
        "peak MiB at nt's N: ours / nt 1 / nt 2",
    ]
    _harness.report("ntk", "Empirical tangent kernel, medians", columns, rows, {"results": results})


if __name__ == "__main__":
    main()
