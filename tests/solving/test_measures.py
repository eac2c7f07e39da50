import itertools

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from npk import solving


def gram(seed, n=12, rank=5):
    features = np.random.default_rng(seed).normal(size=(n, rank))
    return features @ features.T


def centering(n):
    return np.eye(n) - np.full((n, n), 1 / n)


seeds = st.integers(0, 2**32 - 1)


@given(seeds)
def test_center_is_the_product_with_the_centering_matrix(seed):
    kernel = np.random.default_rng(seed).normal(size=(7, 7))
    np.testing.assert_allclose(solving.center(kernel), centering(7) @ kernel @ centering(7), atol=1e-12)


@given(seeds, st.booleans())
def test_alignment_is_the_cosine_of_its_definition(seed, centered):
    labels = np.random.default_rng(seed).integers(0, 3, size=12)
    labels[:3] = 0, 1, 2
    kernel, target = gram(seed), np.eye(3)[labels] @ np.eye(3)[labels].T
    h = centering(12) if centered else np.eye(12)
    a, b = h @ kernel @ h, h @ target @ h
    expected = np.sum(a * b) / np.sqrt(np.sum(a * a) * np.sum(b * b))
    assert solving.alignment(kernel, labels, centered=centered).value == pytest.approx(expected, abs=1e-12)


@given(seeds, st.floats(0.1, 10), st.floats(0, 10))
def test_centred_alignment_and_cka_ignore_scale_and_offset(seed, scale, offset):
    kernel, labels = gram(seed), np.repeat([0, 1, 2], 4)
    changed = scale * kernel + offset
    assert solving.alignment(changed, labels).value == pytest.approx(solving.alignment(kernel, labels).value, abs=1e-9)
    assert solving.cka(kernel, changed) == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize("centered", [False, True])
def test_the_alignment_of_an_operator_is_estimated_with_a_calibrated_interval(centered):
    features = np.random.default_rng(3).normal(size=(90, 40)) / np.arange(1, 41) + 0.3
    kernel, labels, draws = features @ features.T, np.arange(90) % 4 // 2, 100
    truth = solving.alignment(kernel, labels, centered=centered).value
    operator, hits = solving.operator_of(kernel), 0
    for seed in range(draws):
        found = solving.alignment(operator, labels, centered=centered, sketch=4, probes=12, seed=seed)
        assert found.low <= found.value <= found.high and found.low < found.high
        hits += found.low <= truth <= found.high
    assert hits >= scipy.stats.binom.ppf(1e-3, draws, 0.95)
    every = solving.alignment(operator, labels, centered=centered, sketch=90)
    assert every.low == pytest.approx(truth, rel=1e-9) and every.high == pytest.approx(truth, rel=1e-9)


def test_an_operator_is_centred_as_its_matrix_is():
    kernel = gram(5) + 3
    found, dense = solving.center(solving.operator_of(kernel)), solving.center(kernel)
    assert isinstance(found, solving.KernelOperator) and found.shape == (12, 12) and found.dtype == np.float64
    v, places = np.random.default_rng(0).normal(size=(12, 2)), np.array([11, 0, 11])
    for ours, expected in (
        (found.product(v), dense @ v),
        (found.columns(places), dense[:, places]),
        (found.diagonal(), np.diag(dense)),
    ):
        np.testing.assert_allclose(ours, expected, atol=1e-12)


def test_nothing_aligns_with_one_class_or_with_no_kernel():
    zero = solving.operator_of(np.zeros((4, 4)))
    assert solving.alignment(zero, [0, 0, 1, 1]).value == solving.alignment(np.zeros((4, 4)), [0, 0, 1, 1]).value == 0.0
    assert solving.alignment(solving.operator_of(gram(1)), np.zeros(12, int)).value == 0.0


