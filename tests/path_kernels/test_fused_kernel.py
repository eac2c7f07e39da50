"""The fused GPU kernel of convolutions with global pooling: run by XLA on any device, lowered for CUDA without one."""

import functools
import warnings

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from draws import normal, variables
from tolerances import assert_close

import npk
from npk import networks
from npk.path_kernels.engines.pooled import gpu as gap_gpu
from npk.path_kernels.engines.pooled import pallas as pallas_gap
from npk.path_kernels.engines.pooled.chain import Convolution, Dense, GapChain, covers
from npk.paths import form_of

HAS_GPU = jax.default_backend() == "gpu"
gpu = pytest.mark.skipif(not HAS_GPU, reason="needs a GPU, and JAX has none")

# The kernel is unrolled: without optimisation XLA compiles it for a CPU in half the time.
KERNEL = gap_gpu.kernel
_FAST = {"xla_backend_optimization_level": 0}


@functools.cache
def _interpreter(chain, dtype, symmetric, strip):
    compute = functools.partial(KERNEL, chain, dtype=dtype, symmetric=symmetric, interpret=True)
    return jax.jit(compute, compiler_options=_FAST)


def interpreted(chain, one, two, dtype, symmetric=False):
    """The fused kernel, run by XLA."""
    return _interpreter(chain, jnp.dtype(dtype), symmetric, pallas_gap._WIDEST_STRIP)(one, two)


@pytest.fixture
def narrow(monkeypatch):
    """Strips of at most two columns, so that small images need several and the code stays short."""
    monkeypatch.setattr(pallas_gap, "_WIDEST_STRIP", 2)


# ----------------------------------------------------------------------- against loops over positions


