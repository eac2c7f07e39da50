"""Low-rank approximations against dense eigenvalues and one-at-a-time pivoting."""

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from npk.solving import kernel_operator, nystrom, pivoted_cholesky

seeds = st.integers(0, 2**32 - 1)


def gaussian(n, seed=0, width=20.0):
    x = np.random.default_rng(seed).normal(size=(n, 5))
    return np.exp(-((x[:, None] - x[None]) ** 2).sum(-1) / width)


METHODS = [lambda k, r, s: pivoted_cholesky(k, r, seed=s, block=7), lambda k, r, s: nystrom(k, r, seed=s)]


@pytest.mark.parametrize("method", METHODS)
@given(seeds, st.integers(1, 40))
def test_what_every_approximation_must_be(method, seed, rank):
    kernel = gaussian(40, seed)
    found = method(kernel, rank, seed)
    rest = kernel - found.factor @ found.factor.T
    assert found.factor.shape == (40, len(found.pivots)) and len(found.pivots) <= rank
    assert len(set(found.pivots.tolist())) == len(found.pivots)
    np.testing.assert_allclose(found.residual, np.trace(rest), atol=1e-12 * np.trace(kernel))
    assert found.trace == pytest.approx(np.trace(kernel), rel=1e-14)
    assert np.linalg.eigvalsh(rest).min() > -1e-11
    np.testing.assert_allclose(rest[found.pivots], 0, atol=1e-8)
    # Nyström on the same pivots, by the formula, with a pseudo-inverse.
    columns = kernel[:, found.pivots]
    inverse = np.linalg.pinv(columns[found.pivots], hermitian=True, rcond=1e-14)
    np.testing.assert_allclose(found.factor @ found.factor.T, columns @ inverse @ columns.T, atol=1e-6)


def test_at_full_rank_it_is_the_kernel():
    kernel = gaussian(30, width=2.0)
    for found in (pivoted_cholesky(kernel, 100), nystrom(kernel, 30)):
        assert found.factor.shape == (30, 30)
        np.testing.assert_allclose(found.factor @ found.factor.T, kernel, atol=1e-13)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("method", METHODS)
def test_rank_deficiency_and_copies_are_found_and_end_it(method, dtype):
    x = np.random.default_rng(0).integers(-4, 5, size=(60, 4)).astype(dtype)
    x = np.repeat(x, 3, axis=0)
    found = method(x @ x.T, 50, 0)
    assert found.factor.shape == (180, 4)
    assert len(set((found.pivots // 3).tolist())) == 4  # no copy of a pivot
    assert found.relative_error < 1e2 * np.finfo(dtype).eps


def test_a_zero_sample_is_no_pivot():
    kernel = np.diag([0.0, 2.0, 0.0, 1.0])
    assert sorted(pivoted_cholesky(kernel, 4).pivots) == [1, 3]


def test_it_stops_at_the_wanted_error():
    kernel = gaussian(200)
    found = pivoted_cholesky(kernel, 200, tolerance=1e-2, block=5)
    assert found.relative_error <= 1e-2
    best = 1 - np.cumsum(np.linalg.eigvalsh(kernel)[::-1]) / 200
    assert np.argmax(best <= 1e-2) < len(found.pivots) < 3 * np.argmax(best <= 1e-2)


def one_by_one(kernel, rank, generator):
    """The plain algorithm of Chen et al. 2023: one pivot at a time."""
    left, factor, pivots = np.diag(kernel).copy(), np.zeros((len(kernel), 0)), []
    for _ in range(rank):
        pivot = generator.choice(len(kernel), p=np.maximum(left, 0) / np.maximum(left, 0).sum())
        column = kernel[:, pivot] - factor @ factor[pivot]
        factor = np.c_[factor, column / np.sqrt(column[pivot])]
        left = left - factor[:, -1] ** 2
        pivots.append(pivot)
    return pivots


def test_blocks_draw_pivots_as_one_at_a_time():
    kernel = gaussian(6) * np.outer(*[np.array([1, 1, 2, 2, 3, 3.0])] * 2)
    draws, generator = 800, np.random.default_rng(1)
    plain = [tuple(one_by_one(kernel, 3, generator)) for _ in range(draws)]
    blocked = [tuple(pivoted_cholesky(kernel, 3, seed=s, block=8).pivots.tolist()) for s in range(draws)]
    for place in range(3):
        counts = [np.bincount([d[place] for d in found], minlength=6) for found in (plain, blocked)]
        chance = scipy.stats.chi2_contingency(np.array(counts)).pvalue
        assert chance > 1e-3


def test_few_columns_are_asked_for_and_in_blocks():
    asked = []

    def kernel(a, b):
        asked.append(len(b))
        return np.exp(-np.square(a[:, None] - b[None]).sum(-1))

    x = np.random.default_rng(0).normal(size=(100, 3))
    found = pivoted_cholesky(kernel_operator(kernel, x, tile=100, diagonal=np.ones(100)), 20, block=10)
    assert found.factor.shape[1] == 20 and max(asked) == 10 and sum(asked) <= 61


def test_a_seed_gives_the_same_pivots_and_another_gives_others():
    kernel = gaussian(50)
    first, second, third = (pivoted_cholesky(kernel, 9, seed=s).pivots.tolist() for s in (3, 3, 4))
    assert first == second != third


EYE = np.eye(3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: pivoted_cholesky(np.ones((2, 3)), 1), r"must be square \[N, N\], got shape \[2, 3\]"),
        (lambda: pivoted_cholesky(EYE, 0), "must be at least 1, got 0"),
        (lambda: pivoted_cholesky(EYE, 1, block=0), "must be at least 1"),
        (lambda: pivoted_cholesky(EYE, 1, tolerance=-1.0), "must not be negative, got -1"),
        (lambda: pivoted_cholesky(EYE * np.nan, 1), "diagonal must be finite"),
        (lambda: pivoted_cholesky(np.where(EYE > 0, 1, np.nan), 1), "the kernel must be finite"),
        (lambda: pivoted_cholesky(-EYE, 1), "mean diagonal must be positive"),
        (
            lambda: pivoted_cholesky(np.diag([3.0, -1, 1]), 1),
            "not positive semi-definite: entry 1 of its diagonal is -1",
        ),
        (lambda: pivoted_cholesky(np.ones((3, 3)) + 3 * (1 - EYE), 2), "not positive semi-definite: once its pivots"),
        (lambda: nystrom(np.ones((3, 3)) + 3 * (1 - EYE), [0]), "not positive semi-definite"),
        (lambda: nystrom(EYE, 4), "must be 1 … 3 in number, got 4"),
        (lambda: nystrom(EYE, [3]), "must lie in 0 … 2"),
        (lambda: nystrom(EYE, np.array([], int)), "at least one landmark"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
