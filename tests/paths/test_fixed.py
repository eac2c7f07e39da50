"""`fixed=` declares which parameters are numbers to a path: f is then its twin that closes over them."""

import fnmatch

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tolerances import assert_close

import npk

RNG = np.random.default_rng(3)


def normal(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


PARAMS = {
    "in": {"w": normal(4, 5), "b": normal(1, 5)},
    "norm": {"scale": normal(1, 5), "shift": normal(1, 5), "mean": normal(1, 5), "var": normal(1, 5) ** 2},
    "out": {"w": normal(5, 2), "t": jnp.float32(2.5)},
}
X = normal(6, 4)


def normed(q, p):
    return (q - p["mean"]) * (jax.lax.rsqrt(p["var"] + 1e-3) * p["scale"]) + p["shift"]


def with_norm(p, x):
    q = normed(x @ p["in"]["w"] + p["in"]["b"], p["norm"])
    return jax.nn.relu(q) @ p["out"]["w"]


def with_numbers(p, x):
    """Fixed numbers as a factor of values, of a weight, of a bias, and one that is added."""
    q = p["norm"]["scale"] * (x @ (p["in"]["w"] * p["out"]["t"])) + p["norm"]["var"] * p["in"]["b"]
    return (jax.nn.relu(q + p["norm"]["mean"]) @ p["out"]["w"]) / p["out"]["t"]


def with_moved_number(p, x):
    q = p["norm"]["scale"] * ((p["out"]["t"] * x) @ p["in"]["w"]) + p["norm"]["var"] * p["in"]["b"]
    return (jax.nn.relu(q + p["norm"]["mean"]) @ p["out"]["w"]) / p["out"]["t"]


def twin(f, *globs):
    """f of the other parameters alone, the named ones closed over; and those others."""
    leaves, tree = jax.tree_util.tree_flatten_with_path(PARAMS)
    names = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves]
    free = {n: leaf for n, (_, leaf) in zip(names, leaves) if not any(fnmatch.fnmatch(n, g) for g in globs)}

    def closed(p, x):
        return f(jax.tree.unflatten(tree, [p.get(n, leaf) for n, (_, leaf) in zip(names, leaves)]), x)

    return closed, free


CASES = {
    "the whole norm": (with_norm, ("norm/*", "in/b")),
    "its statistics alone": (with_norm, ("norm/mean", "norm/var")),
    "all but a shift": (with_norm, ("norm/mean", "norm/var", "norm/scale")),
    "numbers everywhere": (with_numbers, ("norm/*", "out/t")),
    "an array over a layer's output": (with_numbers, ("norm/scale", "norm/var", "norm/mean", "out/t", "in/b")),
}


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("f, globs", CASES.values(), ids=CASES)
def test_the_kernel_is_that_of_the_twin(f, globs, normalize):
    """A constant that multiplies a weight is left out of normalised weights; a fixed number belongs to the values."""
    other, free = twin(with_moved_number if f is with_numbers else f, *globs)
    given = npk.path_kernel(f, fixed=globs)(PARAMS, X, normalize=normalize)
    assert_close(given, npk.path_kernel(other)(free, X, normalize=normalize))


@pytest.mark.parametrize("f, globs", CASES.values(), ids=CASES)
def test_features_and_values_are_those_of_the_twin(f, globs):
    other, free = twin(f, *globs)
    phi, v = npk.npf(f, fixed=globs)(PARAMS, X), npk.npv(f, fixed=globs)(PARAMS, X)
    assert_close(phi @ v, f(PARAMS, X))
    assert npk.path_names(f, fixed=globs)(PARAMS, X) == npk.path_names(other)(free, X)
    assert npk.count_paths(f, fixed=globs)(PARAMS, X) == phi.shape[1] == npk.count_paths(other)(free, X)
    assert_close(phi @ phi.T, npk.path_kernel(f, fixed=globs)(PARAMS, X, normalize=False))


def test_it_replaces_recognition():
    """A normalisation is recognised where nothing is declared, and only there."""
    recognised = npk.path_kernel(with_norm)(PARAMS, X)
    assert_close(
        npk.path_kernel(with_norm, fixed=lambda name: name.startswith(("norm/", "in/b")))(PARAMS, X), recognised
    )
    assert not np.allclose(npk.path_kernel(with_norm, fixed=("norm/mean", "norm/var"))(PARAMS, X), recognised)
    with pytest.raises(npk.UnsupportedOperation, match="computed from parameters"):
        npk.path_kernel(with_norm, fixed=())(PARAMS, X)


def test_under_jit_the_declared_numbers_are_arguments():
    kernel = jax.jit(npk.path_kernel(with_norm, fixed=("norm/*", "in/b")))
    other = jax.tree.map(lambda a: 1.5 * a, PARAMS)
    for params in (PARAMS, other):
        assert_close(kernel(params, X), npk.path_kernel(with_norm)(params, X))


def test_sketch_and_limits_take_the_same_argument():
    globs = ("norm/mean", "norm/var")
    h = npk.path_kernel(with_norm, fixed=globs)(PARAMS, X)
    z = npk.sketch(with_norm, fixed=globs)(PARAMS, X, features=2000, key=jax.random.key(0))
    assert (abs(z.gram() - h) <= 5 * z.standard_error()).all()
    f = lambda p, x: (jax.nn.relu(x @ p["w"]) @ p["v"]) * p["c"]  # noqa: E731
    p = {"w": jnp.ones((4, 3)), "v": jnp.ones((3, 1)), "c": jnp.float32(3.0)}
    plain = npk.infinite.nngp(lambda q, x: f({**q, "c": 1.0}, x))({"w": p["w"], "v": p["v"]}, X)
    assert_close(npk.infinite.nngp(f, fixed="c")(p, X), 9 * plain)


def test_a_name_must_name_something():
    with pytest.raises(ValueError, match="fixed: 'bn/mean' names no leaf of params"):
        npk.path_kernel(with_norm, fixed="bn/mean")(PARAMS, X)


@pytest.mark.parametrize("constant", [0.5, -2.0, 0.0])
def test_a_constant_beside_a_declared_number_is_left_out_of_normalised_weights_as_ever(constant):
    p = {"w": normal(4, 3), "c": jnp.float32(1.0), "d": normal(1, 3), "v": normal(3, 1)}
    layer = lambda p, x: jax.nn.relu(x @ (p["w"] * constant * p["c"])) @ p["v"]  # noqa: E731
    plain = lambda p, x: jax.nn.relu(x @ (p["w"] * constant)) @ p["v"]  # noqa: E731
    scale = lambda p, x: jax.nn.relu((x @ p["w"]) * (p["d"] * constant * p["c"])) @ p["v"]  # noqa: E731
    both = lambda p, x: jax.nn.relu((x @ p["w"]) * (p["d"] * constant)) @ p["v"]  # noqa: E731
    for f, twin_of_f in ((layer, plain), (scale, both)):
        for normalize in (True, False):
            given = npk.path_kernel(f, fixed="c")(p, X, normalize=normalize)
            free = {k: v for k, v in p.items() if k != "c"}
            assert_close(given, npk.path_kernel(twin_of_f)(free, X, normalize=normalize))


def test_indexing_by_a_parameter_is_told_what_to_do():
    p = {"w": normal(2, 1), "i": jnp.array([0, 2])}
    with pytest.raises(npk.UnsupportedOperation, match="close over it instead"):
        npk.path_kernel(lambda p, x: jax.nn.relu(x[:, p["i"]] @ p["w"]), fixed="i")(p, X)
