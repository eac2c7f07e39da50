"""The tangent kernel and its split beside neural-tangents' empirical NTK, implementations 1, 2 and 3.

Implementations 1 and 2 run in the same process on the same JAX (through npk's import hook), 3 needs JAX
0.4: give an interpreter of such an environment with `--old-python` (jax 0.4.36, flax 0.10.2,
neural-tangents 0.6.5). Memory is that of XLA's buffers, results included, when the call is compiled as a whole.

Needs about 8 minutes on two cores and 6 GiB; neural-tangents for implementations 1 and 2.
"""

import functools
import json
import pathlib
import subprocess
from typing import Any

import jax
import jax.numpy as jnp

import npk
from benchmarks import harness
from npk import networks
from npk.infinite import neural_tangents

SHAPES = {"MLP": (256, 784), "C4GAP": (64, 16, 16, 3), "ResNet-20": (32, 32, 32, 3)}
# With ten outputs these take a minute a call, or 13 GB, after which every neighbour pays for memory anew.
LEFT_OUT = {("MLP", 10): (1, 2), ("C4GAP", 10): (2,), ("ResNet-20", 10): (2,)}


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


def ours(name: str, outputs: int) -> dict[str, functools.partial[Any]]:
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


def peer(name: str, outputs: int, implementation: int) -> functools.partial[Any]:
    """neural-tangents' kernel of a case."""
    nt = neural_tangents()
    f, p, x = case(name, outputs)
    kernel = nt.empirical_ntk_fn(lambda q, t: f(q, t), trace_axes=(-1,), vmap_axes=0, implementation=implementation)
    return functools.partial(jax.jit(lambda q, t: kernel(t, None, q)), p, x)


def old(python: str | None, name: str, outputs: int) -> dict[str, Any]:
    """Implementation 3 in its own environment."""
    if python is None:
        return {"note": "not measured: no --old-python"}
    script = pathlib.Path(__file__).parent / "old_neural_tangents.py"
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
    """One case: agreement first, then times, then memory."""
    result: dict[str, Any] = {"case": name, "outputs": outputs, "N": SHAPES[name][0]}
    candidates = ours(name, outputs)
    mine = candidates["ntk"]()
    result["left out"] = why = harness.not_measured("neural-tangents")
    for implementation in {1, 2}.difference({1, 2} if why else LEFT_OUT.get((name, outputs), ())):
        candidates[f"neural-tangents {implementation}"] = call = peer(name, outputs, implementation)
        result[f"difference from implementation {implementation}"] = float(
            jnp.abs(call() * outputs - mine).max() / jnp.abs(mine).max()
        )
    result["times"] = harness.side_by_side(candidates, repeats)
    result["neural-tangents 3, JAX 0.4.36"] = old(python, name, outputs)
    result["MiB"] = {label: harness.buffers(call.func, *call.args) for label, call in candidates.items()}
    return result


def row(r: dict[str, Any]) -> list[str]:
    """A line of the table."""
    t = {k: v["median"] for k, v in r["times"].items()}
    old_ms, old_mib = (r["neural-tangents 3, JAX 0.4.36"].get(k) for k in ("median", "MiB"))
    peers = {**{f"neural-tangents {i}": t.get(f"neural-tangents {i}") for i in (1, 2)}, "neural-tangents 3": old_ms}
    mib = {**r["MiB"], "neural-tangents 3": old_mib}
    best = min((v for v in peers.values() if v is not None), default=None)
    none = dict.fromkeys(peers, "–") | ({"neural-tangents 1": r["left out"]} if r["left out"] else {})
    return [
        f"{r['case']}, K={r['outputs']}, N={r['N']}",
        f"{t['ntk']:.1f}",
        *(none[k] if v is None else f"{v:.0f}" if v >= 100 else f"{v:.1f}" for k, v in peers.items()),
        "–" if best is None else f"{best / t['ntk']:.1f}x",
        f"{t['split, hard gates']:.1f}",
        f"{t['split, soft gates']:.1f} ({t['split, soft gates'] / t['ntk, soft gates']:.2f}x)",
        " / ".join("–" if mib.get(k) is None else f"{mib[k]:.0f}" for k in ("ntk", *peers)),
    ]


def main() -> None:
    """Run all cases."""
    parser = harness.parser(__doc__)
    parser.add_argument("--old-python", help="interpreter with jax 0.4.36 and neural-tangents 0.6.5")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--cases", nargs="*", default=list(SHAPES))
    parser.add_argument("--outputs", nargs="*", type=int, default=[1, 10])
    args = parser.parse_args()
    harness.begin(__doc__, "neural-tangents")
    cases = harness.each([(n, k) for k in args.outputs for n in args.cases], "{0[0]}, K={0[1]}".format)
    results = [measure(n, k, args.repeats, args.old_python) for n, k in cases]
    columns = [
        "case",
        "ntk ms",
        "nt 1 ms",
        "nt 2 ms",
        "nt 3 ms",
        "best nt ÷ ntk",
        "split hard ms",
        "split soft ms (÷ ntk soft)",
        "MiB: ntk / nt 1 / nt 2 / nt 3",
    ]
    rows = [row(r) for r in results]
    harness.report("tangent_kernels", "Empirical tangent kernel, medians", columns, rows, {"results": results})


if __name__ == "__main__":
    main()
