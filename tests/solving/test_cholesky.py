"""The factor of large matrices: K = L Lᵀ, block by block, in the place of K's lower triangle."""

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given
from hypothesis import strategies as st

from npk.solving import cholesky
from npk.solving.cholesky import factor, substituted


def positive(n, seed, order="F"):
    g = np.random.default_rng(seed).normal(size=(n, n + 3))
    return np.array(g @ g.T + np.eye(n), order=order)


@given(n=st.integers(1, 40), block=st.integers(1, 45), seed=st.integers(0, 99), order=st.sampled_from("FC"))
def test_blocks_give_the_factor_of_the_whole(n, block, seed, order):
    kernel = positive(n, seed, order)
    matrix = kernel.copy(order="K")
    matrix[np.triu_indices(n, 1)] = np.nan  # is neither read nor written
    factor(matrix, block)
    np.testing.assert_allclose(np.tril(matrix), np.linalg.cholesky(kernel), atol=1e-10)
    assert np.isnan(matrix[np.triu_indices(n, 1)]).all()


@given(n=st.integers(1, 30), block=st.integers(1, 12), outputs=st.integers(1, 3))
def test_solutions_solve(n, block, outputs):
    kernel, right = positive(n, 1), np.random.default_rng(2).normal(size=(n, outputs))
    matrix = kernel.copy(order="F")
    factor(matrix, block)
    np.testing.assert_allclose(kernel @ substituted(matrix, right), right, atol=1e-10)


@pytest.mark.parametrize("place", [0, 2, 3, 7])
def test_what_is_not_positive_is_named_by_its_order(place):
    matrix = np.eye(8, order="F")
    matrix[place, place] = -1.0
    with pytest.raises(np.linalg.LinAlgError, match=f"minor of order {place + 1} is not positive"):
        factor(matrix, 3)


@pytest.mark.parametrize("place", [(0, 0), (4, 4), (4, 1), (7, 5), (7, 7)])
@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_what_is_not_finite_is_no_factor(place, number):
    matrix = np.eye(8, order="F")
    matrix[place] = number
    with np.errstate(invalid="ignore"), pytest.raises(np.linalg.LinAlgError, match="not finite|not positive"):
        factor(matrix, 3)


def test_no_square_is_larger_than_lapack_survives(monkeypatch):
    """OpenBLAS 0.3.30 alone writes beyond its memory at some 16,000 rows, with two threads, and not at half of them.

    Of one row more than are factored whole.
    """
    n, rows, found = cholesky._WHOLE + 1, [], scipy.linalg.get_lapack_funcs

    def seen(names, arrays):
        (potrf,) = found(names, arrays)
        return (lambda square, **options: rows.append(len(square)) or potrf(square, **options),)

    monkeypatch.setattr(cholesky.scipy.linalg, "get_lapack_funcs", seen)
    matrix = np.full((n, n), 1.0, order="F")
    matrix[np.diag_indices(n)] += n
    factor(matrix)
    assert sum(rows) == n and max(rows) <= cholesky._WHOLE <= 8192
    right = np.ones((n, 1))
    np.testing.assert_allclose(substituted(matrix, right), right / (2 * n), rtol=1e-10)
