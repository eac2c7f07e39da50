import numpy as np
import pytest

from npk.data import cob_odt, cob_odt_hyperplanes, load, with_validation


@pytest.mark.parametrize(("dimensions", "depth"), [(1, 1), (15, 4), (20, 4), (100, 4), (31, 5)])
def test_hyperplanes_are_orthonormal(dimensions, depth):
    w = cob_odt_hyperplanes(3, dimensions, depth)
    np.testing.assert_allclose(w @ w.T, np.eye(2**depth - 1), atol=1e-12)


def test_hyperplanes_are_as_probable_as_their_negatives():
    signs = [np.sign(cob_odt_hyperplanes(seed, 3, 1)[0, 0]) for seed in range(400)]
    assert abs(np.mean(signs)) < 4 / np.sqrt(400)


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_labels_are_those_of_a_walk_down_the_tree(depth):
    data = cob_odt(5, samples=300, dimensions=20, depth=depth)
    w = cob_odt_hyperplanes(5, 20, depth)
    leaves = np.arange(2 ** (depth + 1) - 1) % 2 == 0
    for x, y in zip(np.concatenate([data.x_train, data.x_test]), np.concatenate([data.y_train, data.y_test])):
        node = 0
        while node < len(w):
            node = 2 * node + (2 if w[node] @ x > 0 else 1)
        assert y == leaves[node]


def test_points_lie_on_the_sphere_and_fall_evenly_on_leaves_and_classes():
    data = cob_odt(0, samples=16_000, dimensions=20)
    assert data.x_train.dtype == np.float32 and data.y_train.dtype == np.int32
    np.testing.assert_allclose(np.linalg.norm(data.x_train, axis=1), 1, atol=1e-6)
    assert abs(data.y_train.mean() - 0.5) < 4 * 0.5 / np.sqrt(16_000)
    w, node = cob_odt_hyperplanes(0, 20), np.zeros(16_000, int)
    for _ in range(4):
        node = 2 * node + 1 + (np.einsum("nd,nd->n", data.x_train, w[node]) > 0)
    counts = np.bincount(node - 15, minlength=16)
    assert np.abs(counts - 1000).max() < 4.5 * np.sqrt(1000)
    np.testing.assert_allclose(data.x_train.mean(0), 0, atol=5 / np.sqrt(16_000 * 20))


def test_no_point_lies_within_the_margin():
    data = cob_odt(1, samples=500, dimensions=20, margin=0.01, test_samples=70)
    w = cob_odt_hyperplanes(1, 20)
    x = np.concatenate([data.x_train, data.x_test]).astype(np.float64)
    assert x.shape == (570, 20) and np.abs(x @ w.T).min() > 0.01


def test_the_seed_decides_everything():
    first, same, other = (cob_odt(seed, samples=50, dimensions=20) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.x_train, same.x_train)
    np.testing.assert_array_equal(first.y_test, same.y_test)
    assert not np.array_equal(first.x_train, other.x_train)


@pytest.mark.parametrize(("name", "shape"), [("cob_odt_20", (20_000, 20)), ("cob_odt_100", (30_000, 100))])
def test_the_published_sizes_are_loaded_by_name(name, shape):
    data = load(name, seed=2)
    assert data.name == name and data.x_train.shape == data.x_test.shape == shape
    assert with_validation(data, 0.1).x_validation.shape == (shape[0] // 10, shape[1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dimensions": 14}, "depth 4 ≥ 1 has 15 orthonormal hyperplanes and needs as many dimensions, got 14"),
        ({"depth": 0}, "depth 0 ≥ 1"),
        ({"samples": 0}, "must be at least 1"),
        ({"margin": -1.0}, "margin at least 0"),
        ({"margin": float("nan")}, "margin at least 0"),
        ({"margin": 0.2}, "leaves fewer than 1 in 1000 points"),
    ],
)
def test_impossible_trees_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        cob_odt(**{"seed": 0, "samples": 100, "dimensions": 20, **arguments})
