"""The linear map of a network at x: f(x') = M x' + c under the gates of x; if those are hard, the Jacobian."""

import pathlib
import re

import architectures
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from architectures import REGISTRY
from linear_problems import MLP, SIZES, SMALL, X, mlp, normal, of_samples
from tolerances import assert_close

import npk
from npk.solving import largest_singular_values


def drawn(name, dtype, seed=0):
    """A registered architecture with random numbers, no activation of which sits at a kink."""
    _, params, x = architectures.case(REGISTRY[name])
    rng = np.random.default_rng(seed)

    def numbers(path, leaf):
        values = rng.normal(size=leaf.shape)
        return jnp.asarray(values**2 + 0.1 if path[0].key.endswith("var") else values, dtype)

    return jax.tree_util.tree_map_with_path(numbers, params), jnp.asarray(rng.normal(size=x.shape), dtype)


def by_hand(p, x, gate):
    """M and c of every sample of an MLP and of its pre-activations, in NumPy: (∏ W diag G)ᵀ, and the same of biases."""
    found = []
    for sample in np.asarray(x, np.float64):
        m, c = np.eye(len(sample)), np.zeros(len(sample))
        layers = []
        for w, b in zip(p["w"], p["b"]):
            w, b = np.asarray(w, np.float64), np.asarray(b, np.float64)[0]
            m, c = w.T @ m, w.T @ c + b
            layers.append((m, c))
            g = gate(m @ sample + c)
            m, c = g[:, None] * m, g * c
        found.append(layers)
    return [tuple(np.stack(part) for part in zip(*layer)) for layer in zip(*found)]


def hard(q):
    return (q > 0).astype(float)


def logistic(q):
    return 1 / (1 + np.exp(-q))


# ---------------------------------------------------------------------------------------- statements


@pytest.mark.parametrize("name", REGISTRY)
def test_with_hard_gates_it_is_the_jacobian(name):
    f = architectures.function(REGISTRY[name])
    params, x = drawn(name, jnp.float32)
    found = npk.linear_map(f)(params, x)
    assert_close(found.matrix(), of_samples(f, params, x))
    assert_close(found @ x + found.offset, f(params, x))
    assert found.certificate.proven and found.certificate.same < 1e-5 and found.certificate.affine < 1e-5


EXACT = ["leaky", "max pooling, overlapping", "residual batch norm", "groups"]


@pytest.mark.parametrize("name", EXACT)
def test_in_float64_to_twelve_places(name, x64):
    f = architectures.function(REGISTRY[name])
    params, x = drawn(name, jnp.float64)
    found = npk.linear_map(f)(params, x)
    assert_close(found.matrix(), of_samples(f, params, x))
    assert_close(found @ x + found.offset, f(params, x))
    assert found.matrix().dtype == jnp.float64
    assert found.certificate.proven and found.certificate.same < 1e-12 and found.certificate.affine < 1e-12


@pytest.mark.parametrize("name", ["mlp with biases", "max pooling", "concatenation"])
@pytest.mark.parametrize("relu", [jax.nn.silu, jax.nn.gelu])
def test_with_soft_gates_it_is_the_jacobian_of_the_network_with_frozen_gates(name, relu, x64):
    f = architectures.function(REGISTRY[name], relu)
    params, x = drawn(name, jnp.float64)
    gates = []

    def recording(q):
        gates.append(relu(q) / q)
        return relu(q)

    architectures.function(REGISTRY[name], recording)(params, x)

    def jacobian(sample, *held):
        left = iter(held)
        frozen = architectures.function(REGISTRY[name], lambda q: q * next(left)[None])
        return jax.jacrev(lambda z: frozen(params, z[None])[0])(sample)

    expected = jax.vmap(jacobian)(x, *gates)
    found = npk.linear_map(f)(params, x)
    assert_close(found.matrix(), expected)
    assert_close(found @ x + found.offset, f(params, x))
    assert found.certificate.proven
    other = np.abs(of_samples(f, params, x) - expected).max()
    assert other > 0.01 * np.abs(expected).max(), "the Jacobian goes through the gates"