def counted(x1, gates1, x2, gates2, windows, circular, biases):
    """Σ over pairs of positions of two images' gated path counts, in integers, position by position."""
    height, width, _ = x1.shape
    k = np.einsum("hwc,ijc->hwij", x1, x2)
    for g1, g2, (rows, columns), bias in zip(gates1, gates2, windows, biases, strict=True):
        total = np.zeros_like(k)
        for a in range(-(rows // 2), rows // 2 + 1):
            for b in range(-(columns // 2), columns // 2 + 1):
                for h, w, i, j in np.ndindex(*k.shape):
                    at = (h + a, w + b, i + a, j + b)
                    if circular:
                        total[h, w, i, j] += k[at[0] % height, at[1] % width, at[2] % height, at[3] % width]
                    elif all(0 <= p < n for p, n in zip(at, k.shape, strict=True)):
                        total[h, w, i, j] += k[at]
        k = (total + bias) * np.einsum("hwc,ijc->hwij", g1, g2)
    return k.sum()


COUNTED = {
    "wrapped, window beyond the image": ((2, 3, 1), (2,), ((5, 3),), True, (0,)),
    "wrapped, biases": ((4, 3, 3), (1, 97), ((3, 1), (3, 3)), True, (1, 0)),
    "zeros outside, 70 channels": ((4, 5, 5), (33, 70), ((3, 3), (3, 3)), False, (0, 1)),
    "zeros outside, windows of all kinds": ((3, 5, 2), (1, 130, 2), ((1, 3), (1, 1), (5, 1)), False, (0, 1, 1)),
}


@pytest.mark.parametrize("name", COUNTED)
def test_counts_are_exact(name, narrow):
    image, channels, windows, circular, biases = COUNTED[name]
    random = np.random.default_rng(len(name))
    layers = tuple(Convolution(w, 1.0, float(b), i) for i, (w, b) in enumerate(zip(windows, biases, strict=True)))
    chain = GapChain(image, circular, layers, 1.0, (Dense(1.0, 0.0, None),))

    def batch(n):
        gates = [random.integers(0, 2, (n, 1, *image[:2], c)) for c in channels]
        return random.integers(-1, 2, (n, 1, *image)), gates

    one, two = batch(2), batch(3)
    h = interpreted(chain, *(jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), b) for b in (one, two)), jnp.float32)
    (x1, gates1), (x2, gates2) = one, two
    pairs = [[([g[i, 0] for g in gates1], [g[j, 0] for g in gates2]) for j in range(3)] for i in range(2)]
    expected = [
        [counted(x1[i, 0], g1, x2[j, 0], g2, windows, circular, biases) for j, (g1, g2) in enumerate(row)]
        for i, row in enumerate(pairs)
    ]
    assert np.abs(expected).max() < 2**24
    assert np.array_equal(np.asarray(h), expected)


# ----------------------------------------------------------------------- against the plain rules


class Tail(nn.Module):
    """Convolutions, pooling, dense layers."""

    padding: str = "SAME"
    use_bias: bool = True
    windows: tuple = ((3, 3), (3, 3))
    channels: int = 4
    sizes: tuple = (3,)
    pool: str = "mean"

    @nn.compact
    def __call__(self, x):
        for window in self.windows:
            x = nn.relu(nn.Conv(self.channels, window, padding=self.padding, use_bias=self.use_bias)(x))
        x = getattr(x, self.pool)((1, 2))
        for size in self.sizes:
            x = nn.relu(nn.Dense(size, use_bias=self.use_bias)(x))
        return nn.Dense(2, use_bias=self.use_bias)(x)


def case(model, image=(4, 5, 2), n=3, dtype=jnp.float32):
    x = normal(n, *image, dtype=dtype)
    params = variables(model, x.astype(jnp.float32))
    return model.apply, jax.tree.map(lambda a: a.astype(dtype), params), x


def ones_like(model, x):
    """Parameters of ones."""
    return jax.tree.map(lambda a: jnp.ones(a.shape, a.dtype), jax.eval_shape(model.init, jax.random.key(0), x))


def chain_of(f, params, x, normalize=True):
    return covers(form_of(f, params, x), normalize)


def laid_out(f, params, x):
    gates = jax.jit(npk.gates(f))(params, x)
    return x[:, None], tuple(g.reshape(g.shape[0], 1, *g.shape[1:]) for g in gates)


COVERED = {
    "wrapped": (networks.C4GAP(channels=3, outputs=2, padding="CIRCULAR", use_bias=False), True),
    "zeros outside, biases, a dense tail": (Tail(), True),
    "counts, zeros outside, biases, a dense tail": (Tail(windows=((3, 3),)), False),
    "counts, wrapped, biases, sum": (Tail("CIRCULAR", windows=((1, 1), (1, 3)), sizes=(), pool="sum"), False),
}


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n == "wrapped")) for n in COVERED])
def test_equals_the_plain_rules(name, narrow):
    model, normalize = COVERED[name]
    f, params, x = case(model)
    x = x if normalize else jnp.round(x)
    expected = npk.path_kernel(f)(params, x, normalize=normalize)
    chain, batch = chain_of(f, params, x, normalize), laid_out(f, params, x)
    assert isinstance(chain, GapChain) and gap_gpu.fits(chain, batch[1], jnp.float32)
    assert_close(interpreted(chain, batch, batch, jnp.float32, symmetric=normalize), expected)


def test_float64(x64, narrow):
    f, params, x = case(Tail("CIRCULAR", windows=((3, 3),), sizes=()), dtype=jnp.float64)
    chain, batch = chain_of(f, params, x), laid_out(f, params, x)
    h = interpreted(chain, batch, batch, jnp.float64)
    assert h.dtype == jnp.float64
    assert_close(h, npk.path_kernel(f)(params, x))


def convolved(p, x, stride=1):
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, p["a"], (stride, stride), "SAME", dimension_numbers=numbers)


def pooled(p, x):
    return x.mean((1, 2)) @ p["b"]


