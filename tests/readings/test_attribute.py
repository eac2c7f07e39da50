"""Sums of φ·v over the paths through what is asked: against paths written out, and f itself."""

import itertools

import architectures
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from architectures import REGISTRY
from breadth import table
from breadth.models import MODELS

import npk
from npk.readings import Attribution

SIZES = (3, 4, 5, 2)


def drawn(seed=0):
    random = np.random.default_rng(seed)
    w = [random.normal(size=size) for size in itertools.pairwise(SIZES)]
    b = [random.normal(size=(1, size)) for size in SIZES[1:]]
    return {"w": w, "b": b}, random.normal(size=(4, SIZES[0]))


def mlp(p, x):
    *hidden, (w, b) = zip(p["w"], p["b"], strict=True)
    for v, c in hidden:
        x = jax.nn.relu(x @ v + c)
    return x @ w + b


def paths(p, x, output):
    """Every path of a sample to an output, in NumPy: where it begins (layer, unit; -1 for pixels), its units, φ·v."""
    q, gates = x, []
    for w, b in list(zip(p["w"], p["b"], strict=True))[:-1]:
        q = np.maximum(q @ w + b[0], 0)
        gates.append((q > 0).astype(float))
    for first in range(-1, len(p["w"])):
        begins = range(SIZES[0]) if first < 0 else range(SIZES[first + 1])
        for units in itertools.product(begins, *(range(s) for s in SIZES[first + 2 : -1])):
            if first == len(p["w"]) - 1:  # the last bias, which no unit follows
                if units[0] == output:
                    yield first, units, p["b"][first][0][output]
                continue
            number = x[units[0]] if first < 0 else p["b"][first][0][units[0]]
            whole = (*units, output)
            for step, (i, j) in enumerate(itertools.pairwise(whole), first + 1):
                number *= p["w"][step][i, j] * (1.0 if step == 0 else gates[step - 1][i])
            yield first, units, number


@pytest.mark.parametrize("output", [0, 1])
def test_every_sum_is_that_of_the_paths_written_out(output, x64, as_users_write):
    p, x = drawn()
    found = {to: npk.attribute(mlp, to=to)(p, x, output) for to in ("input", "positions", "leaves", "layers")}
    layers = [npk.attribute(mlp, to="units", layer=number)(p, x, output) for number in (0, 1)]
    assert found["input"].biases.keys() == {"b/0", "b/1", "b/2"}
    for n, sample in enumerate(x):
        every = list(paths(p, sample, output))
        np.testing.assert_allclose(sum(v for *_, v in every), mlp(p, sample[None])[0, output])
        pixels = [sum(v for first, units, v in every if first < 0 and units[0] == i) for i in range(SIZES[0])]
        np.testing.assert_allclose(found["input"].parts["input"][n], pixels, atol=1e-12)
        for layer in range(3):
            np.testing.assert_allclose(
                found["input"].biases[f"b/{layer}"][n], sum(v for first, _, v in every if first == layer), atol=1e-12
            )
            through = sum(v for first, _, v in every if first < layer)
            np.testing.assert_allclose(found["leaves"].parts[f"w/{layer}"][n], through, atol=1e-12)
        for number, of_units in enumerate(layers):
            # A path that begins below has its unit of this layer at place number - first.
            crossing = [(units[number - first], v) for first, units, v in every if first <= number]
            parts = [sum(v for unit, v in crossing if unit == u) for u in range(SIZES[number + 1])]
            np.testing.assert_allclose(of_units.parts["layer"][n], parts, atol=1e-12)
            skipped = sum(v for first, _, v in every if first > number)
            np.testing.assert_allclose(of_units.skipped[n], skipped, atol=1e-12)
            np.testing.assert_allclose(found["layers"].parts[f"layer {number + 1}"][n], sum(parts), atol=1e-12)


