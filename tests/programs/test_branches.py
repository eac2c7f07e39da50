"""A branch that constants choose is the only one there is; marks and casts in between change nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from draws import normal
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from tolerances import assert_close

import npk

relu = jax.nn.relu
P = {"u": normal(2, 4), "w": normal(4, 4, seed=1), "v": normal(4, 1, seed=2)}
X = normal(3, 2, seed=3)
YES = np.array(3) > 2


@jax.custom_batching.custom_vmap
def in_batches(h):
    return relu(h)


@in_batches.def_vmap
def _(size, batched, h):
    return relu(h), batched[0]


def counted(h):
    """The count of the steps is carried."""
    step = lambda carry, _: ((carry[0] + 1, lax.switch(carry[0], [relu, lambda h: 2 * h], carry[1])), None)  # noqa: E731
    return lax.scan(step, (jnp.int32(0), h), None, length=3)[0][1]


def loop(choose):
    """Three steps, of which the middle one alone is an activation."""
    return lambda h: lax.scan(lambda h, i: (choose(i % 2 == 1, h), None), h, jnp.arange(3))[0]


# Each is q·γ(q) times a number.
BRANCHES = {
    "cond": (lambda h: lax.cond(YES, relu, lambda h: 2 * h, h), relu),
    "cond, the other": (lambda h: lax.cond(jnp.array(1) > 2, lambda h: 2 * h, relu, h), relu),
    "switch, beyond the end": (lambda h: lax.switch(7, [jnp.negative, jax.nn.silu, relu], h), relu),
    "within another": (lambda h: lax.cond(YES, lambda h: lax.cond(YES, relu, jnp.negative, h), jnp.negative, h), relu),
    "select": (lambda h: lax.select(jnp.array(YES), relu(h), jax.nn.silu(h)), relu),
    "where": (lambda h: jnp.where(jnp.array(YES), relu(h), jax.nn.silu(h)), relu),
    "by platform": (lambda h: lax.platform_dependent(h, default=relu), relu),
    "by the step": (loop(lambda odd, h: lax.cond(odd, relu, lambda h: 2 * h, h)), lambda h: 4 * relu(h)),
    "by the step, elementwise": (loop(lambda odd, h: jnp.where(odd, relu(h), 2 * h)), lambda h: 4 * relu(h)),
    "counted": (counted, lambda h: 4 * relu(h)),
    "fori_loop": (
        lambda h: lax.fori_loop(0, 3, lambda i, h: lax.cond(i > 1, relu, lambda h: 2 * h, h), h),
        lambda h: 4 * relu(h),
    ),
}
SAME = {
    "checkpoint_name": lambda h: checkpoint_name(h, "h"),
    "optimization_barrier": lax.optimization_barrier,
    "one of two behind a barrier": lambda h: lax.optimization_barrier((h, 2 * h))[0],
    "named_call": jax.named_call(lambda h: h, name="h"),
    "reduce_precision": lambda h: lax.reduce_precision(h, 8, 23),
    "astype": lambda h: h.astype(jnp.float32),
    "copy": jnp.copy,
    "device_put": lambda h: jax.device_put(h, jax.devices()[0]),
    "checkpoint": jax.checkpoint(lambda h: h),
}


def through(between):
    return lambda p, x: between(x @ p["u"] @ p["w"]) @ p["v"]


def check_alike(f, twin):
    assert_close(f(P, X), twin(P, X))
    found, expected = npk.gates(f)(P, X), npk.gates(twin)(P, X)
    assert len(found) == len(expected)
    for one, two in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, two)
    assert_close(npk.path_kernel(f)(P, X, normalize=False), npk.path_kernel(twin)(P, X, normalize=False))
    assert_close(jnp.einsum("np,pk->nk", npk.npf(f)(P, X), npk.npv(f)(P, X)), f(P, X))
    assert_close(npk.ntk(f)(P, X), npk.ntk(twin)(P, X))


@pytest.mark.parametrize("name", BRANCHES)
def test_the_branch_that_constants_choose(name):
    between, same = BRANCHES[name]
    check_alike(through(between), through(same))


@pytest.mark.parametrize("name", SAME)
def test_marks_and_casts_change_nothing(name):
    check_alike(through(lambda h: relu(SAME[name](h))), through(relu))


def test_what_batches_in_its_own_way_is_opened():
    check_alike(through(in_batches), through(relu))


def test_branches_under_jit():
    f = through(BRANCHES["by the step"][0])
    expected = npk.path_kernel(f)(P, X)
    assert_close(jax.jit(npk.path_kernel(f))(P, X), expected)
    assert_close(npk.path_kernel(jax.jit(f))(P, X), expected)


def test_weights_of_the_other_branch_are_on_no_path():
    f = lambda p, x: lax.cond(YES, lambda h: relu(h @ p["w"]), lambda h: h @ p["w"] @ p["w"], x @ p["u"]) @ p["v"]  # noqa: E731
    assert_close(npk.path_kernel(f)(P, X), npk.path_kernel(through(relu))(P, X))


@pytest.mark.parametrize("branches", [(relu, jnp.negative), (lambda h: 2 * h, jnp.negative)])
def test_a_branch_that_no_constant_chooses_is_told_by_what_does(branches):
    by_parameter = lambda p, x: lax.cond(p["v"][0, 0] > 0, *branches, x @ p["u"]) @ p["v"]  # noqa: E731
    with pytest.raises(npk.UnsupportedOperation, match=r"`cond`.*which branch is taken depends on params \(`v`\)"):
        npk.path_kernel(by_parameter)(P, X)


def test_a_branch_that_a_traced_number_chooses():
    def by_number(number):
        f = lambda p, x: lax.cond(number > 0, relu, jnp.negative, x @ p["u"]) @ p["v"]  # noqa: E731
        with pytest.raises(npk.UnsupportedOperation, match="depends on numbers that are not known while f is traced"):
            npk.path_kernel(f)(P, X)
        return number

    jax.jit(by_number)(jnp.float32(1))


def test_an_activation_in_a_branch_that_x_chooses():
    f = lambda p, x: lax.cond(x.sum() > 0, relu, jnp.negative, x @ p["u"]) @ p["v"]  # noqa: E731
    with pytest.raises(npk.UnsupportedOperation, match="no gate of its own.*which branch is taken depends on x"):
        npk.gates(f)(P, X)
