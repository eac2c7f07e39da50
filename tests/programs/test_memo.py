"""What is remembered of a function: one transform for each f and options, as long as f lives and stays what it is."""

import copy
import functools
import gc
import pickle
import weakref

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import npk
from npk.programs import memo


def make(f, *options):
    return lambda *args: (f(*args), options)


PARAMS = (jnp.ones((2, 3)), jnp.ones((3, 1)))


def network():
    return lambda params, x: jax.nn.relu(x @ params[0]) @ params[1]


class Scaled(nn.Module):
    """A model that is compared by its fields and does not change."""

    features: int = 3

    @nn.compact
    def __call__(self, x):
        return nn.Dense(1)(nn.relu(nn.Dense(self.features)(x)))


class Plain:
    """A class of the user's own, whose instances can change."""

    def __init__(self, scale):
        self.scale = scale
        self.count = 0

    def apply(self, params, x):
        return self.scale * jax.nn.relu(x @ params[0]) @ params[1]


TRANSFORMS = [
    npk.gates,
    npk.preactivations,
    npk.gated,
    npk.linear,
    npk.npf,
    npk.npv,
    npk.path_kernel,
    npk.ntk,
    npk.split_ntk,
    npk.ntk_diagonal,
    npk.ntk_trace,
    npk.split_ntk_diagonal,
    npk.sketch,
    npk.sketch_ntk,
    npk.infinite.nngp,
    npk.infinite.ntk,
    npk.infinite.path_kernel,
]


@pytest.mark.parametrize("transform", TRANSFORMS, ids=lambda t: f"{t.__module__}.{t.__name__}")
def test_every_transformation_remembers(transform):
    f, other = network(), network()
    assert transform(f) is transform(f)
    assert transform(f) is not transform(other)


def test_options_tell_transforms_apart():
    f = network()
    assert npk.infinite.ntk(f, weight_std=1.0) is npk.infinite.ntk(f, weight_std=1.0)
    assert npk.infinite.ntk(f, weight_std=1.0) is not npk.infinite.ntk(f, weight_std=2.0)
    assert npk.infinite.ntk(f) is not npk.infinite.nngp(f)
    assert npk.sketch_ntk(f, part="value") is not npk.sketch_ntk(f, part="total")
    assert npk.gates(f, has_aux=True) is not npk.gates(f)


def test_a_transform_written_afresh_compiles_once():
    traced, lowered = [], []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: lowered.append(event) if "jaxpr_to_mlir_module" in event else None
    )

    def f(params, x):
        traced.append(x.shape)
        return jax.nn.relu(x @ params[0]) @ params[1]

    def everything(scale):
        params = jax.tree.map(lambda a: a * np.float32(scale), PARAMS)
        x = np.ones((4, 2), np.float32)
        key = jax.random.key(0)
        for transform in (npk.path_kernel, npk.npf, npk.ntk, npk.split_ntk, npk.ntk_trace, npk.infinite.ntk):
            transform(f)(params, x)
        npk.path_kernel(npk.gated(npk.DLGN(f)) and npk.linear(f))(params, x)
        npk.sketch(f)(params, x, features=4, key=key), npk.sketch_ntk(f)(params, x, features=4, key=key)

    everything(1)
    once = len(traced), len(lowered)
    everything(2), everything(3)
    assert (len(traced), len(lowered)) == once and min(once) > 0


def test_bound_methods_count_as_instance_and_function():
    model = Scaled()
    assert npk.ntk(model.apply) is npk.ntk(model.apply)
    assert npk.ntk(Scaled().apply) is not npk.ntk(model.apply)
    assert npk.ntk(functools.partial(model.apply, mutable=False)) is npk.ntk(
        functools.partial(model.apply, mutable=False)
    )
    assert npk.ntk(functools.partial(model.apply, mutable=False)) is not npk.ntk(model.apply)
    params = model.init(jax.random.key(0), jnp.ones((1, 2)))
    assert npk.ntk(model.apply)(params, jnp.ones((2, 2))).shape == (2, 2)
    assert Scaled() == model and hash(Scaled()) == hash(model) and model.clone() == model


def test_an_instance_that_changed_is_another_function():
    net, x = Plain(1.0), jnp.ones((4, 2))
    before = npk.ntk(net.apply)
    assert npk.ntk(net.apply) is before
    net.scale = 2.0
    assert npk.ntk(net.apply) is not before
    assert (npk.ntk(net.apply)(PARAMS, x) == 4 * npk.ntk(Plain(1.0).apply)(PARAMS, x)).all()


def test_an_instance_whose_contents_can_change_is_not_remembered():
    net = Plain([1.0])
    assert memo.remembered(make, net.apply) is not memo.remembered(make, net.apply)


def test_an_option_that_cannot_be_hashed_is_read_every_time():
    f, std = network(), {"": 1.0}
    assert npk.infinite.ntk(f, weight_std=std) is not npk.infinite.ntk(f, weight_std=std)


@pytest.mark.parametrize("owner", [network, lambda: jax.jit(network()), Scaled, lambda: Plain(1.0)])
def test_the_memo_keeps_nothing_alive(owner):
    f = owner()
    call, x = getattr(f, "apply", f), jnp.ones((4, 2))
    params = f.init(jax.random.key(0), x) if isinstance(f, Scaled) else PARAMS
    for transform in (npk.gates, npk.ntk, npk.path_kernel, npk.infinite.nngp):
        transform(call)(params, x)
    gone = weakref.ref(f)
    del f, call
    gc.collect()
    assert gone() is None


def test_copies_and_wrappers_know_nothing_of_the_original():
    model = Plain(1.0)
    original = npk.ntk(model.apply)
    for other in (copy.copy(model), copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert npk.ntk(other.apply) is not original
    f = network()
    kernel = npk.ntk(f)
    wrapped = functools.wraps(f)(lambda params, x: 2 * f(params, x))
    assert npk.ntk(wrapped) is not kernel
    assert npk.ntk(f) is kernel


def test_options_written_afresh_do_not_pile_up():
    f = network()
    for _ in range(3 * memo._MOST):
        memo.remembered(make, f, object())
    assert len(vars(f)[memo._ATTRIBUTE]) == memo._MOST


def test_what_depends_on_shapes_is_found_once_for_each():
    once, found = memo.Once(), []
    for tree in (jnp.ones(2), jnp.zeros(2), jnp.ones(3), jnp.ones(2, jnp.int32), [jnp.ones(2)]):
        once(tree, "shape", lambda tree=tree: found.append(tree))
    assert len(found) == 4
    once(jnp.ones(2), "another", lambda: found.append(None))
    with jax.enable_x64(True) if hasattr(jax, "enable_x64") else jax.experimental.enable_x64():
        once(jnp.ones(2, jnp.float32), "shape", lambda: found.append(None))
    assert len(found) == 6