def test_uncentred_alignment_rewards_a_constant_kernel_and_the_centred_does_not():
    labels = np.repeat([0, 1], 5)
    assert solving.alignment(np.ones((10, 10)), labels, centered=False).value == pytest.approx(np.sqrt(0.5))
    assert solving.alignment(np.ones((10, 10)), labels).value == 0.0


@given(seeds, seeds)
def test_drift_and_cka_lie_between_nothing_and_one_for_gram_matrices(seed1, seed2):
    first, second = gram(seed1), gram(seed2)
    assert -1e-12 <= solving.drift(first, second) <= 1.0
    assert -1e-12 <= solving.cka(first, second) <= 1.0 + 1e-12
    assert solving.drift(first, 3 * first) == pytest.approx(0.0, abs=1e-12)


@given(seeds)
def test_spectrum_and_effective_rank(seed):
    kernel = gram(seed)
    spectrum = solving.spectrum(kernel)
    values = spectrum.eigenvalues
    assert (np.diff(values) <= 0).all()
    assert values.sum() == pytest.approx(np.trace(kernel))
    assert np.abs(values[5:]).max() < 1e-10
    assert 1.0 <= spectrum.effective_rank().value <= 5.0 + 1e-6


@pytest.mark.parametrize(("values", "rank"), [([4, 0, 0], 1.0), ([1, 1, 1, 1], 4.0), ([1, 1, -1e-9], 2.0)])
def test_effective_rank_counts_directions(values, rank):
    assert solving.Spectrum.of(values).effective_rank().value == pytest.approx(rank)


def test_gate_flips_by_layer():
    before = (np.zeros((2, 4)), np.ones((2, 2, 2)))
    after = (np.array([[1, 0, 0, 0], [0, 1, 0, 0.0]]), np.ones((2, 2, 2)))
    assert solving.gate_flips(after, before) == [0.25, 0.0]


