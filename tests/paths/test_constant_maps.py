"""Linear maps with constant coefficients: H is the second moment over random signs of the weights, φ·v = f."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from draws import normal
from oracles.signs import over_signs
from tolerances import assert_close

import npk
from npk.path_kernels.demands import demands_of, size_of
from npk.paths import form_of

relu = jax.nn.relu
BLUR = jnp.asarray([[1.0, 2.0, 1.0]]).T @ jnp.asarray([[1.0, 3.0]])
GRAPH = np.array([[0.0, 1.0, 0.5], [1.0, 0.0, -1.0], [0.5, 0.0, 1.0]])
SEGMENTS = np.array([0, 2, 0, 1])
FOURIER = np.real(np.fft.fft(np.eye(4)))
FILTER = np.array([[1 + 2j, 0.5], [-1j, 2 - 1j], [1.0, -1 + 1j]])
SPREAD = np.array([[[True, True], [True, False], [False, False]]])
CHOSEN = np.array([[True], [False], [True]])
numbers = ("NHWC", "HWIO", "NHWC")


def constant(value, x):
    return jnp.asarray(value, x.dtype)


def spectral(x):
    """The dtype of a value's spectrum."""
    return np.result_type(x.dtype, np.complex64)


def turned(x):
    return x.astype(spectral(x)) * constant(2j, jnp.zeros(1, spectral(x)))


def filtered(z):
    """Every frequency and channel times a number."""
    numbers = FILTER[: z.shape[-2], : z.shape[-1]].astype(z.dtype)
    return z * jnp.broadcast_to(numbers, z.shape)


def blurred(x):
    """Every channel by itself, at stride two in one direction."""
    c = x.shape[-1]
    kernel = jnp.broadcast_to(constant(BLUR, x)[:, :, None, None], (3, 2, 1, c))
    return jax.lax.conv_general_dilated(x, kernel, (1, 2), "SAME", dimension_numbers=numbers, feature_group_count=c)


def mixed(x):
    """Channels too: a fixed convolution."""
    kernel = constant(np.arange(12).reshape(2, 1, 2, 3) % 5 - 2, x)
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=numbers)


def positions(f):
    """Dense layers on every position around a map of positions [N, T, C]."""
    return lambda p, x: (relu(f(relu(x @ p["u"]))) @ p["v"]).sum(1)


def images(f):
    return lambda p, x: f(relu(x @ p["u"])).mean((1, 2)) @ p["v"]


def convolved(kernel, groups=1, stride=1, spread=1, dilation=1, padding="VALID"):
    """Along one axis of positions, in every way that windows have."""

    def f(x):
        options = {"lhs_dilation": (spread,), "rhs_dilation": (dilation,), "feature_group_count": groups}
        numbers = ("NHC", "HIO", "NHC")
        return jax.lax.conv_general_dilated(
            x, constant(kernel, x), (stride,), padding, dimension_numbers=numbers, **options
        )

    return f


