"""neural-tangents' implementation 3 in an environment of its own (JAX 0.4.36); prints one line of JSON."""

import importlib.util
import json
import pathlib
import sys
import time
import types

import jax
import numpy as np
from jax._src import source_info_util  # this file runs on JAX 0.4.36 alone
from jax.interpreters import ad

ad.source_info_util = source_info_util
ad.config = types.SimpleNamespace(jax_enable_checks=False)
sys.modules["neural_tangents.experimental"] = types.ModuleType("neural_tangents.experimental")

import neural_tangents as nt  # noqa: E402

spec = importlib.util.spec_from_file_location("networks", pathlib.Path(__file__).parents[1] / "npk" / "networks.py")
networks = importlib.util.module_from_spec(spec)
sys.modules["networks"] = networks
spec.loader.exec_module(networks)

name, outputs, *shape = sys.argv[1], *map(int, sys.argv[2:])
models = {
    "MLP": lambda: networks.MLP(width=512, depth=5, outputs=outputs),
    "C4GAP": lambda: networks.C4GAP(channels=64, outputs=outputs),
    "ResNet-20": lambda: networks.ResNet(depth=20, outputs=outputs),
}
model = models[name]()
x = jax.random.normal(jax.random.PRNGKey(0), tuple(shape))
variables = model.init(jax.random.PRNGKey(1), x[:1])
rest = {k: v for k, v in variables.items() if k != "params"}
kernel = jax.jit(
    nt.empirical_ntk_fn(
        lambda p, t: model.apply({"params": p, **rest}, t), trace_axes=(-1,), vmap_axes=0, implementation=3
    )
)
times = []
for _ in range(9):
    start = time.perf_counter()
    kernel(x, None, variables["params"]).block_until_ready()
    times.append(1e3 * (time.perf_counter() - start))
analysis = kernel.lower(x, None, variables["params"]).compile().memory_analysis()
mib = (analysis.temp_size_in_bytes + analysis.output_size_in_bytes) / 2**20
print(json.dumps({"median": float(np.median(times[2:])), "MiB": mib, "N": shape[0], "jax": jax.__version__}))
