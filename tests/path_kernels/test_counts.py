"""Counts of paths are exact integers, or refused; where nothing can be raised they are NaN."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import npk

P = {"u": np.ones((1, 2), np.float32), "v": np.ones((2, 1), np.float32)}
GATES = (np.ones((1, 2), np.float32),)
LAST, ROUNDED = np.float32([[2895.0]]), np.float32([[2897.0]])  # 2 x² on both sides of 2^24


def f(p, x):
    return jax.nn.relu(x @ p["u"]) @ p["v"]


def counts(x, gates=None):
    return npk.path_kernel(f)(P, x, gates1=gates, normalize=False)


def test_counts_under_jit_are_exact_or_nan():
    traced = jax.jit(counts)
    assert traced(LAST) == counts(LAST) == 2 * 2895**2
    assert traced(LAST, GATES) == 2 * 2895**2
    assert np.isnan(traced(ROUNDED)) and np.isnan(traced(ROUNDED, GATES))
    assert np.isnan(jax.vmap(counts)(np.stack([LAST, ROUNDED]))).tolist() == [[[False]], [[True]]]
    with pytest.raises(ValueError, match="holds every integer below 16777216 alone.*log_path_kernel"):
        counts(ROUNDED)


def test_what_is_no_count_is_a_number_under_jit_too():
    soft = (np.full((1, 2), 0.75, np.float32),)
    np.testing.assert_allclose(jax.jit(counts)(ROUNDED + 0.5), 2 * 2897.5**2, rtol=1e-6)
    np.testing.assert_allclose(jax.jit(counts)(ROUNDED, soft), 1.125 * 2897.0**2, rtol=1e-6)
    slope = jax.grad(lambda g: counts(ROUNDED, g).sum())(soft)
    np.testing.assert_allclose(slope[0], np.full((1, 2), 1.5 * 2897.0**2), rtol=1e-6)


def test_an_overlap_that_counts_more_paths_than_its_dtype_holds_is_refused():
    """25 layers of 128 open gates: 2^175 paths, no number of float32."""
    gates = (np.ones((1, 128), np.float32),) * 25
    with pytest.raises(ValueError, match="path counts reach inf.*use normalize=True; npk.log_path_kernel"):
        npk.overlap(gates, normalize=False)
    assert np.isnan(jax.jit(lambda g: npk.overlap(g, normalize=False))(gates))
    assert npk.overlap(gates) == 1 and npk.overlap(gates[:3], normalize=False) == 128**3
    with pytest.raises(ValueError, match="leaves the range of float32.*log_path_kernel"):
        npk.overlap(tuple(0.75 * g for g in gates), normalize=False)
    with pytest.raises(ValueError, match="overlap of layer 1 leaves the range"):
        npk.layer_overlaps((gates[0], 1e30 * gates[0]), normalize=False)
    assert jnp.isinf(jax.jit(lambda g: npk.overlap(g, normalize=False))(tuple(0.75 * g for g in gates)))