BAD = np.array([[1.0, np.nan], [0.0, 1.0]])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: solving.center(np.ones((2, 3))), r"kernel must be square \[N, N\], got shape \[2, 3\]"),
        (lambda: solving.center(np.ones((0, 0))), "not be empty"),
        (lambda: solving.spectrum(BAD), "holds 1 NaN or infinite entries"),
        (lambda: solving.alignment(np.eye(3), [0, 1]), r"one entry a row of the kernel \(3\), got 2"),
        (lambda: solving.alignment(solving.operator_of(np.eye(3)), [0, 1]), r"one entry a row of the kernel \(3\)"),
        (lambda: solving.center(solving.operator_of(np.ones((2, 3)))), r"kernel must be square \[N, N\]"),
        (lambda: solving.label_kernel([]), r"class numbers \[N\] with N > 0"),
        (lambda: solving.cka(np.eye(2), np.eye(3)), r"must have one shape, got \[2, 2\] and \[3, 3\]"),
        (lambda: solving.drift(np.eye(2), BAD), "the second kernel must be finite"),
        (lambda: solving.Spectrum.of([0.0, -1.0]).effective_rank(), "at least one positive eigenvalue"),
        (lambda: solving.Spectrum.of(np.eye(2)), "must be one axis"),
        (lambda: solving.gate_flips((np.ones(2),), ()), "as many gate arrays, got 1 and 0"),
        (lambda: solving.gate_flips((np.ones(2),), (np.ones(3),)), r"gate arrays 0 must have one shape"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_interval_of_a_slope_covers_it_as_often_as_it_says():
    generator = np.random.default_rng(0)
    widths = np.repeat([16, 32, 64, 128], 5)
    fits = [solving.power_law(widths, 3 * widths**-0.5 * np.exp(generator.normal(size=20))) for _ in range(2000)]
    covered = np.mean([fit.low <= -0.5 <= fit.high for fit in fits])
    assert abs(covered - 0.95) < 4 * np.sqrt(0.95 * 0.05 / 2000)  # four standard errors
    assert np.mean([fit.slope for fit in fits]) == pytest.approx(-0.5, abs=0.03)


@pytest.mark.parametrize(("points", "confidence"), [(3, 0.95), (5, 0.6)])
def test_the_interval_of_a_slope_of_few_points_is_that_of_a_regression_line(points, confidence):
    x, y = np.random.default_rng(points).uniform(1, 9, size=(2, points))
    line = scipy.stats.linregress(np.log(x), np.log(y))
    reach = line.stderr * scipy.stats.t(points - 2).ppf((1 + confidence) / 2)
    fit = solving.power_law(x, y, confidence=confidence)
    expected = [line.slope - reach, line.slope + reach, np.exp(line.intercept)]
    np.testing.assert_allclose([fit.low, fit.high, fit.factor], expected, rtol=1e-9)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: solving.power_law([1, 2], [1, 2]), "at least three points"),
        (lambda: solving.power_law([1, 2, 3], [1, 0, 2]), "must be positive and finite"),
        (lambda: solving.power_law([2, 2, 2], [1, 3, 2]), "at least two different x"),
        (lambda: solving.power_law([1, 2, 3], [1, 3, 2], confidence=1.5), "confidence must lie"),
        (lambda: solving.relative_error(np.eye(2), np.zeros((2, 2))), "must not be zero"),
        (lambda: solving.relative_error(np.eye(2), np.eye(3)), "one shape"),
    ],
)
def test_errors_of_relative_error_and_slope(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@given(seeds)
def test_the_change_of_patterns_is_the_attention_that_went_elsewhere(seed):
    a, b = np.random.default_rng(seed).dirichlet(np.ones(5), (2, 3, 4))
    elsewhere = np.maximum(a - b, 0).sum(-1).mean()  # total variation of each row
    assert solving.gate_changes((a,), (b,)) == pytest.approx([elsewhere])
    hard = a > 0.2, b > 0.2
    common, each = (hard[0] & hard[1]).sum(), hard[0].sum() + hard[1].sum()
    assert solving.gate_changes(hard[:1], hard[1:]) == pytest.approx([1 - 2 * common / each])


def test_gates_that_are_as_they_were_have_not_changed():
    scale = np.array([[0.5], [2.0]])
    assert solving.gate_changes((scale, 0 * scale), (scale, 0 * scale)) == [0.0, 0.0]
    assert solving.gate_changes((scale,), (0 * scale,)) == [1.0]
    with pytest.raises(ValueError, match="gate arrays 0 must have one shape"):
        solving.gate_changes((scale,), (scale.T,))
    with pytest.raises(ValueError, match="as many gate arrays, got 1 and 0"):
        solving.gate_changes((scale,), ())


def test_unbiased_cka_counts_pairs_of_different_samples_alone_and_is_zero_of_independent_ones():
    """Of every product over i ≠ j, i ≠ j ≠ k and four different samples, its mean (Song et al. 2012), written out."""
    x, y = np.random.default_rng(1).normal(size=(2, 6, 3))

    def dependence(a, b):
        every = itertools.permutations(range(6), 4)
        terms = [(a[i, j] * (b[i, j] - 2 * b[i, k] + b[k, m])) for i, j, k, m in every]
        return np.mean(terms)

    a, b = x @ x.T, (x + y) @ (x + y).T
    expected = dependence(a, b) / np.sqrt(dependence(a, a) * dependence(b, b))
    assert solving.cka(a, b, unbiased=True) == pytest.approx(expected)
    draws = np.random.default_rng(0).normal(size=(200, 2, 30, 60))
    both = [(x @ x.T, y @ y.T) for x, y in draws]
    plain, unbiased = (np.array([solving.cka(a, b, unbiased=u) for a, b in both]) for u in (False, True))
    assert plain.mean() > 0.5 and abs(unbiased.mean()) < 4 * unbiased.std() / np.sqrt(200)
    with pytest.raises(ValueError, match="at least 4 samples, got 3"):
        solving.cka(np.eye(3), np.eye(3), unbiased=True)
