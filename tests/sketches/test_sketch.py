"""Sketches: exact in expectation by all sign vectors, statistics in units of standard error, how many draws."""

import functools
import itertools

import architectures
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from architectures import REGISTRY
from oracles.enumeration import Enumeration, gram_of
from oracles.language import BatchNorm, Conv, Dense, GlobalAvgPool, MaxPool, Network, Relu, Residual, Scale
from oracles.transformers import ZOO
from sketch_problems import KEY, as_float, mlp, normal
from tolerances import assert_close

import npk
from npk.gating import gate_shapes, own_gates, per_sample, sample_program
from npk.programs import Wanted
from npk.programs.checks import working_dtype
from npk.sketches.signs import value_network
from npk.sketches.transformations import _derivative, _one_sample


def all_signs(*shapes):
    """Every vector of signs, [2^n, *shape] for each shape."""
    sizes = [int(np.prod(s)) for s in shapes]
    vectors = np.array(list(itertools.product((-1.0, 1.0), repeat=sum(sizes))))
    parts = np.split(vectors, np.cumsum(sizes)[:-1].tolist(), axis=1)
    return [p.reshape(len(vectors), *s) for p, s in zip(parts, shapes, strict=True)]


def mean_gram(z):
    """[draws, n, K] → (1/D) Σ z zᵀ over outputs."""
    return jnp.einsum("dnk,dmk->nm", z, z) / z.shape[0]


# ------------------------------------------------------------------------------ exact in expectation


@functools.partial(jax.jit, static_argnames=("f", "normalize"))
def mean_over_all_signs(f, params, x, normalize):
    """The mean over every sign vector of what one draw gives."""
    program, leaves = sample_program(f, params, x), jax.tree.leaves(params)
    network = value_network(program, leaves, normalize, working_dtype(x))
    own = zip(own_gates(f, params, x), gate_shapes(program), strict=True)
    laid = [per_sample(g, s.shape, len(x)) for g, s in own]

    def one(signs):
        drawn = list(leaves)
        for number, part in zip(network.scales, signs, strict=True):
            drawn[number] = network.scales[number] * part
        return network.outputs(drawn, x, laid)

    every = all_signs(*(leaves[i].shape for i in network.scales))
    z = jax.lax.map(one, every, batch_size=1024)
    return mean_gram(z) / z.shape[-1]


TINY = {
    "dense with biases": Network((2,), (Dense(2), Relu(), Dense(1))),
    "two outputs": Network((2,), (Dense(2), Relu(0.25), Dense(2, bias=False))),
    "convolution + pooling": Network((4, 1), (Conv(2, (2,), stride=1), Relu(), GlobalAvgPool(), Dense(1))),
    "max pooling": Network((4, 1), (Conv(2, (2,)), MaxPool((2,), 2), Relu(), GlobalAvgPool(), Dense(1))),
    "residual": Network((2,), (Dense(2, bias=False), Residual((Relu(), Dense(2))), Relu(), Dense(1))),
    "batch norm": Network((2,), (Dense(2), BatchNorm(), Relu(), Dense(1))),
    "learned scale": Network((2,), (Dense(2, bias=False), Relu(), Scale(), Dense(1))),
}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("network", TINY.values(), ids=TINY.keys())
def test_the_mean_over_all_sign_vectors_is_the_path_kernel_of_the_enumeration(network):
    f, params, x = architectures.case(network, seed=3)
    oracle = Enumeration(network, params, x)
    for normalize in (True, False):
        mean = mean_over_all_signs(f, as_float(params), as_float(x), normalize)
        assert_close(mean, gram_of(oracle, oracle, normalize).astype(float))


def rms_norm(g, h):
    return h * jax.lax.rsqrt((h * h).mean(-1, keepdims=True) + 1e-3) * g[None]


def attending(p, x):
    """Every number of a sample is a position, after a learned one."""
    h = jnp.concatenate([jnp.broadcast_to(p["token"], (len(x), 1, 2)), x[:, :, None] @ p["a"]], 1)
    return jnp.einsum("nq,nqc->nc", jax.nn.softmax(h @ h.swapaxes(1, 2))[:, 0], h @ p["v"]) @ p["c"]