KERNEL = np.arange(12.0).reshape(3, 2, 2) % 5 - 2
MAPS = {
    "a matrix over positions": (positions(lambda x: jnp.einsum("pq,nqc->npc", constant(GRAPH, x), x)), (3, 2), 2, 2),
    "after a value, and before it": (
        positions(lambda x: jnp.einsum("pq,nqc->npc", constant(GRAPH, x), x) + x),
        (3, 2),
        2,
        2,
    ),
    "a matrix over channels": (positions(lambda x: x @ constant(GRAPH, x)), (2, 2), 3, 3),
    "of the input": (lambda p, x: relu(x @ constant(GRAPH, x) @ p["u"]) @ p["v"], (3,), 2, 2),
    "cumulative sums": (positions(lambda x: jnp.cumsum(x, 1)), (3, 2), 2, 2),
    "from the other end": (positions(lambda x: jax.lax.cumsum(x, 1, reverse=True)), (3, 2), 2, 2),
    "sums by segments": (positions(lambda x: jax.vmap(lambda s: jax.ops.segment_sum(s, SEGMENTS, 3))(x)), (4, 2), 2, 2),
    "added at places": (
        positions(lambda x: x.at[:, np.array([0, 0, 5, 2])].add(2 * x[:, :4], mode="drop")),
        (4, 1),
        2,
        2,
    ),
    "a blur": (images(blurred), (3, 4, 1), 2, 2),
    "a fixed convolution": (images(mixed), (3, 3, 1), 2, 3),
    "half of a Fourier transform": (
        positions(lambda x: jnp.einsum("pq,nqc->npc", constant(FOURIER, x), x)),
        (4, 1),
        2,
        2,
    ),
    "a matrix for each position": (
        positions(lambda x: jnp.einsum("npc,pcd->npd", x, constant(KERNEL, x))),
        (3, 2),
        2,
        2,
    ),
    "groups": (positions(convolved(KERNEL[:2, :1].repeat(2, 2), groups=2)), (3, 1), 2, 4),
    "transposed": (positions(convolved(KERNEL, spread=2, padding=[(2, 1)])), (3, 1), 2, 2),
    "stride and dilation": (positions(convolved(KERNEL, stride=2, dilation=2, padding=[(2, 2)])), (4, 1), 2, 2),
    "one case or another": (
        positions(lambda x: jnp.where(SPREAD, x, jnp.flip(x, 1)) + jnp.where(CHOSEN, x, constant(2, x))),
        (3, 2),
        2,
        2,
    ),
    "a Fourier transform": (positions(lambda x: jnp.fft.fft(x, axis=1).imag), (4, 1), 2, 2),
    "of positions and channels": (positions(lambda x: jnp.fft.fft2(x, axes=(1, 2)).real), (3, 2), 2, 2),
    "of the input's positions": (
        lambda p, x: relu(jnp.fft.fft(jnp.fft.fft(x, axis=-1), axis=-2).real @ p["u"]).sum(1) @ p["v"],
        (5, 2),
        2,
        2,
    ),
    "a global filter": (
        positions(lambda x: jnp.fft.irfft(filtered(jnp.fft.rfft(x, axis=1, norm="ortho")), n=4, axis=1, norm="ortho")),
        (4, 1),
        2,
        2,
    ),
    "of an odd length, divided": (
        positions(
            lambda x: jnp.fft.irfft(
                jnp.fft.rfft(x, n=5, axis=1) / filtered(jnp.ones((1, 3, 2), spectral(x))), n=5, axis=1
            )
        ),
        (4, 1),
        2,
        2,
    ),
    "along two axes": (
        images(lambda x: jnp.fft.irfftn(filtered(jnp.fft.rfftn(x, axes=(1, 2))), s=x.shape[1:3], axes=(1, 2))),
        (2, 3, 1),
        2,
        2,
    ),
    "moved, joined, conjugated": (
        positions(
            lambda x: (
                jnp.concatenate(
                    [jnp.roll(jnp.conj(jnp.fft.fft(x, axis=1)), 1, 1), turned(x), x[:, :1].astype(turned(x).dtype)], 1
                ).imag
            )
        ),
        (3, 2),
        2,
        2,
    ),
    "sums and differences": (
        positions(
            lambda x: (
                (
                    jnp.fft.fft(x, axis=1)
                    - turned(jnp.fft.ifft(x, axis=1))
                    + filtered(jnp.fft.fft(jnp.ones_like(x), axis=1))
                ).real
            )
        ),
        (3, 1),
        2,
        2,
    ),
    "a complex matrix": (
        positions(
            lambda x: (
                jnp.einsum(
                    "pq,nqc->npc", np.fft.ifft(np.eye(3)).astype(spectral(x)), filtered(-jnp.fft.fft(x, axis=1))
                ).real
            )
        ),
        (3, 2),
        2,
        2,
    ),
    "some frequencies": (
        positions(
            lambda x: jnp.fft.ifft(jnp.where(CHOSEN, jnp.fft.fft(x, axis=1), jnp.zeros((), spectral(x))), axis=1).real
        ),
        (3, 1),
        2,
        2,
    ),
    "resized": (images(lambda x: jax.image.resize(x, (len(x), 5, 3, x.shape[-1]), "linear")), (3, 2, 1), 2, 2),
}


