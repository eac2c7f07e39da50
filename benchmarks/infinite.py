"""Kernels at infinite width beside neural-tangents' analytic ones: the same architectures, inputs and process.

Ours read the architecture from a Flax model; neural-tangents' are written in its `stax` and jitted. Both
are warm. Peak memory is what one warm call adds in a fresh process.

Needs about 5 minutes on two cores and 2 GiB; neural-tangents for the peer's numbers.
"""

import argparse
import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

import npk.infinite
from benchmarks import harness
from npk.infinite import neural_tangents

WEIGHT, BIAS = math.sqrt(2), 0.3
KINDS = ("nngp", "ntk")


@dataclasses.dataclass(frozen=True)
class Layer:
    """One layer of a case, in both languages; conv and dense with or without bias."""

    kind: str
    bias: bool = False
    stride: int = 1
    padding: str = "SAME"


def dense(bias: bool = False) -> Layer:
    return Layer("dense", bias)


def conv(**options: Any) -> Layer:
    return Layer("conv", **options)


RELU, FLATTEN, GAP, POOL, BRANCH = (Layer(kind) for kind in ("relu", "flatten", "gap", "pool", "branch"))
GELU, LEAKY = Layer("gelu"), Layer("leaky")


@dataclasses.dataclass(frozen=True)
class Case:
    """Layers, the shape of an input, and how many inputs a side."""

    layers: tuple[Layer, ...]
    shape: tuple[int, ...]
    n: int


def mlp(depth: int, activation: Layer = RELU, bias: bool = False) -> Case:
    return Case(((dense(bias), activation) * depth) + (dense(bias),), (16,), 1000)


def gap(depth: int, side: int, n: int, **options: Any) -> Case:
    return Case((conv(**options), RELU) * depth + (GAP, dense(options.get("bias", False))), (side, side, 3), n)


CASES = {
    "dense × 3": mlp(3),
    "dense × 3, biases": mlp(3, bias=True),
    "dense × 10": mlp(10),
    "dense × 2, leaky ReLU": mlp(2, LEAKY),
    "dense × 2, gelu": mlp(2, GELU),
    "conv × 2, flatten, 16×16": Case((conv(), RELU) * 2 + (FLATTEN, dense()), (16, 16, 3), 64),
    "conv × 2, stride, VALID, GAP, 16×16": Case(
        (conv(), RELU, conv(stride=2, padding="VALID"), RELU, GAP, dense()), (16, 16, 3), 6
    ),
    "conv × 2, pooling, flatten, 16×16": Case((conv(), RELU, POOL, conv(), RELU, FLATTEN, dense()), (16, 16, 3), 6),
    "conv × 2, circular, biases, GAP, 16×16": gap(2, 16, 6, bias=True, padding="CIRCULAR"),
    "residual, conv × 5, GAP, 16×16": Case((conv(), BRANCH, BRANCH, RELU, GAP, dense()), (16, 16, 3), 4),
    "conv × 4, GAP, 16×16": gap(4, 16, 6),
    "conv × 4, GAP, 32×32": gap(4, 32, 2),
}
# Each peak takes two more processes: one case of each kind.
PEAKS = ("dense × 10", "conv × 4, GAP, 16×16", "conv × 4, GAP, 32×32")


class Net(nn.Module):
    """A case in Flax."""

    layers: tuple[Layer, ...]

    @nn.compact
    def __call__(self, x: Any) -> Any:
        def convolve(x: Any, layer: Layer) -> Any:
            return nn.Conv(8, (3, 3), layer.stride, padding=layer.padding, use_bias=layer.bias)(x)

        for i, layer in enumerate(self.layers):
            if layer.kind == "dense":
                x = nn.Dense(1 if i == len(self.layers) - 1 else 8, use_bias=layer.bias)(x)
            elif layer.kind == "conv":
                x = convolve(x, layer)
            elif layer.kind == "branch":
                x = x + convolve(nn.relu(convolve(nn.relu(x), conv())), conv())
            else:
                x = _PLAIN[layer.kind](x)
        return x


_PLAIN: dict[str, Callable[[Any], Any]] = {
    "relu": nn.relu,
    "leaky": functools.partial(nn.leaky_relu, negative_slope=0.1),
    "gelu": functools.partial(nn.gelu, approximate=False),
    "flatten": lambda x: x.reshape(x.shape[0], -1),
    "gap": lambda x: x.mean((1, 2)),
    "pool": lambda x: nn.avg_pool(x, (2, 2), (2, 2)),
}