REFUSED = {
    "stride": ("not over all positions", lambda p, x: pooled(p, jax.nn.relu(convolved(p, x, 2)))),
    "a constant factor": ("other, than one gate", lambda p, x: pooled(p, jax.nn.relu(convolved(p, 0.5 * x)))),
    "pooling of a part": ("not over all positions", lambda p, x: pooled(p, jax.nn.relu(convolved(p, x))[:, 1:])),
    "max-pooling": ("not over all", lambda p, x: pooled(p, nn.max_pool(jax.nn.relu(convolved(p, x)), (2, 2)))),
    "a skip": ("several values", lambda p, x: pooled(p, jax.nn.relu(convolved(p, x))) + x.mean((1, 2)) @ p["c"]),
    "no gates": ("pooling of other values", lambda p, x: pooled(p, convolved(p, x))),
    "a learned factor": ("pooling of other values", lambda p, x: pooled(p, jax.nn.relu(convolved(p, x)) * p["d"])),
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_networks_are_refused_by_what_is_met(name):
    why, f = REFUSED[name]
    params = {"a": jnp.ones((3, 3, 2, 4)), "b": jnp.ones((4, 2)), "c": jnp.ones((2, 2)), "d": jnp.ones((1, 1, 1, 4))}
    assert why in chain_of(f, params, jnp.ones((2, 4, 5, 2)))


def test_constants_that_multiply_weights_count_squared():
    def f(p, x):
        return jax.nn.relu(convolved({"a": 3 * p["a"]}, x)).mean((1, 2)) @ (p["b"] / 2)

    params, x = {"a": jnp.ones((3, 3, 2, 4)), "b": jnp.ones((4, 2))}, jnp.ones((2, 4, 5, 2))
    for normalize, scales in ((False, (9, 1 / 4)), (True, (1 / 18, 1 / 4))):
        chain = chain_of(f, params, x, normalize)
        assert isinstance(chain, GapChain) and (chain.convolutions[0].scale, chain.dense[0].scale) == pytest.approx(
            scales
        )


@pytest.mark.parametrize(
    "model", [Tail("VALID"), Tail(windows=((2, 2),)), networks.VCONV(channels=2), networks.MLP()], ids=str
)
def test_other_models_are_refused(model):
    x = jnp.ones((2, 8, 8, 3))
    assert isinstance(chain_of(model.apply, ones_like(model, x), x), str)


def test_deep_chains_and_large_sums_are_refused():
    layer = Convolution((3, 3), 1.0, 0.0, 0)
    gates = [jnp.ones((1, 1, 8, 8, 512))]

    def fits(depth):
        return gap_gpu.fits(GapChain((8, 8, 3), True, (layer,) * depth, 1.0, ()), gates, jnp.float32)

    assert fits(4) and not fits(12)
    # All gates on, 1 x 1 windows, d layers of 256 channels: H of ones is 256^d · 64², and float32 ends at 2^128.
    point, gates = Convolution((1, 1), 1.0, 0.0, 0), [jnp.ones((1, 1, 8, 8, 256))]
    sums = {d: gap_gpu.fits(GapChain((8, 8, 1), True, (point,) * d, 1.0, ()), gates, jnp.float32) for d in (10, 11)}
    assert sums == {10: True, 11: False}, "up to 2^96: 2^92 and 2^100"
    assert pallas_gap.layout(GapChain((8, 8, 3), True, (layer,) * 20, 1.0, ()), [512], jnp.float32) is None


# ----------------------------------------------------------------------- for GPUs, without one


@pytest.mark.skipif(
    tuple(map(int, jax.__version__.split(".")[:2])) > (0, 10),
    reason="newer versions of JAX compile for the GPU while they lower, which takes its plugin",
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_lowers_for_cuda(dtype, request):
    if dtype == "float64":
        request.getfixturevalue("x64")
    chain = GapChain((32, 32, 3), False, tuple(Convolution((3, 3), 1.0, 1.0, i) for i in range(4)), 1.0, ())
    x = jax.ShapeDtypeStruct((2, 1, 32, 32, 3), dtype)
    batch = x, (jax.ShapeDtypeStruct((2, 1, 32, 32, 96), dtype),) * 4
    assert gap_gpu.fits(chain, batch[1], dtype)
    compute = jax.jit(functools.partial(gap_gpu.kernel, chain, dtype=dtype))
    text = compute.trace(batch, batch).lower(lowering_platforms=("cuda",)).as_text()
    # Of the ways to count bits that JAX lowers, Triton compiles libdevice's alone.
    assert "triton" in text and "__nv_popc" in text and "ctpop" not in text


def test_usable_needs_numbers_on_one_gpu():
    x = jnp.ones(3)
    assert gap_gpu.usable(x) == HAS_GPU
    jax.jit(lambda a: pytest.fail("usable") if gap_gpu.usable(a) else a)(x)


# ----------------------------------------------------------------------- trust


@pytest.fixture
def pretended(monkeypatch, narrow):
    """As if this were a GPU: the fused kernel is tried, run by XLA, and its calls are counted."""
    calls = []

    def kernel(chain, one, two, dtype, *, symmetric=False):
        calls.append(len(one[0]))
        return interpreted(chain, one, two, dtype, symmetric=symmetric)

    monkeypatch.setattr("npk.path_kernels.engines.pooled.usable", lambda *values: True)
    monkeypatch.setattr(gap_gpu, "kernel", kernel)
    return calls


def test_path_kernel_takes_the_fused_kernel_once_it_agrees(pretended, monkeypatch):
    f, params, x = case(Tail(windows=((3, 3),), sizes=()))
    kernel = npk.path_kernel(f)
    h = kernel(params, x)
    assert pretended == [2, 3]  # a pair to check, then the batch
    assert_close(kernel(params, x), h)
    assert pretended == [2, 3, 3]  # checked once
    monkeypatch.setattr("npk.path_kernels.engines.pooled.usable", lambda *values: False)
    assert_close(h, npk.path_kernel(f)(params, x))
    assert len(pretended) == 3


def test_soft_gates_and_tracing_take_the_plain_rules(pretended):
    f, params, x = case(Tail(windows=((3, 3),), sizes=()))
    soft = [0.5 * g for g in npk.gates(f)(params, x)]
    npk.path_kernel(f)(params, x, gates1=soft)
    assert pretended == []


def raises(chain, one, two, dtype, **options):
    raise RuntimeError("no such instruction\nand more")


def slightly_wrong(right, chain, one, two, dtype, **options):
    h = right(chain, one, two, dtype, **options)
    return h * (1 + 1e-3 * jnp.eye(*h.shape)[:, ::-1].astype(h.dtype))


@pytest.mark.parametrize("wrong", [False, True])
def test_a_fused_kernel_that_fails_or_differs_is_not_used(wrong, pretended, monkeypatch):
    f, params, x = case(Tail(windows=((3, 3),), sizes=()))
    broken = functools.partial(slightly_wrong, gap_gpu.kernel) if wrong else raises
    monkeypatch.setattr(gap_gpu, "kernel", broken)
    kernel = npk.path_kernel(f)
    with pytest.warns(UserWarning, match="plain rules give" if wrong else "RuntimeError: no such instruction[)]"):
        h = kernel(params, x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # told once
        assert_close(kernel(params, x), h)
    monkeypatch.setattr("npk.path_kernels.engines.pooled.usable", lambda *values: False)
    assert np.array_equal(h, npk.path_kernel(f)(params, x))
    assert len(pretended) == int(wrong)


# ----------------------------------------------------------------------- on a GPU


@pytest.mark.gpu
@gpu
@pytest.mark.parametrize("padding", ["SAME", "CIRCULAR"])
def test_on_a_gpu(padding, monkeypatch):
    f, params, x = case(networks.C4GAP(channels=70, outputs=2, padding=padding), (32, 32, 3), 5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        h = npk.path_kernel(f)(params, x)
    monkeypatch.setattr("npk.path_kernels.engines.pooled.usable", lambda *values: False)
    assert_close(h, npk.path_kernel(f)(params, x))
