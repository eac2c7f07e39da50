"""The hash of a program: the same for the same program in every process, another for every other one."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from npk.programs import program_hash

X = np.ones((3, 2), np.float32)


def f(x):
    return jnp.tanh(x) @ x.T


def scanned(c):
    return lambda x: jax.lax.scan(lambda a, b: (a + c * b, None), jnp.zeros(2), x)[0]


def branched(c):
    return lambda x: jax.lax.cond(x[0, 0] > 0, lambda v: c * v, lambda v: v, x)


def surrogate(slope):
    @jax.custom_vjp
    def act(x):
        return jnp.maximum(x, 0)

    act.defvjp(lambda x: (act(x), x), lambda x, g: (g * slope * x,))
    return jax.grad(lambda x: act(x).sum())


SAME = {
    "jit": (f, jax.jit(f)),
    "jit of jit": (f, lambda x: jax.jit(jax.jit(f))(x)),
    "a call twice": (lambda x: f(x) + f(x), lambda x: jax.jit(f)(x) + jax.jit(f)(x)),
    "names": (f, lambda values: jnp.tanh(values) @ values.T),
}
OTHER = {
    "a number": (lambda x: 2 * x, lambda x: 3 * x),
    "a signed zero": (lambda x: x * 0.0, lambda x: x * -0.0),
    "an array": (lambda x: x * np.array([[1.0, 2.0]], np.float32), lambda x: x * np.array([[1.0, 3.0]], np.float32)),
    "an order": (lambda x: x @ x.T + 1, lambda x: 1 + x @ x.T - 0),
    "a loop": (scanned(1.0), scanned(2.0)),
    "a branch": (branched(1.0), branched(2.0)),
    "a derivative": (surrogate(1.0), surrogate(2.0)),
    "a random key": (lambda x: x + jax.random.key_data(jax.random.key(0)).sum(), lambda x: x + 1),
    "an output twice": (lambda x: (x, x), lambda x: (x, x + 0)),
    "the side of a difference": (lambda x: x[:1] - x[1:2], lambda x: x[1:2] - x[:1]),
}


@pytest.mark.standard_dtypes
@pytest.mark.parametrize("one, two", SAME.values(), ids=SAME.keys())
def test_the_same_program_has_one_hash(one, two):
    assert program_hash(one, X) == program_hash(two, X)


@pytest.mark.standard_dtypes
@pytest.mark.parametrize("one, two", OTHER.values(), ids=OTHER.keys())
def test_another_program_has_another(one, two):
    assert program_hash(one, X) == program_hash(one, X) != program_hash(two, X)


def test_what_calls_back_into_python_has_none():
    def back(x):
        return jax.pure_callback(lambda a: 2 * np.asarray(a), jax.ShapeDtypeStruct(x.shape, x.dtype), x)

    assert program_hash(back, X) is None and program_hash(jax.jit(lambda x: back(x) + 1), X) is None


PROGRAM = """
import jax, jax.numpy as jnp, numpy as np, npk
from jax.sharding import PartitionSpec as P
from npk import networks
from npk.programs import program_hash
x = np.ones((2, 6), np.float32)
model = networks.MLP(width=4, depth=3, outputs=2)
p = model.init(jax.random.key(0), x)
mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]).reshape(1, 1), ("data", "model"))
sharded = jax.shard_map(lambda a, b: a @ b.T, mesh=mesh, in_specs=(P("data"), P("model")), out_specs=P("data", "model"))
policy = jax.checkpoint_policies.save_only_these_names("u", "v", "w", "z")
print(program_hash(lambda a, b: npk.split_ntk(model.apply)(p, a, b), x, x), program_hash(sharded, x, x))
print(program_hash(jax.grad(jax.checkpoint(lambda x: jnp.sin(jnp.cos(x)).sum(), policy=policy)), x))
"""


def test_every_process_finds_the_same():
    """Sets and addresses have another order in each."""

    def run(seed):
        environment = {**os.environ, "PYTHONHASHSEED": str(seed), "JAX_PLATFORMS": "cpu"}
        done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert len({run(seed) for seed in (1, 2, 3)}) == 1
