"""Kernels at infinite width: symmetric, positive, the same in blocks, under transformations and however written."""

import architectures
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from tolerances import assert_close
from wide_problems import KERNELS, NETWORKS, STD, deep, normal, parameters

import npk
import npk.infinite


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
    monkeypatch.setattr("npk.infinite.kernels._BLOCK_ELEMENTS", 9)
    kernel = npk.infinite.ntk(architectures.afresh(f), **STD)
    assert_close(kernel(p, x), whole)
    assert_close(kernel(p, x[:4], x[4:]), whole[:4, 4:])


def test_kernels_under_jit_vmap_and_grad(x64):
    network = deep(1, bias=True)
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
    network = deep(1)
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
        "width": (architectures.function(deep(3, True)), parameters(deep(3, True))),
    }
    kernels = {name: npk.infinite.ntk(f, **STD)(p, x) for name, (f, p) in ways.items()}
    for kernel in kernels.values():
        assert_close(kernel, kernels["width"])


def test_scales_by_name(x64):
    network = deep(1, bias=True)
    f, p, x = architectures.function(network), parameters(network), normal(3, 7)
    kernel = npk.infinite.nngp(
        f, weight_std={"Dense_0/kernel": 0.5, "Dense_1/kernel": 3.0}, bias_std=lambda name: 0.7 * (name[6] == "1")
    )(p, x)
    assert_close(kernel, 0.7**2 + (0.5 * 3 / 2) ** 2 * npk.infinite.nngp(f)(p, x))
