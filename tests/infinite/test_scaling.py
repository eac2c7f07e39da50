"""NTK parameterisation without writing a model in it."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from draws import of_key
from tolerances import assert_close

import npk
from npk import infinite, networks, training


def in_ntk_parameterisation(model, params):
    """The model written in unit weights: what `scaling` does without."""
    sizes = infinite.variances(params)
    unit = jax.tree_util.tree_map(lambda w, v: w / math.sqrt(v), params, sizes)
    f = lambda p, x: model.apply(jax.tree_util.tree_map(lambda w, v: math.sqrt(v) * w, p, sizes), x)  # noqa: E731
    return f, unit


def problem(network, outputs=1, **options):
    model = networks.build(network, outputs=outputs, use_bias=False, **options)
    x = of_key(jax.random.key(0), (5, 4, 4, 2))
    shapes = jax.eval_shape(model.init, jax.random.key(1), x)
    params = training.redraw(shapes, jax.random.key(2), "he")
    return model, params, x


@pytest.mark.parametrize("network", ["mlp", "c4gap"])
def test_the_kernel_is_that_of_the_model_written_in_unit_weights(network):
    model, params, x = problem(network, outputs=3, width=8)
    found = infinite.ntk_parameterised(npk.split_ntk(model.apply)(params, x), params, outputs=3)
    f, unit = in_ntk_parameterisation(model, params)
    assert_close(found.total, npk.ntk(f)(unit, x) / 3, factor=3)
    assert_close(sum(block.value for block in found.blocks.values()), found.value)


def test_gradient_descent_in_unit_weights_is_that_with_scaled_steps():
    model, params, x = problem("mlp", width=8)
    f, unit = in_ntk_parameterisation(model, params)
    sizes = infinite.variances(params)
    loss = lambda f: lambda p: jnp.sum(jnp.square(f(p, x) - 1.0))  # noqa: E731
    for _ in range(3):
        unit = jax.tree_util.tree_map(lambda w, g: w - 0.01 * g, unit, jax.grad(loss(f))(unit))
        gradient = jax.grad(loss(model.apply))(params)
        params = jax.tree_util.tree_map(lambda w, g, v: w - 0.01 * v * g, params, gradient, sizes)
    assert_close(f(unit, x), model.apply(params, x), factor=10)


@pytest.mark.parametrize("network", ["mlp", "c4gap"])
def test_wide_networks_are_near_the_limits(network):
    """All constants at once: K, K^V of both regimes, H and the last layer's part against infinite width."""
    model, params, x = problem(network, width=1024 if network == "mlp" else 96)
    d = len(jax.tree_util.tree_leaves(params))
    feature = training.redraw(params, jax.random.key(3), "he")
    split = infinite.ntk_parameterised(npk.split_ntk(model.apply)(params, x), params)
    both = {"feature": feature, "value": params}
    frozen = infinite.ntk_parameterised(npk.split_ntk(npk.DGN(model.apply))(both, x), both)
    kernel = npk.path_kernel(model.apply)(feature, x)
    last = [name for name in split.blocks if "Dense" in name][-1]
    pairs = {
        "ntk": (split.total, infinite.ntk(model.apply)(params, x)),
        "FR-DI": (split.value, infinite.path_kernel(model.apply, regime="FR-DI")(params, x)),
        "FR-II": (frozen.value, d * 2**d * infinite.path_kernel(model.apply)(params, x)),
        "H": (kernel, infinite.path_kernel(model.apply)(params, x)),
        "K^V about H": (frozen.value, d * 2**d * kernel),
        "nngp": (split.blocks[last].total, infinite.nngp(model.apply)(params, x)),
    }
    for name, (finite, limit) in pairs.items():
        gap = float(jnp.linalg.norm(finite - limit) / jnp.linalg.norm(limit))
        assert gap < (0.15 if network == "mlp" else 0.35), f"{name}: {gap}"