def drawn(name):
    f, shape, width, last = MAPS[name]
    params = {"u": normal(shape[-1] if name != "of the input" else 3, width), "v": normal(last, 1, seed=1)}
    return f, params, normal(3, *shape, seed=2)


def by_signs(f, params, x, gates):
    """E[f(s) f(s')] over all signs of the weights, gates held."""
    return over_signs(lambda w: npk.gated(f)(w, x, gates)[:, 0], jax.tree.map(jnp.ones_like, params))


@pytest.mark.parametrize("name", MAPS)
def test_the_kernel_is_the_second_moment_over_signs(name, x64):
    f, p, x = drawn(name)
    gates = npk.gates(f)(p, x)
    assert_close(npk.path_kernel(f)(p, x, normalize=False), by_signs(f, p, x, gates))
    soft = tuple(jnp.asarray(np.random.default_rng(3).uniform(size=g.shape)) for g in gates)
    expected = by_signs(f, p, x, soft)
    given = {"gates1": soft, "normalize": False}
    assert_close(npk.path_kernel(f)(p, x, **given), expected)
    assert_close(jax.jit(lambda s: npk.path_kernel(f)(p, x, gates1=s, normalize=False))(soft), expected)
    always = npk.path_kernels.Thresholds(paired_seconds=-np.inf, packed_pairs=0)
    assert_close(npk.path_kernel(f, thresholds=always)(p, x, **given), expected)
    log = npk.log_path_kernel(f)(p, x, **given)
    assert_close(log.sign * jnp.exp(log.log), expected, factor=10)


@pytest.mark.parametrize("name", MAPS)
def test_the_output_is_an_inner_product_over_paths(name, x64):
    f, p, x = drawn(name)
    phi, v = npk.npf(f)(p, x), npk.npv(f)(p, x)
    assert_close(jnp.einsum("np,pk->nk", phi, v), f(p, x))
    assert_close(phi @ phi.T, npk.path_kernel(f)(p, x, normalize=False))


def test_matrices_over_positions_take_no_more_than_pairs_of_them():
    """(A K) A'ᵀ holds P² numbers a pair of samples, however the axes are laid out."""
    size = 7
    a = np.arange(1.0, size * size + 1, dtype=np.float32).reshape(size, size)
    params = {"u": normal(2, 4), "w": normal(4, 4, seed=1), "v": normal(4, 1, seed=2)}

    def f(p, x, spelling):
        x = relu(x @ p["u"])
        x = jnp.einsum(spelling, a, x)
        x = x if spelling.endswith("npc") else jnp.moveaxis(x, 1, 2)
        return relu(x @ p["w"]).mean(1) @ p["v"]

    x = normal(3, size, 2, seed=3)
    for spelling in ("pq,nqc->npc", "pq,nqc->ncp"):
        form = form_of(lambda p, x, spelling=spelling: f(p, x, spelling), params, x)
        assert size_of(demands_of(form.state)).elements == size**2


def test_a_declared_matrix_is_a_constant_one(x64):
    def f(p, x):
        return relu(jnp.einsum("pq,nqc->npc", p["a"], relu(x @ p["u"]))).sum(1) @ p["v"]

    x, weights = normal(3, 3, 2, seed=2), {"u": normal(2, 2), "v": normal(2, 1, seed=1)}
    params = {**weights, "a": jnp.asarray(GRAPH)}
    gates = npk.gates(f)(params, x)
    expected = by_signs(lambda w, x: f({**w, "a": params["a"]}, x), weights, x, gates)
    assert_close(npk.path_kernel(f, fixed="a")(params, x, normalize=False), expected)


