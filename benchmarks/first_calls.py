"""First calls in a fresh process: what a path kernel and a tangent kernel compile, beside the network itself.

CPU seconds of the first call of `jax.jit(f)`, `npk.path_kernel(f)` and `npk.ntk(f)`, the programs each compiled, the
second call, and the memory that the process has taken; of networks of any depth, on few samples.

Needs about 15 minutes on two cores (--quick: 1, without tangent kernels).
"""

import argparse
import json
import math
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from benchmarks import harness

SAMPLES = 4
NETWORKS = ("ResNet-20", "ResNet-56", "ResNet-110", "VGG-16", "DenseNet-40")
FUNCTIONS = ("jit(f)", "path_kernel", "ntk")


def dense_net(depth: int, growth: int) -> Any:
    """Huang et al. 2017, without bottlenecks: three blocks of layers that each read all before."""
    import flax.linen as nn
    import jax.numpy as jnp

    class DenseNet(nn.Module):
        @nn.compact
        def __call__(self, x: Any) -> Any:
            def activated(x: Any) -> Any:
                return nn.relu(nn.BatchNorm(use_running_average=True)(x))

            x = nn.Conv(2 * growth, (3, 3), use_bias=False)(x)
            for block in range(3):
                for _ in range((depth - 4) // 3):
                    x = jnp.concatenate([x, nn.Conv(growth, (3, 3), use_bias=False)(activated(x))], -1)
                if block < 2:
                    x = nn.Conv(x.shape[-1], (1, 1), use_bias=False)(activated(x))
                    x = nn.avg_pool(x, (2, 2), (2, 2))
            return nn.Dense(10)(activated(x).mean((1, 2)))

    return DenseNet()


def model(name: str) -> Any:
    from npk import networks

    kind, depth = name.split("-")
    if kind == "ResNet":
        return networks.ResNet(depth=int(depth), outputs=10)
    return networks.VGG16(outputs=10) if kind == "VGG" else dense_net(int(depth), 12)


def image(name: str) -> tuple[int, int, int]:
    return (32, 32, 3) if name.startswith("VGG") else (16, 16, 3)


def child(name: str, function: str) -> dict[str, float]:
    """One function of one network, in this process."""
    import jax
    import numpy as np

    import npk

    jax.config.update("jax_enable_compilation_cache", False)
    f = model(name).apply
    x = np.random.default_rng(0).normal(size=(SAMPLES, *image(name))).astype(np.float32)
    rng, shapes = np.random.default_rng(1), jax.eval_shape(model(name).init, jax.random.key(0), x)

    def drawn(shape: tuple[int, ...]) -> Any:
        fan_in = math.prod(shape[:-1])
        return rng.normal(size=shape) * math.sqrt(2 / fan_in) if len(shape) > 1 else np.full(shape, 0.5)

    params = jax.tree.map(lambda s: drawn(s.shape).astype(s.dtype), shapes)
    compiled: list[float] = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, seconds, **_: compiled.append(seconds) if event.endswith("backend_compile_duration") else None
    )
    made: dict[str, Callable[..., Any]] = {"jit(f)": jax.jit(f), "path_kernel": npk.path_kernel(f), "ntk": npk.ntk(f)}
    start = time.process_time()
    jax.block_until_ready(made[function](params, x))
    first = time.process_time() - start
    again = min(harness.timed(lambda: made[function](params, x)) for _ in range(3))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"first": first, "programs": len(compiled), "second": again, "memory": peak}


def measured(name: str, function: str, repeats: int) -> dict[str, float]:
    """The median of fresh processes, by their first call."""
    command = [sys.executable, "-m", "benchmarks.first_calls", "--child", name, function]
    runs = []
    for _ in range(repeats):
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        runs.append(json.loads(done.stdout.splitlines()[-1]))
    return sorted(runs, key=lambda run: run["first"])[len(runs) // 2]


def main() -> None:
    form = harness.parser(__doc__ or "")
    form.add_argument("--quick", action="store_true")
    form.add_argument("--repeats", type=int, default=3, help="fresh processes of each, of which the median is shown")
    form.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    args = form.parse_args()
    if args.child:
        print(json.dumps(child(*args.child)))
        return
    harness.begin(__doc__ or "")
    functions, repeats = (FUNCTIONS[:2], 1) if args.quick else (FUNCTIONS, args.repeats)
    rows, data = [], {}
    for name in harness.each(NETWORKS[:2] if args.quick else NETWORKS):
        data[name] = {function: measured(name, function, repeats) for function in functions}
        for function, run in data[name].items():
            times = run["first"] / data[name]["jit(f)"]["first"]
            numbers = f"{run['first']:.1f} s", f"{times:.1f}", f"{run['programs']:.0f}", f"{1e3 * run['second']:.0f} ms"
            rows.append([name, function, *numbers, f"{run['memory']:.0f} MiB"])
    columns = ["network", "function", "first call, CPU", "of jit(f)", "programs", "second call", "memory"]
    title = f"First calls in a fresh process, {SAMPLES} images of 16×16 (VGG: 32×32)"
    harness.report("first_calls", title, columns, rows, {"runs": data})


if __name__ == "__main__":
    main()
