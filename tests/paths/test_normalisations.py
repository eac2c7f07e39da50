"""What is a fixed number: all that a normalisation reads, in whatever order and spelling it is written."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from draws import normal

import npk

NAMES = ("bias", "mean", "scale", "shift")
P = {
    "in": normal(3, 4),
    "out": normal(4, 2, seed=1),
    "variance": jnp.abs(normal(1, 4, seed=2)) + 0.5,
    **{name: normal(1, 4, seed=3 + i) for i, name in enumerate(NAMES)},
}
X = normal(5, 3, seed=9)
EPS = 1e-3

SPELLINGS = {
    "as in the paper": lambda p, q: (q - p["mean"]) / jnp.sqrt(p["variance"] + EPS) * p["scale"] + p["shift"],
    "scale first": lambda p, q: p["scale"] * (q - p["mean"]) / jnp.sqrt(p["variance"] + EPS) + p["shift"],
    "a factor": lambda p, q: (q - p["mean"]) * (p["scale"] * jax.lax.rsqrt(p["variance"] + EPS)) + p["shift"],
    "shift first": lambda p, q: p["shift"] + p["scale"] * ((q - p["mean"]) * (p["variance"] + EPS) ** -0.5),
    "a stopped gradient": lambda p, q: (
        (jax.lax.stop_gradient(q) - p["mean"]) / jnp.sqrt(p["variance"] + EPS) * p["scale"] + p["shift"]
    ),
    "a power": lambda p, q: (q - p["mean"]) / (p["variance"] + EPS) ** 0.5 * p["scale"] + p["shift"],
    "the other sign": lambda p, q: -((p["mean"] - q) / jnp.sqrt(p["variance"] + EPS)) * p["scale"] + p["shift"],
    "two steps": lambda p, q: (
        (q * (p["scale"] / jnp.sqrt(p["variance"] + EPS)))
        + (p["shift"] - p["mean"] * p["scale"] / jnp.sqrt(p["variance"] + EPS))
    ),
}


def network(norm, bias):
    return lambda p, x: jax.nn.relu(norm(p, x @ p["in"] + (p["bias"] if bias else 0.0))) @ p["out"]


@pytest.mark.parametrize("bias", [False, True], ids=["", "biased"])
@pytest.mark.parametrize("norm", SPELLINGS.values(), ids=SPELLINGS.keys())
def test_a_normalisation_is_one_in_every_spelling(norm, bias):
    f, plain = network(norm, bias), network(SPELLINGS["as in the paper"], bias)
    names = npk.path_names(f)(P, X)
    assert sorted(names) == sorted(npk.path_names(plain)(P, X))  # in the order of the sums
    assert not any(parameter in name for name in names for parameter in (*NAMES, "variance"))
    np.testing.assert_allclose(npk.npf(f)(P, X) @ npk.npv(f)(P, X), f(P, X), rtol=1e-4, atol=1e-5)


def test_the_kernel_of_every_spelling_is_the_same():
    kernels = [npk.path_kernel(network(norm, True))(P, X) for norm in SPELLINGS.values()]
    for kernel in kernels[1:]:
        np.testing.assert_allclose(kernel, kernels[0], rtol=1e-4)


def test_a_bias_is_a_path_where_something_else_reads_it_too():
    def f(p, x):
        q = x @ p["in"] + p["bias"]
        return jax.nn.relu(SPELLINGS["as in the paper"](p, q) + q) @ p["out"]

    assert any(name.startswith("bias") for name in npk.path_names(f)(P, X))


@pytest.mark.parametrize("factor", [jnp.sqrt, jax.lax.rsqrt, lambda c: c**-0.5], ids=["sqrt", "rsqrt", "power"])
def test_roots_of_constants_are_constants(factor):
    c = P["variance"]
    f = lambda p, x: jax.nn.relu(x @ p["in"] * factor(c) + p["bias"]) @ p["out"]  # noqa: E731
    names = npk.path_names(f)({k: P[k] for k in ("in", "bias", "out")}, X)
    assert any(name.startswith("bias") for name in names)


def test_a_factor_that_is_divided_by_its_own_size_is_fixed_as_a_whole():
    scaled = lambda p, x: jax.nn.relu((x @ p["in"]) * p["scale"] / jnp.linalg.norm(p["scale"])) @ p["out"]  # noqa: E731
    other = lambda p, x: jax.nn.relu((x @ p["in"]) * (p["scale"] / jnp.linalg.norm(p["scale"]))) @ p["out"]  # noqa: E731
    for f in (scaled, other):
        assert not any("scale" in name for name in npk.path_names(f)(P, X))


@pytest.mark.parametrize(
    "repeated",
    [lambda w: jnp.tile(w, (1, 2)), lambda w: jnp.concatenate([w, w], 1), lambda w: w[:, jnp.array([0, 1, 1, 2])]],
    ids=["tiled", "joined", "picked"],
)
def test_a_weight_that_comes_twice_in_one_layer_is_refused(repeated):
    f = lambda p, x: jax.nn.relu(x @ repeated(p["in"])).sum(1, keepdims=True)  # noqa: E731
    with pytest.raises(npk.UnsupportedOperation, match=r"repeated within one layer|computed from parameters"):
        npk.path_kernel(f)(P, X)