def test_the_limit_of_a_map_between_weights_and_activation(x64):
    """E[relu(a) relu(b)] = |a||b| (sin θ + (π - θ) cos θ) / 2π of every pair of places, in closed form."""
    x = normal(3, 3, 2, seed=2)
    params = {"u": jnp.ones((2, 4)), "v": jnp.ones((4, 1))}
    f = lambda p, x: relu(jnp.einsum("pq,nqc->npc", constant(GRAPH, x), x @ p["u"])).mean(1) @ p["v"]  # noqa: E731
    z = (GRAPH @ np.asarray(x, float)).reshape(9, 2)
    sigma = z @ z.T / 2 * 2  # variance 2 / fan-in
    norm = np.sqrt(np.diag(sigma))
    theta = np.arccos(np.clip(sigma / norm[:, None] / norm, -1, 1))
    joint = norm[:, None] * norm * (np.sin(theta) + (np.pi - theta) * np.cos(theta)) / (2 * np.pi)
    np.testing.assert_allclose(npk.infinite.nngp(f)(params, x), 2 * joint.reshape(3, 3, 3, 3).mean((1, 3)), rtol=1e-7)


REFUSED = {
    "a product": (lambda p, z: (z * jnp.conj(z)).real, "`mul`.*a product of two complex values that both depend on x"),
    "a quotient": (lambda p, z: (1 / z).real, "`div`.*a division by a complex value that depends on x"),
    "a modulus": (lambda p, z: jnp.abs(z), "`abs`.*not linear in the real and the imaginary part"),
    "a learned filter": (
        lambda p, z: (z * jax.lax.complex(p["u"], p["u"])[:1, None]).real,
        "complex numbers made of parameters .`u`.* by real weights, or close over constants",
    ),
    "real weights of complex values": (
        lambda p, z: (z @ p["v"].astype(z.dtype)).real,
        "complex numbers made of parameters .`v`",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_linear_in_complex_values_is_refused(name):
    g, message = REFUSED[name]
    f = lambda p, x: g(p, jnp.fft.fft(x @ p["w"], axis=1)).sum((1, 2))[:, None]  # noqa: E731
    with pytest.raises(npk.UnsupportedOperation, match=message):
        npk.path_kernel(f)({"w": normal(2, 2), "u": normal(2, 2), "v": normal(2, 1)}, normal(3, 4, 2))


def test_a_product_of_complex_values_is_nonlinear():
    f = lambda p, x: (jnp.fft.fft(x @ p["w"]) ** 2).real  # noqa: E731
    with pytest.raises(npk.UnsupportedOperation, match="given its gates f is not linear"):
        npk.gates(f)({"w": normal(2, 2)}, normal(3, 2))


@pytest.mark.parametrize(
    ("which", "message"),
    [
        (lambda p, x: p["u"] > 0, r"which case is taken depends on params \(`u`\)"),
    ],
)
def test_a_choice_that_is_no_constant_one_is_refused(which, message):
    f = lambda p, x: jnp.where(which(p, x), x @ p["w"], jnp.flip(x, 1)) @ p["v"]  # noqa: E731
    with pytest.raises(npk.UnsupportedOperation, match=message):
        npk.path_kernel(f)({"w": normal(2, 2), "u": normal(2), "v": normal(2, 1)}, normal(3, 2))


def test_adding_at_places_that_parameters_choose_is_refused():
    def f(p, x):
        return (jnp.zeros((len(x), 4)).at[:, p["at"]].add(x @ p["u"])) @ p["v"]

    params = {"u": normal(2, 2), "v": normal(4, 1), "at": jnp.array([1, 3])}
    with pytest.raises(npk.UnsupportedOperation, match="adding at places that depend on x or on parameters"):
        npk.path_kernel(f)(params, normal(3, 2))
