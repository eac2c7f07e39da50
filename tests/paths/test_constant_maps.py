"""Linear maps with constant coefficients: H is the second moment over random signs of the weights, φ·v = f."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from draws import normal
from tolerances import assert_close

import npk
from npk.path_kernels.demands import demands_of, size_of
from npk.paths import form_of

relu = jax.nn.relu
BLUR = jnp.asarray([[1.0, 2.0, 1.0]]).T @ jnp.asarray([[1.0, 3.0]])
GRAPH = np.array([[0.0, 1.0, 0.5], [1.0, 0.0, -1.0], [0.5, 0.0, 1.0]])
SEGMENTS = np.array([0, 2, 0, 1])
FOURIER = np.real(np.fft.fft(np.eye(4)))
numbers = ("NHWC", "HWIO", "NHWC")


def constant(value, x):
    return jnp.asarray(value, x.dtype)


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
    "resized": (images(lambda x: jax.image.resize(x, (len(x), 5, 3, x.shape[-1]), "linear")), (3, 2, 1), 2, 2),
}


def drawn(name):
    f, shape, width, last = MAPS[name]
    params = {"u": normal(shape[-1] if name != "of the input" else 3, width), "v": normal(last, 1, seed=1)}
    return f, params, normal(3, *shape, seed=2)


def by_signs(f, params, x, gates):
    """E[f(s) f(s')] over all signs of the weights, gates held."""
    leaves, structure = jax.tree.flatten(params)
    sizes = [leaf.size for leaf in leaves]
    signs = np.array(list(itertools.product((-1.0, 1.0), repeat=sum(sizes))), x.dtype)
    linear = npk.gated(f)

    def one(signs):
        parts = jnp.split(signs, np.cumsum(sizes)[:-1])
        own = [part.reshape(leaf.shape) for part, leaf in zip(parts, leaves, strict=True)]
        return linear(jax.tree.unflatten(structure, own), x, gates)[:, 0]

    out = jax.jit(jax.vmap(one))(signs)
    return np.einsum("wn,wm->nm", out, out) / len(out)


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


def test_adding_at_places_that_parameters_choose_is_refused():
    def f(p, x):
        return (jnp.zeros((len(x), 4)).at[:, p["at"]].add(x @ p["u"])) @ p["v"]

    params = {"u": normal(2, 2), "v": normal(4, 1), "at": jnp.array([1, 3])}
    with pytest.raises(npk.UnsupportedOperation, match="adding at places that depend on x or on parameters"):
        npk.path_kernel(f)(params, normal(3, 2))
