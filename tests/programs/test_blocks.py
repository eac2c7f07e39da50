"""Batches in blocks: all pairs of two, under one trace; on the host every sample once, and blocks of one shape."""

import jax.numpy as jnp
import numpy as np
import pytest

from npk.programs import block_of, cuts, in_blocks, in_parts


@pytest.mark.parametrize("n1, n2, side", [(5, None, 2), (7, None, 2), (5, 7, 3)])
def test_all_pairs_are_those_of_all_samples_at_once(n1, n2, side):
    """A kernel of two outputs: of one batch K[s', s] is K[s, s'] with its outputs transposed."""
    rng = np.random.default_rng(n1)
    one, two = (None if n is None else rng.integers(-9, 9, (n, 3, 2)).astype(np.float32) for n in (n1, n2))
    found = in_blocks(lambda a, b: jnp.einsum("ifk,jfl->ijkl", a, b), one, two, side, lambda block: 2 * block)
    np.testing.assert_array_equal(found, 4 * np.einsum("ifk,jfl->ijkl", one, one if two is None else two))


@pytest.mark.parametrize("n, size", [(0, 3), (1, 3), (3, 3), (7, 3), (7, 1), (2, 5)])
def test_cuts_hold_every_place_once_and_in_order(n, size):
    places = np.arange(n)
    parts = [places[part] for part in cuts(n, size)]
    assert np.concatenate([*parts, places[:0]]).tolist() == places.tolist()
    assert all(len(part) == size for part in parts[:-1]) and all(0 < len(part) <= size for part in parts)


def test_the_last_sample_fills_up_the_last_block():
    tree = {"a": np.arange(5), "b": np.arange(10).reshape(5, 2)}
    assert block_of(tree, 1, 3)["a"].tolist() == [1, 2, 3]
    filled = block_of(tree, 3, 4)
    assert filled["a"].tolist() == [3, 4, 4, 4]
    assert filled["b"].tolist() == [[6, 7], [8, 9], [8, 9], [8, 9]]


def test_parts_are_put_together_in_order():
    seen = []

    def function(part):
        seen.append(len(part))
        return 2 * part

    assert in_parts(function, np.arange(7), 3).tolist() == list(range(0, 14, 2))
    assert seen == [3, 3, 1]
