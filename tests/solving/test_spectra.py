"""Estimates of traces and spectra: intervals hold the truth as often as they say."""

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from npk.solving import Spectrum, moments, operator_of, spectrum

N = 150
SPECTRA = {
    "slow": 1 / np.arange(1, N + 1),
    "fast": np.exp(-np.arange(N) / 8),
    "flat": 1 + np.random.default_rng(0).random(N),
    "deficient": np.r_[np.arange(1.0, 61), np.zeros(N - 60)],
}


def with_spectrum(values, seed=0):
    vectors = np.linalg.qr(np.random.default_rng([seed, 7]).normal(size=(len(values),) * 2))[0]
    kernel = (vectors * values) @ vectors.T
    return (kernel + kernel.T) / 2


def effective_rank(values):
    share = values[values > 0] / values[values > 0].sum()
    return np.exp(-(share * np.log(share)).sum())


class NoDiagonal:
    """Products alone."""

    def __init__(self, kernel):
        self.kernel, self.shape, self.dtype, self.products = kernel, kernel.shape, kernel.dtype, 0

    def product(self, v):
        self.products += 1
        return self.kernel @ v


def holds(estimate, truth):
    """Whether the interval holds the truth, rounding granted."""
    return estimate.low - 1e-9 * abs(truth) <= truth <= estimate.high + 1e-9 * abs(truth)


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("confidence", [0.6, 0.95])
def test_intervals_of_moments_are_calibrated(name, confidence):
    values, draws = SPECTRA[name], 120
    operator = NoDiagonal(with_spectrum(values))
    truth = np.array([values.sum(), np.sqrt((values**2).sum()), values.sum() ** 2 / (values**2).sum()])
    hits, plain = np.zeros(3), 0
    for seed in range(draws):
        found = moments(operator, sketch=24, probes=24, confidence=confidence, seed=seed)
        hits += [holds(e, t) for e, t in zip((found.trace, found.frobenius_norm, found.participation_ratio), truth)]
        plain += holds(moments(operator, sketch=0, probes=60, confidence=confidence, seed=seed).trace, truth[0])
    low, high = scipy.stats.binom.ppf((1e-3, 1 - 1e-3), draws, confidence)
    assert (hits >= low).all() and plain >= low
    # The ratio's interval is built from two and may hold the truth more often.
    assert max(*hits[:2], plain) <= high


@pytest.mark.parametrize("name", SPECTRA)
def test_intervals_of_the_spectrum_hold_the_truth(name):
    values, draws = SPECTRA[name], 40
    kernel, shift = with_spectrum(values), 0.02 * values.mean()
    levels = np.array([0.9 * values.max(), np.median(values) + 1e-6, 0.1 * values.max()])
    truth = [np.log(values + shift).sum(), np.sqrt(values).sum(), effective_rank(values)]
    truth += [(values > level).sum() for level in levels]
    hits = np.zeros(len(truth))
    for seed in range(draws):
        operator = NoDiagonal(kernel) if seed % 2 else operator_of(kernel)
        found = spectrum(operator, steps=12, sketch=8, probes=12, seed=seed)
        given = [found.log_determinant(shift), found.trace_of(lambda x: np.sqrt(np.maximum(x, 0)))]
        given += [found.effective_rank(), *found.counts(levels)]
        hits += [holds(e, t) for e, t in zip(given, truth)]
    assert (hits >= scipy.stats.binom.ppf(1e-3, draws, 0.95)).all(), hits


def test_hutch_is_sharper_than_hutchinson_where_few_eigenvalues_matter():
    operator = NoDiagonal(with_spectrum(SPECTRA["fast"]))
    plain, sharp = (moments(operator, sketch=k, probes=40 - k).trace for k in (0, 20))
    assert sharp.high - sharp.low < (plain.high - plain.low) / 4
    assert operator.products == 1 + 2


@settings(max_examples=8)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12))
def test_with_as_many_directions_as_samples_all_is_exact(seed, n):
    values = np.random.default_rng(seed).random(n) + 0.1
    kernel = with_spectrum(values, seed)
    found = moments(operator_of(kernel), sketch=20, use_diagonal=False, seed=seed)
    assert found.trace.low == found.trace.high == pytest.approx(values.sum(), rel=1e-10)
    assert found.frobenius_norm.value == pytest.approx(np.linalg.norm(kernel), rel=1e-10)
    found = spectrum(operator_of(kernel), steps=n, sketch=20, seed=seed)
    assert found.log_determinant(0.5).value == pytest.approx(np.linalg.slogdet(kernel + 0.5 * np.eye(n))[1], abs=1e-8)
    assert found.effective_rank().value == pytest.approx(effective_rank(values), rel=1e-8)


@given(st.integers(0, 2**32 - 1), st.integers(1, 12))
def test_of_an_array_all_is_exact(seed, n):
    values = np.random.default_rng(seed).normal(size=n) + 0.5
    kernel = with_spectrum(values, seed)
    found = moments(kernel)
    truths = (np.trace(kernel), np.linalg.norm(kernel), np.trace(kernel) ** 2 / np.square(kernel).sum())
    for estimate, truth in zip((found.trace, found.frobenius_norm, found.participation_ratio), truths):
        assert estimate.low == estimate.value == estimate.high == pytest.approx(truth, rel=1e-12)
    exact = spectrum(kernel)
    np.testing.assert_allclose(exact.eigenvalues, np.sort(values)[::-1], atol=1e-12)
    levels = np.r_[values + 1e-9, values - 1e-9]
    for count, level in zip(exact.counts(levels), levels):
        assert count.low == count.value == count.high == (values > level).sum()
    for estimate, truth in (
        (exact.trace, values.sum()),
        (exact.trace_of(np.exp), np.exp(values).sum()),
        (exact.log_determinant(9.0), np.linalg.slogdet(kernel + 9 * np.eye(n))[1]),
    ):
        assert estimate.low == estimate.value == estimate.high == pytest.approx(truth, abs=1e-9)
    if (values > 0).any():
        rank = exact.effective_rank()
        assert rank.low == rank.value == rank.high == pytest.approx(effective_rank(values), rel=1e-9)


