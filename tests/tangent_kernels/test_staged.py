"""Stage by stage or as one program: the same tangent kernel; equal layers are compiled once, and only equal ones."""

import gc
import weakref

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from draws import normal, variables
from surrogates import clipped, surrogate
from tolerances import assert_close

import npk
from npk.networks import ViT
from npk.programs import Wanted
from npk.tangent_kernels.derivatives import plan_of
from npk.tangent_kernels.staged import staged

X, Y = normal(3, 4), normal(2, 4, seed=1)


@pytest.fixture(autouse=True)
def however_small(monkeypatch):
    """Small networks too are computed stage by stage."""
    monkeypatch.setattr("npk.tangent_kernels.staged._NUMBERS", 0)


def deep(layers: int, *activations, width: int = 5):
    """Layers of equal width with biases, each followed by one of the activations in turn, and their parameters."""
    sizes = [4, *[width] * layers, 2]
    params = [
        {"w": normal(a, b, seed=n) / 2, "b": normal(b, seed=99 + n) / 4}
        for n, (a, b) in enumerate(zip(sizes, sizes[1:], strict=False))
    ]

    def f(params, x):
        for number, layer in enumerate(params[:-1]):
            x = activations[number % len(activations)](x @ layer["w"] + layer["b"][None])
        return x @ params[-1]["w"] + params[-1]["b"][None]

    return f, params


class Residual(nn.Module):
    """Blocks of two convolutions with batch norm, of which every other path skips them."""

    @nn.compact
    def __call__(self, x):
        def layer(x):
            return nn.BatchNorm(use_running_average=True)(nn.Conv(3, (3, 3))(x))

        x = layer(x)
        for _ in range(4):
            x = nn.relu(x + layer(nn.relu(layer(x))))
        return nn.Dense(2)(x.mean((1, 2)))


def network(name: str):
    if name == "residual":
        model, x = Residual(), normal(3, 4, 4, 2)
        return model.apply, variables(model, x), x, normal(2, 4, 4, 2, seed=1)
    return *CHAINS[name], X, Y


def times(number):
    return lambda q: jax.nn.relu(q) * jnp.asarray(number, q.dtype)


CHAINS = {
    "dense": deep(6, jax.nn.relu),
    "soft gates": deep(8, npk.soft_relu),
    # In turn what differs by its derivative alone, by a number, by an array, by the gate's form.
    "derivatives in turn": deep(10, surrogate, clipped),
    "numbers in turn": deep(10, times(2.0), times(3.0)),
    "arrays in turn": deep(
        10, times(np.array([[1.0, 2.0, 3.0, 4.0, 5.0]])), times(np.array([[5.0, 4.0, 3.0, 2.0, 1.0]]))
    ),
    "gates in turn": deep(10, jax.nn.silu, jax.nn.gelu),
    "slopes in turn": deep(10, lambda q: jax.nn.leaky_relu(q, 0.1), lambda q: jax.nn.leaky_relu(q, 0.2)),
}


