"""Transformers: path kernel, gates, linear map and split of a vision transformer, against what they are made of.

ViT-Tiny (192 wide, 12 layers, 3 heads, 64 positions). The path kernel at the rate of its own matrix products, counted
by the recursion (overlaps of channels, and (A K) A'ᵀ of every head), against the machine's rate; gates beside the
forward pass, the products of a linear map beside `jax.jvp`, the split beside the tangent kernel.

Needs about 3 minutes on two cores (--quick: 1, of 3 layers).
"""

from typing import Any

from benchmarks import harness

POSITIONS, WIDTH, HEADS = 64, 192, 3


def products(samples: int, depth: int) -> float:
    """Multiplications and additions of the recursion for all pairs of samples, each pair once.

    A block multiplies each head's pattern into K from either side, and sums the slopes of 4·width channels for every
    pair of positions; centring and scales are no products of matrices.
    """
    pattern = 2 * HEADS * POSITIONS**3
    slopes = 4 * WIDTH * POSITIONS**2
    return 2.0 * depth * (pattern + slopes) * samples * (samples + 1) / 2


def by_hand(samples: int = 4) -> float:
    """GFLOP/s of a layer's products alone, plain einsums for a block of pairs: what XLA makes of their sizes."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    rng = np.random.default_rng(0)
    a, k, g = (
        jnp.asarray(rng.random(shape), jnp.float32)
        for shape in (
            (samples, HEADS, POSITIONS, POSITIONS),
            (samples, samples, POSITIONS, POSITIONS),
            (samples, POSITIONS, 4 * WIDTH),
        )
    )

    @jax.jit
    def layer(a: Any, k: Any, g: Any) -> tuple[Any, Any]:
        half = jnp.einsum("nhpq,nmqs->nmhps", a, k, precision="highest")
        mixed = jnp.einsum("nmhps,mhts->nmpt", half, a, precision="highest")
        return mixed, jnp.einsum("npc,mqc->nmpq", g, g, precision="highest")

    jax.block_until_ready(layer(a, k, g))
    seconds = float(np.median([harness.timed(lambda: layer(a, k, g)) for _ in range(20)]))
    return 2 * (2 * HEADS * POSITIONS**3 + 4 * WIDTH * POSITIONS**2) * samples**2 / seconds / 1e9


def main() -> None:
    form = harness.parser(__doc__ or "")
    form.add_argument("--quick", action="store_true")
    form.add_argument("--samples", type=int, default=64)
    args = form.parse_args()
    harness.begin(__doc__ or "")
    import jax
    import jax.numpy as jnp
    import numpy as np

    import npk

    depth = 3 if args.quick else 12
    net = npk.networks.ViT(patch=(4, 4), width=WIDTH, depth=depth, heads=HEADS, outputs=10, pooling="mean")
    x = jnp.asarray(np.random.default_rng(0).normal(size=(args.samples, 32, 32, 3)), jnp.float32)
    params = net.init(jax.random.key(0), x[:1])
    f: Any = net.apply
    harness.say("the machine's matrix products")
    ceiling = max(harness.ceilings().values())
    rows, data = [], {"ceiling": ceiling, "samples": args.samples, "depth": depth}

    harness.say("path kernel")
    kernel = npk.path_kernel(f)
    jax.block_until_ready(kernel(params, x))
    seconds = min(harness.timed(lambda: kernel(params, x)) for _ in range(3))
    rate = products(args.samples, depth) / seconds / 1e9
    state = args.samples**2 * POSITIONS**2 * 4 / 2**20
    data |= {"path kernel": {"seconds": seconds, "GFLOP/s": rate, "share": rate / ceiling, "whole state MiB": state}}
    data["path kernel"]["products by hand"] = hand = by_hand()
    whole = products(256, depth) / rate / 1e9
    rows += [
        ["machine, largest rate of matrix products", f"{ceiling:.0f} GFLOP/s", ""],
        [f"path kernel, {args.samples}² pairs", f"{seconds:.1f} s", f"{rate:.0f} GFLOP/s, {rate / ceiling:.0%}"],
        ["  its products alone, by hand, in such blocks", "", f"{hand:.0f} GFLOP/s, {hand / ceiling:.0%}"],
        ["  at this rate, 256² pairs", f"{whole:,.0f} s", f"state whole {256**2 * POSITIONS**2 * 4 / 2**30:.0f} GiB"],
    ]
    few = x[:8]
    along = jnp.asarray(np.random.default_rng(1).normal(size=few.shape), jnp.float32)
    forward, gates = jax.jit(f), jax.jit(npk.gates(f))
    harness.say("linear map")
    found = npk.linear_map(f)(params, few)
    tangent = jax.jit(lambda p, x, v: jax.jvp(lambda z: f(p, z), (x,), (v,))[1])
    candidates = {
        "forward": lambda: forward(params, few),
        "gates": lambda: gates(params, few),
        "jax.jvp": lambda: tangent(params, few, along),
        "M v": lambda: found.matvec(along),
    }
    times = {name: t["median"] for name, t in harness.side_by_side(candidates).items()}
    rows += [
        ["gates, 8 images", f"{times['gates']:.0f} ms", f"{times['gates'] / times['forward']:.2f} × forward"],
        ["M v, 8 images", f"{times['M v']:.0f} ms", f"{times['M v'] / times['jax.jvp']:.2f} × jax.jvp"],
    ]
    harness.say("tangent kernel and its split")
    ntk, split = npk.ntk(f), npk.split_ntk(f)
    candidates = {"ntk": lambda: ntk(params, few), "split": lambda: split(params, few).value}
    kernels = {name: t["median"] for name, t in harness.side_by_side(candidates, 3).items()}
    rows.append(["split, 8 images", f"{kernels['split']:.0f} ms", f"{kernels['split'] / kernels['ntk']:.2f} × ntk"])
    data |= {"times": times | kernels}
    title = f"ViT-Tiny, {depth} layers, {POSITIONS} positions"
    harness.report("transformers", title, ["", "time", "of"], rows, data)


if __name__ == "__main__":
    main()
