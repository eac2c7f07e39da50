"""Kernel ridge regression by Cholesky and by block conjugate gradients, against dense NumPy."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import gaussian, targets

import npk
from npk import solving
from npk.data import load
from npk.solving import kernel_operator, kernel_ridge
from npk.solving.cholesky import solve
from npk.solving.operators import operator_of


def by_numpy(kernel, y, regularization):
    """(dual, true residuals) from the normal equations."""
    kernel = np.asarray(kernel, np.float64)
    system = kernel + regularization * np.trace(kernel) / len(kernel) * np.eye(len(kernel))
    return np.linalg.solve(system, y - y.mean(0)), system


def residuals(system, y, dual):
    right = y - y.mean(0)
    norms = np.linalg.norm(right, axis=0)
    return np.linalg.norm(right - system @ dual, axis=0) / np.where(norms > 0, norms, 1)


class Counted:
    """An operator that counts its passes and lets nobody see the matrix."""

    def __init__(self, kernel):
        self.inner, self.products, self.asked = operator_of(kernel), 0, 0
        self.shape, self.dtype = self.inner.shape, self.inner.dtype

    def product(self, v):
        self.products += 1
        return self.inner.product(v)

    def columns(self, places):
        self.asked += len(places)
        return self.inner.columns(places)

    def diagonal(self):
        return self.inner.diagonal()


@pytest.fixture(scope="module")
def digits():
    """H of a trained-size MLP with its own random gates, on 400 digits: (H, H of 100 others with them, labels)."""
    data = load("digits")
    x = data.x_train.reshape(len(data.x_train), -1).astype(np.float32)[:500]
    keys = jax.random.split(jax.random.key(0), 4)
    shapes = ((64, 32), (32, 32), (32, 32), (32, 10))
    p = [np.sqrt(2 / s[0]) * np.asarray(jax.random.normal(k, s)) for k, s in zip(keys, shapes)]

    def f(p, x):
        for w in p[:-1]:
            x = jax.nn.relu(x @ w)
        return x @ p[-1]

    kernel = np.asarray(npk.path_kernel(f)(p, x))
    return kernel[:400, :400], kernel[400:, :400], data.y_train[:500]


@pytest.mark.parametrize("regularization", [1e-6, 1e-3, 1.0])
@pytest.mark.parametrize("options", [{"method": "cholesky"}, {"method": "cg"}, {"method": "cg", "rank": 0}])
def test_path_kernel_of_digits(digits, regularization, options):
    kernel, new, labels = digits
    y = solving.one_hot(labels[:400])
    operator = Counted(kernel)
    solved = kernel_ridge(operator, y, regularization=regularization, tolerance=1e-8, limit=2000, **options)
    dual, system = by_numpy(kernel, y, regularization)
    assert kernel.dtype == np.float32 and solved.converged
    assert solved.products == operator.products and solved.method == options["method"]
    true = residuals(system, y, solved.dual)
    assert true.max() <= 1.01e-8
    np.testing.assert_allclose(solved.residuals, true, rtol=0.05, atol=1e-11)
    expected = new.astype(np.float64) @ dual + y.mean(0)
    np.testing.assert_allclose(solved.predict(new), expected, atol=2e-5)
    np.testing.assert_allclose(new.astype(np.float64) @ solved.dual + solved.mean, solved.predict(new), atol=1e-12)


@pytest.mark.parametrize("method", ["cholesky", "cg"])
def test_a_kernel_that_is_symmetric_up_to_rounding_is_solved(method):
    """Tiles of two shapes round K[i, j] and K[j, i] apart; the factor knows one of them, the residual is of both."""
    rounding = 1 + 1e-7 * np.random.default_rng(2).normal(size=(300, 300))
    kernel = (gaussian(300) * rounding).astype(np.float32)
    operator, y = Counted(kernel), targets(300)
    solved = kernel_ridge(operator, y, method=method, regularization=1e-4, tolerance=1e-9, limit=2000)
    _, system = by_numpy(kernel, y, 1e-4)
    assert (kernel != kernel.T).any() and solved.converged and solved.products == operator.products
    assert residuals(system, y, solved.dual).max() <= 1.01e-9


def test_a_correction_that_helps_by_less_than_half_is_the_last_and_is_kept():
    """Products of 0.4 K beside columns of K leave 0.6 of the right side, where zeros would leave all of it."""

    class Weak(Counted):
        def product(self, v):
            return 0.4 * super().product(v)

    kernel, y = gaussian(40) + np.eye(40), targets(40)
    (solution,), (left,), passes = solve(Weak(kernel), [0.0], y, 1e-9)
    np.testing.assert_allclose(solution, np.linalg.solve(kernel, y), atol=1e-10)
    np.testing.assert_allclose(left, 0.6 * y, atol=1e-10)
    assert passes == 1


def test_a_preconditioner_saves_passes(digits):
    kernel, _, labels = digits
    y = solving.one_hot(labels[:400])
    passes = [
        kernel_ridge(kernel, y, regularization=1e-4, method="cg", rank=rank, limit=2000).products
        for rank in (0, 40, 150)
    ]
    assert passes[2] < passes[1] < passes[0]
    # A kernel whose eigenvalues fall faster than a path kernel's.
    options = {"regularization": 1e-4, "method": "cg", "limit": 2000}
    without, with_it = (kernel_ridge(gaussian(120), targets(120), rank=rank, **options).products for rank in (0, 80))
    assert with_it <= without / 4


def test_many_outputs_share_passes_and_need_fewer():
    kernel, y = gaussian(120), targets(120, 12)
    options = {"method": "cg", "rank": 0, "regularization": 1e-3, "limit": 2000}
    together = kernel_ridge(kernel, y, **options)
    alone = [kernel_ridge(kernel, y[:, i : i + 1], **options) for i in range(3)]
    assert together.products < min(s.products for s in alone) / 2
    for i, one in enumerate(alone):
        np.testing.assert_allclose(together.dual[:, i], one.dual[:, 0], atol=1e-4 * np.abs(one.dual).max())


@settings(max_examples=15)
@given(st.integers(0, 2**32 - 1), st.integers(1, 30), st.integers(1, 8), st.integers(0, 12))
def test_any_shape(seed, n, k, rank):
    kernel, y = gaussian(n, seed), targets(n, k, seed)
    dual, system = by_numpy(kernel, y, 1e-2)
    for options in ({"method": "cholesky"}, {"method": "cg", "rank": rank}):
        solved = kernel_ridge(kernel, y, regularization=1e-2, tolerance=1e-9, **options)
        assert solved.converged
        np.testing.assert_allclose(solved.dual, dual, atol=1e-6 * (1 + np.abs(dual).max()))


def test_dependent_and_constant_outputs():
    kernel, y = gaussian(50), targets(50, 2)
    y = np.c_[y, y[:, 0] - 3 * y[:, 1], np.full(50, 0.1), 1e-9 * y[:, 1], np.zeros(50)]
    dual, system = by_numpy(kernel, y, 1e-3)
    for method in ("cholesky", "cg"):
        solved = kernel_ridge(kernel, y, method=method, tolerance=1e-9)
        assert solved.converged and not solved.residuals[[3, 5]].any()
        assert not solved.dual[:, [3, 5]].any()
        np.testing.assert_allclose(solved.predict(kernel)[:, 3], 0.1, rtol=1e-14)
        np.testing.assert_allclose(solved.dual[:, 4] * 1e9, solved.dual[:, 1], rtol=1e-5, atol=1e-6)
        assert residuals(system, y, solved.dual)[[0, 1, 2, 4]].max() < 1.1e-9


def test_one_sample():
    for method in ("cholesky", "cg"):
        solved = kernel_ridge(np.ones((1, 1)), np.array([[2.0, 3.0]]), method=method)
        assert solved.converged and solved.predict(np.ones((1, 1))).tolist() == [[2.0, 3.0]]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_rank_deficient_kernel_with_copies(dtype):
    x = np.repeat(np.random.default_rng(0).integers(-3, 4, size=(40, 4)), 3, axis=0).astype(dtype)
    kernel, y = x @ x.T, targets(120)
    dual, system = by_numpy(kernel, y, 1e-5)
    for options in ({"method": "cholesky"}, {"method": "cg"}, {"method": "cg", "rank": 0}):
        solved = kernel_ridge(kernel, y, regularization=1e-5, tolerance=1e-8, **options)
        assert solved.converged
        np.testing.assert_allclose(solved.dual, dual, rtol=1e-4, atol=1e-6 * np.abs(dual).max())


def test_several_regularizations_share_the_passes_of_the_hardest():
    kernel, y = gaussian(150), targets(150)
    levels = (1e-5, 1e-3, 1e-1, 10.0)
    operator = Counted(kernel)
    found = kernel_ridge(operator, y, regularization=levels, method="cg", rank=20)
    alone = [kernel_ridge(kernel, y, regularization=r, method="cg", rank=20) for r in levels]
    assert operator.products == found[0].products == max(s.products for s in alone)
    for r, one, other in zip(levels, found, alone):
        assert one.converged and one.regularization == r
        np.testing.assert_allclose(one.dual, other.dual, atol=1e-9 * np.abs(other.dual).max())
    exact = kernel_ridge(kernel, y, regularization=levels, method="cholesky")
    for r, one in zip(levels, exact):
        np.testing.assert_allclose(one.dual, by_numpy(kernel, y, r)[0], rtol=1e-6, atol=1e-8)


def test_what_does_not_converge_is_said_and_kept():
    kernel, y = gaussian(80), targets(80)
    _, system = by_numpy(kernel, y, 1e-6)
    with pytest.warns(solving.NotConverged, match=r"largest residual is .* after 20 passes over the kernel, not 1e-06"):
        solved = kernel_ridge(kernel, y, regularization=1e-6, method="cg", rank=0, limit=20)
    assert not solved.converged and solved.products == 20
    np.testing.assert_allclose(solved.residuals, residuals(system, y, solved.dual), rtol=1e-6)
    again = kernel_ridge(kernel, y, regularization=1e-6, method="cg", rank=0, limit=2000, start=solved.dual)
    assert again.converged


def test_a_residual_that_rounding_forbids_is_not_claimed():
    kernel, y = gaussian(80), targets(80)
    for method in ("cholesky", "cg"):
        with pytest.warns(solving.NotConverged):
            solved = kernel_ridge(kernel, y, regularization=1e-7, method=method, tolerance=1e-15, limit=200)
        assert not solved.converged and solved.residuals.max() < 1e-6


def test_an_interrupted_run_continues_to_the_same_bits(digits, tmp_path):
    kernel, _, labels = digits
    y, options = solving.one_hot(labels[:400]), {"regularization": (1e-4, 1e-2), "method": "cg", "rank": 30}
    seen = []
    whole = kernel_ridge(kernel, y, callback=seen.append, **options)
    assert [i.products for i in seen] == list(range(1, whole[0].products))
    seen[len(seen) // 2].save(tmp_path / "middle.npz")
    middle = solving.Iterate.load(tmp_path / "middle.npz")
    rest = kernel_ridge(kernel, y, start=middle, **options)
    for one, other in zip(whole, rest):
        np.testing.assert_array_equal(one.dual, other.dual)
    assert rest[0].products == whole[0].products - middle.products
    for one, dual, norms in zip(whole, seen[-1].duals, seen[-1].residuals):
        np.testing.assert_array_equal(one.dual, dual)
        np.testing.assert_allclose(one.residuals, norms, rtol=1e-3, atol=1e-10)
    # The solution as a start costs one pass, which checks it.
    assert kernel_ridge(kernel, y, regularization=1e-4, method="cg", rank=0, start=whole[0].dual).products == 1


def test_a_continued_run_multiplies_as_the_one_it_continues():
    """Vectors beside others may be rounded differently: products are of the same widths, at the same places."""

    class Widths:
        kernel, seen = gaussian(60), []
        shape, dtype = kernel.shape, kernel.dtype

        def product(self, v):
            self.seen.append(v.shape[1])
            return self.kernel @ v

        def columns(self, places):
            return self.kernel[:, places]

        def diagonal(self):
            return self.kernel.diagonal().copy()

    operator, iterates = Widths(), []
    options = {"regularization": (1e-3, 1.0), "method": "cg", "rank": 0}
    kernel_ridge(operator, targets(60), callback=iterates.append, **options)
    whole = operator.seen.copy()
    for iterate in iterates[:: len(iterates) // 3]:
        operator.seen.clear()
        kernel_ridge(operator, targets(60), start=iterate, **options)
        assert operator.seen == whole[iterate.products :]


def test_the_method_follows_the_memory():
    kernel, y = gaussian(300), targets(300)
    large = kernel_ridge(kernel, y, memory=2**19)
    assert large.method == "cg" and large.converged and "GiB may be used" in large.why
    assert 0 < large.rank <= 2**19 / (4 * 8 * 300)
    assert kernel_ridge(kernel, y, memory=2**20).method == "cholesky"
    with pytest.raises(ValueError, match="does not fit into memory: Cholesky needs 0.000"):
        kernel_ridge(kernel, y, memory=2**18, method="cholesky")


def test_sixty_thousand_samples_choose_conjugate_gradients_before_they_ask_for_anything():
    class Huge:
        shape, dtype = (60_000, 60_000), np.dtype("float32")

        def diagonal(self):
            return np.ones(60_000)

        def columns(self, places):
            raise MemoryError

        def product(self, v):
            return v + 0.0  # K = I

    solved = kernel_ridge(Huge(), targets(60_000, 2), regularization=1.0, rank=0, memory=20 * 2**30)
    assert solved.method == "cg" and solved.converged and solved.why.startswith("Cholesky needs 28.")


def test_a_given_preconditioner_is_used():
    kernel, y = gaussian(200), targets(200)
    operator = Counted(kernel)
    factor = solving.nystrom(kernel, np.arange(60))
    solved = kernel_ridge(operator, y, method="cg", preconditioner=factor)
    assert operator.asked == 0 and solved.rank == factor.factor.shape[1]
    assert solved.products < kernel_ridge(kernel, y, method="cg", rank=0).products


def test_a_recomputed_kernel_is_solved_and_predicts_tile_by_tile():
    x = np.random.default_rng(0).normal(size=(130, 4))

    def kernel(a, b):
        return (1 + a @ b.T / 4) ** 3

    y = targets(130)
    train, new = kernel_operator(kernel, x[:100], tile=17), kernel_operator(kernel, x[100:], x[:100], tile=17)
    dual, _ = by_numpy(kernel(x[:100], x[:100]), y[:100], 1e-3)
    for method in ("cholesky", "cg"):
        solved = kernel_ridge(train, y[:100], method=method, tolerance=1e-10)
        np.testing.assert_allclose(solved.predict(new), kernel(x[100:], x[:100]) @ dual + y[:100].mean(0), atol=1e-7)


@pytest.mark.parametrize("method", ["cholesky", "cg"])
def test_the_choice_is_that_of_the_spectrum_of_the_fitted_part(digits, method):
    """Every candidate in closed form, from one eigendecomposition."""
    kernel, _, labels = digits
    kernel, labels, candidates = kernel.astype(np.float64), labels[:400], (1e-4, 1e-2, 1.0)
    held = solving.held_out(labels, 0.25, 2)
    values, vectors = np.linalg.eigh(kernel[np.ix_(~held, ~held)])
    y = np.eye(10)[labels[~held]]
    rotated, cross = vectors.T @ (y - y.mean(0)), kernel[np.ix_(held, ~held)] @ vectors
    expected = {}
    for r in candidates:
        scores = cross @ (rotated / (values + r * np.trace(kernel) / 400)[:, None]) + y.mean(0)
        expected[r] = np.mean(scores.argmax(1) == labels[held])
    best, found = solving.choose_ridge(digits[0], labels, candidates=candidates, seed=2, method=method)
    assert found == expected and best == max(r for r in candidates if found[r] == max(found.values()))


@pytest.mark.parametrize("options", [{"method": "cholesky"}, {"method": "cg", "rank": 0}])
def test_candidates_at_which_there_is_no_regression_are_out_of_the_choice(options):
    vectors = np.linalg.qr(targets(60, 60))[0]
    kernel = (vectors * np.r_[-3.0, np.linspace(0.5, 2, 59)]) @ vectors.T
    kernel, labels = (kernel + kernel.T) / 2, np.arange(60) % 2
    best, found = solving.choose_ridge(kernel, labels, candidates=(10.0, 1e-3, 0.1, 5.0), **options)
    assert list(found) == [5.0, 10.0] and best in found
    with pytest.raises(solving.NotPositiveDefinite, match="not positive definite at regularization"):
        solving.choose_ridge(kernel, labels, candidates=(0.1, 1e-3), **options)
