"""A reading says what every transform does with f: roles, gates, refusals, and a certificate that can fail."""

import dataclasses
import json
import math
import re
import sys

import architectures
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from architectures import REGISTRY
from oracles import language as lang
from oracles.language import BatchNorm, Concat, Conv, Dense, Residual, Scale
from tolerances import assert_close

import npk

RNG = np.random.default_rng(5)
KEY = jax.random.key(0)


def normal(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


def roles(reading):
    return {(p.name, p.role, p.fan_in) for p in reading.parameters}


def expected_roles(network, params):
    """By the theory: what multiplies is a weight, what is added a bias, what a batch norm holds a fixed number."""
    names, found = lang.Names(), set()

    def visit(layers):
        for layer, following in zip(layers, (*layers[1:], None)):
            if isinstance(layer, Residual):
                visit(layer.branch)
                visit(layer.shortcut)
            elif isinstance(layer, Concat):
                for branch in layer.branches:
                    visit(branch)
            elif isinstance(layer, (Dense, Conv, Scale, BatchNorm)):
                name = names(layer)
                for leaf in (key for key in params if key.startswith(f"{name}/")):
                    part = leaf.removeprefix(f"{name}/")
                    if isinstance(layer, BatchNorm) or (part == "bias" and isinstance(following, BatchNorm)):
                        found.add((leaf, "fixed", None))
                    elif part == "bias":
                        found.add((leaf, "bias", None))
                    else:
                        found.add((leaf, "weight", 1 if part == "scale" else math.prod(params[leaf].shape[:-1])))

    visit(network.layers)
    return found


def floats(name):
    f, params, x = architectures.case(REGISTRY[name])
    return f, *jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), (params, jnp.asarray(x)))


@pytest.mark.parametrize("name", REGISTRY)
def test_the_roles_of_every_architecture_are_those_of_the_theory(name, monkeypatch):
    monkeypatch.setattr(sys.modules["npk.readings.explaining"], "_certificate", lambda *_, **__: None)
    f, params, x = floats(name)
    reading = npk.explain(f)(params, x)
    assert roles(reading) == expected_roles(REGISTRY[name], params)
    assert not reading.refused and not reading.nonlinear
    assert [g.shape for g in reading.gates] == [g.shape for g in jax.eval_shape(npk.gates(f), params, x)]


@pytest.mark.parametrize("name", ["leaky", "max pooling", "residual batch norm", "groups"])
def test_what_the_rules_cover_is_certified(name):
    f, params, x = floats(name)
    reading = npk.explain(f)(params, x)
    assert reading.certified, reading


def batch_normed(p, x):
    q = x @ p["w"] + p["b"]
    q = (q - p["norm"]["mean"]) * jax.lax.rsqrt(p["norm"]["var"] + 1e-3) * p["norm"]["scale"] + p["norm"]["shift"]
    return jax.nn.relu(q) @ p["v"] + p["c"]


BATCH_NORMED = {
    "w": normal(3, 4),
    "b": normal(1, 4),
    "c": normal(1, 2),
    "v": normal(4, 2),
    "norm": {"mean": normal(1, 4), "var": normal(1, 4) ** 2, "scale": normal(1, 4), "shift": normal(1, 4)},
}


def test_what_was_recognised_can_be_declared():
    """`fixed=reading.fixed` is the same kernel; what it does not hold is read otherwise."""
    x = normal(5, 3)
    reading = npk.explain(batch_normed)(BATCH_NORMED, x)
    assert reading.fixed == ("b", "norm/mean", "norm/scale", "norm/shift", "norm/var")
    declared = npk.path_kernel(batch_normed, fixed=reading.fixed)(BATCH_NORMED, x)
    assert_close(declared, npk.path_kernel(batch_normed)(BATCH_NORMED, x))
    other = npk.explain(batch_normed, fixed=("norm/mean", "norm/var"))(BATCH_NORMED, x)
    assert {("b", "bias", None), ("norm/scale", "weight", 1), ("norm/shift", "bias", None)} <= roles(other)
    assert all(p.why == "declared" for p in other.parameters if p.role == "fixed")


def test_parts_of_one_leaf_have_roles_of_their_own():
    def f(p, x):
        kernel, bias = p[:3], p[3:]
        return jax.nn.relu(x @ kernel + bias)

    reading = npk.explain(f)(normal(4, 4), normal(5, 3))
    assert {(p.role, p.elements, p.fan_in) for p in reading.parameters} == {("weight", 12, 3), ("bias", 4, None)}


def test_unused_parameters_and_those_of_a_feature_network():
    f = lambda p, x: jax.nn.relu(x @ p["w"]) @ p["v"]  # noqa: E731
    p = {"w": normal(3, 4), "v": normal(4, 1), "spare": normal(2)}
    reading = npk.explain(npk.DGN(f))({"feature": p, "value": p}, normal(5, 3))
    assert {(q.name, q.role) for q in reading.parameters} == {
        ("feature/w", "feature"),
        ("feature/v", "unused"),
        ("feature/spare", "unused"),
        ("value/w", "weight"),
        ("value/v", "weight"),
        ("value/spare", "unused"),
    }
    assert [g.kind for g in reading.gates] == ["given"] and reading.certified
    assert all("test_explain.py" in q.source for q in reading.parameters if q.role != "unused"), "the user's lines"


