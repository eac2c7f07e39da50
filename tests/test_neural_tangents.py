"""neural-tangents on current JAX, with `jax` left as it is and no TensorFlow."""

import importlib.util
import sys

import jax
import jax.core
import jax.numpy as jnp
import pytest
from tolerances import assert_close

import npk
from npk import _neural_tangents, networks

installed = importlib.util.find_spec("neural_tangents") is not None
needs_it = pytest.mark.skipif(not installed, reason="neural-tangents is not installed (pip install --no-deps)")


@needs_it
@pytest.mark.standard_dtypes
@pytest.mark.filterwarnings("ignore")
def test_it_loads_beside_an_unchanged_jax_and_agrees_with_ours():
    before = set(dir(jax.core)), hasattr(jax, "util")
    nt = _neural_tangents.load()
    assert (set(dir(jax.core)), hasattr(jax, "util")) == before
    assert "tensorflow" not in sys.modules
    model = networks.MLP(width=16, depth=3, outputs=2)
    x = jax.random.normal(jax.random.key(0), (4, 5))
    params = model.init(jax.random.key(1), x)
    for implementation in (1, 2):
        with jax.numpy_rank_promotion("allow"):
            kernel = nt.empirical_ntk_fn(
                lambda p, t: model.apply(p, t), trace_axes=(-1,), vmap_axes=0, implementation=implementation
            )(x, None, params)
        assert_close(2 * kernel, npk.ntk(model.apply)(params, x))


@pytest.mark.skipif(installed, reason="neural-tangents is installed")
def test_its_absence_is_explained():
    with pytest.raises(ImportError, match="pip install --no-deps neural-tangents"):
        _neural_tangents.load()


def test_stand_ins_pass_other_names_through():
    stand_ins = _neural_tangents._stand_ins()
    assert stand_ins["jax"].numpy is jnp
    assert stand_ins["jax.core"].Tracer is jax.core.Tracer
    assert stand_ins["jax.core"].Jaxpr is jax.extend.core.Jaxpr
