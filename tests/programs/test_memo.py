"""What is remembered of a function: one transform for each f and options, as long as f lives and stays what it is."""

import copy
import functools
import gc
import pickle
import types
import weakref

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import npk
from npk.programs import contents, memo


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
    met = []
    jax.monitoring.register_event_duration_secs_listener(lambda event, *_, **__: met.append(event))
    f = network()

    def everything(scale):
        params = jax.tree.map(lambda a: a * np.float32(scale), PARAMS)
        x = np.ones((4, 2), np.float32)
        key = jax.random.key(0)
        for transform in (npk.path_kernel, npk.npf, npk.ntk, npk.split_ntk, npk.ntk_trace, npk.infinite.ntk):
            transform(f)(params, x)
        npk.path_kernel(npk.gated(npk.DLGN(f)) and npk.linear(f))(params, x)
        npk.sketch(f)(params, x, features=4, key=key), npk.sketch_ntk(f)(params, x, features=4, key=key)

    everything(1)
    assert any("jaxpr_to_mlir_module" in event for event in met)
    met.clear()
    everything(2), everything(3)
    # What is traced still are checks of shapes; nothing is compiled, and nothing lowered to be compiled.
    assert not [event for event in met if "jaxpr_to_mlir_module" in event or "backend_compile" in event]


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


SCALE, TABLE = 1.0, {"scale": [1.0]}


def helper(x):
    return SCALE * x


class Settings:
    scale = 1.0


def read_a_global(params, x):
    return SCALE * network()(params, x)


def read_through_a_helper(params, x):
    return helper(network()(params, x))


def read_a_container(params, x):
    return TABLE["scale"][0] * network()(params, x)


def read_a_class(params, x):
    return Settings.scale * network()(params, x)


def read_inside_a_function(params, x):
    return (lambda y: SCALE * y)(network()(params, x))


settings = types.ModuleType("settings")  # as a notebook's own module, it has no file
settings.scale = 1.0


def read_a_module(params, x):
    return settings.scale * network()(params, x)


def read_a_default(params, x, *, scale=1.0):
    return scale * network()(params, x)


ARRAY = np.ones((), np.float32)


def read_an_array(params, x):
    return ARRAY * network()(params, x)


CHANGES = {
    read_a_global: lambda monkeypatch: monkeypatch.setitem(globals(), "SCALE", 2.0),
    read_through_a_helper: lambda monkeypatch: monkeypatch.setitem(globals(), "SCALE", 2.0),
    read_inside_a_function: lambda monkeypatch: monkeypatch.setitem(globals(), "SCALE", 2.0),
    read_a_container: lambda monkeypatch: monkeypatch.setitem(TABLE, "scale", [2.0]),
    read_a_class: lambda monkeypatch: monkeypatch.setattr(Settings, "scale", 2.0),
    read_a_module: lambda monkeypatch: monkeypatch.setattr(settings, "scale", 2.0),
    read_a_default: lambda monkeypatch: monkeypatch.setitem(read_a_default.__kwdefaults__, "scale", 2.0),
    read_an_array: lambda _: np.multiply(ARRAY, 2, out=ARRAY),
}


@pytest.mark.parametrize("f", CHANGES, ids=lambda f: f.__name__)
def test_what_a_function_reads_may_change_between_two_calls(f, monkeypatch):
    """JAX alone would answer with what it traced first; so would a jitted f."""
    x = jnp.ones((4, 2))
    before, kernel = npk.ntk(f)(PARAMS, x), npk.ntk(f)
    assert npk.ntk(f) is kernel
    CHANGES[f](monkeypatch)
    np.testing.assert_array_equal(npk.ntk(f)(PARAMS, x), 4 * before)


