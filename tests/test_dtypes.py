"""Dtypes of what comes in: NumPy's float64 where JAX has none, and half precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import npk
from npk import infinite, plots, solving, tiles, training

KEY = jax.random.key(0)
RANDOM = np.random.default_rng(0)
PARAMS = {"a": RANDOM.normal(size=(3, 4)), "c": RANDOM.normal(size=(4, 2))}
X, OTHER = RANDOM.normal(size=(6, 3)), RANDOM.normal(size=(5, 3))
GATES = ((RANDOM.normal(size=(6, 4)) > 0).astype(float),)
PAIR = {"feature": PARAMS, "value": PARAMS}
KERNEL, LABELS = X @ X.T + np.eye(6), np.arange(6) % 2


def f(p, x):
    return jax.nn.relu(x @ p["a"]) @ p["c"]


def soft(p, x):
    return npk.soft_relu(x @ p["a"]) @ p["c"]


def estimated(transform, **options):
    z = transform(PARAMS, X, features=18, key=KEY, **options)
    return z.gram(), z.standard_error(), z.features_for(0.5), z.product(np.ones((6, 1))), z.diagonal()


def recomputed(transform):
    return solving.kernel_operator(lambda a, b: transform(f)(PARAMS, a, b), X, tile=4)


WIDE = {
    "gates": lambda: npk.gates(f)(PARAMS, X),
    "gated": lambda: npk.gated(f)(PARAMS, X, GATES),
    "linear": lambda: npk.preactivations(npk.linear(f))(PARAMS, X),
    "DGN": lambda: npk.DGN(f, beta=4.0, constant_input=True)(PAIR, X),
    "DLGN": lambda: npk.DLGN(f)(PAIR, X),
    "DLGN_SF": lambda: npk.DLGN_SF(f)({**PAIR, "feature": npk.shallow_features(f)(KEY, PARAMS, X)}, X),
    "overlaps": lambda: (npk.overlap(GATES), npk.layer_overlaps(GATES), npk.gram(X, OTHER)),
    "path_kernel": lambda: npk.path_kernel(f)(PARAMS, X, OTHER),
    "path_kernel, given gates": lambda: npk.path_kernel(f)(PARAMS, X, gates1=GATES),
    "path_kernel, counts": lambda: npk.path_kernel(soft)(PARAMS, X, normalize=False),
    "path_kernel, DGN": lambda: npk.path_kernel(npk.DGN(f))(PAIR, X),
    "npf": lambda: npk.npf(f)(PARAMS, X),
    "npv": lambda: (npk.npv(f)(PARAMS), npk.npv(f)(PARAMS, X)),
    "path_names": lambda: (npk.path_names(f)(PARAMS, X), npk.count_paths(f)(PARAMS)),
    "ntk": lambda: npk.ntk(f)(PARAMS, X, OTHER, outputs="full"),
    "ntk_trace": lambda: npk.ntk_trace(f)(PARAMS, X),
    "split_ntk": lambda: npk.split_ntk(soft)(PARAMS, X, OTHER),
    "split_ntk_diagonal": lambda: npk.split_ntk_diagonal(soft)(PARAMS, X),
    "sketch": lambda: estimated(npk.sketch(f), gates=GATES),
    "sketch_ntk": lambda: estimated(npk.sketch_ntk(soft, part="feature")),
    "sketch, features": lambda: npk.KernelSketch(RANDOM.normal(size=(6, 9, 2)), np.ones((9, 2), np.uint32)).gram(),
    "infinite.nngp": lambda: infinite.nngp(soft)(PARAMS, X, OTHER),
    "infinite.ntk": lambda: infinite.ntk(f)(PARAMS, X),
    "infinite.path_kernel": lambda: infinite.path_kernel(f, regime="DLGN")(PARAMS, X),
    "infinite.ntk_parameterised": lambda: infinite.ntk_parameterised(npk.split_ntk(f)(PARAMS, X), PARAMS),
    "gradient_flow": lambda: npk.gradient_flow(KERNEL, X).train([0.0, 1.0]),
    "kernel_ridge": lambda: solving.kernel_ridge(KERNEL, X).predict(KERNEL),
    "kernel_ridge, operator": lambda: solving.kernel_ridge(recomputed(npk.path_kernel), X, method="cg"),
    "spectrum": lambda: (solving.spectrum(KERNEL), solving.moments(recomputed(npk.ntk))),
    "low rank": lambda: (solving.nystrom(KERNEL, 3), solving.pivoted_cholesky(recomputed(npk.ntk), 3)),
    "measures": lambda: (
        solving.alignment(KERNEL, LABELS),
        solving.cka(KERNEL, KERNEL),
        solving.gate_flips(GATES, GATES),
    ),
    "tiled": lambda: tiles.tiled(lambda a, b: npk.path_kernel(f)(PARAMS, a, b))(X),
    "plots": lambda: (plots.kernel(KERNEL, LABELS), plots.spectra({"K": X[0] ** 2})),
    "train": lambda: training.train(f, PARAMS, X, LABELS, key=KEY, epochs=1, batch_size=2, stages=2),
    "redraw": lambda: [training.redraw(PARAMS, KEY, kind) for kind in ("he", "bernoulli", "uniform")],
}


@pytest.mark.standard_dtypes
@pytest.mark.parametrize("call", WIDE.values(), ids=WIDE.keys())
def test_float64_of_numpy_is_taken_without_a_warning(call):
    """Warnings are errors here."""
    assert not jax.config.jax_enable_x64
    jax.block_until_ready(call())


HALVES = {
    dtype: jax.tree_util.tree_map(lambda a, t=dtype: jnp.asarray(a, t), PARAMS) for dtype in ("bfloat16", "float16")
}
half_precision = pytest.mark.parametrize("dtype", HALVES)


def single(tree):
    return jax.tree_util.tree_map(lambda a: a.astype(jnp.float32), tree)


def assert_single_and_close(found, expected, rounding=1e-6):
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, expected, rtol=0, atol=rounding * abs(np.asarray(expected)).max())


@half_precision
def test_kernels_of_gates_in_half_precision_are_those_of_the_same_numbers_in_single(dtype):
    p, x = HALVES[dtype], jnp.asarray(X, dtype)
    gates = npk.gates(soft)(p, x)
    assert gates[0].dtype == dtype
    assert_single_and_close(npk.gram(x), npk.gram(single(x)))
    assert_single_and_close(npk.overlap(gates), npk.overlap(single(gates)))
    assert_single_and_close(npk.layer_overlaps(gates)[0], npk.layer_overlaps(single(gates))[0])
    expected = npk.path_kernel(soft)(single(p), single(x), gates1=single(gates))
    assert_single_and_close(npk.path_kernel(soft)(p, x), expected)
    for limit in (infinite.nngp, infinite.ntk, infinite.path_kernel):
        assert_single_and_close(limit(f)(p, x), limit(f)(single(p), single(x)))


@half_precision
def test_tangent_kernels_are_sums_in_single_precision_of_derivatives_in_half(dtype):
    p, x = HALVES[dtype], jnp.asarray(X, dtype)
    jacobian = [a.reshape(6, 2, -1).astype(jnp.float32) for a in jax.tree_util.tree_leaves(jax.jacrev(soft)(p, x))]
    full = sum(jnp.einsum("nkp,mlp->nmkl", a, a) for a in jacobian)
    expected, rounding = jnp.einsum("nmkk->nm", full), 4 * float(jnp.finfo(dtype).eps)
    assert_single_and_close(npk.ntk(soft)(p, x, outputs="full"), full, rounding)
    assert_single_and_close(npk.ntk(soft)(p, x), expected, rounding)
    assert_single_and_close(npk.ntk_diagonal(soft)(p, x), jnp.diagonal(expected), rounding)
    assert_single_and_close(npk.ntk_trace(soft)(p, x), jnp.trace(expected), rounding)
    split, diagonal = npk.split_ntk(soft)(p, x), npk.split_ntk_diagonal(soft)(p, x)
    assert_single_and_close(split.total, expected, rounding)
    assert_single_and_close(diagonal.total, jnp.diagonal(expected), rounding)
    assert {a.dtype for a in jax.tree_util.tree_leaves((split, diagonal))} == {np.dtype(np.float32)}


@half_precision
def test_models_that_return_half_precision_have_kernels_in_single(dtype):
    """Their logits are rounded; paths, gates and derivatives are not."""
    rounded = lambda p, x: soft(p, x).astype(dtype)  # noqa: E731
    single_draws = {"features": 40, "key": KEY}
    for transform in (npk.path_kernel, npk.npf, npk.npv, npk.ntk, npk.ntk_diagonal):
        args = (single(PARAMS),) if transform is npk.npv else (single(PARAMS), single(X))
        assert_single_and_close(transform(rounded)(*args), transform(soft)(*args))
    args = single(PARAMS), single(X)
    assert_single_and_close(npk.log_path_kernel(rounded)(*args).log, npk.log_path_kernel(soft)(*args).log)
    assert_single_and_close(npk.split_ntk(rounded)(*args).total, npk.ntk(soft)(*args))
    features = npk.sketch(soft)(*args, **single_draws).features
    assert_single_and_close(npk.sketch(rounded)(*args, **single_draws).features, features)


@half_precision
def test_a_sketch_of_a_model_of_half_precision_is_of_its_own_gates_and_numbers(dtype):
    p, x = HALVES[dtype], jnp.asarray(X, dtype)
    inside = lambda p, x: soft(jax.tree.map(lambda a: a.astype(dtype), p), x.astype(dtype))  # noqa: E731
    gates = single(npk.gates(soft)(p, x))
    expected = npk.sketch(soft)(single(p), single(x), gates, features=40, key=KEY).features
    assert_single_and_close(npk.sketch(soft)(p, x, features=40, key=KEY).features, expected)
    assert_single_and_close(npk.sketch(inside)(single(p), single(x), features=40, key=KEY).features, expected)


@half_precision
def test_sketches_are_means_in_single_precision_of_features_in_half(dtype):
    p, x = HALVES[dtype], jnp.asarray(X, dtype)
    z = npk.sketch_ntk(f)(p, x, features=40, key=KEY)
    again = npk.sketch_ntk(f)(single(p), single(x), features=40, key=KEY)
    assert_single_and_close(z.features, again.features, 8 * float(jnp.finfo(dtype).eps))
    held = npk.KernelSketch(jnp.asarray(again.features, dtype), again.draws)
    wide = npk.KernelSketch(single(held.features), again.draws)
    assert_single_and_close(held.gram(), wide.gram())
    assert_single_and_close(held.standard_error(), wide.standard_error())
