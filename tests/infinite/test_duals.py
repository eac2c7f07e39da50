"""Closed forms of an activation's expectations against integrals over the plane."""

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from tolerances import assert_close

from npk.infinite import duals


@pytest.mark.parametrize("part", ["value", "slope", "gate"])
def test_gelu(part, x64):
    left, right, correlation = np.array([0.3, 1.0, 2.5]), np.array([2.0, 1.0, 0.7]), np.array([-0.6, 0.99, 0.5])
    covariance = correlation * np.sqrt(left * right)
    nodes, weights = scipy.special.roots_hermitenorm(60)
    u = np.sqrt(left)[:, None, None] * nodes[:, None]
    across = np.sqrt(right * (1 - correlation**2))[:, None, None] * nodes
    v = (covariance / left)[:, None, None] * u + across
    below, density = scipy.stats.norm.cdf, scipy.stats.norm.pdf
    function = {"value": lambda q: q * below(q), "slope": lambda q: below(q) + q * density(q), "gate": below}[part]
    expected = np.einsum("pij,i,j->p", function(u) * function(v), weights, weights) / (2 * np.pi)
    joint = duals.Joint(*map(jnp.asarray, (covariance, left, right)))
    assert_close(getattr(duals.gelu(), part)(joint), expected)
