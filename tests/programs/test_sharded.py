"""Inside `jax.shard_map` every transformation gives what it gives outside, also where devices share parameters."""

import subprocess
import sys

# Two devices need a process of their own; a derivative by shared parameters would be summed over them in silence.
PROGRAM = """
import os
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
import jax, numpy as np, npk
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec as P

rng = np.random.default_rng(0)
draw = lambda *shape: rng.normal(size=shape).astype("float32")
p, q = ({"a": draw(3, 4), "b": draw(4, 4), "c": draw(4, 2)} for _ in range(2))
x, both = draw(4, 3), {"feature": p, "value": q}
mesh = jax.sharding.Mesh(np.array(jax.devices()), ("d",))

def f(p, x):
    h = checkpoint_name(jax.nn.relu(x @ p["a"] + p["a"][0]), "h")  # a leaf that is read twice
    return npk.soft_relu(jax.lax.optimization_barrier(h) @ p["b"]) @ p["c"]

def hard(p, x):
    return jax.nn.relu(jax.nn.relu(x @ p["a"]) @ p["b"]) @ p["c"]

t = {k: draw(3, 3) for k in ("q", "k", "v", "o", "g", "u")} | {"c": draw(3, 2), "s": draw(3)}
pair = {"feature": {k: draw(*v.shape) for k, v in t.items()}, "value": t}

def attending(p, x):  # two positions; a norm, a pattern, a product with a gate
    h = jax.numpy.stack([x, x[:, ::-1]], 1)
    a = jax.nn.softmax((h @ p["q"]) @ (h @ p["k"]).swapaxes(1, 2))
    h = h + a @ (h @ p["v"]) @ p["o"]
    h = h * jax.lax.rsqrt((h * h).mean(-1, keepdims=True) + 1e-3) * p["s"][None, None]
    return (jax.nn.silu(h @ p["g"]) * (h @ p["u"])).mean(1) @ p["c"]

transformed = {
    "gates of a transformer": lambda a, b: npk.gates(attending)(t, a),
    "DGN of a transformer": lambda a, b: npk.DGN(attending)(pair, a),
    "path kernel of its DGN": lambda a, b: npk.path_kernel(npk.DGN(attending))(pair, a, b),
    "split of a transformer": lambda a, b: npk.split_ntk_diagonal(attending)(t, a).blocks,
    "gates": lambda a, b: npk.gates(f)(p, a),
    "linear": lambda a, b: npk.linear(f)(p, a),
    "DGN": lambda a, b: npk.DGN(f)(both, a),
    "npf": lambda a, b: npk.npf(hard)(p, a),
    "path kernel": lambda a, b: npk.path_kernel(hard)(p, a, b),
    "counts": lambda a, b: npk.path_kernel(hard)(p, a, b, normalize=False),
    "own variances": lambda a, b: npk.path_kernel(hard)(p, a, b, normalize="own"),
    "every place": lambda a, b: npk.path_kernel(lambda p, x: hard(p, x)[:, None] + 0.0, output=())(p, a, b),
    "ntk": lambda a, b: npk.ntk(f)(p, a, b),
    "split": lambda a, b: npk.split_ntk(f)(p, a, b).blocks,
    "split of DGN": lambda a, b: npk.split_ntk(npk.DGN(f))(both, a, b).total,
    "diagonal": lambda a, b: npk.ntk_diagonal(f)(p, a),
    "sketch": lambda a, b: npk.sketch(hard)(p, a, features=4, key=jax.random.key(0)).features,
}
for name, function in transformed.items():
    for check in (True, False) if name in ("gates", "path kernel", "ntk") else (True,):
        sharded = jax.shard_map(
            lambda a, b: function(a, b), mesh=mesh, in_specs=(P("d"), P()), out_specs=P("d"), check_vma=check
        )
        inside, outside = sharded(x, x + 0), function(x, x + 0)
        assert jax.tree.structure(inside) == jax.tree.structure(outside), name
        assert jax.tree.leaves(inside), name
        for one, two in zip(jax.tree.leaves(inside), jax.tree.leaves(outside)):
            np.testing.assert_allclose(one, two, rtol=2e-5, atol=2e-5, err_msg=name)
print("as outside:", len(transformed))
"""

# A literal varies over the mesh, too, and only inside: of f that is sharded itself.
OF_SHARDED = """
import jax, numpy as np, npk
from jax.sharding import PartitionSpec as P

draw = lambda *shape: np.random.default_rng(0).normal(size=shape).astype("float32")
p, x = {"a": draw(3, 4), "b": draw(4, 2)}, draw(4, 3)
mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("d",))
f = lambda p, x: jax.numpy.tanh(x @ p["a"] + 1e-5) @ p["b"]
sharded = jax.shard_map(f, mesh=mesh, in_specs=(P(), P("d")), out_specs=P("d"))
np.testing.assert_allclose(npk.ntk(sharded)(p, x), npk.ntk(f)(p, x), rtol=1e-5)
try:
    npk.path_kernel(sharded)(p, x)
except npk.UnsupportedOperation as error:
    assert "take f without it, and put it around what npk returns" in str(error), error
    print("refused")
"""


def test_of_a_sharded_function_the_tangent_kernel_is_its_own_and_gates_are_refused():
    done = subprocess.run([sys.executable, "-c", OF_SHARDED], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0 and done.stdout.strip() == "refused", done.stderr


def test_inside_a_shard_map_everything_is_as_outside():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "as outside: 17"