@pytest.mark.parametrize("relu, gate", [(jax.nn.relu, hard), (jax.nn.silu, logistic)])
def test_it_is_the_product_of_weights_and_gates(relu, gate, x64):
    params, x = jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), (MLP, X))
    *hidden, (m, c) = by_hand(params, x, gate)
    found = npk.linear_map(mlp(relu))(params, x)
    assert_close(found.matrix(), m)
    assert_close(found.offset, c)
    for layer, (m, c) in enumerate(hidden):
        for number in (layer, layer - len(hidden)):
            found = npk.linear_map(mlp(relu), layer=number)(params, x)
            assert_close(found.matrix(), m)
            assert_close(found.offset, c)
        assert_close(found @ x + found.offset, npk.preactivations(mlp(relu))(params, x)[layer])


def test_it_is_the_sum_over_paths():
    """f(x) = ⟨φ_x, v⟩, and φ_x(p) is x(start of p) times gates: M[k, i] sums v_p φ_x(p)/x_i over the paths from i."""

    def f(p, x):
        return jax.nn.relu(jax.nn.relu(x @ p[0]) @ p[1]) @ p[2]

    p = MLP["w"]
    starts = np.array([int(re.match(r"0\[(\d+),", name)[1]) for name in npk.path_names(f)(p)])
    gates, values = npk.npf(f)(p, X) / X[:, starts], npk.npv(f)(p)
    found = npk.linear_map(f)(p, X)
    for i in range(SIZES[0]):
        assert_close(found.matrix()[:, :, i], gates[:, starts == i] @ values[starts == i])
    assert_close(found.offset, np.zeros((4, 3)))


def test_a_convolution_to_an_inner_layer():
    f = architectures.function(REGISTRY["max pooling"])
    params, x = drawn("max pooling", jnp.float32)
    q = npk.preactivations(f)(params, x)[2]
    found = npk.linear_map(f, layer=2)(params, x)
    expected = of_samples(lambda p, x: npk.preactivations(f)(p, x)[2], params, x)
    assert found.shape == expected.shape == (*q.shape, *x.shape[1:])
    assert_close(found.matrix(), expected)
    assert_close(found @ x + found.offset, q)


# ------------------------------------------------------------------------------- products and options


def test_products_either_way_are_those_of_the_matrix():
    found = npk.linear_map(mlp(jax.nn.silu))(MLP, X)
    v, u = normal(4, 5), normal(4, 3)
    matrix = found.matrix()
    assert_close(found @ v, jnp.einsum("nki,ni->nk", matrix, v))
    assert_close(found.matvec(v), found @ v)
    assert_close(found.rmatvec(u), jnp.einsum("nki,nk->ni", matrix, u))
    assert_close(found.matvec(np.asarray(v, np.float64)), found @ v)


def test_tall_and_wide_matrices_are_made_from_either_side():
    w = normal(3, 8)
    for f, x in ((lambda w, x: jax.nn.silu(x @ w), normal(300, 3)), (lambda w, x: jax.nn.silu(x @ w.T), normal(2, 8))):
        expected = jnp.einsum("ij,nj->nji", w if f(w, x).shape[1] == 8 else w.T, npk.gates(f)(w, x)[0])
        assert_close(npk.linear_map(f)(w, x).matrix(), expected)


def test_it_is_a_pytree_inside_and_outside_compiled_functions():
    f = mlp(jax.nn.silu)
    found = npk.linear_map(f)(MLP, X)
    v, u = normal(4, 5), normal(4, 3)
    there, back = jax.jit(lambda m, v, u: (m @ v, m.rmatvec(u)))(found, v, u)
    assert_close(there, found @ v)
    assert_close(back, found.rmatvec(u))
    assert_close(jax.jit(lambda p, x, v: npk.linear_map(f)(p, x) @ v)(MLP, X, v), there)
    made = jax.jit(npk.linear_map(f))(MLP, X)
    assert_close(made.matrix(), found.matrix())
    assert made.certificate.proven and made.certificate.same < 1e-5
    seen = []
    jax.jit(lambda m: seen.append(m.certificate))(found)
    assert seen == [None]


