"""The seven statements of the theory; statistics in units of their own standard error, with fixed keys."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from draws import normal, variables
from tolerances import assert_close

import npk
from npk import networks


def model(network, x, seed=1):
    return network.apply, variables(network, x, seed)


def mlp(width=8, depth=3, **options):
    return networks.MLP(width=width, depth=depth, outputs=1, use_bias=False, **options)


class ConvGAP(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(4, (3, 3), padding="CIRCULAR", use_bias=False)(x))
        x = nn.relu(nn.Conv(4, (3, 3), padding="CIRCULAR", use_bias=False)(x))
        return nn.Dense(1, use_bias=False)(x.mean((1, 2)))


class Residual(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Conv(3, (3, 3), use_bias=False)(x)
        for _ in range(2):
            x = x + nn.Conv(3, (3, 3))(nn.relu(nn.Conv(3, (3, 3))(nn.relu(x))))
        return nn.Dense(1)(nn.relu(x).mean((1, 2)))


CASES = {"mlp": (mlp(), (5, 4)), "conv + GAP": (ConvGAP(), (4, 5, 5, 2)), "ResNet": (Residual(), (4, 4, 4, 2))}
every_case = pytest.mark.parametrize(("network", "shape"), CASES.values(), ids=CASES.keys())


def signs(params, *draws, seed=0):
    """Weights ±1 in the shapes of params, [*draws, ...]."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda a: jnp.asarray(2 * rng.integers(0, 2, (*draws, *a.shape), np.int8) - 1, a.dtype), params)


def mean_and_error(sample, weights):
    """The mean of `sample` over draws of weights, and its standard error."""
    values = jax.lax.map(sample, weights, batch_size=250)
    return values.mean(0), values.std(0) / len(values) ** 0.5


@every_case
def test_1_output_is_the_inner_product_of_features_and_values(network, shape):
    x = normal(*shape)
    f, params = model(network, x)
    if npk.count_paths(f)(params, x) > npk.paths.MAX_PATHS:
        pytest.skip("too many paths to list")
    assert_close(npk.npf(f)(params, x) @ npk.npv(f)(params, x), f(params, x), factor=3)


@every_case
def test_2a_covariance_over_random_weights_is_the_path_kernel(network, shape):
    x = normal(*shape)
    f, params = model(network, x)
    gates = npk.gates(f)(params, x)

    def product(weights):
        y = npk.gated(f)(weights, x, gates)[:, 0]
        return y[:, None] * y[None, :]

    mean, error = mean_and_error(product, signs(params, 20_000))
    assert (jnp.abs(mean - npk.path_kernel(f)(params, x, normalize=False)) <= 5 * error + 1e-6).all()


def test_2b_value_kernel_of_independent_weights_is_d_sigma_h_at_every_width():
    x = normal(4, 5)
    sigma = 0.7
    for width in (3, 12):
        f, params = model(mlp(width=width, depth=3), x)
        gates = npk.gates(f)(params, x)

        def gram(p, f=f, gates=gates):
            gradients = jax.jacrev(lambda p: npk.gated(f)(p, x, gates)[:, 0])(p)
            flat = jnp.concatenate([g.reshape(4, -1) for g in jax.tree.leaves(gradients)], 1)
            return flat @ flat.T

        mean, error = mean_and_error(gram, jax.tree.map(lambda s: sigma * s, signs(params, 4000)))
        expected = 3 * sigma ** (2 * 2) * npk.path_kernel(f)(params, x, normalize=False)
        assert (jnp.abs(mean - expected) <= 5 * error + 1e-5).all()


@functools.cache
def kernels_of_one_draw(width):
    """(K^V / (d σ^{2(d-1)}), H) for weights ±σ, σ² = 2 / width, of value and feature network; compiled once a width."""
    f = mlp(width=width, depth=3).apply

    @jax.jit
    def kernels(value, feature, x):
        dgn = lambda p, t: npk.gated(f)(p, t, npk.gates(f)(feature, t))  # noqa: E731
        h = npk.path_kernel(f)(feature, x, normalize=False)
        return npk.split_ntk(dgn)(value, x).value / (3 * (2 / width) ** 2), h

    return kernels


def relative_error_of_one_draw(width, dependent, seed):
    """|K^V / (d σ^{2(d-1)}) - H| / |H| for one draw."""
    x = normal(6, 10)
    shapes = jax.eval_shape(mlp(width=width, depth=3).init, jax.random.key(0), x)
    feature, other = (jax.tree.map(lambda s: (2 / width) ** 0.5 * s, signs(shapes, seed=[seed, k])) for k in range(2))
    value = feature if dependent else other
    kernel, h = kernels_of_one_draw(width)(value, feature, x)
    return float(jnp.linalg.norm(kernel - h) / jnp.linalg.norm(h))


