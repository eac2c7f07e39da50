"""What kernels and sketches cost against N, width, depth, positions and features: exponents beside those predicted.

The path kernel of a dense network is one product of N² · width operations a layer; a convolution with global
pooling looks at all P² pairs of positions, one without at P. A sketch is a forward pass of N · m · width² a layer.
All sizes of a sweep take turns, so that they meet the same noise; the exponent is the slope of log median time
against log size, its interval Student's for a straight line through the points.

Needs about 10 minutes on two cores and 3 GiB; numba for the packed engine.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import scipy.stats

import npk
from benchmarks import harness
from npk import networks

PICTURE = pathlib.Path(__file__).parents[1] / "docs" / "scaling.png"
KEY = jax.random.key(0)


class Convolutions(nn.Module):
    """Two 3×3 convolutions, then the mean over positions or all of them."""

    pooling: bool
    channels: int = 16

    @nn.compact
    def __call__(self, x: Any) -> Any:
        for _ in range(2):
            x = nn.relu(nn.Conv(self.channels, (3, 3), use_bias=False)(x))
        x = x.mean((1, 2)) if self.pooling else x.reshape(x.shape[0], -1)
        return nn.Dense(1, use_bias=False)(x)


def ready(model: nn.Module, shape: tuple[int, ...]) -> tuple[Any, Any, Any, Any]:
    """(f, parameters, inputs, gates): what is timed is the kernel under given gates."""
    x = jax.random.normal(KEY, shape)
    params = model.init(jax.random.key(1), x[:1])
    return model.apply, params, x, jax.jit(npk.gates(model.apply))(params, x)


def exact(model: nn.Module, shape: tuple[int, ...]) -> Callable[[], Any]:
    f, params, x, gates = ready(model, shape)
    kernel = npk.path_kernel(f)
    return lambda: kernel(params, x, x, gates1=gates, gates2=gates)


def sketched(model: nn.Module, shape: tuple[int, ...], features: int) -> Callable[[], Any]:
    f, params, x, gates = ready(model, shape)
    make = npk.sketch(f)
    return lambda: make(params, x, gates, features=features, key=KEY).features


def mlp(width: int, depth: int) -> networks.MLP:
    return networks.MLP(width=width, depth=depth, outputs=1, use_bias=False)


@dataclasses.dataclass(frozen=True)
class Sweep:
    """One size varied, all else fixed."""

    what: str
    axis: str
    sizes: Sequence[int]
    quick: Sequence[int]
    predicted: float
    make: Callable[[int], Callable[[], Any]]
    fixed: str


SWEEPS = (
    Sweep(
        "path kernel, dense",
        "samples N",
        (2048, 3072, 4096, 6144, 8192),
        (1024, 2048),
        2,
        lambda n: exact(mlp(256, 4), (n, 256)),
        "width 256, depth 4",
    ),
    Sweep(
        "path kernel, dense",
        "width",
        (256, 512, 1024, 2048),
        (256, 512),
        1,
        lambda w: exact(mlp(w, 4), (3072, w)),
        "N = 3072, depth 4",
    ),
    Sweep(
        "path kernel, dense",
        "depth",
        (4, 8, 16, 32),
        (4, 8),
        1,
        lambda d: exact(mlp(256, d), (3072, 256)),
        "N = 3072, width 256",
    ),
    Sweep(
        "path kernel, convolutions + pooling",
        "positions P",
        (256, 576, 1024, 2304),
        (64, 144),
        2,
        lambda p: exact(Convolutions(True), (6, int(p**0.5), int(p**0.5), 3)),
        "N = 6, 2 layers of 16 channels",
    ),
    Sweep(
        "path kernel, convolutions",
        "positions P",
        (256, 576, 1024, 2304),
        (64, 144),
        1,
        lambda p: exact(Convolutions(False), (128, int(p**0.5), int(p**0.5), 3)),
        "N = 128, 2 layers of 16 channels",
    ),
    Sweep(
        "sketch, dense",
        "samples N",
        (2048, 4096, 8192, 16384),
        (1024, 2048),
        1,
        lambda n: sketched(mlp(256, 4), (n, 256), 64),
        "m = 64, width 256, depth 4",
    ),
    Sweep(
        "sketch, dense",
        "features m",
        (64, 128, 256, 512),
        (16, 32),
        1,
        lambda m: sketched(mlp(256, 4), (4096, 256), m),
        "N = 4096, width 256, depth 4",
    ),
    Sweep(
        "sketch, dense",
        "width",
        (256, 512, 1024, 2048),
        (128, 256),
        2,
        lambda w: sketched(mlp(w, 4), (2048, w), 16),
        "N = 2048, m = 16, depth 4",
    ),
    Sweep(
        "sketch, dense",
        "depth",
        (4, 8, 16, 32),
        (4, 8),
        1,
        lambda d: sketched(mlp(256, d), (4096, 256), 32),
        "N = 4096, m = 32, width 256",
    ),
    Sweep(
        "sketch, convolutions + pooling",
        "positions P",
        (256, 576, 1024, 2304),
        (64, 144),
        1,
        lambda p: sketched(Convolutions(True), (128, int(p**0.5), int(p**0.5), 3), 16),
        "N = 128, m = 16, 2 layers of 16 channels",
    ),
)


def slope(sizes: Sequence[float], times: Sequence[float]) -> tuple[float, float]:
    """The exponent and half the width of its 95 % interval (none for two points)."""
    fit = scipy.stats.linregress(np.log(sizes), np.log(times))
    degrees = len(sizes) - 2
    return float(fit.slope), float(scipy.stats.t.ppf(0.975, degrees) * fit.stderr) if degrees else float("nan")


def measure(sweep: Sweep, quick: bool, repeats: int) -> dict[str, Any]:
    """Times of all sizes of a sweep, and their exponent."""
    sizes = sweep.quick if quick else sweep.sizes
    times = harness.side_by_side({str(s): sweep.make(s) for s in sizes}, repeats)
    exponent, half = slope(sizes, [times[str(s)]["median"] for s in sizes])
    return {
        "what": sweep.what,
        "axis": sweep.axis,
        "fixed": sweep.fixed,
        "sizes": list(sizes),
        "times": times,
        "exponent": exponent,
        "half width of 95 %": half,
        "predicted": sweep.predicted,
    }


def draw(results: Sequence[dict[str, Any]], path: pathlib.Path) -> None:
    """One panel a kind of size; measured points, and lines of the predicted slope through their middle."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    axes = list(dict.fromkeys(r["axis"] for r in results))
    figure, panels = plt.subplots(1, len(axes), figsize=(3.4 * len(axes), 4.4), layout="constrained", sharey=True)
    colours = dict(zip(dict.fromkeys(r["what"] for r in results), plt.colormaps["tab10"].colors, strict=False))
    for panel, axis in zip(np.atleast_1d(panels), axes, strict=True):
        for r in (r for r in results if r["axis"] == axis):
            sizes = np.array(r["sizes"], float)
            middle, low, high = (np.array([r["times"][str(s)][q] for s in r["sizes"]]) for q in ("median", "q1", "q3"))
            panel.errorbar(
                sizes,
                middle,
                [middle - low, high - middle],
                marker="o",
                markersize=4,
                linestyle="none",
                color=colours[r["what"]],
                label=f"{r['what']}\n{r['fixed']}\n{r['exponent']:.2f}, predicted {r['predicted']}",
            )
            line = sizes ** r["predicted"]
            panel.plot(sizes, line * np.exp(np.log(middle / line).mean()), color=colours[r["what"]], linewidth=1)
        panel.set(xscale="log", yscale="log", xlabel=axis)
        every = sorted({s for r in results if r["axis"] == axis for s in r["sizes"]})
        ticks = [s for i, s in enumerate(every) if i == 0 or s / every[i - 1] > 1.45]
        panel.set_xticks(ticks, [f"{s:,}" for s in ticks])
        panel.set_xticks([], minor=True)
        panel.legend(fontsize=6.5, loc="upper center", bbox_to_anchor=(0.5, -0.16), frameon=False)
        panel.grid(alpha=0.3)
    np.atleast_1d(panels)[0].set_ylabel("time, ms (median; bars: quartiles)")
    figure.suptitle("Cost against size: measured points, lines of the predicted exponent", fontsize=11)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def main() -> None:
    """Run all sweeps."""
    parser = harness.parser(__doc__)
    parser.add_argument("--quick", action="store_true", help="two small sizes a sweep, three repeats, no picture")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--picture", type=pathlib.Path, default=PICTURE)
    args = parser.parse_args()
    repeats = 3 if args.quick else args.repeats
    harness.begin(__doc__, "numba")
    sweeps = harness.each(SWEEPS, lambda sweep: f"{sweep.what}, {sweep.axis}")
    results = [measure(sweep, args.quick, repeats) for sweep in sweeps]
    rows = [
        [
            f"{r['what']} ({r['fixed']})",
            f"{r['axis']} {r['sizes'][0]:,} … {r['sizes'][-1]:,}",
            f"{r['predicted']}",
            f"{r['exponent']:.2f} ± {r['half width of 95 %']:.2f}",
            " / ".join(f"{t['median']:.3g}" for t in r["times"].values()),
        ]
        for r in results
    ]
    columns = ["what", "size varied", "predicted exponent", "measured (95 %)", "ms"]
    name = "scaling-quick" if args.quick else "scaling"
    harness.report(name, "Cost against size", columns, rows, {"results": results})
    if not args.quick:
        draw(results, args.picture)


if __name__ == "__main__":
    main()
