"""Dtypes of what comes in: NumPy's float64 where JAX has none, and half precision."""

import jax
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
