"""The logarithm of the path kernel: of every architecture, and where H leaves the range of its dtype."""

import functools
import math
from fractions import Fraction

import architectures
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from architectures import REGISTRY
from oracles.enumeration import Enumeration, gram_of
from oracles.transformers import ZOO

import npk

RANDOM = np.random.default_rng(0)


def log_of(value):
    """log|value| of a fraction of any size, to float64."""
    value = abs(Fraction(value))
    return math.log(value.numerator) - math.log(value.denominator) if value else -math.inf


def assert_logarithm_of(found, exact, depth):
    """The sign is right, and log|H| within its own rounding and a few roundings a layer."""
    exact = np.asarray(exact, object)
    assert found.sign.dtype == found.log.dtype and found.sign.shape == found.log.shape == exact.shape
    np.testing.assert_array_equal(found.sign, np.vectorize(lambda v: (v > 0) - (v < 0), otypes=[float])(exact))
    expected = np.vectorize(log_of, otypes=[float])(exact)
    np.testing.assert_array_equal(np.isinf(found.log), np.isinf(expected))
    some, eps = np.isfinite(expected), float(jnp.finfo(found.log.dtype).eps)
    error = np.abs(np.asarray(found.log, float)[some] - expected[some])
    assert (error <= eps * (2 * np.abs(expected[some]) + 4 * depth)).all(), error.max()


# One of each operation that the rules have, for one of the two normalisations each: every program is compiled.
CASES = {
    "mlp with biases": False,
    "flatten head": False,
    "max pooling, overlapping": False,
    "residual, projection": True,
    "learned scale": True,
}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name, normalize", CASES.items(), ids=CASES.keys())
def test_it_is_the_logarithm_of_the_gram_matrix_of_paths(name, normalize):
    network = REGISTRY[name]
    f, params, x = architectures.case(network, n=3)
    oracle = Enumeration(network, params, x)
    found = npk.log_path_kernel(f)(params, np.asarray(x, float), normalize=normalize)
    # Sums over paths that cancel are rounded by their summands.
    assert_logarithm_of(found, gram_of(oracle, oracle, normalize=normalize), depth=1000)


def dense(p, x):
    for w in p[:-1]:
        x = jax.nn.relu(x @ w)
    return x @ p[-1]


def fractions(array):
    return np.vectorize(Fraction, otypes=[object])(np.asarray(array, float))


def dense_kernel(x, gates, normalize):
    """Σ ⊙ Λ in fractions, under gates of each layer."""
    shares = [Fraction(1, a.shape[1]) if normalize else 1 for a in (x, *gates)]
    factors = [fractions(a) @ fractions(a).T * share for a, share in zip((x, *gates), shares, strict=True)]
    return functools.reduce(np.multiply, factors)


def deep(depth, width, n):
    """Weights for which half of the gates are open, and inputs of small whole numbers."""
    weights = [np.float32(RANDOM.normal(size=(width, width)) * 1.3 / width**0.5) for _ in range(depth)]
    return [*weights, np.ones((width, 1), np.float32)], np.float32(RANDOM.integers(-3, 4, (n, width)))


@pytest.mark.standard_dtypes
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ["pre-norm", "two blocks of RMS norm, rotary positions and SwiGLU"])
def test_transformers(name):
    """Centring subtracts, patterns mix positions; some numbers of H are below zero."""
    case = ZOO[name].drawn()
    with jax.numpy_rank_promotion("allow"):
        found = npk.log_path_kernel(case.f)(case.params, case.x)
    h = case.paths().gram()
    np.testing.assert_allclose(found.sign * np.exp(found.log), h, rtol=0, atol=1e-12 * np.abs(h).max())


def test_ninety_layers_of_hard_gates_in_single_precision():
    p, x = deep(depth=90, width=16, n=4)
    x = x * np.float32([[1e-12], [1e-12], [1e-12], [0]])
    gates = npk.gates(dense)(p, x)
    exact = dense_kernel(x, gates, True)
    assert 0 < abs(exact[:3, :3]).max() < 1e-45  # below every number of float32
    assert_logarithm_of(npk.log_path_kernel(dense)(p, x, gates1=gates), exact, 90)