def assert_same(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert_close(one, other)


def jacobian(f, params, x):
    """∇f [N, K, number of parameters], nothing compiled as a whole; of statistics none."""
    found = jax.jacrev(f)(params, x)
    leaves = jax.tree.leaves(found["params"] if isinstance(params, dict) else found)
    return np.concatenate([np.asarray(leaf, np.float64).reshape(*leaf.shape[:2], -1) for leaf in leaves], -1)


@pytest.mark.parametrize("name", [*CHAINS, "residual"])
def test_stages_give_the_products_of_gradients(name):
    f, params, x, y = network(name)
    assert staged(plan_of(f, params, x, False, Wanted(), None)) is not None
    kernel, one, two = npk.ntk(f), jacobian(f, params, x), jacobian(f, params, y)
    assert_close(kernel(params, x, y, outputs="full"), np.einsum("nkp,mlp->nmkl", one, two), factor=2)
    assert_close(kernel(params, x), np.einsum("nkp,mkp->nm", one, one), factor=2)


def test_stages_give_the_split_of_one_program_block_by_block():
    f, params = CHAINS["soft gates"]
    assert staged(plan_of(f, params, X, True, Wanted(), None)) is not None
    split = npk.split_ntk(f)
    assert_same(split(params, X, Y), jax.jit(split)(params, X, Y))
    own = split(params, X)
    assert_same(own, split(params, X, X))
    assert_same(split(params, X, outputs="full"), split(params, X, X, outputs="full"))
    assert_same(npk.split_ntk_diagonal(f)(params, X), jax.tree.map(jnp.diagonal, own))


def test_the_layers_of_a_transformer_are_stages():
    """Norms, patterns and gelus: what they hand on flows from stage to stage, in the value part and in the whole."""
    net = ViT(patch=(4, 4), width=4, depth=3, heads=2, hidden=3, outputs=2, use_bias=False)
    x = normal(2, 8, 8, 1)
    params = variables(net, x)
    plan = staged(plan_of(net.apply, params, x, True, Wanted(), None))
    assert plan is not None and 2 * len(plan.forward) <= len(plan.stages)
    diagonal = npk.split_ntk_diagonal(net.apply)
    assert_same(diagonal(params, x), jax.jit(diagonal)(params, x))


def test_some_leaves_alone_and_half_precision():
    f, params = CHAINS["dense"]
    everything, weights, biases = (npk.ntk(f, wrt=which)(params, X) for which in (None, "*/w", "*/b"))
    assert_close(biases + weights, everything)
    half, x = jax.tree.map(lambda a: a.astype(jnp.bfloat16), params), X.astype(jnp.bfloat16)
    kernel = npk.ntk(f)(half, x)
    assert kernel.dtype == jnp.float32
    np.testing.assert_allclose(kernel, everything, rtol=0.1)


def test_a_network_over_traced_numbers_is_of_no_stage():
    f, params = CHAINS["dense"]

    def scaled(number):
        return npk.ntk(lambda params, x: number * f(params, x))(params, X)

    assert_close(jax.jit(scaled)(3.0), 9 * npk.ntk(f)(params, X))


def test_what_has_no_derivative_may_stand_beside_the_way():
    """As long as nothing is differentiated through it."""

    @jax.custom_vjp
    def opaque(x):
        return jnp.sign(x)

    def refuse(*_):
        raise ValueError("no derivative")

    opaque.defvjp(refuse, refuse)
    f, params = CHAINS["dense"]
    expected = npk.ntk(lambda params, x: f(params, x * jnp.sign(x)))(params, X)
    assert_close(npk.ntk(lambda params, x: f(params, x * jax.lax.stop_gradient(opaque(x))))(params, X), expected)


def test_a_leaf_that_several_layers_read_is_of_no_stage():
    def tied(w, x):
        for _ in range(8):
            x = jax.nn.relu(x @ w)
        return x

    w = normal(4, 4) / 2
    assert staged(plan_of(tied, w, X, False, Wanted(), None)) is None


def compiled(function) -> int:
    """How many programs are compiled while a function runs."""
    met = []

    def listen(event, seconds, **_):
        if event.endswith("backend_compile_duration"):
            met.append(seconds)

    jax.monitoring.register_event_duration_secs_listener(listen)
    function()
    return len(met)


def test_a_deeper_network_compiles_no_more():
    def programs(layers: int) -> int:
        f, params = deep(layers, jax.nn.relu, width=7)
        return compiled(lambda: npk.ntk(f)(params, X))

    programs(6)  # and what a process compiles once
    assert programs(9) == programs(18) <= 8


def test_programs_keep_neither_the_network_nor_the_numbers_it_closes_over():
    made, params = deep(6, jax.nn.relu)
    held = jnp.full((1, 4), 2.0)

    def f(params, x):
        return made(params, x * held)

    npk.ntk(f)(params, X)
    gone = weakref.ref(f), weakref.ref(held)
    del f, held
    gc.collect()
    assert [ref() for ref in gone] == [None, None]


def masked(p, x):
    """Nothing that changes is handed on after the first layers: they gate, and do not move, the others."""
    return CHAINS["dense"][0](p[1], x * jax.lax.stop_gradient(CHAINS["dense"][0](p[0], x)).sum(-1, keepdims=True))


def test_layers_that_hand_on_nothing_that_changes():
    params = CHAINS["dense"][1], CHAINS["dense"][1]
    j = jacobian(lambda p, x: masked((params[0], p), x), params[1], X)
    assert_close(npk.ntk(masked)(params, X), np.einsum("nkp,mkp->nm", j, j), factor=2)
    g, own = CHAINS["dense"]

    def deep_gated(p, x):
        return npk.gated(g)(p["value"], x, npk.gates(g)(p["feature"], x))

    split = npk.split_ntk(deep_gated)({"feature": own, "value": own}, X)
    assert_same(split.total, jax.jit(lambda p: npk.split_ntk(deep_gated)(p, X).total)({"feature": own, "value": own}))


def test_a_function_that_closes_over_a_random_key():
    f, params = CHAINS["dense"]
    key = jax.random.key(0)
    noise = jax.random.key_data(key).sum().astype(np.float32)
    kernel = npk.ntk(lambda p, x: f(p, x) * jax.random.key_data(key).sum().astype(x.dtype))(params, X)
    assert_close(kernel, noise**2 * npk.ntk(f)(params, X))


def zeros_alike(zero):
    """q·σ(q)·c, c = atan2(±0, -1) = ±π."""
    return lambda q: q * jax.nn.sigmoid(q) * jnp.arctan2(jnp.full_like(q, zero), -jnp.ones_like(q))


def test_plus_and_minus_zero_are_not_taken_for_one_another():
    f, params = deep(10, zeros_alike(0.0), zeros_alike(-0.0))
    j = jacobian(f, params, X)
    assert_close(npk.split_ntk(f)(params, X).total, np.einsum("nkp,mkp->nm", j, j), factor=10)


def test_small_networks_stay_one_program(monkeypatch):
    """Whose calls take less time than those of many programs would."""
    monkeypatch.undo()
    f, params = CHAINS["dense"]
    assert staged(plan_of(f, params, X, False, Wanted(), None)) is None