def test_an_array_may_be_rounded_to_float32_whatever_its_dtype_is_now():
    kernel = with_spectrum(SPECTRA["flat"])
    rounded = kernel * (1 + 1e-7 * np.random.default_rng(1).normal(size=kernel.shape))
    np.testing.assert_allclose(spectrum(rounded).eigenvalues, spectrum(kernel).eigenvalues, atol=1e-6)


def test_the_trace_is_exact_where_there_is_a_diagonal():
    kernel = with_spectrum(SPECTRA["slow"])
    found = moments(operator_of(kernel), sketch=2, probes=2).trace
    assert found.low == found.high == pytest.approx(np.trace(kernel), rel=1e-14)


def test_gauss_and_radau_enclose_the_logarithm():
    kernel = with_spectrum(SPECTRA["slow"])
    widths = []
    for steps in (3, 6, 12, 24):
        # Directions alone: nothing is left to chance, the interval is what Lanczos leaves open.
        found = spectrum(operator_of(kernel), steps=steps, sketch=N).log_determinant(1e-3)
        assert holds(found, np.linalg.slogdet(kernel + 1e-3 * np.eye(N))[1])
        widths.append(found.high - found.low)
    assert widths == sorted(widths, reverse=True) and widths[-1] < 1e-3 * widths[0]


def test_counts_go_from_all_to_none():
    kernel = with_spectrum(SPECTRA["flat"])
    found = spectrum(operator_of(kernel)).counts([0.5, 1.5, 3.0])
    assert [c.value for c in found] == pytest.approx([N, (SPECTRA["flat"] > 1.5).sum(), 0], abs=0.05 * N)
    assert all(c.low <= t <= c.high for c, t in zip(found, (N, (SPECTRA["flat"] > 1.5).sum(), 0)))
    assert all(0 <= c.low <= c.value <= c.high <= N for c in found)


@pytest.mark.parametrize("seed", range(8))
def test_all_and_none_lie_within_however_sums_are_rounded(seed):
    kernel = with_spectrum(SPECTRA["flat"])
    every, none = spectrum(operator_of(kernel), seed=seed).counts([0.5, 3.0])
    assert every.high == N and none.low == 0


def test_a_float32_kernel_and_few_distinct_eigenvalues():
    kernel = np.kron(np.eye(10), np.ones((12, 12))).astype(np.float32)  # rank 10, eigenvalue 12
    found = spectrum(operator_of(kernel), steps=8, sketch=20)
    assert found.effective_rank().value == pytest.approx(10, rel=1e-5)
    assert found.counts([6.0])[0].value == pytest.approx(10, rel=1e-5)
    assert found.log_determinant(1.0).value == pytest.approx(10 * np.log(13), rel=1e-5)
    ratio = moments(operator_of(kernel)).participation_ratio
    assert ratio.value == pytest.approx(10, rel=1e-5)


def test_passes_and_repeatability():
    operator = NoDiagonal(with_spectrum(SPECTRA["slow"]))
    one, two = (spectrum(operator, steps=9, seed=4) for _ in range(2))
    assert operator.products == 2 * (9 + 1)
    np.testing.assert_array_equal(one.nodes, two.nodes)


EYE = np.eye(3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: moments(operator_of(np.ones((2, 3)))), "must be square"),
        (lambda: moments(operator_of(EYE), probes=1), "probes at least 2, got 32 and 1"),
        (lambda: moments(operator_of(EYE), sketch=-1), "sketch must not be negative"),
        (lambda: moments(operator_of(EYE), confidence=1.0), "confidence must lie between 0 and 1, got 1.0"),
        (lambda: moments(operator_of(np.triu(np.ones((9, 9))))), "the kernel is not symmetric"),
        (lambda: moments(operator_of(EYE * np.inf)), "must be finite"),
        (lambda: moments(np.ones((2, 3))), "must be square"),
        (lambda: moments(np.triu(np.ones((9, 9)))), "the kernel is not symmetric"),
        (lambda: moments(EYE * np.inf), "must be finite"),
        (lambda: spectrum(np.triu(np.ones((9, 9)))), "the kernel is not symmetric"),
        (lambda: spectrum(operator_of(EYE)).eigenvalues, "known one by one of an array alone"),
        (lambda: Spectrum.of([1.0, np.nan]), "eigenvalues must be finite, but holds 1"),
        (lambda: spectrum(operator_of(EYE), steps=0), "steps must be at least 1"),
        (lambda: spectrum(operator_of(EYE)).log_determinant(-1.0), "shift must not be negative, got -1"),
        (lambda: spectrum(operator_of(np.diag([1.0, 0, 0]))).log_determinant(0.0), "must be finite on the spectrum"),
        (lambda: spectrum(operator_of(EYE)).counts([np.nan]), "thresholds must be numbers"),
        (lambda: spectrum(operator_of(EYE)).counts([[1.0]]), r"thresholds must be numbers \[t\], got shape \[1, 1\]"),
    ],
)
def test_errors(call, message):
    with np.errstate(all="ignore"), pytest.raises(ValueError, match=message):
        call()


def test_what_does_not_fit_is_refused(monkeypatch):
    monkeypatch.setattr("npk.solving.spectra.available_memory", lambda: 1000)
    with pytest.raises(ValueError, match="ask for fewer steps"):
        spectrum(operator_of(np.eye(100)))
