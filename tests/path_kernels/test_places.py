"""A kernel of every place of an output is that of each place, one after another."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from draws import normal
from tolerances import assert_close

import npk

relu = jax.nn.relu
pytestmark = pytest.mark.usefixtures("as_users_write")
SHAPES = {"a": (3, 4), "b": (4,), "t": (6, 4), "v": (4, 2), "w": (4, 2), "c": (2,), "k": (3, 4, 4)}


def numbers():
    return {name: normal(*shape, seed=seed) for seed, (name, shape) in enumerate(SHAPES.items())}


def alone(p, x):
    """[N, 6, 2], no place sees another."""
    return relu(x @ p["a"] + p["b"]) @ p["v"] + p["c"]


def causal(p, x):
    h = x @ p["a"] + p["t"]
    scores = jnp.where(np.tril(np.ones((6, 6), bool)), jnp.einsum("npc,nqc->npq", h, h), -1e9)
    return relu(jax.nn.softmax(scores) @ h) @ p["v"]


def convolved(p, x):
    h = relu(x @ p["a"])
    return jax.lax.conv_general_dilated(h, p["k"], (1,), "SAME", dimension_numbers=("NHC", "HIO", "NHC"))


def laid_in_two(p, x):
    """[N, 2, 3, 2], of two axes of places, and a bias of each."""
    return (relu(x @ p["a"]) + p["t"]).reshape(len(x), 2, 3, 4) @ p["v"]


def summed_up(p, x):
    """Of which no place has terms of its own alone."""
    h = relu(x @ p["a"])
    return jnp.broadcast_to(h.mean(1, keepdims=True), h.shape) @ p["v"] + jnp.cumsum(h, 1) @ p["w"]


MODELS = {f.__name__: f for f in (alone, causal, convolved, laid_in_two, summed_up)}


def each(f, places, x, **options):
    kernels = {p: npk.path_kernel(f, output=(*p, slice(None)))(numbers(), x, **options) for p in np.ndindex(*places)}
    return np.stack(list(kernels.values()), -1).reshape(len(x), len(x), *places)


OPTIONS = {"alone": {"normalize": False}, "laid_in_two": {"normalize": "own"}}  # of the others none


@pytest.mark.parametrize("name", MODELS)
def test_of_every_place_it_is_that_of_each(name, x64):
    f, x, options = MODELS[name], normal(4, 6, 3), OPTIONS.get(name, {})
    places = jax.eval_shape(f, numbers(), x).shape[1:-1]
    expected, h = each(f, places, x, **options), npk.path_kernel(f, output=())
    assert_close(h(numbers(), x, **options), expected)
    assert_close(h(numbers(), x[:1], x[1:], **options), expected[:1, 1:])
    assert_close(jax.jit(lambda x: h(numbers(), x, **options))(x), expected)
    log = npk.log_path_kernel(f, output=())(numbers(), x, **options)
    assert log.log.shape == expected.shape
    assert_close(log.sign * jnp.exp(log.log), expected, factor=10)


@pytest.mark.parametrize("name", MODELS)
def test_in_blocks_of_samples_and_by_kinds_of_terms(name, x64):
    f, x = MODELS[name], normal(90, 6, 3)
    whole = npk.path_kernel(f, output=())(numbers(), x)
    few = npk.path_kernels.Thresholds(numpy_work=1, whole_terms=0)
    assert_close(npk.path_kernel(f, output=(), thresholds=few)(numbers(), x), whole)
    assert_close(np.swapaxes(whole, 0, 1), whole)
    assert_close(each(f, whole.shape[2:], x[:3]), whole[:3, :3])


def test_some_places():
    x = normal(3, 6, 3)
    whole = npk.path_kernel(causal, output=())(numbers(), x)
    assert_close(npk.path_kernel(causal, output=(slice(1, 6, 2), slice(0, 1)))(numbers(), x), whole[:, :, 1::2])
    assert_close(npk.path_kernel(causal, output=slice(2, 3))(numbers(), x), whole[:, :, 2:3])
    one = npk.path_kernel(causal, output=(3, slice(None)))(numbers(), x)
    assert_close(one, whole[:, :, 3])


def test_engines_leave_them_to_the_rules():
    ready = npk.path_kernels.Thresholds(packed_pairs=1)
    said = npk.path_kernel(alone, output=(), thresholds=ready).engines(numbers(), normal(3, 6, 3))
    assert {e.name: e.why for e in said}["packed"] == "outputs at several places"


def test_units_of_a_place_with_features_of_their_own_are_refused():
    f = lambda p, x: relu(x @ p["a"])  # noqa: E731
    with pytest.raises(npk.UnsupportedOperation, match="different path features"):
        npk.path_kernel(f, output=())(numbers(), normal(3, 6, 3))


def test_what_is_no_array_has_no_places():
    f = lambda p, x: (alone(p, x), x)  # noqa: E731
    with pytest.raises(ValueError, match=r"returns tuple: wrap f"):
        npk.path_kernel(f, output=())(numbers(), normal(3, 6, 3))