@pytest.mark.parametrize("output, index", [(1, 1), (-1, 2), (slice(0, 2), slice(0, 2)), ((0,), 0), (np.int64(2), 2)])
def test_some_outputs_alone(output, index):
    whole = npk.linear_map(mlp(jax.nn.silu))(MLP, X)
    found = npk.linear_map(mlp(jax.nn.silu), output=output)(MLP, X)
    assert_close(found.matrix(), whole.matrix()[:, index])
    assert_close(found.offset, whole.offset[:, index])
    assert_close(found.value, whole.value[:, index])


def test_places_of_an_inner_layer():
    f = architectures.function(REGISTRY["same"])
    params, x = drawn("same", jnp.float32)
    whole = npk.linear_map(f, layer=1)(params, x)
    found = npk.linear_map(f, layer=1, output=(2, slice(0, 3), -1))(params, x)
    assert_close(found.matrix(), whole.matrix()[:, 2, 0:3, -1])
    assert_close(found @ x + found.offset, npk.preactivations(f)(params, x)[1][:, 2, 0:3, -1])


# -------------------------------------------------------------------------------------- singular values


def test_singular_values_of_small_maps_are_exact():
    found = npk.linear_map(mlp(jax.nn.silu))(MLP, X)
    expected = np.linalg.svd(np.asarray(found.matrix(), np.float64), compute_uv=False)
    assert_close(found.singular_values(3), expected)
    assert_close(found.singular_values(1), expected[:, :1])
    assert_close(jax.jit(lambda m: m.singular_values(2))(found), expected[:, :2])
    one = npk.linear_map(mlp(jax.nn.silu), output=0)(MLP, X)
    assert_close(one.singular_values(1), np.linalg.norm(one.matrix(), axis=1)[:, None])


def test_singular_values_of_large_maps_reach_their_tolerance(x64):
    rng = np.random.default_rng(0)
    p = [jnp.asarray(rng.normal(size=s) / np.sqrt(s[0])) for s in ((280, 200), (200, 270))]
    x = jnp.asarray(rng.normal(size=(2, 280)))
    found = npk.linear_map(lambda p, x: jax.nn.relu(x @ p[0]) @ p[1])(p, x)
    maps = [np.asarray(p[0]) * (np.asarray(s @ p[0]) > 0) @ np.asarray(p[1]) for s in x]
    expected = np.linalg.svd(np.stack(maps), compute_uv=False)[:, :4]
    assert_close(found.singular_values(4, tolerance=1e-8), expected)
    np.testing.assert_array_equal(found.singular_values(4), found.singular_values(4))
    with pytest.raises(ValueError, match=r"270 × 280 are too large .* outside jax\.jit"):
        jax.jit(lambda m: m.singular_values(2))(found)


def products(spectrum):
    """Of a matrix with these singular values, and its transpose; and the shape of the one map."""
    rng = np.random.default_rng(3)
    left, right = (np.linalg.qr(rng.normal(size=(n, len(spectrum))))[0] for n in (80, 90))
    m = ((left * np.array(spectrum)) @ right.T)[None]
    return (lambda v: v @ m.swapaxes(1, 2)), (lambda u: u @ m), (1, 80, 90)


SPECTRA = {
    "multiple": [5.0] * 4 + [3.0] * 20,
    "few": [2.0, 1.0],
    "none": [0.0] * 30,
    "crowded": list(np.linspace(1, 2, 60)),
}


@pytest.mark.parametrize("spectrum", SPECTRA.values(), ids=SPECTRA.keys())
def test_multiple_and_missing_singular_values(spectrum):
    values, residuals = largest_singular_values(*products(spectrum), 6, 1e-9)
    expected = np.sort(np.pad(spectrum, (0, 80)))[::-1][:6]
    assert np.abs(values[0] - expected).max() <= 1e-9 * max(spectrum) + 1e-300
    assert residuals.max() <= 1e-9 * max(spectrum)


def test_a_tolerance_that_is_not_reached_is_an_error_that_says_how_near():
    with pytest.raises(ValueError, match="after 3 products either way .* residuals of up to .* larger tolerance"):
        largest_singular_values(*products(SPECTRA["crowded"]), 6, 1e-9, steps=3)


