"""`ntk` and the split beside neural-tangents' implementations 1 to 3, all on the same JAX."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

import npk
from benchmarks import harness
from benchmarks.gpu.peer import neural_tangents
from benchmarks.gpu.record import Part, compared, relative
from benchmarks.gpu.sizes import Sizes, Tangents
from npk import networks


def network(size: Tangents, activation: Any) -> nn.Module:
    """The network of a size; its width is that of its first layers."""
    if size.network == "MLP":
        return networks.MLP(width=size.width, depth=5, outputs=size.outputs, activation=activation)
    if size.network == "C4GAP":
        return networks.C4GAP(channels=size.width, outputs=size.outputs, activation=activation)
    return networks.ResNet(depth=20, outputs=size.outputs, activation=activation)


@functools.cache
def case(size: Tangents, soft: bool) -> tuple[Any, Any, Any]:
    """(f, parameters, inputs); batch norm's statistics are closed over and are no parameters."""
    model = network(size, npk.soft_relu if soft else jax.nn.relu)
    x = jax.random.normal(jax.random.key(0), size.inputs)
    variables = model.init(jax.random.key(1), x[:1])
    rest = {k: v for k, v in variables.items() if k != "params"}
    return (lambda p, x: model.apply({"params": p, **rest}, x)), variables["params"], x


def ours(size: Tangents) -> dict[str, functools.partial[Any]]:
    (f, p, x), (g, q, _) = case(size, False), case(size, True)
    return {
        "ntk": functools.partial(npk.ntk(f), p, x),
        "split": functools.partial(npk.split_ntk(f), p, x),
        "ntk, soft": functools.partial(npk.ntk(g), q, x),
        "split, soft": functools.partial(npk.split_ntk(g), q, x),
    }


def theirs(library: Any, size: Tangents, implementation: int) -> functools.partial[Any]:
    f, p, x = case(size, False)
    kernel = library.empirical_ntk_fn(
        lambda q, t: f(q, t), trace_axes=(-1,), vmap_axes=0, implementation=implementation
    )
    return functools.partial(jax.jit(lambda q, t: kernel(t, None, q)), p, x)


def measure(size: Tangents, repeats: int, library: Any | None) -> dict[str, Any]:
    """Times of one case, how far the kernels differ, and the memory of the compiled calls."""
    candidates: dict[str, Callable[[], Any]] = {**ours(size)}
    if library is not None:
        candidates |= {f"nt {i}": theirs(library, size, i) for i in (1, 2, 3)}
    found, results = compared(candidates, repeats)
    peers = {name: t for name, t in found["ms"].items() if name.startswith("nt ")}
    differences = {name: relative(results[name] * size.outputs, results["ntk"]) for name in peers if "ntk" in results}
    best = {"best nt ÷ ntk": min(peers.values()) / found["ms"]["ntk"]} if differences else {}
    return {**found, **best, "difference from ntk": differences}


def run(sizes: Sizes, part: Part) -> None:
    """Every case."""
    library = neural_tangents(part)
    for size in sizes.tangents:
        name = f"{size.network}, width {size.width}, K={size.outputs}, N={size.inputs[0]}"
        part.case(name, functools.partial(measure, size, sizes.repeats, library))


def buffers(size: Tangents) -> dict[str, float]:
    """MiB of our compiled calls."""
    calls = {name: call for name, call in ours(size).items() if "soft" not in name}
    return {name: harness.buffers(call.func, *call.args) for name, call in calls.items()}
