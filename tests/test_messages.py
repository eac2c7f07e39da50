"""What every transformation says of a call that cannot mean anything: what to write instead."""

import re

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import jaxtyping
import pytest
from flax import nnx

import npk
from npk import infinite

PARAMS = {"a": jnp.ones((3, 4)), "c": jnp.ones((4, 2))}
X = jnp.arange(6.0).reshape(2, 3)
DRAWN = {"features": 2, "key": jax.random.key(0)}


def f(p, x):
    return jax.nn.relu(x @ p["a"]) @ p["c"]


EMBEDDED = {**PARAMS, "e": jnp.ones((7, 3))}


def of_tokens(p, x):
    return f(p, p["e"][x].mean(1))


def called(transform, **options):
    return lambda f, p=PARAMS, x=X: transform(f)(p, x, **options)


def of_a_gated_network(transform):
    return lambda f, p=PARAMS, x=X: transform(f)({"feature": p, "value": p}, x)


OF_GATES = {
    "gates": called(npk.gates),
    "gated": called(npk.gated, gates=(jnp.ones((2, 4)),)),
    "linear": called(npk.linear),
    "preactivations": called(npk.preactivations),
    "softened": called(npk.softened),
    "DGN": of_a_gated_network(npk.DGN),
    "DLGN": of_a_gated_network(npk.DLGN),
    "DLGN_SF": lambda f, p=PARAMS, x=X: npk.DLGN_SF(f)({"feature": [], "value": p}, x),
    "shallow_features": lambda f, p=PARAMS, x=X: npk.shallow_features(f)(jax.random.key(0), p, x),
}
OF_TANGENTS = {
    "ntk": called(npk.ntk),
    "ntk_diagonal": called(npk.ntk_diagonal),
    "ntk_trace": called(npk.ntk_trace),
    "split_ntk": called(npk.split_ntk),
    "split_ntk_diagonal": called(npk.split_ntk_diagonal),
    "sketch_ntk": called(npk.sketch_ntk, **DRAWN),
}
OF_PATHS = {
    "path_kernel": called(npk.path_kernel),
    "log_path_kernel": called(npk.log_path_kernel),
    "npf": called(npk.npf),
    "npv": called(npk.npv),
    "path_names": called(npk.path_names),
    "count_paths": called(npk.count_paths),
    "sketch": called(npk.sketch, **DRAWN),
    "infinite.nngp": called(infinite.nngp),
    "infinite.ntk": called(infinite.ntk),
    "infinite.path_kernel": called(infinite.path_kernel),
}
OF_READINGS = {
    "attribute": called(npk.attribute, output=0),
    "explain": called(npk.explain),
    "linear_map": called(npk.linear_map),
}
ALL = OF_GATES | OF_TANGENTS | OF_PATHS | OF_READINGS
TRANSFORMS = {name: getattr(infinite if "." in name else npk, name.split(".")[-1]) for name in ALL}


def of(calls):
    return pytest.mark.parametrize("call", calls.values(), ids=calls.keys())


every_transform = pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS.keys())


