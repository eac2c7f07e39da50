"""Linear regions against codes sampled densely in NumPy, and against gradients by JAX."""

import architectures
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from architectures import REGISTRY

import npk
from npk.regions import gate_distances, local_complexity, region_numbers, segment

TRIED = 4000


def mlp(p, x):
    for w, b in zip(p["w"], p["b"], strict=True):
        x = jax.nn.relu(x @ w + b)
    return x @ p["v"]


def drawn(sizes=(3, 8, 7, 6), seed=0):
    random = np.random.default_rng(seed)
    pairs = list(zip(sizes, sizes[1:], strict=False))
    w, b = [random.normal(size=pair) for pair in pairs], [random.normal(size=(1, n)) / 2 for _, n in pairs]
    return {"w": w, "b": b, "v": random.normal(size=(sizes[-1], 2))}, random.normal(size=(5, sizes[0])) * 2


def codes(p, x):
    """Which units are open, and f, in NumPy."""
    found = []
    for w, b in zip(p["w"], p["b"], strict=True):
        x = np.maximum(x @ w + b, 0)
        found.append(x > 0)
    return np.concatenate(found, 1), x @ p["v"]


@pytest.mark.parametrize("seed", range(6))
def test_every_region_between_two_inputs_is_found_and_f_is_affine_inside_each(seed, x64):
    p, x = drawn(seed=seed)
    a, b = x[0], x[1]
    found = segment(mlp)(p, a, b)
    t = np.linspace(0, 1, TRIED)
    sampled = codes(p, a + t[:, None] * (b - a))[0]
    changes = np.flatnonzero((sampled[1:] != sampled[:-1]).any(1))
    inside = [((found.points > t[i]) & (found.points <= t[i + 1])).sum() for i in changes]
    flips = [(sampled[i + 1] != sampled[i]).sum() for i in changes]
    assert len(changes) > 5 and all(np.array(inside) >= flips), "a gate that changes has its point"
    assert len(found.points) - 2 >= sum(flips)
    middles = (found.points[1:] + found.points[:-1]) / 2
    between = codes(p, a + middles[:, None] * (b - a))[0]
    long = np.diff(found.points) > 1e-12
    assert (between[long][1:] != between[long][:-1]).any(1).all(), "neighbours are different regions"
    assert found.regions >= long.sum() == len(np.unique(region_numbers((between[long],)))), "each is met once"
    everywhere = np.stack([np.interp(t, found.points, found.values[:, k]) for k in range(2)], 1)
    np.testing.assert_allclose(everywhere, codes(p, a + t[:, None] * (b - a))[1], atol=1e-10)
    ends = [int((found.layers == layer).sum()) for layer in (-1, 0, 1, 2)]
    assert ends[0] == 2 and ends[1] <= 8 and sum(ends) == len(found.points), "a line crosses a plane once"


@pytest.mark.parametrize("name", ["leaky", "residual, projection", "stride", "batch norm"])
def test_other_networks_are_affine_between_their_points(name):
    f = architectures.function(REGISTRY[name])
    _, params, x = architectures.case(REGISTRY[name])
    random = np.random.default_rng(0)
    params = jax.tree_util.tree_map_with_path(
        lambda path, leaf: jnp.asarray(np.abs(random.normal(size=leaf.shape)) + 0.1 if path[0].key.endswith("var")
                                       else random.normal(size=leaf.shape), jnp.float32), params
    )  # fmt: skip
    a, b = (jnp.asarray(random.normal(size=x.shape[1:]), jnp.float32) for _ in range(2))
    found = segment(f)(params, a, b)
    t = np.linspace(0, 1, 201)
    along = t.reshape(-1, *(1,) * a.ndim).astype(np.float32)
    real = np.asarray(f(params, (1 - along) * np.asarray(a)[None] + along * np.asarray(b)[None]))
    drawn_ = np.stack([np.interp(t, found.points, found.values[:, k]) for k in range(real.shape[1])], 1)
    np.testing.assert_allclose(drawn_, real, atol=2e-5 * np.abs(real).max())
    assert found.regions > 1


