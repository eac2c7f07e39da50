"""Kernels at infinite width: against neural-tangents, and against a place-by-place oracle."""

import importlib.util

import architectures
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from architectures import REGISTRY
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import wide
from oracles.language import FLATTEN, AvgPool, Conv, Dense, GlobalAvgPool, Network, Relu, Residual
from tolerances import assert_close
from wide_problems import (
    KERNELS,
    NETWORKS,
    STD,
    conv,
    deep,
    function,
    gelu,
    normal,
    parameters,
)

import npk
import npk.infinite
from npk.infinite import moments
from npk.infinite.loader.loading import load
from npk.programs import x64 as in_double

PATHS = [(regime, constant) for regime in wide.REGIMES for constant in (False, True)]


# ------------------------------------------------------------------------------- neural-tangents


def in_stax(layers, stax, activation):
    """The description as layers of neural-tangents."""
    made = []
    for layer in layers:
        bias = STD["bias_std"] if getattr(layer, "bias", False) else None
        if isinstance(layer, Dense):
            made.append(stax.Dense(1, STD["weight_std"], bias))
        elif isinstance(layer, Conv):
            strides = (layer.stride,) * 2
            made.append(stax.Conv(1, layer.kernel, strides, layer.padding, W_std=STD["weight_std"], b_std=bias))
        elif isinstance(layer, Relu):
            made.append(stax.LeakyRelu(layer.slope) if layer.slope else activation())
        elif isinstance(layer, AvgPool):
            made.append(stax.AvgPool(layer.window, (layer.stride,) * 2))
        elif isinstance(layer, GlobalAvgPool):
            made.append(stax.GlobalAvgPool())
        elif isinstance(layer, Residual):
            branch = in_stax(layer.branch, stax, activation)
            made.append(stax.serial(stax.FanOut(2), stax.parallel(stax.Identity(), branch), stax.FanInSum()))
        else:
            made.append(stax.Flatten())
    return stax.serial(*made)


def check_against_neural_tangents(name):
    """Each kernel of one batch and of two, and in each precision; no three of these are special together."""
    network, f = NETWORKS[name], function(name)
    stax = load().stax
    peer = in_stax(network.layers, stax, stax.Gelu if name == "gelu" else stax.Relu)[2]
    with in_double(True):
        both = normal(10, *network.input)
        x1, x2 = both[:5], both[5:]  # of one size, which of all programs asks for the fewest
        with jax.numpy_rank_promotion("allow"):
            pairs = jax.jit(lambda a: peer(a, None, ("nngp", "ntk")))(both)
        every = {kind: np.array(getattr(pairs, kind)) for kind in KERNELS}
        p = parameters(network)
        found = [
            ("nngp", "within", "float64", npk.infinite.nngp(f, **STD)(p, x1)),
            ("ntk", "across", "float64", npk.infinite.ntk(f, **STD)(p, x1, x2)),
        ]
    p, *single = (jax.tree.map(lambda a: np.asarray(a, np.float32), tree) for tree in (p, x1, x2))
    found += [
        ("nngp", "across", "float32", npk.infinite.nngp(f, **STD)(p, *single)),
        ("ntk", "within", "float32", npk.infinite.ntk(f, **STD)(p, single[0])),
    ]
    if name != "gelu":
        # neural-tangents takes the angle of an input with itself from a rounded cosine: off by up to 1e-9. Our diagonal
        # is compared with the oracle's, where that angle is zero.
        oracle = wide.Wide(network, np.asarray(x1), **STD)
        for kind, theirs in every.items():
            theirs[range(5), range(5)] = np.diag(oracle[kind])
    for kind, batches, dtype, ours in found:
        theirs = every[kind][:5, :5] if batches == "within" else every[kind][:5, 5:]
        assert ours.dtype == dtype
        tolerance = {"float64": 1e-10, "float32": 1e-5}[dtype]
        assert np.abs(np.asarray(ours) - theirs).max() <= tolerance * np.abs(theirs).max()


needs_neural_tangents = [
    pytest.mark.skipif(
        importlib.util.find_spec("neural_tangents") is None,
        reason="neural-tangents is not installed (pip install --no-deps neural-tangents frozendict)",
    ),
    pytest.mark.standard_dtypes,
    pytest.mark.filterwarnings("ignore"),
]
QUICK = ("dense with biases", "strides, valid", "nngp", "ntk", ("FR-II", False), ("DLGN", True), ("DLGN-SF", False))


def quick_or_slow(name):
    return pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow, id=str(name))


class TestNeuralTangents:
    pytestmark = needs_neural_tangents

    @pytest.mark.parametrize("name", [quick_or_slow(n) for n in NETWORKS])
    def test_our_kernels_are_its(self, name):
        check_against_neural_tangents(name)