def sums(model):
    out = np.asarray(model.f(model.params, model.x))
    last = tuple(size - 1 for size in out.shape[1:])
    why = npk.attribute(model.f)(model.params, model.x, last)
    value = out[(slice(None), *last)]
    np.testing.assert_allclose(why.value, value, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(why.total, value, rtol=1e-8, atol=1e-9)
    return why


FEW = [
    ("layers", "MLP, softplus", False),
    ("norms", "layer norm, Linen", True),
    ("norms", "batch norm in training", False),
    ("attention", "causal mask by -inf", True),
    ("attention", "padding mask", True),
    ("products", "SwiGLU", True),
    ("products", "bilinear layer", False),
    ("tokens", "`GPT`, untied", True),
    ("tokens", "class token", True),
    ("fixed maps", "sorted positions", False),
]


@pytest.mark.standard_dtypes
@pytest.mark.parametrize(("group", "name", "certified"), FEW, ids=[name for _, name, _ in FEW])
def test_pixels_tokens_and_biases_sum_to_f_wherever_f_is_certified(group, name, certified, monkeypatch):
    with table.as_users_write(monkeypatch):
        model = MODELS[group][name]()
        if certified:
            why = sums(model)
            assert why.parts["input"].shape == model.x.shape
        else:
            with pytest.raises(ValueError):
                sums(model)


@pytest.mark.parametrize(
    "name", ["max pooling", "residual, projection", "batch norm", "groups", "average pooling, padded"]
)
def test_networks_of_the_registry_sum_to_f_by_pixels_and_by_units(name):
    f = architectures.function(REGISTRY[name])
    _, params, x = architectures.case(REGISTRY[name])
    random = np.random.default_rng(0)

    def numbers(path, leaf):
        values = random.normal(size=leaf.shape)
        return jnp.asarray(values**2 + 0.1 if path[0].key.endswith("var") else values, jnp.float32)

    params = jax.tree_util.tree_map_with_path(numbers, params)
    x = jnp.asarray(random.normal(size=x.shape), jnp.float32)
    why = npk.attribute(f)(params, x, 0)
    units = npk.attribute(f, to="units", layer=0)(params, x, 0)
    for found in (why, units):
        size = sum(np.abs(part).reshape(len(x), -1).sum(1) for part in found.parts.values()) + 1
        assert (np.abs(np.asarray(found.total - f(params, x)[:, 0])) < 1e-5 * size).all()
    gates = npk.gates(f)(params, x)
    assert units.parts["layer"].shape == gates[0].shape


def test_one_output_a_sample_and_compiled(x64, as_users_write):
    p, x = drawn(1)
    best = mlp(p, x).argmax(1)
    why = npk.attribute(mlp)(p, x, best)
    each = [npk.attribute(mlp)(p, x[n : n + 1], int(best[n])).parts["input"][0] for n in range(len(x))]
    np.testing.assert_allclose(why.parts["input"], np.stack(each), atol=1e-12)
    compiled = jax.jit(lambda p, x, output: npk.attribute(mlp)(p, x, output).parts["input"])
    np.testing.assert_allclose(compiled(p, x, best), why.parts["input"], atol=1e-12)
    np.testing.assert_allclose(npk.attribute(mlp)(p, x, -1).value, mlp(p, x)[:, -1])


def test_positions_are_sums_over_channels():
    f = lambda w, x: jax.nn.relu(x).reshape(len(x), -1) @ w  # noqa: E731
    x, w = jnp.arange(1.0, 9.0).reshape(1, 2, 2, 2), jnp.ones((8, 1))
    found = npk.attribute(f, to="positions")(w, x)
    np.testing.assert_allclose(found.parts["input"], x.sum(-1))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: npk.attribute(mlp, to="pixels"), "to must be one of input, positions"),
        (lambda: npk.attribute(mlp, to="units"), "layer chooses the layer of units"),
        (lambda: npk.attribute(mlp, layer=1), "layer chooses the layer of units"),
        (lambda: npk.attribute(mlp, to="units", layer=2)(*single(), 0), "f has 2 layers of gates"),
        (lambda: npk.attribute(mlp)(*single(), 2), "output 2 is none of 2"),
        (lambda: npk.attribute(mlp)(*single(), 0.5), "output must be a whole number"),
        (lambda: npk.attribute(mlp)(*single()), r"f returns \[2\] outputs a sample: choose one"),
        (lambda: npk.attribute(mlp)(*single(), (0, 1)), r"an index of outputs \[2\]"),
    ],
)
def test_what_is_not_there_is_said(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def single():
    p, x = drawn()
    return jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), (p, x))


def test_a_layer_that_paths_cross_twice_has_no_sums_over_its_units():
    """A scale of x that multiplies values before and after a weight is one gate, used twice."""

    def f(w, x):
        g = npk.as_gate(jnp.sum(jnp.abs(x), -1, keepdims=True))
        return (x * g @ w) * g

    x = jnp.asarray([[1.0, 2.0]])
    with pytest.raises(ValueError, match="crosses this layer more than once"):
        npk.attribute(f, to="units", layer=0)(jnp.ones((2, 1)), x)
    assert isinstance(npk.attribute(f)(jnp.ones((2, 1)), x), Attribution)


def test_what_is_crossed_twice_is_nan_where_no_error_can_be_raised():
    """Under jit; and of leaves and layers, of which others may be asked in the same call."""

    def f(p, x):
        g = npk.as_gate(jnp.sum(jnp.abs(x), -1, keepdims=True))
        return ((x * g @ p["tied"]) * g @ p["once"]) @ p["tied"] @ jnp.ones((2, 1))

    p, x = {"tied": jnp.eye(2) + 1, "once": 2 * jnp.eye(2)}, jnp.asarray([[1.0, 2.0]])
    units = jax.jit(lambda p, x: npk.attribute(f, to="units", layer=0)(p, x).parts["layer"])(p, x)
    assert np.isnan(units).all()
    assert np.isnan(npk.attribute(f, to="layers")(p, x).parts["layer 1"]).all()
    leaves = npk.attribute(f, to="leaves")(p, x)
    assert np.isnan(leaves.parts["tied"]).all()
    np.testing.assert_allclose(leaves.parts["once"], f(p, x)[:, 0])


def test_no_unit_is_left_out_where_samples_are_columns():
    def columns(p, x):
        return (p["v"].T @ jax.nn.relu(p["w"].T @ x.T)).T

    random = np.random.default_rng(0)
    p = {"w": jnp.asarray(random.normal(size=(3, 5)), jnp.float32), "v": jnp.ones((5, 2))}
    x = jnp.asarray(random.normal(size=(5, 3)), jnp.float32)
    found = npk.attribute(columns, to="units", layer=0)(p, x, 1)
    rows = npk.attribute(lambda p, x: jax.nn.relu(x @ p["w"]) @ p["v"], to="units", layer=0)(p, x, 1)
    np.testing.assert_allclose(found.parts["layer"][..., 0], rows.parts["layer"], atol=1e-6)
    np.testing.assert_allclose(found.total, columns(p, x)[:, 1], atol=1e-5)