def test_the_nearest_hyperplane_is_as_far_as_it_is_said_and_bounds_the_region(x64, as_users_write):
    p, x = drawn()
    distances = gate_distances(mlp)(p, x)
    assert [d.shape for d in distances] == [(5, 8), (5, 7), (5, 6)]
    before = npk.preactivations(mlp)
    for n in range(len(x)):
        one = x[n]
        slopes = jax.jacrev(lambda z: jnp.concatenate([q[0] for q in before(p, z[None])]))(jnp.asarray(one))
        q = np.concatenate([layer[0] for layer in before(p, one[None])])
        length = np.linalg.norm(slopes, axis=1)
        found = np.concatenate([layer[n] for layer in distances])
        np.testing.assert_allclose(found[length > 0], np.abs(q[length > 0]) / length[length > 0])
        assert np.isinf(found[length == 0]).all()
        nearest = found.argmin()
        step = -np.sign(q[nearest]) * np.asarray(slopes[nearest]) / length[nearest] * found[nearest]
        inside, outside = (codes(p, (one + s * step)[None])[0][0] for s in (1 - 1e-6, 1 + 1e-6))
        here = codes(p, one[None])[0][0]
        assert (inside == here).all() and (outside != here).sum() == 1 and outside[nearest] != here[nearest]
    radius = 0.4
    every = np.concatenate([np.asarray(d) for d in distances], 1)
    assert local_complexity(distances, radius).tolist() == (every < radius).sum(1).tolist()


def test_samples_of_one_region_have_one_number():
    p, x = drawn()
    x = np.concatenate([x, x + 1e-9, x[:1]])
    gates = npk.gates(mlp)(jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), p), jnp.asarray(x, jnp.float32))
    numbers = region_numbers(gates)
    assert numbers.tolist() == [0, 1, 2, 3, 4] * 2 + [0]
    assert region_numbers((np.array([[2], [1], [2]]), np.array([[0], [0], [1]]))).tolist() == [0, 1, 2]


class Pooled(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(2)(nn.max_pool(nn.relu(nn.Conv(2, (3, 3))(x)), (2, 2)).mean((1, 2)))


def test_what_has_no_linear_regions_is_refused():
    x = jnp.ones((1, 4, 4, 1))
    params = Pooled().init(jax.random.key(0), x)
    with pytest.raises(npk.UnsupportedOperation, match=r"f has others \(pool\)"):
        segment(Pooled().apply)(params, x[0], 2 * x[0])
    smooth = lambda w, x: jax.nn.gelu(x @ w)  # noqa: E731
    with pytest.raises(npk.UnsupportedOperation, match=r"f has others \(soft\)"):
        gate_distances(smooth)(jnp.eye(2), jnp.ones((1, 2)))
    with pytest.raises(ValueError, match=r"of one shape, got \[3\] and \[2\]"):
        segment(mlp)(drawn()[0], np.ones(3), np.ones(2))
    with pytest.raises(ValueError, match="radius positive, got 0"):
        local_complexity((np.ones((1, 1)),), 0.0)
    with pytest.raises(ValueError, match="one number of samples"):
        region_numbers((np.ones((2, 1)), np.ones((3, 1))))


def test_samples_are_found_wherever_f_has_them(x64):
    """Of a network of columns, as many units as points, regions are those of the network of rows."""
    p, x = drawn((3, 2, 2), seed=3)

    def columns(p, x):
        h = x.T
        for w, b in zip(p["w"], p["b"], strict=True):
            h = jax.nn.relu(w.T @ h + b.T)
        return (p["v"].T @ h).T

    for n in range(4):
        rows, other = (segment(f)(p, 3 * x[n], -3 * x[n + 1]) for f in (mlp, columns))
        np.testing.assert_allclose(other.points, rows.points, atol=1e-12)
        np.testing.assert_allclose(other.values, rows.values, atol=1e-12)
