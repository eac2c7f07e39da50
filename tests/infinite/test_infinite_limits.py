"""Finite networks against their limits: means in units of their standard error, single draws against the width."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from draws import normal, variables
from tolerances import assert_close

import npk
import npk.infinite

KEY = jax.random.key(0)
REGIMES = ("FR-II", "DLGN", "DLGN-SF")


def within_standard_errors(sample, expected, draws, errors=4.5):
    """Whether the mean of `sample(key)` is `expected`, to a number of its own standard errors."""
    keys = jax.random.split(jax.random.fold_in(KEY, 9), draws)
    values = jax.lax.map(sample, keys)
    mean, error = values.mean(0), values.std(0) / draws**0.5
    assert (error > 0).all()
    assert float(jnp.max(jnp.abs(mean - expected) / error)) <= errors


class Dense(nn.Module):
    width: int = 512

    @nn.compact
    def __call__(self, x):
        for _ in range(3):
            x = nn.relu(nn.Dense(self.width, use_bias=False, kernel_init=nn.initializers.he_normal())(x))
        return nn.Dense(1, use_bias=False)(x)


class ConvGAP(nn.Module):
    width: int = 128

    @nn.compact
    def __call__(self, x):
        for _ in range(2):
            x = nn.relu(nn.Conv(self.width, (3, 3), use_bias=False, kernel_init=nn.initializers.he_normal())(x))
        return nn.Dense(1, use_bias=False)(x.mean((1, 2)))


CASES = {"dense": (Dense(), (4, 6)), "conv + GAP": (ConvGAP(), (3, 4, 4, 2))}


def gates_of(f, regime, key, params, x):
    """Gates of a random network of a regime, drawn from `key`."""
    if regime == "DLGN-SF":
        flat = x.reshape(len(x), -1)
        maps = npk.shallow_features(f)(key, params, x)
        return tuple(npk.hard_gate(jnp.tensordot(flat, m["kernel"], 1)) for m in maps)
    if regime == "DLGN":
        return tuple(npk.hard_gate(q) for q in npk.preactivations(npk.linear(f))(params, x))
    return npk.gates(f)(params, x)


MEANS = [("dense", regime, False) for regime in REGIMES] + [("conv + GAP", "DLGN", True)]
MORE = [("dense", regime, True) for regime in REGIMES]
MORE += [("conv + GAP", r, c) for r in REGIMES[::2] for c in (False, True)]
MEANS += [pytest.param(*more, marks=pytest.mark.slow) for more in MORE]


@pytest.mark.parametrize(("case", "regime", "constant"), MEANS)
def test_path_kernel_is_the_mean_over_gates_of_wide_networks(case, regime, constant):
    model, shape = CASES[case]
    x = normal(*shape)
    f, params = model.apply, variables(model, x)
    kernel = npk.path_kernel(f)

    def draw(key):
        drawn = model.init(key, x)
        gates = gates_of(f, regime, key, drawn, x)
        return kernel(params, jnp.ones_like(x) if constant else x, gates1=gates)

    limit = npk.infinite.path_kernel(f, regime=regime, constant_input=constant)(params, x)
    within_standard_errors(draw, limit, 32)


def test_path_kernel_of_a_dense_network_is_a_product_of_angles():
    """DESIGN, statement 4: ⟨x, x'⟩ / d · Π (1 - θ / π) / 2, θ by the arc-cosine recursion or of the inputs."""
    model, x = Dense(8), normal(5, 6)
    params = variables(model, x)
    x64 = np.asarray(x, np.float64)
    norms = np.linalg.norm(x64, axis=1)
    cosine = np.clip(x64 @ x64.T / np.outer(norms, norms), -1, 1)
    np.fill_diagonal(cosine, 1)
    inputs, product = np.arccos(cosine), 1.0
    for _ in range(3):
        angle = np.arccos(cosine)
        product = product * (1 - angle / np.pi) / 2
        cosine = np.clip((np.sin(angle) + (np.pi - angle) * np.cos(angle)) / np.pi, -1, 1)
        np.fill_diagonal(cosine, 1)
    gram = x64 @ x64.T / 6
    assert_close(npk.infinite.path_kernel(model.apply)(params, x), gram * product)
    alone = npk.infinite.path_kernel(model.apply, regime="DLGN", constant_input=True)(params, x)
    assert_close(alone, ((1 - inputs / np.pi) / 2) ** 3)