def test_2c_error_of_one_draw_falls_as_the_root_of_the_width():
    widths = np.array([16, 64, 256])
    errors = [np.mean([relative_error_of_one_draw(int(w), False, s) for s in range(8)]) for w in widths]
    slope = np.polyfit(np.log(widths), np.log(errors), 1)[0]
    assert -0.65 < slope < -0.35


def test_3_gates_of_the_same_weights_do_not_give_the_path_kernel():
    errors = {
        (dependent, width): np.mean([relative_error_of_one_draw(width, dependent, s) for s in range(6)])
        for dependent in (True, False)
        for width in (32, 512)
    }
    assert errors[True, 512] > 2 * errors[False, 512]
    assert errors[False, 512] < 0.5 * errors[False, 32]  # independent weights converge,
    assert errors[True, 512] > 0.7 * errors[True, 32]  # dependent ones do not


def angle(inner, norms):
    return jnp.arccos(jnp.clip(inner / norms, -1, 1))


def test_4_independent_he_gates_tend_to_the_arc_cosine_product():
    x = normal(4, 20)
    width, depth = 4096, 3
    weights = [normal(a, width, seed=s) * (2 / a) ** 0.5 for s, a in enumerate((20, width))]
    f = lambda p, t: jax.nn.relu(jax.nn.relu(t @ p[0]) @ p[1]) @ p[2]  # noqa: E731
    params = [*weights, jnp.ones((width, 1))]
    h = npk.path_kernel(f)(params, x) * 2 ** (depth - 1)  # variance 2 / width instead of 1 / width
    inner = x @ x.T
    norms = jnp.sqrt(jnp.diag(inner)[:, None] * jnp.diag(inner)[None, :])
    theta, expected = angle(inner, norms), inner / 20
    linear = expected * (1 - theta / jnp.pi) ** 2
    for _ in range(depth - 1):
        expected = expected * (1 - theta / jnp.pi)
        theta = jnp.arccos(jnp.clip((jnp.sin(theta) + (jnp.pi - theta) * jnp.cos(theta)) / jnp.pi, -1, 1))
    assert_close(h, expected, factor=5e3)
    # DLGN: the gating network is linear, so that every layer has the angle of the inputs.
    q = npk.preactivations(npk.linear(f))(params, x)
    gates = tuple((v > 0).astype(v.dtype) for v in q)
    assert_close(npk.path_kernel(f)(params, x, gates1=gates) * 2 ** (depth - 1), linear, factor=1e4)


def test_5_circular_convolution_with_global_pooling_is_shift_invariant():
    x = normal(3, 5, 5, 2)
    f, params = model(ConvGAP(), x)
    kernel = npk.path_kernel(f)
    assert_close(kernel(params, jnp.roll(x, (1, 3), (1, 2)), x), kernel(params, x))
    assert_close(kernel(params, x, jnp.roll(x, 2, 1)), kernel(params, x))


def test_6_skip_connections_sum_over_the_subnetworks():
    def network(keep):
        def f(p, x):
            h = x @ p["first"]
            for block, kept in zip(p["blocks"], keep, strict=True):
                through = jax.nn.relu(h) @ block
                h = {"both": h + through, "kept": through, "skipped": h}[kept]
            return h @ p["last"]

        return f

    p = {"first": normal(4, 6), "blocks": [normal(6, 6, seed=s) for s in (1, 2)], "last": normal(6, 1, seed=3)}
    x = normal(5, 4)
    residual = network(("both", "both"))
    gates = npk.gates(residual)(p, x)
    total = 0
    for first in ("kept", "skipped"):
        for second in ("kept", "skipped"):
            f = network((first, second))
            own = tuple(g for g, kept in zip(gates, (first, second), strict=True) if kept == "kept")
            total = total + npk.path_kernel(f)(p, x, gates1=own, normalize=False)
    assert_close(npk.path_kernel(residual)(p, x, normalize=False), total)


def test_7_all_ones_inputs_leave_the_overlap():
    x = normal(6, 4)
    f, params = model(mlp(), x)
    gates = npk.gates(f)(params, x)
    h = npk.path_kernel(f)(params, jnp.ones_like(x), gates1=gates, normalize=False)
    assert_close(h, 4 * npk.overlap(gates, normalize=False))
    assert_close(npk.path_kernel(f)(params, jnp.ones_like(x), gates1=gates), npk.overlap(gates))
