"""The tolerances of every test, by dtype: one place, as tight as the arithmetic allows."""

import numpy as np

# Relative to the largest entry of what is expected: sums of a few thousand rounded products.
RELATIVE = {np.dtype("float32"): 1e-5, np.dtype("float64"): 1e-12}


def assert_close(actual, expected, factor=1.0):
    """Equal within the tolerance of the coarser dtype, `factor` times as wide."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape, f"shape {actual.shape}, expected {expected.shape}"
    kinds = [a.dtype if a.dtype in RELATIVE else np.dtype("float64") for a in (actual, expected)]
    tolerance = factor * max(RELATIVE[kind] for kind in kinds)
    scale = max(float(np.abs(expected).max(initial=0.0)), np.finfo(np.float32).tiny)
    error = float(np.abs(actual.astype(np.float64) - expected.astype(np.float64)).max(initial=0.0))
    assert error <= tolerance * scale, f"largest error {error:g} is {error / scale:g} of the largest entry"