SPECIAL = {
    "constants that multiply weights and biases": (
        lambda p, x: jax.nn.relu(x @ (0.5 * p["a"]) + 3.0 * p["b"][None]) @ (-p["c"] / 4),
        {"a": (2, 2), "b": (2,), "c": (2, 1)},
    ),
    "parts of one parameter as layers of different fan-in": (
        lambda p, x: jax.nn.relu(x @ p["w"][:6].reshape(2, 3)) @ p["w"][6:9].reshape(3, 1) + p["w"][9:][None],
        {"w": (10,)},
    ),
    "lax.scan over stacked layers": (
        lambda p, x: jax.lax.scan(lambda h, w: (jax.nn.relu(h @ w), None), x, p["w"])[0][:, :1],
        {"w": (3, 2, 2)},
    ),
    "a weight that also normalises": (
        lambda p, x: jax.nn.relu((x @ p["a"]) * jax.lax.rsqrt((p["a"] ** 2).sum(0, keepdims=True))) @ p["c"],
        {"a": (2, 2), "c": (2, 1)},
    ),
    "a bias that is also a normalisation's factor": (
        lambda p, x: jax.nn.relu((x @ p["a"]) / jnp.sqrt(p["b"][None] ** 2 + 1) + p["b"][None]) @ p["c"],
        {"a": (2, 2), "b": (2,), "c": (2, 1)},
    ),
    "a weight on the left": (
        lambda p, x: (p["c"] @ jax.nn.relu(p["a"] @ x.T)).T,
        {"a": (2, 2), "c": (1, 2)},
    ),
    "a norm, whose factor is a fixed number": (
        lambda p, x: jax.nn.relu(rms_norm(p["g"], x @ p["a"])) @ p["c"],
        {"a": (2, 2), "c": (2, 1), "g": (2,)},
    ),
    "a product with a gate": (
        lambda p, x: (jax.nn.silu(x @ p["g"]) * (x @ p["u"])) @ p["c"],
        {"g": (2, 2), "u": (2, 2), "c": (2, 1)},
    ),
    "a class token that attends": (attending, {"a": (1, 2), "token": (1, 1, 2), "v": (2, 2), "c": (2, 1)}),
}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("f", "shapes"), SPECIAL.values(), ids=SPECIAL.keys())
def test_the_mean_over_all_sign_vectors_is_the_path_kernel(f, shapes):
    params = {name: normal(*s, seed=i, dtype=jnp.float64) for i, (name, s) in enumerate(shapes.items())}
    x = normal(4, 2, seed=9, dtype=jnp.float64)
    for normalize in (True, False):
        mean = mean_over_all_signs(f, params, x, normalize)
        assert_close(mean, npk.path_kernel(f)(params, x, normalize=normalize))


TANGENTS = {
    "a leaf that is read twice": (
        lambda p, x: npk.soft_relu(x @ p["a"] + p["b"][None]) @ p["c"] @ p["c"],
        {"a": (2, 2), "b": (2,), "c": (2, 2)},
    ),
    "a norm and a product with a gate": (
        lambda p, x: rms_norm(p["b"], jax.nn.silu(x @ p["g"]) * (x @ p["u"])) @ p["c"],
        {"b": (2,), "c": (2, 1), "g": (2, 2), "u": (2, 2)},
    ),
}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("part", ["value", "feature", "total"])
@pytest.mark.parametrize(("f", "shapes"), TANGENTS.values(), ids=TANGENTS.keys())
def test_the_mean_over_all_tangents_is_the_tangent_kernel(f, shapes, part):
    params = {name: normal(*s, seed=i, dtype=jnp.float64) for i, (name, s) in enumerate(shapes.items())}
    x = normal(4, 2, seed=9, dtype=jnp.float64)

    @jax.jit
    def mean(params):
        leaves = jax.tree.leaves(params)
        along = _derivative(_one_sample(f, part, Wanted(), params, x), leaves, dict(enumerate(leaves)), x, None, part)
        return mean_gram(jax.lax.map(lambda u: along(dict(enumerate(u))), all_signs(*(a.shape for a in leaves))))

    assert_close(mean(params), getattr(npk.split_ntk(f)(params, x), part), factor=10)


# -------------------------------------------------------------- estimates, in units of standard error


def check_errors(z, kernel, sigmas=4.5):
    """No entry further from the truth than its standard error allows; and none with an error of nothing."""
    rounding = 1e-5 * np.abs(kernel).max()
    assert (np.abs(z.gram() - kernel) <= sigmas * z.standard_error() + rounding).all()


@pytest.mark.parametrize("name", ["circular", "residual batch norm", "max pooling", "groups"])
def test_architectures(name):
    f, params, x = architectures.case(REGISTRY[name], seed=2)
    p, xs = as_float((params, x), jnp.float32)
    z = npk.sketch(f)(p, xs, features=600, key=KEY)
    assert z.features.shape == (3, 300, 2)
    check_errors(z, npk.path_kernel(f)(p, xs))


def test_tangent_kernel_of_convolutions():
    f, params, x = architectures.case(REGISTRY["residual, pre-activation"], seed=2)
    p, xs = as_float((params, x), jnp.float32)
    check_errors(npk.sketch_ntk(f)(p, xs, features=600, key=KEY), npk.split_ntk(f)(p, xs).value)