def test_what_an_option_reads_may_change(monkeypatch):
    f, x = network(), jnp.ones((4, 2))

    def std(name):
        return SCALE

    before = npk.infinite.nngp(f, weight_std=std)(PARAMS, x)
    assert npk.infinite.nngp(f, weight_std=std) is npk.infinite.nngp(f, weight_std=std)
    network_before = npk.DGN(f, feature=by_helper)
    sides = {"feature": PARAMS, "value": PARAMS}
    hard = npk.ntk(network_before)(sides, x)
    assert npk.ntk(npk.DGN(f, feature=by_helper)) is npk.ntk(network_before)
    monkeypatch.setitem(globals(), "SCALE", 2.0)
    np.testing.assert_allclose(npk.infinite.nngp(f, weight_std=std)(PARAMS, x), 16 * before, rtol=1e-5)
    monkeypatch.setitem(globals(), "SCALE", -2.0)
    assert hard.any() and not npk.ntk(npk.DGN(f, feature=by_helper))(sides, x).any()


def by_helper(params, x):
    return jax.nn.relu(helper(x) @ params[0]) @ params[1]


def test_a_variable_of_a_closure_may_change():
    scale = 1.0

    def f(params, x):
        return scale * network()(params, x)

    x = jnp.ones((4, 2))
    before, composed = npk.ntk(f)(PARAMS, x), npk.ntk(npk.linear(f))(PARAMS, x)
    scale = 3.0
    np.testing.assert_array_equal(npk.ntk(f)(PARAMS, x), 9 * before)
    np.testing.assert_array_equal(npk.ntk(npk.linear(f))(PARAMS, x), 9 * composed)


def test_what_could_change_unseen_is_not_remembered():
    model = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
    f = lambda params, x: model(x) @ params  # noqa: E731
    assert memo.remembered(make, f) is not memo.remembered(make, f)
    large = np.ones(contents._MOST_BYTES, np.float32)
    g = lambda params, x: large[0] * x @ params  # noqa: E731
    assert memo.remembered(make, g) is not memo.remembered(make, g)
    x, params = jnp.ones((4, 2)), jnp.ones((3, 1))
    before = npk.ntk(f)(params, x)
    model.kernel[...] = 2 * model.kernel[...]
    np.testing.assert_array_equal(npk.ntk(f)(params, x), 4 * before)
    assert not hasattr(model, memo._ATTRIBUTE)


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
    newest = object()
    made = memo.remembered(make, f, newest)
    assert memo.remembered(make, f, newest) is made, "the oldest are let go"


def test_what_depends_on_shapes_is_found_once_for_each():
    once, found = memo.Once(), []
    for tree in (jnp.ones(2), jnp.zeros(2), jnp.ones(3), jnp.ones(2, jnp.int32), [jnp.ones(2)]):
        once(tree, "shape", lambda tree=tree: found.append(tree))
    assert len(found) == 4
    once(jnp.ones(2), "another", lambda: found.append(None))
    with jax.enable_x64(True) if hasattr(jax, "enable_x64") else jax.experimental.enable_x64():
        once(jnp.ones(2, jnp.float32), "shape", lambda: found.append(None))
    assert len(found) == 6


def test_gates_of_known_shapes_are_traced_once_but_not_where_f_holds_what_is_traced():
    traced = []

    def make(scale):
        def f(w, x):
            traced.append(1)
            return jax.nn.relu(scale * (x @ w))

        return npk.gates(f)

    w, x = jnp.ones((2, 3)), jnp.ones((4, 2))
    held = make(jnp.float32(1.0))
    for sign in (1, -1, 1):
        assert held(sign * w, x)[0].all() == (sign > 0)
    assert len(traced) == 1
    held(w, jnp.ones((5, 2)))
    assert len(traced) == 2

    @jax.jit
    def outer(scale):
        inner = make(scale)
        return inner(w, x)[0], inner(w, x)[0]  # the second would hold the first's numbers

    assert (outer(jnp.float32(-1.0))[1] == 0).all() and (outer(jnp.float32(2.0))[1] == 1).all()


def test_the_precision_of_products_is_a_part_of_what_is_known():
    """It is written into a trace: what was found under one is not used under another."""
    traced = []
    held = npk.gates(lambda w, x: (traced.append(1), jax.nn.relu(x @ w))[1])
    w, x = jnp.ones((2, 3)), jnp.ones((4, 2))
    for expected in (1, 2, 2):
        with jax.default_matmul_precision("float32" if expected == 2 else "bfloat16"):
            held(w, x)
        assert len(traced) == expected