def test_a_bias_counts_with_its_variance(x64):
    """K of a linear layer in unit weights is σ_w²/d ⟨x, x'⟩ + σ_b²."""
    x, p = np.random.default_rng(0).normal(size=(3, 4)), {"w": jnp.ones((4, 1)), "b": jnp.ones(1)}
    split = npk.split_ntk(lambda p, x: x @ p["w"] + p["b"][None])(p, jnp.asarray(x))
    assert_close(infinite.ntk_parameterised(split, p, weight_std=1.5, bias_std=0.3).total, 1.5**2 / 4 * x @ x.T + 0.09)


@pytest.mark.parametrize("statistics", ["batch_stats", "held"])
def test_only_the_leaves_that_count_are_scaled(statistics, x64):
    """Statistics have no block, and no part in the kernel: here σ_w²/d ⟨x/σ, x'/σ⟩."""
    x, p = np.random.default_rng(0).normal(size=(3, 4)), {"w": jnp.ones((4, 1)), statistics: jnp.arange(1.0, 5.0)}
    f = lambda p, x: (x / p[statistics][None]) @ p["w"]  # noqa: E731
    split = npk.split_ntk(f, wrt=None if statistics == "batch_stats" else "w")(p, jnp.asarray(x))
    found = infinite.ntk_parameterised(split, p, weight_std=1.5, bias_std=0.3)
    assert set(found.blocks) == {"w"}
    scaled = x / np.arange(1.0, 5.0)
    assert_close(found.total, 1.5**2 / 4 * scaled @ scaled.T)


def test_errors():
    split = npk.split_ntk(lambda p, x: x @ p["w"])({"w": jnp.ones((2, 1))}, jnp.ones((1, 2)))
    with pytest.raises(ValueError, match="not the same"):
        infinite.ntk_parameterised(split, {"v": jnp.ones((2, 1))})
    with pytest.raises(ValueError, match="not the same"):
        infinite.ntk_parameterised(npk.NTKSplit(split.value, split.feature, split.cross), {"w": jnp.ones((2, 1))})
    with pytest.raises(ValueError, match="weight_std must not be negative"):
        infinite.variances({"w": jnp.ones((2, 1))}, weight_std=-1.0)


def test_a_reading_says_what_shapes_can_only_guess():
    """A kernel that is used transposed, and a learned scale: fan-ins are those of the reading."""
    params = {"w": jnp.ones((5, 3)), "scale": jnp.ones((1, 5)), "b": jnp.ones((1, 5)), "v": jnp.ones((5, 2))}
    f = lambda p, x: jax.nn.relu(x @ p["w"].T + p["b"]) * p["scale"] @ p["v"]  # noqa: E731
    reading = npk.explain(f)(params, jnp.ones((4, 3)))
    sizes = infinite.variances(params, weight_std=1.0, bias_std=0.5, reading=reading)
    assert sizes == {"w": 1 / 3, "scale": 1.0, "b": 0.25, "v": 1 / 5}
    mixed = lambda p, x: x @ p["w"][:3] + (jax.nn.relu(x[:, :2] @ p["w"][3:]))  # noqa: E731
    reading = npk.explain(mixed)({"w": jnp.ones((5, 3))}, jnp.ones((4, 3)))
    with pytest.raises(ValueError, match="parts of w have different roles"):
        infinite.variances({"w": jnp.ones((5, 3))}, reading=reading)


def test_of_a_feature_network_a_reading_says_nothing_and_shapes_do():
    f = lambda p, x: jax.nn.silu(x @ p["w"]) @ p["v"]  # noqa: E731
    params = {side: {"w": jnp.ones((3, 4)), "v": jnp.ones((4, 1))} for side in ("feature", "value")}
    x = jnp.ones((2, 3))
    reading = npk.explain(npk.DGN(f))(params, x)
    assert infinite.variances(params, reading=reading) == infinite.variances(params)