@pytest.fixture(autouse=True)
def without_annotations():
    """What users meet: the hook of conftest.py would say it first, in its own words."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def test_the_table_has_every_transformation():
    """They are the public functions that begin with f."""
    shown = [getattr(room, name) for room in (npk, infinite) for name in room.__all__]
    taking_f = {v for v in shown if "Transform f into" in (v.__doc__ or "")}
    assert taking_f == set(TRANSFORMS.values())


@every_transform
def test_parameters_given_to_a_transformation(transform):
    name = transform.__name__
    for call in (lambda: transform(f, PARAMS, X), lambda: transform(f, params=PARAMS, x=X)):
        with pytest.raises(TypeError, match=rf"call it as {name}\(f\)\(.*params"):
            call()


@every_transform
def test_what_is_no_function(transform):
    class Linen(nn.Module):
        def __call__(self, x):
            return x

    class Split(nnx.Module):
        def __call__(self, x):
            return x

    name = transform.__name__
    said = {
        f"pass its `apply`, {name}(model.apply)(params, x)": Linen(),
        f"pass its `apply`, {name}(Linen(…).apply)(params, x)": Linen,
        "graph, params = nnx.split(model), and pass the function lambda p, x: nnx.merge(graph, p)(x)": Split(),
        "graph, params = nnx.split(Split(…))": Split,
        f"{name} transforms a function f(params, x), got dict": PARAMS,
    }
    for message, model in said.items():
        with pytest.raises(TypeError, match=re.escape(message)):
            transform(model)


@of(ALL)
def test_functions_of_other_arguments(call):
    model = eqx.nn.MLP(3, 2, 4, 1, key=jax.random.key(0))
    with pytest.raises(TypeError, match=r"must be a function of \(params, x\), and takes \(x\): wrap it"):
        call(lambda x: x)
    with pytest.raises(
        TypeError, match=r"of \(params, x\): .*eqx\.partition\(model, eqx\.is_array\).*eqx\.combine\(p, static\)"
    ):
        call(model)


@of(ALL)
@pytest.mark.parametrize("leaf", ["sgd", jax.nn.relu, object()], ids=["string", "function", "object"])
def test_parameters_that_are_no_arrays(call, leaf):
    with pytest.raises(TypeError, match=r"params(/value)?/b/0 must be an array, got .*eqx\.partition"):
        call(f, {**PARAMS, "b": [leaf]})


@of(ALL)
def test_an_equinox_model_that_is_not_parted(call):
    model = eqx.nn.MLP(3, 2, 4, 1, key=jax.random.key(0))
    with pytest.raises(TypeError, match=r"params(/value)?/activation must be an array.*eqx\.partition"):
        call(lambda m, x: jax.vmap(m)(x), model)


@of(ALL)
def test_functions_of_one_sample(call):
    with pytest.raises(ValueError, match=r"takes a single sample \[3\].*jax\.vmap\(f, \(None, 0\)\)"):
        call(lambda p, x: p["c"].T @ jax.nn.relu(p["a"].T @ x))
    with pytest.raises(ValueError, match=r"must return one array \[N, K\].*jax\.vmap\(f, \(None, 0\)\)"):
        call(lambda p, x: f(p, x.reshape(-1, 3)[:1])[0].repeat(2))


@of(ALL)
def test_outputs_without_or_with_too_many_axes(call):
    with pytest.raises(ValueError, match=r"an axis of outputs: lambda p, x: f\(p, x\)\[:, None\]"):
        call(lambda p, x: f(p, x)[:, 0])
    with pytest.raises(
        ValueError, match=r"lambda p, x: f\(p, x\)\[:, 0, 0\] .*: lambda p, x: f\(p, x\)\.mean\(\(1, 2\)\)"
    ):
        call(lambda p, x: f(p, x)[:, None, None])
    with pytest.raises(ValueError, match=r"returns its logits alone: lambda p, x: f\(p, x\)\[0\]"):
        call(lambda p, x: (f(p, x), f(p, x)))


@pytest.mark.standard_dtypes
@of({name: call for name, call in OF_PATHS.items() if "infinite" not in name})
def test_tokens_are_read_and_integers_that_are_numbers_are_not(call):
    call(of_tokens, EMBEDDED, X.astype(int))
    with pytest.raises(ValueError, match=r"x must be of a floating dtype, got int32, which f turns into float32"):
        call(f, PARAMS, X.astype(int))


@of({name: call for name, call in OF_PATHS.items() if "infinite" in name})
def test_tokens_have_no_limit(call):
    with pytest.raises(ValueError, match=r"got int32.*look tokens up outside, and pass the embedding's output"):
        call(of_tokens, EMBEDDED, X.astype(int))


@pytest.mark.parametrize("key", [0, None, X])
def test_numbers_for_keys(key):
    for draw in (
        lambda: npk.sketch(f)(PARAMS, X, features=2, key=key),
        lambda: npk.sketch_ntk(f)(PARAMS, X, features=2, key=key),
        lambda: npk.shallow_features(f)(key, PARAMS, X),
    ):
        with pytest.raises(TypeError, match=r"key: a JAX key, jax\.random\.key\(0\), got"):
            draw()