def attention(p, x):
    scores = jnp.einsum("npd,de,nqe->npq", x, p["qk"], x)
    return jnp.einsum("npq,nqd,dk->nk", jax.nn.softmax(scores), x, p["ov"]) + jnp.cos(x[:, 0] @ p["w"]) @ p["ov"]


def test_all_that_is_refused_is_said_at_once_with_lines_and_remedies():
    params, x = {"qk": normal(3, 3), "ov": normal(3, 2), "w": normal(3, 3)}, normal(4, 5, 3)
    reading = npk.explain(attention)(params, x)
    line = attention.__code__.co_firstlineno
    assert not reading.certified
    for primitive, at in (("cos", line + 2),):
        (found,) = [r for r in reading.nonlinear if f"`{primitive}`" in r.what and f"test_explain.py:{at}" in r.what][
            :1
        ]
        assert primitive in found.remedy
    assert "cos" in {r.what.split("`")[1] for r in reading.refused}
    assert any("is a weight twice" in r.what for r in reading.refused), "met though what is before it is refused"
    with pytest.raises(npk.UnsupportedOperation):
        npk.gates(attention)(params, x)
    allow = tuple({re.search("`(.*?)`", r.what)[1] for r in reading.nonlinear})
    allowed = npk.explain(attention, allow=allow)(params, x)
    assert all(r.allowed for r in allowed.nonlinear) and not allowed.certified
    npk.gates(attention, allow=allow)(params, x)


@pytest.mark.parametrize(
    "f, params, message",
    [
        (lambda p, x: jax.nn.relu((x - x.mean(0, keepdims=True)) @ p), normal(3, 2), "samples of a batch"),
        (lambda p, x: jax.nn.relu(x @ p) @ p.T, normal(3, 3), "is a weight twice"),
        (lambda p, x: x @ jnp.exp(p), normal(3, 2), "dot_general"),
        (lambda p, x: jax.nn.relu(x @ p), normal(3, 2), "the output units of f have different path features"),
        (lambda p, x: jnp.eye(5) @ x @ p, normal(3, 2), "f takes a batch of 5 samples"),
        (
            lambda p, x: jnp.stack([jax.nn.relu(s @ p) for s in x]).sum(1, keepdims=True),
            normal(3, 2),
            "activations for",
        ),
        (
            lambda p, x: jax.lax.cond(p[0, 0] > 0, jax.nn.relu, jnp.negative, x @ p),
            normal(3, 2),
            "taken depends on params",
        ),
    ],
)
def test_refusals(f, params, message):
    x = normal(5, 3)
    reading = npk.explain(f)(params, x)
    assert any(message in r.what for r in reading.refused), reading
    assert not reading.engines
    with pytest.raises(ValueError):
        npk.path_kernel(f)(params, x)


def test_a_function_of_parameters_is_named_as_such():
    (parameter,) = npk.explain(lambda p, x: x @ jnp.exp(p))(normal(3, 2), normal(5, 3)).parameters
    assert parameter.role == "function" and "test_explain.py" in parameter.source


def test_a_norm_of_values_is_a_gate_and_its_parameters_are_fixed_numbers():

    def f(p, x):
        q = x @ p["w"]
        q = (q - q.mean(-1, keepdims=True)) * jax.lax.rsqrt(q.var(-1, keepdims=True) + 1e-3) * p["g"] + p["b"]
        return jax.nn.relu(q) @ p["v"]

    p = {"w": normal(3, 4), "g": normal(1, 4), "b": normal(1, 4), "v": normal(4, 2)}
    reading = npk.explain(f)(p, normal(5, 3))
    assert reading.certified and [g.kind for g in reading.gates] == ["scale", "hard"]
    assert reading.fixed == ("b", "g")


def test_the_engine_that_runs_is_named_with_why_not_the_others():
    f = lambda p, x: jax.nn.relu(x @ p["w"]) @ p["v"]  # noqa: E731
    p = {"w": normal(3, 4), "v": normal(4, 1)}
    engines = {e.name: e for e in npk.explain(f)(p, normal(5, 3)).engines}
    assert [e.name for e in engines.values() if e.runs] == ["rules"]
    assert "fewer than 1,048,576 pairs" in engines["packed"].why and engines["pairs"].why == "no convolutions"
    many = npk.path_kernel(f).engines(p, normal(1024, 3))
    assert [e.name for e in many if e.runs] == ["packed"]
    early = npk.path_kernel(f, thresholds=npk.path_kernels.Thresholds(packed_pairs=25)).engines(p, normal(5, 3))
    assert [e.name for e in early if e.runs] == ["packed"]
    skip = lambda p, x: jax.nn.relu(x @ p["w"]) @ p["v"] + x @ p["s"]  # noqa: E731
    kernel = npk.path_kernel(skip, thresholds=npk.path_kernels.Thresholds(packed_pairs=0))
    said = kernel.engines({**p, "s": normal(3, 1)}, normal(5, 3))
    assert next(e.why for e in said if e.name == "packed") == "a layer reads a sum of several values"