def test_the_diagonal_of_flatten_is_exact(x64):
    """There neural-tangents' NTK is off by 6e-10; ours by nothing, as a sum over taps shows."""
    network = NETWORKS["flatten"]
    x = normal(5, *network.input)
    ours = np.diag(npk.infinite.ntk(function("flatten"), **STD)(parameters(network), x))
    # Every angle is zero, so each ReLU halves the kernels.

    def over_taps(image):
        padded = np.pad(image, 1)
        return 2 / 9 * sum(padded[i : i + 6, j : j + 6] for i, j in np.ndindex(3, 3))

    for s in range(5):
        first = over_taps(np.mean(np.square(np.asarray(x[s])), -1))
        second = over_taps(first / 2)
        tangent = second + over_taps(first / 2)
        expected = 2 * np.mean(second / 2) + 2 * np.mean(tangent / 2)
        assert abs(ours[s] - expected) <= 1e-14 * expected


# ------------------------------------------------------------------------------- place by place


def check_against_oracle(network, name, x, oracle=None, f=None, factor=1.0):
    """One kernel of one network: x as one batch, and against itself backwards, a batch of the same size."""
    f, p = f or architectures.function(network), parameters(network)
    if isinstance(name, tuple):
        kernel = npk.infinite.path_kernel(f, regime=name[0], constant_input=name[1], **STD)
    elif name == "value":
        kernel = npk.infinite.path_kernel(f, regime="FR-DI", **STD)
    else:
        kernel = KERNELS[name](f, **STD)
    expected = (oracle or wide.Wide(network, x, **STD))[name]
    assert_close(kernel(p, x), expected, factor)
    apart = 1 - np.eye(len(x))[:, ::-1]  # where a sample meets itself, two batches round its angle
    assert_close(kernel(p, x, x[::-1]) * apart, expected[:, ::-1] * apart, factor)


EVERY = ["nngp", "ntk", "value", *PATHS]
MIXED = Network(
    (4, 4, 2),
    (
        *(Conv(3), Residual((Relu(), Conv(3))), Relu(0.2), AvgPool((2, 2), 2)),
        *(Conv(3, (2, 2), padding="CIRCULAR", bias=False), Relu(), FLATTEN, Dense(2)),
    ),
)


@pytest.mark.parametrize("name", [quick_or_slow(n) for n in EVERY])
def test_every_kernel_of_a_dense_network(name, x64):
    network = Network((3,), (Dense(4), Relu(), Dense(3, False), Relu(0.2), Dense(2)))
    check_against_oracle(network, name, normal(5, 3))


# The others differ from these in where paths start, whatever the layers; the NTK holds the NNGP.
@pytest.mark.slow
@pytest.mark.parametrize("name", ["ntk", "value", ("FR-II", False), ("DLGN", True), ("DLGN-SF", False)], ids=str)
def test_every_kernel_of_a_mixed_network(name, x64):
    check_against_oracle(MIXED, name, normal(5, 4, 4, 2))


@st.composite
def networks(draw):
    """Dense and convolution layers, pooling, skip connections, either head, in any order that has a limit."""
    image = draw(st.booleans())
    bias, slope = st.booleans(), st.sampled_from([0.0, 0.2])

    def weigh():
        if not image:
            return Dense(3, draw(bias))
        kernel = draw(st.sampled_from([(1, 1), (2, 2), (3, 3), (1, 3)]))
        padding = draw(st.sampled_from(["SAME", "CIRCULAR"]))
        return Conv(3, kernel, draw(st.integers(1, 2)), padding, draw(st.integers(1, 2)), 1, draw(bias))

    def same():
        return Conv(3, (3, 3), bias=draw(bias)) if image else Dense(3, draw(bias))

    layers = [weigh()]
    for _ in range(draw(st.integers(1, 2))):
        what = draw(st.sampled_from(["plain", "residual", "pool"]))
        if what == "residual":
            layers += [Residual((Relu(draw(slope)), same())), Relu(draw(slope)), weigh()]
        elif what == "pool" and image:
            layers += [Relu(draw(slope)), AvgPool((2, 2), draw(st.integers(1, 2)), "SAME"), weigh()]
        else:
            layers += [Relu(draw(slope)), weigh()]
    head = [draw(st.sampled_from([FLATTEN, GlobalAvgPool()]))] if image else []
    return Network((3, 3, 2) if image else (3,), (*layers, Relu(), *head, Dense(1, draw(bias))))


def _random(network, name, seed):
    check_against_oracle(network, name, normal(3, *network.input, seed=seed))


