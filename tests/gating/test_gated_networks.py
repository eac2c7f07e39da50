"""Deep gated networks: gates of one parameter set, values of another, over any network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from draws import normal, variables
from tolerances import assert_close

import npk
from npk import networks

KEY = jax.random.key(0)


def mlp(width=6, depth=4, **options):
    model = networks.MLP(width=width, depth=depth, outputs=3, **options)
    x = normal(5, 4)
    return model, variables(model, x), variables(model, x, seed=1), x


def sided(feature, value):
    return {"feature": feature, "value": value}


@pytest.mark.parametrize("name", ["mlp", "c4gap", "vconv", "resnet"])
def test_one_parameter_set_on_both_sides_is_the_network_itself(name):
    options = {"depth": 8} if name == "resnet" else {}
    model = networks.build(name, outputs=3, width=4, **options)
    x = normal(3, 8, 8, 1)
    params = variables(model, x)
    np.testing.assert_array_equal(npk.DGN(model.apply)(sided(params, params), x), model.apply(params, x))


def test_gates_are_the_feature_networks_and_values_are_linear_in_the_last_layer():
    model, feature, value, x = mlp()
    network = npk.DGN(model.apply)
    found = npk.gates(network)(sided(feature, value), x)
    assert all(np.array_equal(a, b) for a, b in zip(found, npk.gates(model.apply)(feature, x), strict=True))
    doubled = jax.tree.map(lambda a: a, value)
    doubled["params"]["Dense_3"] = jax.tree.map(lambda a: 2 * a, value["params"]["Dense_3"])
    assert_close(network(sided(feature, doubled), x), 2 * network(sided(feature, value), x))


def test_soft_gates_are_those_of_the_papers_and_tend_to_hard_ones():
    model, feature, value, x = mlp()
    soft = npk.DGN(model.apply, beta=4.0)
    q = npk.preactivations(model.apply)(feature, x)
    for gate, pre in zip(npk.gates(soft)(sided(feature, value), x), q, strict=True):
        assert_close(gate, 1.1 / (1 + np.exp(-4.0 * np.asarray(pre))))
    steep = npk.DGN(model.apply, beta=1e6, epsilon=0.0)
    assert_close(steep(sided(feature, value), x), npk.DGN(model.apply)(sided(feature, value), x))


def test_dlgn_gates_come_from_the_deep_linear_network():
    model, feature, value, x = mlp(use_bias=False)
    found = npk.gates(npk.DLGN(model.apply))(sided(feature, value), x)
    a = np.asarray(x)
    for i, gate in enumerate(found):
        a = a @ np.asarray(feature["params"][f"Dense_{i}"]["kernel"])
        np.testing.assert_array_equal(gate, a > 0)


def test_shallow_gates_are_one_linear_map_of_the_input_each():
    model = networks.C4GAP(channels=2, outputs=3)
    x = normal(4, 5, 5, 2)
    value = variables(model, x)
    maps = npk.shallow_features(model.apply)(KEY, value, x)
    assert [m["kernel"].shape for m in maps] == [(50, 5, 5, 2)] * 4
    drawn = [np.asarray(m["kernel"]).ravel() for m in maps]
    assert max(abs(np.corrcoef(a, b)[0, 1]) for i, a in enumerate(drawn) for b in drawn[:i]) < 0.2, "each its own key"
    flat = np.asarray(x).reshape(4, -1)
    for gate, one in zip(npk.gates(npk.DLGN_SF(model.apply))(sided(maps, value), x), maps, strict=True):
        q = flat @ np.asarray(one["kernel"]).reshape(50, -1)
        np.testing.assert_array_equal(np.asarray(gate).reshape(4, -1), q > 0)
    assert 0.5 < float(jnp.std(maps[0]["kernel"])) / np.sqrt(2 / 50) < 1.5


def test_with_a_constant_input_x_acts_through_the_gates_alone():
    model, feature, value, x = mlp()
    network = npk.DGN(model.apply, constant_input=True)
    expected = npk.gated(model.apply)(value, jnp.ones_like(x), npk.gates(model.apply)(feature, x))
    np.testing.assert_array_equal(network(sided(feature, value), x), expected)
    # scaling x changes no gate of a network without biases
    plain, feature, value, x = mlp(use_bias=False)
    network = npk.DGN(plain.apply, constant_input=True)
    np.testing.assert_array_equal(network(sided(feature, value), 3 * x), network(sided(feature, value), x))


def test_permuted_layers_take_each_others_gates():
    model, feature, value, x = mlp()
    g = npk.gates(model.apply)(feature, x)
    expected = npk.gated(model.apply)(value, x, (g[2], g[0], g[1]))
    np.testing.assert_array_equal(npk.DGN(model.apply, permute=(2, 0, 1))(sided(feature, value), x), expected)


def test_a_feature_network_of_another_architecture_may_make_the_gates():
    model, _, value, x = mlp(width=6, depth=3)
    other = lambda p, x: jax.nn.relu(jax.nn.relu(x[:, ::-1] @ p) @ jnp.ones((6, 6)))  # noqa: E731
    feature = normal(4, 6)
    linear = npk.preactivations(npk.linear(other))(feature, x)
    for compose, gates in ((npk.DGN, npk.gates(other)(feature, x)), (npk.DLGN, tuple(map(npk.hard_gate, linear)))):
        network = compose(model.apply, feature=other)
        np.testing.assert_array_equal(network(sided(feature, value), x), npk.gated(model.apply)(value, x, gates))


def test_what_does_not_fit_is_said():
    model, feature, value, x = mlp()
    with pytest.raises(ValueError, match="permutation of 0 … 2"):
        npk.DGN(model.apply, permute=(0, 0, 1))(sided(feature, value), x)
    narrowing = lambda p, x: jax.nn.relu(jax.nn.relu(x @ p) @ p[:, :2])  # noqa: E731
    square = jnp.eye(4)
    with pytest.raises(ValueError, match=r"layer 0 has gates of shape \[4\] and would get those of layer 1, \[2\]"):
        npk.DGN(narrowing, permute=(1, 0))(sided(square, square), x)
    with pytest.raises(ValueError, match="feature"):
        npk.DGN(model.apply)(value, x)
    wider, *_ = mlp(width=7)
    with pytest.raises(ValueError, match=r"gates\[0\] must have shape \[5, 6\]"):
        npk.DGN(model.apply, feature=wider.apply)(sided(variables(wider, x), value), x)
    pooled = lambda p, x: jax.nn.relu(x @ p).reshape(-1, 2, 2).max(-1)  # noqa: E731
    with pytest.raises(ValueError, match="max-pooling"):
        npk.DLGN(pooled)(sided(square, square), x)
    with pytest.raises(ValueError, match="max-pooling"):
        npk.shallow_features(pooled)(KEY, square, x)


@pytest.mark.parametrize("compose", [npk.DGN, npk.DLGN])
@pytest.mark.standard_dtypes
def test_batch_norm_in_both_networks_trains_with_its_own_statistics(compose):
    model = networks.build("resnet-bn", outputs=3, width=4, depth=8)
    x = normal(6, 8, 8, 1)
    feature, value = variables(model, x), variables(model, x, seed=1)

    def forward(variables, x):
        return model.apply(variables, x, train=True, mutable=["batch_stats"])

    out, aux = compose(forward, has_aux=True)(sided(feature, value), x)
    assert out.shape == (6, 3) and jax.tree.structure(aux["value"]) == jax.tree.structure(aux["feature"])
    makes = forward if compose is npk.DGN else npk.linear(forward, has_aux=True)
    statistics = makes(feature, x)[1]  # the feature network's own, untouched by the value network
    assert all(np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (statistics, aux["feature"])), strict=True))
    other = compose(forward, has_aux=True)(sided(feature, feature), x)[1]["value"]
    assert any(not np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (other, aux["value"])), strict=True))
    evaluated = compose(model.apply)(sided(feature, value), x)
    assert evaluated.shape == (6, 3) and jnp.isfinite(evaluated).all()