# --------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"output": 3}, ValueError, r"output=\(3\) chooses nothing of what is \[3\] for each sample"),
        ({"output": slice(3, 5)}, ValueError, r"output=\(slice\(3, 5, None\)\) chooses nothing"),
        ({"output": (0, 0)}, ValueError, r"output=\(0, 0\) chooses nothing"),
        ({"output": [0]}, TypeError, r"an index, a slice or a tuple of them, got \[0\]: output=3"),
        ({"output": 1.0}, TypeError, "an index, a slice or a tuple"),
        ({"output": True}, TypeError, "an index, a slice or a tuple"),
        ({"output": slice(0.0, 1.0)}, TypeError, "an index, a slice or a tuple"),
        ({"layer": 2}, ValueError, "layer=2: f has 2 activations, numbered from 0"),
        ({"layer": -3}, ValueError, "layer=-3: f has 2 activations"),
    ],
)
def test_options_that_name_nothing(options, error, message):
    with pytest.raises(error, match=message):
        npk.linear_map(mlp(jax.nn.relu), **options)(MLP, X)


def test_vectors_of_other_shapes():
    found = npk.linear_map(mlp(jax.nn.relu))(MLP, X)
    with pytest.raises(ValueError, match=r"v must be like x, of shape \[4, 5\], got \[4, 3\]"):
        found @ jnp.ones((4, 3))
    with pytest.raises(ValueError, match=r"u must be like the output, of shape \[4, 3\], got \[5\]"):
        found.rmatvec(jnp.ones(5))
    for k in (0, 4):
        with pytest.raises(ValueError, match=f"matrices of 3 × 5 have 1 to 3 singular values, not {k}"):
            found.singular_values(k)


def test_matrices_that_do_not_fit_are_not_begun():
    wide = npk.linear_map(lambda p, x: jax.nn.relu(x * p))(jnp.ones((1, 1_000_000)), jnp.ones((4, 1_000_000)))
    message = (
        r"of 4 samples, 1000000 × 1000000 each, take .* GiB of .* GiB available: take fewer samples, or some outputs"
    )
    with pytest.raises(ValueError, match=message):
        wide.matrix()


def test_samples_that_see_each_other():
    mixing = lambda p, x: jax.nn.relu(x @ p["w"] - (x @ p["w"]).mean(0, keepdims=True))  # noqa: E731
    for options in ({}, {"layer": 0}):
        with pytest.raises(ValueError, match="samples of a batch are not independent"):
            npk.linear_map(mixing, **options)(SMALL, X)


def test_a_layer_whose_samples_are_not_first():
    def f(p, x):
        return (jax.nn.relu(x.reshape(-1, 5) @ p["w"]) @ p["v"]).reshape(x.shape[0], -1)

    x = normal(4, 2, 5)
    found = npk.linear_map(f)(SMALL, x)
    assert_close(found @ x + found.offset, f(SMALL, x))
    with pytest.raises(ValueError, match=re.escape("pre-activation 0 of shape [8, 6] does not have the 4 samples")):
        npk.linear_map(f, layer=0)(SMALL, x)


@pytest.mark.standard_dtypes
def test_tokens():
    with pytest.raises(ValueError, match="x must be of a floating dtype, got int32"):
        npk.linear_map(lambda p, x: p["w"][x].mean(1))(SMALL, jnp.ones((2, 3), int))


def test_which_side_of_a_product_is_held_is_said_by_its_line():
    p = {**SMALL, "g": SMALL["w"][::-1]}

    def f(p, x):
        side = x @ p["g"]
        return (jax.nn.relu(x @ p["w"]) * side) @ p["v"]

    line = f"{pathlib.Path(__file__).name}:{f.__code__.co_firstlineno + 1}"
    with pytest.raises(npk.UnsupportedOperation, match="gate_at="):
        npk.linear_map(lambda p, x: (x @ p["w"] * (x @ p["g"])) @ p["v"])(p, X)
    found = npk.linear_map(f, gate_at=(line,))(p, X)
    held = (np.asarray(X @ p["w"]) > 0) * np.asarray(X @ p["g"])
    expected = np.einsum("dh,nh,hk->nkd", p["w"], held, p["v"])
    assert_close(found.matrix(), expected)
    assert_close(found @ X + found.offset, f(p, X))
