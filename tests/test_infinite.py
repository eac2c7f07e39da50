"""Kernels at infinite width: against neural-tangents, against a place-by-place oracle, and their own properties."""

import importlib.util
import math

import architectures
import flax.linen as nn
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

import npk
import npk.infinite
from npk import _duals, _neural_tangents

KERNELS = {"nngp": npk.infinite.nngp, "ntk": npk.infinite.ntk}
PATHS = [(regime, constant) for regime in wide.REGIMES for constant in (False, True)]
STD = {"weight_std": math.sqrt(2), "bias_std": 0.3}


def normal(*shape, seed=0, dtype=None):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype or float)


# ------------------------------------------------------------------------------- neural-tangents


def _deep(depth, bias=False, activation=None):
    body = [layer for _ in range(depth) for layer in (Dense(8, bias), activation or Relu())]
    return Network((7,), (*body, Dense(1, bias)))


POOLED, FLAT = (GlobalAvgPool(), Dense(1, False)), (FLATTEN, Dense(1, False))


def _conv(*layers, head=POOLED, side=6):
    return Network((side, side, 3), (*layers, *head))


def conv(**options):
    return Conv(8, bias=options.pop("bias", False), **options)


BRANCH = Residual((Relu(), conv(), Relu(), conv()))
NETWORKS = {
    "dense": _deep(3),
    "dense with biases": _deep(3, bias=True),
    "ten layers": _deep(10),
    "leaky": _deep(2, activation=Relu(0.1)),
    "gelu": _deep(2),
    "flatten": _conv(conv(), Relu(), conv(), Relu(), head=FLAT),
    "global pooling": _conv(conv(), Relu(), conv(), Relu()),
    "circular, biases": _conv(
        *(conv(bias=True, padding="CIRCULAR"), Relu()) * 2, head=(GlobalAvgPool(), Dense(1, True))
    ),
    "strides, valid": _conv(conv(), Relu(), conv(stride=2, padding="VALID"), Relu(), side=7),
    "average pooling": _conv(conv(), Relu(), AvgPool((2, 2), 2), conv(), Relu(), head=FLAT),
    "residual": _conv(conv(), BRANCH, BRANCH, Relu()),
}


def gelu(x):
    return jax.nn.gelu(x, approximate=False)


def function(name):
    return architectures.function(NETWORKS[name], relu=gelu if name == "gelu" else jax.nn.relu)


def parameters(network, dtype=None):
    _, params, _ = architectures.case(network)
    return jax.tree.map(lambda a: jnp.asarray(a, dtype or float), params)


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


def check_against_neural_tangents(name, dtype, tolerance):
    network, f = NETWORKS[name], function(name)
    stax = _neural_tangents.load().stax
    peer = in_stax(network.layers, stax, stax.Gelu if name == "gelu" else stax.Relu)[2]
    x1, x2 = normal(5, *network.input, dtype=dtype), normal(4, *network.input, seed=1, dtype=dtype)
    with jax.numpy_rank_promotion("allow"):
        across = jax.jit(lambda a, b: peer(a, b, ("nngp", "ntk")))(x1, x2)
        within = jax.jit(lambda a: peer(a, None, ("nngp", "ntk")))(x1)
    p = parameters(network, dtype)
    for kind, transform in KERNELS.items():
        kernel = transform(f, **STD)
        for ours, theirs in ((kernel(p, x1, x2), across), (kernel(p, x1), within)):
            theirs = np.array(getattr(theirs, kind), np.float64)
            if ours.shape == (5, 5) and name != "gelu":
                # neural-tangents takes the angle of an input with itself from a rounded cosine: off by up to 1e-9
                # (3e-4 in single precision). Our diagonal is compared with the oracle's, where that angle is zero.
                np.fill_diagonal(theirs, np.diag(wide.Wide(network, np.asarray(x1), **STD)[kind]))
            assert ours.dtype == dtype
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
    def test_double(self, name, x64):
        check_against_neural_tangents(name, jnp.float64, 1e-10)

    @pytest.mark.slow
    @pytest.mark.parametrize("name", NETWORKS)
    def test_single(self, name):
        check_against_neural_tangents(name, jnp.float32, 1e-5)


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
    """One kernel of one network, x against itself and in two parts."""
    f, p = f or architectures.function(network), parameters(network)
    if isinstance(name, tuple):
        kernel = npk.infinite.path_kernel(f, regime=name[0], constant_input=name[1], **STD)
    elif name == "value":
        kernel = npk.infinite.path_kernel(f, regime="FR-DI", **STD)
    else:
        kernel = KERNELS[name](f, **STD)
    expected = (oracle or wide.Wide(network, x, **STD))[name]
    assert_close(kernel(p, x), expected, factor)
    assert_close(kernel(p, x[:2], x[2:]), expected[:2, 2:], factor)


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