@pytest.mark.standard_dtypes
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "name", ["pre-norm", "a class token", "padding", "group norm", "attention: keys and values broadcast"]
)
def test_every_gate(name):
    """Against the paths of the polynomials."""
    case = ZOO[name].drawn()
    with jax.numpy_rank_promotion("allow"):
        z = npk.sketch(case.f)(case.params, case.x, features=1024, key=KEY)
        if name == "padding":
            both = {"feature": ZOO[name].drawn(1).params, "value": case.params}
            gated = npk.sketch(npk.DGN(case.f))(both, case.x, features=1024, key=KEY)
            own = npk.gates(case.f)(both["feature"], case.x)
            given = npk.sketch(case.f)(case.params, case.x, own, features=1024, key=KEY)
            assert_close(gated.gram(), given.gram())
    outputs = len(jax.tree.leaves(case.params)[-1][0])
    h = np.mean([case.paths(output=k).gram() for k in range(outputs)], 0)
    assert np.abs((z.gram() - h) / z.standard_error()).max() < 5


def test_soft_and_given_gates():
    f, params, x = mlp(activation=npk.soft_relu)
    check_errors(npk.sketch(f)(params, x, features=800, key=KEY), npk.path_kernel(f)(params, x))
    gates = tuple(jax.random.uniform(jax.random.fold_in(KEY, i), (5, 6)) for i in range(2))
    z = npk.sketch(f)(params, x, gates, features=800, key=KEY)
    check_errors(z, npk.path_kernel(f)(params, x, gates1=gates))
    for part in ("value", "feature", "total"):
        z = npk.sketch_ntk(f, part=part)(params, x, features=800, key=KEY)
        check_errors(z, getattr(npk.split_ntk(f)(params, x), part))
    fixed = lambda p, x: npk.gated(f)(p, x, gates)  # noqa: E731
    z = npk.sketch_ntk(f)(params, x, gates, features=800, key=KEY)
    jacobian = jax.tree.leaves(jax.jacrev(fixed)(params, x))
    rows = [j.reshape(5, 2, -1) for j in jacobian]
    check_errors(z, sum(jnp.einsum("nkp,mkp->nm", r, r) for r in rows))


def test_deep_gated_networks_with_constant_input():
    f, feature, x = mlp()
    params = {"feature": feature, "value": jax.tree.map(lambda a: a + 0.5, feature)}
    g = npk.DGN(f, beta=4.0, constant_input=True)
    check_errors(npk.sketch(g)(params, x, features=800, key=KEY), npk.path_kernel(g)(params, x))
    split = npk.split_ntk(g)(params, x)
    for part in ("value", "feature"):
        check_errors(npk.sketch_ntk(g, part=part)(params, x, features=800, key=KEY), getattr(split, part))


def test_tangent_kernels_of_shared_parameters_and_of_integers():
    f = lambda p, x: jax.nn.relu(p["e"][x].sum(1) @ p["w"]) @ p["w"]  # noqa: E731
    params = {"e": normal(7, 3), "w": normal(3, 3, seed=1)}
    x = jax.random.randint(KEY, (6, 4), 0, 7)
    check_errors(npk.sketch_ntk(f)(params, x, features=900, key=KEY), npk.ntk(f)(params, x))


def test_tangent_kernels_by_some_leaves():
    """A collection of statistics is none of them unless it is chosen."""
    f = lambda p, x: npk.soft_relu((x @ p["params"] - p["batch_stats"][None]) / 2)  # noqa: E731
    params, x = {"params": normal(3, 2), "batch_stats": normal(2)}, normal(4, 3)
    for wrt, names in ((None, ["params"]), ("batch*", ["batch_stats"]), (lambda path: True, ["batch_stats", "params"])):
        rows = [jax.jacrev(lambda a, n=n: f({**params, n: a}, x))(params[n]).reshape(4, 2, -1) for n in names]
        kernel = sum(jnp.einsum("nkp,mkp->nm", r, r) for r in rows)
        check_errors(npk.sketch_ntk(f, part="total", wrt=wrt)(params, x, features=900, key=KEY), kernel)


def groups_of_draws(z, size):
    """Independent sketches of `size` draws each, cut out of one."""
    cuts = range(0, z.features.shape[1], size)
    return [npk.KernelSketch(z.features[:, c : c + size], z.draws[c : c + size]) for c in cuts]


