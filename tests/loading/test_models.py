"""A model of any framework is a function of (params, x) in evaluation mode; what cannot be one says how to be."""

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from small_models import MODELS, Dense, Graph, Normed, Single, X, trained

import npk
from npk.loading import function_of

pytestmark = pytest.mark.standard_dtypes


def test_a_linen_module_is_its_apply_and_what_its_init_draws():
    key = jax.random.key(7)
    f, params = function_of(Normed(), X, key=key)
    own = Normed().init(key, X[:1])
    assert jax.tree.all(jax.tree.map(np.array_equal, params, own))
    params = trained(params)
    np.testing.assert_array_equal(f(params, X), Normed().apply(params, X, train=False))


def test_an_nnx_module_is_its_graph_in_evaluation_mode_and_all_variables_but_random_state():
    model = Graph()
    f, params = function_of(model, X)
    assert sorted(npk.programs.paths_of(nnx.to_pure_dict(params))) == [
        *("a/bias", "a/kernel", "b/bias", "b/kernel", "norm/bias", "norm/mean", "norm/scale", "norm/var")
    ]
    params = trained(params)
    evaluated = nnx.clone(model)
    nnx.update(evaluated, params)
    evaluated.eval()
    np.testing.assert_array_equal(f(params, X), evaluated(X))
    assert not model.drop.deterministic and not model.norm.use_running_average, "the user's own has changed"


def test_an_equinox_module_is_mapped_over_the_batch_in_inference_mode():
    model = Single()
    f, params = function_of(model, X)
    np.testing.assert_array_equal(f(params, X), jax.vmap(eqx.nn.inference_mode(model))(X))
    assert not np.array_equal(f(trained(params), X), f(params, X))
    assert not model.drop.inference


def test_a_pair_is_taken_as_it_is():
    def f(params, x):
        return x @ params

    params = jnp.ones((3, 2))
    found = function_of((f, params), X)
    assert found[0] is f and found[1] is params


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS.keys())
def test_a_model_of_any_framework_has_its_gates(model):
    f, params = function_of(model(), X)
    (gate,) = npk.gates(f)(params, X)
    assert gate.shape == (5, 4) and set(np.unique(gate)) == {0, 1}


def test_what_npk_makes_of_a_linen_model_is_made_once():
    f, _ = function_of(Normed(), X)
    assert npk.gates(f) is npk.gates(f)


class Flagged(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        return nn.Dropout(0.5, deterministic=not train)(nn.Dense(2)(x))


class Training(nn.Module):
    @nn.compact
    def __call__(self, x, train=True):
        return nn.BatchNorm(use_running_average=not train)(nn.Dense(2)(x))


class Drawing(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dropout(0.5, deterministic=False)(nn.Dense(2)(x))


class Fixed(nn.Module):
    @nn.compact
    def __call__(self, x):
        return x @ self.param("w", nn.initializers.ones, (7, 2))


class GraphFlagged(nnx.Module):
    def __call__(self, x, train):
        return x


class Stateful(eqx.Module):
    norm: eqx.nn.BatchNorm

    def __init__(self):
        self.norm = eqx.nn.BatchNorm(3, axis_name="batch", mode="batch")

    def __call__(self, x, state):
        return self.norm(x, state)


class Keyed(eqx.Module):
    def __call__(self, x, *, key):
        return x + jax.random.normal(key, x.shape)


REFUSED = {
    "a flag without a default": (Flagged, r"more than x \(train\).*lambda params, x: model.apply\(params, x, train=…"),
    "a flag that means training": (Training, r"\(ModifyScopeVariableError.*\(f, params\) with f = lambda params, x"),
    "random numbers": (Drawing, r"the model on a batch \[2, 3\] fails \(InvalidRngError.*model.apply"),
    "a flag of NNX": (GraphFlagged, r"more than x \(train\).*nnx.merge\(graph, state, params\)\(x, train=…\)"),
    "a state of Equinox": (Stateful, r"more than x \(state\).*eqx.combine\(params, static\)\(x, state=…\)"),
    "a key of Equinox": (Keyed, r"more than x \(key\).*key=…"),
    "a class": (lambda: Dense, r"Dense is a class: pass a model, Dense\(…\)"),
    "a class of Equinox": (lambda: Single, "Single is a class"),
    "a function alone": (lambda: lambda p, x: x, r"pair \(f, params\).*got function: parameters belong to it"),
    "a module in a pair": (lambda: (Dense(), {}), r"pass \(model.apply, params\)"),
    "an NNX module in a pair": (lambda: (Graph(), {}), "pass the module alone"),
    "no function in a pair": (lambda: (3, {}), "got int"),
    "numbers": (lambda: {"w": X}, "module of Equinox, got dict"),
    "a path": (lambda: "model.npz", "got str"),
    "a function of one": (lambda: (lambda x: x, X), r"must be a function of \(params, x\)"),
    "another shape": (lambda: Fixed(), r"model.init\(key, x\) with x \[5, 3\] of Fixed fails"),
    "another shape of Equinox": (
        lambda: eqx.nn.Linear(7, 2, key=jax.random.key(0)),
        r"the model on a batch \[2, 3\] fails",
    ),
}


@pytest.mark.parametrize("make, said", REFUSED.values(), ids=REFUSED.keys())
def test_what_is_no_function_of_params_and_x_says_how_to_be_one(make, said):
    with pytest.raises(TypeError, match=f"(?s){said}"):
        function_of(make(), X)


def test_the_function_that_a_refusal_shows_is_taken():
    model, key = Training(), jax.random.key(0)
    params = model.init(key, X, train=False)
    f, _ = function_of((lambda params, x: model.apply(params, x, train=False), params), X)
    assert f(params, X).shape == (5, 2)


OUTPUTS = {
    "no outputs": (lambda p, x: x[:, 0], r"batch \[2, 3\] it returns \[2\]"),
    "positions": (lambda p, x: x[:, :, None], r"\[2, 3, 1\]"),
    "two arrays": (lambda p, x: (x, x), r"\[2, 3\], \[2, 3\]"),
    "a sum over samples": (lambda p, x: x.T @ x, r"\[3, 3\]"),
    "nothing": (lambda p, x: None, "returns none"),
}


@pytest.mark.parametrize("f, said", OUTPUTS.values(), ids=OUTPUTS.keys())
def test_outputs_that_are_no_n_by_k_are_refused(f, said):
    with pytest.raises(ValueError, match=f"must return one array.*{said}"):
        function_of((f, {}), X)


def test_a_function_of_a_single_sample_is_told():
    with pytest.raises(ValueError, match=r"takes a single sample \[3\]"):
        function_of((lambda w, x: jnp.einsum("i,ij->j", x, w), jnp.ones((3, 2))), X)


def test_inputs_that_are_no_batch_are_refused():
    for x in (1.0, np.float32(1), X[:0]):
        with pytest.raises(ValueError, match="x must be a batch"):
            function_of(Dense(), x)