@pytest.mark.slow
@pytest.mark.parametrize("name", EVERY, ids=str)
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
@settings(max_examples=24)
@given(networks(), st.sampled_from(EVERY), st.integers(0, 99))
def test_more_random_networks(network, name, seed):
    _random(network, name, seed)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["one dimension", "1x1", "dilation", "residual, pre-activation", "leaky"])
def test_networks_of_the_registry(name, x64):
    network = REGISTRY[name]
    x = normal(4, *network.input)
    oracle = wide.Wide(network, x, **STD)
    for kind in ("ntk", ("FR-II", True), ("DLGN", False)):
        check_against_oracle(network, kind, x, oracle)


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
    network = Network((3,), (Dense(4), Relu(), Dense(4), Relu(), Dense(1)))
    x = normal(4, 3)
    oracle, f = wide.Wide(network, x, smooth=activation, **STD), architectures.function(network, relu=relu)
    for kind in ("ntk", ("FR-II", False)):  # value and slope, and the gate
        check_against_oracle(network, kind, x, oracle, f, NEARNESS.get(name, 1.0))


@pytest.mark.slow
def test_gelu_has_its_closed_form_in_every_precision(monkeypatch):
    f, p, x = function("gelu"), parameters(NETWORKS["gelu"]), normal(4, 7)
    with jax.enable_x64(True):
        exact = npk.infinite.ntk(f)(parameters(NETWORKS["gelu"], jnp.float64), jnp.asarray(x, jnp.float64))
    monkeypatch.setattr(_duals, "smooth", None)  # the series
    assert_close(npk.infinite.ntk(f)(p, x), exact)
    halves = jax.tree.map(lambda a: a.astype(jnp.bfloat16), (p, x))
    assert_close(npk.infinite.ntk(f)(*halves), npk.infinite.ntk(f)(p, halves[1].astype(jnp.float32)))


def test_gelu_is_told_in_single_precision(monkeypatch):
    monkeypatch.setattr(_duals, "smooth", None)  # the series, twice as slow
    f = architectures.function(_deep(1), relu=gelu)
    npk.infinite.nngp(f)(parameters(_deep(1)), normal(2, 7))


def test_half_precision_is_computed_in_single():
    f, p, x = architectures.function(_deep(1), relu=jax.nn.silu), parameters(_deep(1)), normal(4, 7, dtype="bfloat16")
    kernel = npk.infinite.nngp(f)(jax.tree.map(lambda a: a.astype(jnp.bfloat16), p), x)
    assert kernel.dtype == jnp.float32
    assert_close(kernel, npk.infinite.nngp(f)(p, x.astype(jnp.float32)))


@pytest.mark.slow
def test_single_precision_is_that_of_double():
    network = NETWORKS["circular, biases"]
    f, x = architectures.function(network), normal(4, *network.input)
    for transform in KERNELS.values():
        single = transform(f, **STD)(parameters(network), x)
        with jax.enable_x64(True):
            assert_close(single, transform(f, **STD)(parameters(network), jnp.asarray(x, jnp.float64)))


# ------------------------------------------------------------------------------- properties


def test_he_weights_keep_the_size_that_the_linear_network_has_at_one(x64):
    network = NETWORKS["strides, valid"]
    f, p, x = architectures.function(network), parameters(network), normal(4, *network.input)
    flat = NETWORKS["dense"]
    g, q, y = architectures.function(flat), parameters(flat), normal(4, 7)
    assert_close(
        jnp.diag(npk.infinite.nngp(g)(q, y)), 2 * jnp.diag(npk.infinite.nngp(npk.linear(g), weight_std=1.0)(q, y))
    )
    assert_close(jnp.diag(npk.infinite.nngp(g)(q, y)), 2 * jnp.square(y).mean(1))
    with_weights = npk.infinite.nngp(npk.linear(f), weight_std=1.0)(p, x)
    assert (jnp.diag(npk.infinite.nngp(f)(p, x)) >= 2 * jnp.diag(with_weights) - 1e-12).all()  # averaging cancels signs


def test_kernels_are_symmetric_and_positive(x64):
    network = NETWORKS["global pooling"]
    f, p, x = architectures.function(network), parameters(network), normal(8, *network.input)
    for kernel in (npk.infinite.ntk(f), npk.infinite.path_kernel(f)):
        k = np.asarray(kernel(p, x))
        assert_close(k, k.T)
        assert np.linalg.eigvalsh(k).min() > 0