def test_standard_errors_are_calibrated():
    f, params, x = mlp()
    kernel = np.asarray(npk.path_kernel(f)(params, x))
    whole = npk.sketch(f)(params, x, features=2 * 200 * 150, key=KEY)
    groups = groups_of_draws(whole, 150)
    upper = np.triu_indices(5)
    deviations = np.array([(z.gram() - kernel)[upper] for z in groups])
    errors = np.array([z.standard_error()[upper] for z in groups])
    # their squares are unbiased estimates of the variance: compare their mean with the mean square deviation,
    ratio = np.square(deviations).sum(1) / np.square(errors).mean(0).sum()
    assert abs(ratio.mean() - 1) <= 4 * ratio.std() / len(groups) ** 0.5
    # and an interval of two of them holds the truth as often as it says.
    inside = (np.abs(deviations) <= 2 * errors).mean(1)
    assert abs(inside.mean() - 0.9545) <= 4 * inside.std() / len(groups) ** 0.5 + 0.005


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("outputs", [1, 3])
def test_the_standard_error_is_that_of_the_mean_of_draws(outputs):
    rng = np.random.default_rng(0)
    features, draws = rng.normal(size=(300, 7, outputs)), np.arange(7, dtype=np.uint32)[:, None]
    z = npk.KernelSketch(features, draws)
    products = np.einsum("idk,jdk->dij", features, features)
    assert_close(z.gram(), products.mean(0))
    assert_close(z.standard_error(), products.std(0, ddof=1) / 7**0.5)
    left, right = z.of_samples(slice(0, 4)), z.of_samples(np.array([7, 290]))
    assert_close(left.gram(right), products.mean(0)[:4][:, [7, 290]])
    assert_close(left.standard_error(right), (products.std(0, ddof=1) / 7**0.5)[:4][:, [7, 290]])


# ------------------------------------------------------------------------------------- how many draws


def test_the_number_of_features_achieves_the_error_it_is_chosen_for():
    f, params, x = mlp()
    kernel = npk.path_kernel(f)(params, x)
    whole = npk.sketch(f)(params, x, features=2 * 100 * 200, key=KEY)

    def error(z):
        return float(jnp.linalg.norm(z.gram() - kernel) / jnp.linalg.norm(kernel))

    true = 1000 * np.mean([error(z) ** 2 for z in groups_of_draws(whole, 1000)])  # E‖P_d - H‖²/‖H‖², to a third
    found = 20_000 * whole.relative_error() ** 2
    assert abs(found / true - 1) < 0.5
    wanted = 0.1
    pilots = groups_of_draws(whole, 100)
    chosen = np.array([p.features_for(wanted) for p in pilots]) / 2
    middle = np.array([p.features_for(wanted, confidence=0.5) for p in pilots]) / 2
    assert (chosen >= found / wanted**2).mean() >= 0.9
    assert abs(np.median(middle) / (found / wanted**2) - 1) < 0.2
    draws = int(np.median(chosen))
    runs = [z for z in groups_of_draws(whole, draws) if z.features.shape[1] == draws]
    assert np.sqrt(np.mean([error(z) ** 2 for z in runs])) <= wanted


@pytest.mark.parametrize("n", [4, 40])
def test_the_relative_error_is_that_of_all_pairs_of_draws(n):
    """From either side, samples or features."""
    features = np.random.default_rng(0).normal(size=(n, 9, 2))
    z = npk.KernelSketch(features, np.arange(9, dtype=np.uint32)[:, None])
    draws = np.einsum("idk,jdk->dij", features, features)
    pairs = np.einsum("dij,eij->de", draws, draws)
    norm = pairs[~np.eye(9, dtype=bool)].mean()
    spread = np.square(draws - draws.mean(0)).sum() / 8
    assert_close(z.relative_error(), np.sqrt(spread / 9 / norm))


@pytest.mark.parametrize("n", [4, 40])
def test_the_number_of_features_is_that_of_a_jackknife_over_draws(n):
    """The logarithms of one draw's relative variance with one draw after another left out."""
    features = np.random.default_rng(1).normal(1, 1, size=(n, 9, 2))
    draws, everyone = np.einsum("idk,jdk->dij", features, features), np.arange(9)

    def variance(some):
        pairs = np.einsum("dij,eij->de", draws[some], draws[some])
        return draws[some].var(0, ddof=1).sum() / pairs[~np.eye(len(some), dtype=bool)].mean()

    logs = np.log([variance(np.delete(everyone, d)) for d in everyone])
    reach = scipy.stats.t(8).ppf(0.8) * np.sqrt(8 / 9 * np.square(logs - logs.mean()).sum())
    z = npk.KernelSketch(features, np.arange(9, dtype=np.uint32)[:, None])
    assert z.features_for(0.01, confidence=0.8) == 2 * np.ceil(variance(everyone) * np.exp(reach) / 0.01**2)


def test_no_more_features_than_an_exact_draw_needs():
    f = lambda w, x: x @ w  # noqa: E731
    z = npk.sketch(f)(jnp.ones((1, 1)), normal(4, 1), features=8, key=KEY)
    assert z.features_for(0.01) == 2
    assert z.relative_error() < 1e-6
