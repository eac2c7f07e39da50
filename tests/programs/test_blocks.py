"""Batches in blocks on the host: every sample once, and blocks of one shape."""

import numpy as np
import pytest

from npk.programs import block_of, cuts, in_parts


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