def test_one_batch_is_two_equal_ones_off_the_diagonal(x64):
    network = NETWORKS["dense with biases"]
    f, p, x = architectures.function(network), parameters(network), normal(6, 7)
    for transform in KERNELS.values():
        one, two = transform(f, **STD)(p, x), transform(f, **STD)(p, x, x)
        off = 1 - np.eye(6)
        assert_close(one * off, two * off)
        np.testing.assert_allclose(np.diag(one), np.diag(two), rtol=1e-7)  # there two equal ones round an angle


def test_blocks_do_not_matter(x64, monkeypatch):
    network = NETWORKS["dense with biases"]
    f, p, x = architectures.function(network), parameters(network), normal(11, 7)
    whole = npk.infinite.ntk(f, **STD)(p, x)
    monkeypatch.setattr(npk.infinite, "_BLOCK_ELEMENTS", 9)
    assert_close(npk.infinite.ntk(f, **STD)(p, x), whole)
    assert_close(npk.infinite.ntk(f, **STD)(p, x[:4], x[4:]), whole[:4, 4:])


def test_kernels_under_jit_vmap_and_grad(x64):
    network = _deep(1, bias=True)
    f, p = architectures.function(network), parameters(network)
    x1, x2 = normal(3, 7), normal(4, 7, seed=1)
    kernel = npk.infinite.ntk(f, **STD)
    k = kernel(p, x1, x2)
    assert_close(jax.jit(kernel)(p, x1, x2), k)
    assert_close(jax.vmap(lambda x: kernel(p, x[None], x2)[0])(x1), k)

    def total(t):
        return kernel(p, x1 + t * jnp.ones_like(x1), x2).sum()

    step = 1e-5
    assert_close(jax.grad(total)(0.0), (total(step) - total(-step)) / (2 * step), factor=1e4)


def test_smooth_activations_under_jit(x64):
    network = _deep(1)
    f, p, x = architectures.function(network, relu=jax.nn.silu), parameters(network), normal(3, 7)
    kernel = npk.infinite.nngp(f, order=128)  # what is left out cannot be known: all of them are used
    assert_close(jax.jit(kernel)(p, x), kernel(p, x))


def test_one_kernel_for_every_way_to_write_a_network():
    from flax import nnx

    x = normal(4, 7, dtype=jnp.float32)

    class Linen(nn.Module):
        @nn.compact
        def __call__(self, x):
            for _ in range(3):
                x = nn.relu(nn.Dense(5)(x))
            return nn.Dense(1)(x)

    class Nnx(nnx.Module):
        def __init__(self, rngs):
            sizes = (7, 5, 5, 5, 1)
            self.layers = nnx.List([nnx.Linear(a, b, rngs=rngs) for a, b in zip(sizes, sizes[1:])])

        def __call__(self, x):
            *hidden, last = self.layers
            for layer in hidden:
                x = nnx.relu(layer(x))
            return last(x)

    graph, state = nnx.split(Nnx(nnx.Rngs(0)))
    w = {"first": normal(7, 5), "rest": normal(2, 5, 5), "b": normal(3, 5), "last": normal(5, 1), "c": normal(1)}

    def scanned(p, x):
        x = jnp.maximum(x @ p["first"] + p["b"][:1], 0)
        x, _ = jax.lax.scan(lambda h, t: (jax.nn.relu(h @ t[0] + t[1][None]), None), x, (p["rest"], p["b"][1:]))
        return x @ p["last"] + p["c"][None]

    ways = {
        "linen": (Linen().apply, Linen().init(jax.random.key(0), x)),
        "NNX": (lambda s, x: nnx.merge(graph, s)(x), state),
        "scan": (scanned, w),
        "width": (architectures.function(_deep(3, True)), parameters(_deep(3, True))),
    }
    kernels = {name: npk.infinite.ntk(f, **STD)(p, x) for name, (f, p) in ways.items()}
    for kernel in kernels.values():
        assert_close(kernel, kernels["width"])


def test_scales_by_name(x64):
    network = _deep(1, bias=True)
    f, p, x = architectures.function(network), parameters(network), normal(3, 7)
    kernel = npk.infinite.nngp(
        f, weight_std={"Dense_0/kernel": 0.5, "Dense_1/kernel": 3.0}, bias_std=lambda name: 0.7 * (name[6] == "1")
    )(p, x)
    assert_close(kernel, 0.7**2 + (0.5 * 3 / 2) ** 2 * npk.infinite.nngp(f)(p, x))