def test_counts_of_more_than_any_dtype_holds_an_integer_of():
    """25 layers of 128 open gates: 128^25 paths an input."""
    p = [np.ones((1, 128), np.float32), *[np.full((128, 128), 1 / 128, np.float32)] * 24, np.ones((128, 1), np.float32)]
    x = np.array([[1.0], [3.0]], np.float32)
    found = jax.jit(lambda p, x: npk.log_path_kernel(dense)(p, x, normalize=False))(p, x)
    assert_logarithm_of(found, np.array([[1, 3], [3, 9]], object) * 128**25, 25)


def test_soft_gates_and_inputs_of_any_size():
    """Products of 10^±30 with one another, in one sample as well; each is a sum of which single summands survive."""
    p, _ = deep(depth=3, width=4, n=3)
    sizes = np.float32(10.0) ** np.float32([[30, -30, 0, -20], [-30, -30, -35, 30], [0, 30, -37, -38]])
    x, gates = sizes * np.float32([1, -1, 2, 3]), (sizes[:, ::-1], sizes, sizes[::-1])
    found = npk.log_path_kernel(dense)(p, x, gates1=gates)
    assert_logarithm_of(found, dense_kernel(x, gates, True), 4)
    one_sided = npk.log_path_kernel(dense)(p, x, x[:2], gates1=gates, gates2=tuple(g[:2] for g in gates))
    np.testing.assert_allclose(one_sided.log, found.log[:, :2], rtol=1e-6)


def test_positions_of_one_sample_may_lie_far_apart():
    """The larger position is shut by the last gate: what is left is what the smaller one held all the time."""

    def f(p, x):  # [N, positions, channels]
        for w in p[:-1]:
            x = jax.nn.relu(x @ w)
        return x.mean(1) @ p[-1]

    p, _ = deep(depth=5, width=2, n=1)
    x = np.float32([[[1, 2], [3, -1]], [[2, 0], [1, 1]]])
    gates = [np.float32(RANDOM.integers(1, 4, (2, 2, 2))) * np.float32([[[1e30], [1e-30]]]) for _ in range(5)]
    gates[-1][0, 0] = 0

    k = np.einsum("npc,mqc->nmpq", fractions(x), fractions(x)) / 2
    for g in map(fractions, gates):
        k = k * np.einsum("npc,mqc->nmpq", g, g) / 2
    exact = k.sum((2, 3)) / 4
    assert exact[0, 0] < Fraction(1, 10**250)
    assert_logarithm_of(npk.log_path_kernel(f)(p, x, gates1=tuple(gates)), exact, 5)


def test_a_batch_of_many_blocks_is_one_of_few(monkeypatch):
    p, x = deep(depth=5, width=5, n=7)
    whole = npk.log_path_kernel(dense)(p, x)
    monkeypatch.setattr("npk.path_kernels.kernel._CPU_BLOCK", 9)
    for other in (None, x):
        blocks = npk.log_path_kernel(architectures.afresh(dense))(p, x, other)
        np.testing.assert_array_equal(blocks.sign, whole.sign)
        np.testing.assert_allclose(blocks.log, whole.log, rtol=1e-6)


@pytest.mark.standard_dtypes
def test_what_path_kernel_refuses_is_refused():
    p, x = deep(depth=2, width=3, n=2)
    with pytest.raises(ValueError, match="floating dtype"):
        npk.log_path_kernel(dense)(p, x.astype(int))
    with pytest.raises(npk.UnsupportedOperation, match="weight twice"):
        npk.log_path_kernel(lambda w, x: jax.nn.relu(x @ w) @ w)(np.eye(3, dtype=np.float32), x)
    with pytest.raises(ValueError, match="gates.* must be finite"):
        npk.log_path_kernel(dense)(p, x, gates1=(np.full((2, 3), np.nan, np.float32),) * 2)


def test_factors_that_leave_the_range_between_two_layers_are_an_error():
    f = lambda p, x: (jnp.maximum(x @ p["w"] * 1e25, 0) * 1e25) @ p["v"]  # noqa: E731
    p, x = {"w": jnp.ones((2, 3)), "v": jnp.ones((3, 1))}, jnp.ones((2, 2))
    with pytest.raises(ValueError, match="between two weight layers"):
        npk.log_path_kernel(f)(p, x)