# --------------------------------------------------------------------- the NTK's value part and the path kernel


def in_ntk_parameterisation(activation, weight_std=1.0):
    """f with weights of unit variance and their scale written out, and a function that draws them."""

    def f(p, x):
        *hidden, last = p
        for w in hidden:
            x = activation(x @ (w * (weight_std / w.shape[0] ** 0.5)))
        return x @ (last * (weight_std / last.shape[0] ** 0.5))

    def draw(key, width, inputs=6, depth=3):
        sizes = (inputs, *[width] * (depth - 1), 1)
        keys = jax.random.split(key, depth)
        return [jax.random.normal(k, (a, b)) for k, a, b in zip(keys, sizes, sizes[1:])]

    return f, draw


@pytest.mark.parametrize("name", ["hard", pytest.param("soft", marks=pytest.mark.slow)])
def test_gates_of_the_same_weights_give_the_value_part_of_the_ntk(name):
    std = npk.infinite.HE
    f, draw = in_ntk_parameterisation(jax.nn.relu if name == "hard" else npk.soft_relu, std)
    x, split = normal(4, 6), npk.split_ntk(f)
    limit = npk.infinite.path_kernel(f, regime="FR-DI")(draw(KEY, 4), x)
    within_standard_errors(lambda key: split(draw(key, 1024), x).value, limit, 16)
    if name == "hard":
        assert_close(limit, npk.infinite.ntk(f)(draw(KEY, 4), x))
    else:  # soft gates move: beside their value part is a feature part
        assert (jnp.diag(limit) < 0.95 * jnp.diag(npk.infinite.ntk(f)(draw(KEY, 4), x))).all()


def relative_error(kernel, limit):
    return float(jnp.linalg.norm(kernel - limit) / jnp.linalg.norm(limit))


@pytest.mark.slow
def test_independent_gates_converge_to_the_path_kernel_and_dependent_ones_do_not():
    """Statement 3. K^V of FR-II tends to d·H at the rate 1/√width; K^V of FR-DI to the ReLU NTK, which is not d·H."""
    f, draw = in_ntk_parameterisation(jax.nn.relu)
    x, depth = normal(6, 6), 3
    h = npk.infinite.path_kernel(f)(draw(KEY, 4), x)
    dependent = npk.infinite.path_kernel(f, regime="FR-DI", weight_std=1.0)(draw(KEY, 4), x)
    gap = relative_error(dependent, depth * h)
    assert gap > 0.1

    widths = np.array([64, 256, 1024])
    errors = {True: [], False: []}
    for width in widths:

        def one(key, width=int(width)):
            feature, value = (draw(k, width) for k in jax.random.split(key))
            return [_value_part(f, value, gates, x) for gates in (value, feature)]

        kernels = jax.lax.map(one, jax.random.split(jax.random.fold_in(KEY, 5), 12))
        for same, drawn in zip((True, False), kernels, strict=True):
            errors[same].append(np.mean([relative_error(k, depth * h) for k in drawn]))
    slope = np.polyfit(np.log(widths), np.log(errors[False]), 1)[0]
    assert -0.6 < slope < -0.4
    assert errors[False][-1] < 0.5 * gap  # independent gates are nearer than dependent ones can come:
    assert abs(errors[True][-1] - gap) < 0.25 * gap  # those stop at the distance of their own limit


def _value_part(f, value, feature, x):
    """K^V of weights `value` under the gates of weights `feature`."""
    dgn = lambda p, t: npk.gated(f)(p, t, npk.gates(f)(feature, t))  # noqa: E731
    return npk.split_ntk(dgn)(value, x).value