def test_thresholds_are_numbers():
    with pytest.raises(ValueError, match="paired_seconds must be a number, got nan"):
        npk.path_kernels.Thresholds(paired_seconds=math.nan)


def test_a_reading_prints_as_a_table_and_as_html_and_goes_into_a_file():
    reading = npk.explain(attention)({"qk": normal(3, 3), "ov": normal(3, 2), "w": normal(3, 3)}, normal(4, 5, 3))
    text = repr(reading)
    assert "parameters" in text and "Not certified" in text and str(__file__) not in text
    assert max(map(len, repr(npk.explain(batch_normed)(BATCH_NORMED, normal(5, 3))).splitlines())) < 160
    html = reading._repr_html_()
    assert html.count("<table>") == html.count("</table>") >= 3 and "&lt;" not in text
    assert json.loads(json.dumps(reading.as_dict()))["certified"] is False


def test_modules_of_a_model_are_named():
    nn = pytest.importorskip("flax.linen")
    model = nn.Sequential([nn.Dense(4), nn.relu, nn.Dense(2)])
    x = normal(5, 3)
    reading = npk.explain(model.apply)(model.init(KEY, x), x)
    assert [g.module for g in reading.gates] == ["Sequential"]

    def scoped(p, x):
        with jax.named_scope("block"):
            return jax.jit(jax.named_scope("act")(jax.nn.relu))(x @ p)

    assert [g.module for g in npk.explain(scoped)(normal(3, 2), x).gates] == ["block/act"]


def test_tokens_are_read_as_the_rows_that_they_choose():
    f = lambda p, x: jax.nn.relu(p["e"][x].mean(1)) @ p["w"]  # noqa: E731
    reading = npk.explain(f)({"e": normal(7, 4), "w": normal(4, 2)}, jnp.ones((3, 5), int))
    assert reading.certified and reading.certificate.affine is None and not reading.refused
    assert {q.name: (q.role, q.fan_in) for q in reading.parameters} == {"e": ("weight", 1), "w": ("weight", 4)}


@pytest.mark.parametrize(
    "write",
    [
        lambda u, i: jax.lax.dynamic_update_slice(jnp.zeros((1, 4)), u, (0, i)),
        lambda u, i: jnp.zeros((1, 4)).at[:, i].set(u[:, 0]),
        lambda u, i: jnp.zeros((1, 4)).at[:, i].add(u[:, 0]),
    ],
)
def test_a_place_that_depends_on_x_is_not_linear(write):
    def f(p, x):
        def one(s):
            return write((s @ p)[None, :1], (s.sum() > 1e9).astype(int))[0]

        return jax.vmap(one)(x)

    reading = npk.explain(f)(normal(3, 2), normal(5, 3))
    assert not reading.certificate.proven and reading.nonlinear
    with pytest.raises(npk.UnsupportedOperation):
        npk.gates(f)(normal(3, 2), normal(5, 3))


def test_what_is_partly_a_weight_is_not_among_the_fixed():
    def f(p, x):
        return jax.nn.relu((x @ p[:3]) / p[3:])[:, :1]

    reading = npk.explain(f)(normal(4, 4), normal(5, 3))
    assert {(p.role, p.elements) for p in reading.parameters} == {("weight", 12), ("fixed", 4)}
    assert reading.fixed == ()


def test_half_precision_within_is_allowed_its_rounding_and_infinity_is_named():
    half = lambda p, x: (x.astype(jnp.bfloat16) @ p.astype(jnp.bfloat16)).astype(jnp.float32)  # noqa: E731
    assert npk.explain(half)(normal(3, 2), normal(5, 3)).certified
    large = lambda p, x: jax.nn.relu(x @ p) * jnp.float32(1e38) * jnp.float32(1e38)  # noqa: E731
    assert "leaves the range" in npk.explain(large)(jnp.ones((3, 1)), jnp.ones((5, 3))).verdict


def test_under_jit_a_reading_has_no_measurements():
    f = lambda p, x: jax.nn.relu(x @ p)[:, :1]  # noqa: E731
    readings = []
    jax.jit(lambda p, x: readings.append(npk.explain(f)(p, x)))(normal(3, 2), normal(5, 3))
    assert readings[0].certificate is None and "traced" in readings[0].verdict and readings[0].gates


def test_a_line_of_a_notebook_is_named_by_its_cell():
    reading = npk.explain(batch_normed)(BATCH_NORMED, normal(5, 3))
    cell = "kept/ipykernel_12/4132383672.py:7:4 (f)"
    held = dataclasses.replace(reading, parameters=[dataclasses.replace(reading.parameters[0], source=cell)])
    assert "cell:7 (f)" in repr(held) and "4132383672" not in repr(held) + held._repr_html_()