@pytest.mark.usefixtures("x64")
@settings(max_examples=2)
@given(networks(), st.sampled_from(EVERY), st.integers(0, 99))
def test_random_networks(network, name, seed):
    _random(network, name, seed)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@settings(max_examples=12)
@given(networks(), st.sampled_from(EVERY), st.integers(0, 99))
def test_more_random_networks(network, name, seed):
    _random(network, name, seed)


# Each of the kinds of kernels; what is alike in their layers does not depend on the kind.
OF_THE_REGISTRY = {
    "one dimension": "ntk",
    "1x1": ("FR-II", True),
    "dilation": ("DLGN", False),
    "residual, pre-activation": ("FR-II", True),
    "leaky": "ntk",
}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kind"), OF_THE_REGISTRY.items(), ids=OF_THE_REGISTRY)
def test_networks_of_the_registry(name, kind, x64):
    network = REGISTRY[name]
    check_against_oracle(network, kind, normal(4, *network.input))


def test_what_is_zero_gates_by_zero(x64):
    """Pre-activations of variance zero (a black patch, no bias) are zero, and the gate of ReLU at zero is 0."""
    network = Network((4, 4, 2), (conv(), Relu(), conv(), Relu(0.2), GlobalAvgPool(), Dense(1)))
    x = normal(3, 4, 4, 2).at[0, :3].set(0).at[1].set(0)
    check_against_oracle(network, ("FR-II", True), x)


# ------------------------------------------------------------------------------- activations


SMOOTH = {
    "silu": (jax.nn.silu, wide.soft_relu(1.0)),
    "soft-ReLU": (npk.soft_relu, wide.soft_relu(4.0)),
    "gelu": (gelu, wide.gelu()),
    "gelu by tanh": (jax.nn.gelu, wide.gelu_by_tanh()),
}


# How near the series come: soft-ReLU is the steep one, for which 512 polynomials leave out 1e-8.
NEARNESS = {"soft-ReLU": 1e4}


@pytest.mark.slow
@pytest.mark.parametrize("name", SMOOTH)
def test_smooth_activations_are_integrals_over_the_plane(name, x64):
    relu, activation = SMOOTH[name]
    depth = 2 if name == "gelu by tanh" else 1  # one of them behind another: what follows is the same for all
    network = Network((3,), (*[Dense(4), Relu()] * depth, Dense(1)))
    x = normal(4, 3)
    oracle, f = wide.Wide(network, x, smooth=activation, **STD), architectures.function(network, relu=relu)
    for kind in ("ntk", ("FR-II", False)):  # value and slope, and the gate
        check_against_oracle(network, kind, x, oracle, f, NEARNESS.get(name, 1.0))


@pytest.mark.slow
def test_gelu_has_its_closed_form_in_every_precision(monkeypatch):
    f, p, x = function("gelu"), parameters(NETWORKS["gelu"]), normal(4, 7)
    with in_double(True):
        exact = npk.infinite.ntk(f)(parameters(NETWORKS["gelu"], jnp.float64), jnp.asarray(x, jnp.float64))
    monkeypatch.setattr(moments, "smooth", None)  # the series
    f = architectures.afresh(f)
    assert_close(npk.infinite.ntk(f)(p, x), exact)
    halves = jax.tree.map(lambda a: a.astype(jnp.bfloat16), (p, x))
    assert_close(npk.infinite.ntk(f)(*halves), npk.infinite.ntk(f)(p, halves[1].astype(jnp.float32)))


def test_gelu_is_told_in_single_precision(monkeypatch):
    monkeypatch.setattr(moments, "smooth", None)  # the series, twice as slow
    f = architectures.afresh(architectures.function(deep(1), relu=gelu))
    npk.infinite.nngp(f)(parameters(deep(1)), normal(2, 7))


def test_half_precision_is_computed_in_single():
    f, p, x = architectures.function(deep(1), relu=jax.nn.silu), parameters(deep(1)), normal(4, 7, dtype="bfloat16")
    kernel = npk.infinite.nngp(f)(jax.tree.map(lambda a: a.astype(jnp.bfloat16), p), x)
    assert kernel.dtype == jnp.float32
    assert_close(kernel, npk.infinite.nngp(f)(p, x.astype(jnp.float32)))


def test_single_precision_is_that_of_double():
    """Of networks of every kind: `TestNeuralTangents`."""
    network = deep(1, bias=True)
    f, x = architectures.function(network), normal(4, *network.input)
    for transform in KERNELS.values():
        single = transform(f, **STD)(parameters(network), x)
        with in_double(True):
            assert_close(single, transform(f, **STD)(parameters(network), jnp.asarray(x, jnp.float64)))