def in_stax(layers: tuple[Layer, ...]) -> Any:
    """A case in neural-tangents."""
    stax = neural_tangents().stax

    def convolve(layer: Layer) -> Any:
        strides, bias = (layer.stride,) * 2, BIAS if layer.bias else None
        return stax.Conv(1, (3, 3), strides, layer.padding, W_std=WEIGHT, b_std=bias)

    def branch() -> Any:
        inner = stax.serial(stax.Relu(), convolve(conv()), stax.Relu(), convolve(conv()))
        return stax.serial(stax.FanOut(2), stax.parallel(stax.Identity(), inner), stax.FanInSum())

    plain = {
        "relu": stax.Relu,
        "leaky": lambda: stax.LeakyRelu(0.1),
        "gelu": stax.Gelu,
        "flatten": stax.Flatten,
        "gap": stax.GlobalAvgPool,
        "pool": lambda: stax.AvgPool((2, 2), (2, 2)),
        "branch": branch,
    }
    made = []
    for layer in layers:
        if layer.kind == "dense":
            made.append(stax.Dense(1, WEIGHT, BIAS if layer.bias else None))
        else:
            made.append(convolve(layer) if layer.kind == "conv" else plain[layer.kind]())
    return stax.serial(*made)[2]


def calls(case: Case, peer: bool = True) -> dict[str, functools.partial[Any]]:
    """Ours and, where it is asked for, neural-tangents', of either kernel, on one pair of batches."""
    x1, x2 = (jax.random.normal(jax.random.key(s), (case.n, *case.shape)) for s in (0, 1))
    net = Net(case.layers)
    params = net.init(jax.random.key(2), x1[:1])
    made: dict[str, functools.partial[Any]] = {}
    for kind in KINDS:
        ours = getattr(npk.infinite, kind)(net.apply, weight_std=WEIGHT, bias_std=BIAS)
        made[f"npk {kind}"] = functools.partial(ours, params, x1, x2)
        if peer:
            theirs = jax.jit(functools.partial(in_stax(case.layers), get=kind))
            made[f"neural-tangents {kind}"] = functools.partial(theirs, x1, x2)
    return made


def measure(name: str, repeats: int, memory: bool) -> dict[str, Any]:
    """One case: agreement, times and, of the NTK, peak memory."""
    why = harness.not_measured("neural-tangents")
    made, n = calls(CASES[name], peer=not why), CASES[name].n
    result: dict[str, Any] = {"case": name, "N": n, "left out": why}
    for kind in () if why else KINDS:
        ours, theirs = made[f"npk {kind}"](), made[f"neural-tangents {kind}"]()
        result[f"difference, {kind}"] = float(jnp.abs(ours - theirs).max() / jnp.abs(theirs).max())
    result["times"] = times = harness.side_by_side(made, repeats)
    result["µs a pair"] = {label: 1e3 * t["median"] / n**2 for label, t in times.items()}
    if not why:
        result["times faster"] = {
            kind: times[f"neural-tangents {kind}"]["median"] / times[f"npk {kind}"]["median"] for kind in KINDS
        }
    if memory:
        result["peak MiB"] = {c: harness.peak_memory("benchmarks.infinite", name, c) for c in made if "ntk" in c}
    return result


def row(result: dict[str, Any]) -> list[str]:
    """A line of the table."""
    cells = [f"{result['case']}, N={result['N']}²"]
    for kind in KINDS:
        pair, why = result["µs a pair"], result["left out"]
        theirs = why or f"{_short(pair[f'neural-tangents {kind}'])} ({result['times faster'][kind]:.1f}x)"
        cells.append(f"{_short(pair[f'npk {kind}'])} / {theirs}")
    cells.append("–" if result["left out"] else " / ".join(f"{result[f'difference, {kind}']:.0e}" for kind in KINDS))
    peaks = result.get("peak MiB")
    cells.append(" / ".join("–" if v is None else f"{v:.0f}" for v in peaks.values()) if peaks else "–")
    return cells


def _short(microseconds: float) -> str:
    return f"{microseconds:.3g}" if microseconds < 1000 else f"{microseconds:.0f}"


def main() -> None:
    """Every case, or the peak memory of one call."""
    parser = harness.parser(__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--no-memory", action="store_true", help="leave peak memory out")
    parser.add_argument("--peak", nargs=2, metavar=("CASE", "CALL"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peak:
        call = calls(CASES[args.peak[0]], peer="neural" in args.peak[1])[args.peak[1]]
        jax.block_until_ready(call())
        print(harness.added_memory(call))
        return
    harness.begin(__doc__, "neural-tangents")
    results = []
    for name in harness.each(CASES):
        results.append(measure(name, args.repeats, name in PEAKS and not args.no_memory))
        harness.say(" | ".join(row(results[-1])))
    columns = ["case", "nngp: npk / neural-tangents, µs a pair", "ntk: the same"]
    columns += ["largest relative difference", "peak MiB of ntk: npk / neural-tangents"]
    title = "Kernels at infinite width, medians"
    harness.report("infinite", title, columns, [row(r) for r in results], {"cases": results})


if __name__ == "__main__":
    main()
