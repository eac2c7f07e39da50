"""Deep gated networks of transformers: scales, patterns and products too come of the feature network."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles.transformers import ZOO

import npk

pytestmark = [pytest.mark.standard_dtypes, pytest.mark.usefixtures("x64", "as_users_write")]


@pytest.fixture
def as_users_write():
    with jax.numpy_rank_promotion("allow"):
        yield


NAMES = ("pre-norm", "post-norm", "padding", "group norm", "highway", "SwiGLU, one matrix")
every_model = pytest.mark.parametrize("name", NAMES)


@functools.cache
def known(name):
    """A case, a feature network for it, the parameters of both, and the feature network's gates by the oracle."""
    case = ZOO[name].drawn()
    feature = dataclasses.replace(case, params=ZOO[name].drawn(1).params)
    gates = [gate for _, gate in feature.value().book.gates]
    return case, {"feature": feature.params, "value": case.params}, gates


def close(ours, theirs):
    theirs = np.asarray(theirs)
    np.testing.assert_allclose(np.asarray(ours), theirs, rtol=0, atol=1e-11 * max(np.abs(theirs).max(), 1e-3))


@every_model
def test_values_of_one_network_under_all_gates_of_another(name):
    case, both, gates = known(name)
    f = npk.DGN(case.f)
    expected = case.value(given=gates).numbers()
    close(f(both, case.x), expected)
    close(jax.jit(f)(both, case.x), expected)
    close(jax.vmap(f, (None, 0))(both, case.x[:, None])[:, 0], expected)
    close(npk.gated(case.f)(both["value"], case.x, npk.gates(case.f)(both["feature"], case.x)), expected)
    for ours, theirs in zip(npk.gates(f)(both, case.x), npk.gates(case.f)(both["feature"], case.x), strict=True):
        close(ours, theirs)


@every_model
def test_its_path_kernel_is_of_the_values_under_those_gates(name):
    """γ and β of a norm whose 1/σ is given are fixed numbers, as they are in f."""
    case, both, gates = known(name)
    expected = case.paths(given=gates)
    kernel = npk.path_kernel(npk.DGN(case.f))
    close(kernel(both, case.x), expected.gram())
    close(jax.jit(functools.partial(kernel, normalize=False))(both, case.x), expected.gram(normalize=False))
    own = npk.gates(case.f)(both["feature"], case.x)
    close(npk.path_kernel(case.f)(both["value"], case.x, gates1=own), expected.gram())


@pytest.mark.parametrize("name", ["padding", "highway"])
def test_its_split_has_no_cross_term(name):
    case, both, _ = known(name)
    f = npk.DGN(case.f)
    split = npk.split_ntk_diagonal(f)(both, case.x)
    np.testing.assert_array_equal(split.cross, 0)
    for leaf, block in split.blocks.items():
        np.testing.assert_array_equal(block.feature if leaf.startswith("value/") else block.value, 0)
        only_gates = leaf.startswith("value/") and leaf.rsplit("/")[-1] in ("query", "key", "gate")
        assert bool((block.total == 0).all()) == (only_gates or unread(name, leaf)), leaf
    close(split.total, npk.ntk_diagonal(f)(both, case.x))


BEHIND = {
    "padding": ("feature/1/1/value", "feature/1/1/out", "feature/3/"),
    "highway": ("feature/1/w", "feature/3/"),
}


def unread(name, leaf):
    """What comes after the last gate that moves, of a feature network; behind it a choice is piecewise constant."""
    return leaf.startswith(BEHIND[name])


def test_soft_gates_are_those_of_activations_alone():
    case, both, _ = known("pre-norm")
    hard, soft = (npk.gates(npk.DGN(case.f, beta=beta))(both, case.x) for beta in (None, 4.0))
    q = npk.preactivations(case.f)(both["feature"], case.x)
    of_relu = [set(np.unique(gate)) <= {0, 1} for gate in hard]
    assert sum(of_relu) == 1 and len(hard) == 5
    for one, other, before, soft_one in zip(hard, soft, q, of_relu, strict=True):
        close(other, npk.soft_gate(before, 4.0) if soft_one else one)


REFUSED = {
    "linear": lambda f, p, x, **kinds: npk.linear(f, **kinds)(p["value"], x),
    "DLGN": lambda f, p, x, **kinds: npk.DLGN(f, **kinds)(p, x),
    "shallow features": lambda f, p, x, **kinds: npk.shallow_features(f, **kinds)(jax.random.key(0), p["value"], x),
    "DLGN-SF": lambda f, p, x, **kinds: npk.DLGN_SF(f, **kinds)({**p, "feature": shallow(f, p, x)}, x),
}


def shallow(f, p, x):
    return npk.shallow_features(f, kinds=("activation",))(jax.random.key(0), p["value"], x)


@pytest.mark.parametrize("transform", REFUSED.values(), ids=REFUSED.keys())
def test_linear_features_make_no_scales_patterns_and_products(transform):
    case, both, _ = known("pre-norm")
    with pytest.raises(
        (npk.UnsupportedOperation, ValueError), match=r"(?s)scale.*pieces\.py|pieces\.py.*scale"
    ) as told:
        transform(case.f, both, case.x)
    assert "kinds=('activation',)" in str(told.value)
    found = transform(case.f, both, case.x, kinds=("activation",))
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(found))


def test_half_precision():
    case, both, gates = known("pre-norm")
    half = jax.tree.map(lambda a: a.astype(jnp.bfloat16), (both, case.x))
    f = npk.DGN(case.f)
    out = f(*half)
    assert out.dtype == jnp.bfloat16
    expected = case.value(given=gates).numbers()
    assert np.abs(np.asarray(out, float) - expected).max() < 0.1 * np.abs(expected).max()
