"""A batch on a mesh with explicit axes, whose shards are part of its type: the same numbers as without."""

import subprocess
import sys

# Two devices need a process of their own.
PROGRAM = """
import os
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
import jax, numpy as np, npk
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

rng = np.random.default_rng(0)
draw = lambda *shape: rng.normal(size=shape).astype("float32")
p, x = {"a": draw(3, 4), "b": draw(4), "c": draw(4, 2)}, draw(4, 3)
mesh = jax.make_mesh((2,), ("d",), axis_types=(AxisType.Explicit,))
drawn = dict(features=4, key=jax.random.key(0))
f = lambda p, x: jax.nn.relu(x @ p["a"] + p["b"]) @ p["c"]
transformed = {
    "gates": npk.gates(f),
    "path kernel": npk.path_kernel(f),
    "of two": lambda p, x: npk.path_kernel(f)(p, x, x + 0, normalize=False),
    "log": npk.log_path_kernel(f),
    "npf": npk.npf(f),
    "ntk": npk.ntk(f),
    "diagonal": npk.ntk_diagonal(f),
    "overlap": lambda p, x: npk.overlap(npk.gates(f)(p, x)),
    "split": npk.split_ntk(f),
    "sketch": lambda p, x: npk.sketch(f)(p, x, **drawn).features,
    "sketch, gates given": lambda p, x: npk.sketch(f)(p, x, npk.gates(f)(p, x), **drawn).features,
    "sketch of the NTK": lambda p, x: npk.sketch_ntk(f)(p, x, **drawn).features,
}

def check(name, found):
    for one, two in zip(jax.tree.leaves(found), jax.tree.leaves(expected[name]), strict=True):
        np.testing.assert_allclose(one, two, rtol=2e-5, atol=2e-5, err_msg=name)

expected = {name: function(p, x) for name, function in transformed.items()}
laid, params = jax.device_put(x, NamedSharding(mesh, P("d"))), jax.device_put(p, NamedSharding(mesh, P()))
assert jax.typeof(laid).sharding.spec == P("d", None)
for name, function in transformed.items():
    check(name, function(p, laid))
set_mesh = getattr(jax, "set_mesh", None) or jax.sharding.use_mesh  # before JAX 0.8
with set_mesh(mesh):
    for name in ("gates", "path kernel", "ntk"):
        check(name, transformed[name](params, laid))
        check(name, jax.jit(transformed[name])(params, laid))
print("as without:", len(transformed))
"""


def test_on_an_explicit_mesh_everything_is_as_without():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "as without: 12"
