"""Codes of gates: what is counted without listing pairs is what their list says."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from npk import solving
from npk.solving import codes

seeds = st.integers(0, 2**32 - 1)


def drawn(seed, n=7):
    """Two gate arrays, some of whose units are dead or always open, and labels."""
    random = np.random.default_rng(seed)
    arrays = [random.random((n, *shape)) < random.random(shape) for shape in ((5,), (2, 3, 2))]
    for array in arrays:
        array.reshape(n, -1)[:, :2] = False, True
    return arrays, random.integers(0, 3, n)


def pairs(n):
    return list(itertools.combinations(range(n), 2))


@given(seeds)
def test_units_that_tell_no_samples_apart_are_counted(seed):
    arrays, _ = drawn(seed)
    for states, array in zip(solving.unit_states(arrays), arrays, strict=True):
        columns = [[bool(sample.ravel()[u]) for sample in array] for u in range(array[0].size)]
        assert states.dead == np.mean([not any(column) for column in columns]) > 0
        assert states.always_open == np.mean([all(column) for column in columns]) > 0


@given(seeds)
def test_overlaps_are_means_over_all_pairs(seed):
    arrays, _ = drawn(seed)
    for found, array in zip(solving.mean_overlaps(arrays), arrays, strict=True):
        shared = [np.mean(array[i] & array[j]) for i, j in pairs(len(array))]
        assert found == pytest.approx(np.mean(shared), abs=1e-15)


@given(seeds)
def test_distances_within_and_between_classes_are_means_over_their_pairs(seed):
    arrays, labels = drawn(seed)
    words = ["".join("01"[int(bit)] for array in arrays for bit in array[i].ravel()) for i in range(len(labels))]
    distances = {True: [], False: []}
    for i, j in pairs(len(labels)):
        differing = sum(a != b for a, b in zip(words[i], words[j], strict=True))
        distances[bool(labels[i] == labels[j])].append(differing / len(words[i]))
    found = solving.code_distances(arrays, labels)
    for value, listed in ((found.within, distances[True]), (found.between, distances[False])):
        assert value == pytest.approx(np.mean(listed), abs=1e-15) if listed else np.isnan(value)


def test_numbers_and_bits_names_of_classes_and_blocks_of_units_do_not_count(monkeypatch):
    arrays, labels = drawn(3)
    expected = solving.code_distances(arrays, labels), solving.mean_overlaps(arrays)
    monkeypatch.setattr(codes, "_UNITS", 2)
    floats = [array.astype(np.float32) for array in arrays]
    assert (solving.code_distances(floats, 10 - 3 * labels), solving.mean_overlaps(floats)) == expected


def test_where_there_is_no_pair_there_is_no_mean():
    one, three = np.ones((1, 2), bool), np.eye(3, dtype=bool)
    assert np.isnan(solving.mean_overlaps((one,))).all()
    alone, alike, apart = (
        solving.code_distances((array,), labels) for array, labels in ((one, [0]), (three, [1] * 3), (three, [0, 1, 2]))
    )
    assert np.isnan([alone.within, alone.between, alike.between, apart.within]).all()
    assert alike.within == apart.between == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: solving.unit_states(()), r"at least one array \[N, ...\], got none"),
        (lambda: solving.unit_states((np.ones((2, 0)),)), r"gate array 0 must be .* not be empty, got shape \[2, 0\]"),
        (lambda: solving.mean_overlaps((np.ones(()),)), r"got shape \[\]"),
        (lambda: solving.mean_overlaps((np.ones((2, 1)), np.ones((3, 1)))), "one number of samples, got 2 and 3"),
        (lambda: solving.unit_states((np.ones((2, 1)), np.full((2, 1), 0.1))), r"gate array 1 must hold 0 .* alone"),
        (lambda: solving.unit_states((np.array([[np.nan]]),)), r"gate array 0 must hold 0 .* alone"),
        (lambda: solving.code_distances((np.ones((2, 1)),), [0, 1, 1]), r"class numbers \[2\], got shape \[3\]"),
    ],
)
def test_errors_of_codes(call, message):
    with pytest.raises(ValueError, match=message):
        call()
