"""Intervals of shares, of paired differences and of smooth statistics: their formulas, and how often they hold."""

import itertools

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from npk.solving import jackknife, paired_difference, proportion

truths = st.lists(st.booleans(), min_size=1, max_size=60).map(np.array)
levels = st.sampled_from([0.5, 0.9, 0.95, 0.99])


def ends(estimate):
    return [estimate.low, estimate.high]


def trues(count, n):
    return np.arange(n) < count


# --- shares -----------------------------------------------------------------------------------------


@given(truths, levels)
def test_a_share_has_the_interval_of_all_values_that_a_score_test_does_not_refuse(correct, confidence):
    """Wilson's: of θ with |p - θ| ≤ z √(θ(1 - θ)/n); by SciPy, and by the roots of that quadratic."""
    found, n, p = proportion(correct, confidence=confidence), len(correct), correct.mean()
    assert found.value == p
    scipys = scipy.stats.binomtest(int(correct.sum()), n).proportion_ci(confidence, method="wilson")
    assert ends(found) == pytest.approx([scipys.low, scipys.high], abs=1e-12)
    z = scipy.stats.norm.ppf((1 + confidence) / 2)
    for theta in ends(found):
        assert abs(p - theta) == pytest.approx(z * np.sqrt(abs(theta * (1 - theta)) / n), abs=1e-7)
    assert found.low <= p <= found.high and found.high > found.low


@pytest.mark.parametrize("n", [30, 100, 360])
@pytest.mark.parametrize("p", [0.05, 0.5, 0.9, 0.97])
def test_the_interval_of_a_share_holds_the_truth_as_often_as_it_says(n, p):
    """All counts, each as likely as the binomial distribution says: nothing is drawn."""
    counts = np.arange(n + 1)
    held = [found.low <= p <= found.high for found in (proportion(trues(count, n)) for count in counts)]
    chance = scipy.stats.binom.pmf(counts, n, p)[held].sum()
    assert 0.92 < chance < 0.985


def test_a_share_of_all_or_none_is_not_sure():
    for count, end in ((0, 0.0), (20, 1.0)):
        found = proportion(trues(count, 20))
        assert found.value == end and found.high - found.low > 0.1
        assert end == pytest.approx(found.low if end == 0 else found.high, abs=1e-12)


def test_an_interval_of_a_share_stays_among_shares():
    """However many samples, all of them right or none: to the last bit."""
    for n, confidence in itertools.product(range(1, 200), (0.5, 0.9, 0.95, 0.99)):
        none, all_of_them = (proportion(trues(count, n), confidence=confidence) for count in (0, n))
        assert none.low >= 0 and all_of_them.high <= 1, n


# --- pairs ------------------------------------------------------------------------------------------


def pairs(both, better, worse, neither):
    """Where two classifiers are right, from the counts of the four cells."""
    one = np.repeat([True, True, False, False], [both, better, worse, neither])
    return one, np.repeat([True, False, True, False], [both, better, worse, neither])


def test_the_interval_of_a_difference_is_walds_after_half_a_sample_more_in_each_cell():
    """Of the 2 × 2 table of Agresti and Min's example: 1600 voters, asked twice."""
    cells = dict(both=794, better=150, worse=86, neither=570)
    found = paired_difference(*pairs(**cells))
    table = np.array([[794, 150], [86, 570]]) + 0.5
    share = table / table.sum()
    middle = share[0, 1] - share[1, 0]
    error = np.sqrt((share[0, 1] + share[1, 0] - middle**2) / table.sum())
    assert found.value == (150 - 86) / 1600
    assert ends(found) == pytest.approx([middle - 1.959964 * error, middle + 1.959964 * error], abs=1e-7)
    assert ends(found) == pytest.approx([0.021, 0.059], abs=0.0011), "as its textbooks print Wald's"


cells = st.tuples(*[st.integers(0, 80)] * 4).filter(any)


@given(cells, levels)
def test_a_difference_changes_its_sign_as_the_two_are_exchanged(counts, confidence):
    one, other = pairs(*counts)
    there, back = (paired_difference(*of, confidence=confidence) for of in ((one, other), (other, one)))
    assert [there.value, *ends(there)] == pytest.approx([-back.value, -back.high, -back.low], abs=1e-15)
    assert -1 <= there.low <= there.value <= there.high <= 1
    assert there.value == pytest.approx(one.mean() - other.mean(), abs=1e-15)


def test_of_two_that_agree_more_less_follows_from_the_same_shares():
    """95 and 90 % of 200 samples: from every wrong sample of the one among those of the other, to as few as can be."""
    widths = []
    for shared in range(11):  # samples that both get wrong
        found = paired_difference(*pairs(200 - 10 - 20 + shared, 20 - shared, 10 - shared, shared))
        assert found.value == pytest.approx(0.05)
        widths.append(found.high - found.low)
    assert all(np.diff(widths) < 0), widths
    apart = [np.diff(ends(proportion(trues(count, 200))))[0] for count in (190, 180)]
    assert widths[-1] < 0.7 * np.hypot(*apart), "far narrower than of two test sets"


def test_what_is_exactly_the_same_differs_by_little_at_most():
    right = trues(300, 360)
    found = paired_difference(right, right)
    assert found.value == 0 and -found.low == found.high == pytest.approx(1.959964 / 362)


def coverage(chances, n, draws, seed):
    """How often intervals hold the true difference, of draws of the two cells that count."""
    better, worse = np.random.default_rng(seed).multinomial(n, chances, draws).T[1:3]
    truth, held, known = chances[1] - chances[2], 0, {}
    for pair in zip(better.tolist(), worse.tolist(), strict=True):
        if pair not in known:
            found = paired_difference(*pairs(n - sum(pair), *pair, 0))
            known[pair] = found.low <= truth <= found.high
        held += known[pair]
    return held / draws


@pytest.mark.parametrize("n", [60, 150, 360])
@pytest.mark.parametrize(
    "chances",
    [(0.9, 0.05, 0.03, 0.02), (0.9, 0.03, 0.03, 0.04), (0.5, 0.25, 0.05, 0.2), (0.97, 0.02, 0.005, 0.005)],
)
def test_the_interval_of_a_difference_holds_the_truth_in_nineteen_of_twenty_cases(n, chances):
    """Seeded draws of multinomials; where few samples differ it holds it more often."""
    assert coverage(np.array(chances), n, 4000, n) > 0.935


def test_every_count_of_sixty_samples_one_after_another():
    """Exactly: all tables with their chances, for chances of either kind of disagreement."""
    n = 60
    tables = [(b, w) for b, w in itertools.product(range(n + 1), repeat=2) if b + w <= n]
    found = {pair: paired_difference(*pairs(n - sum(pair), *pair, 0)) for pair in tables}
    low, high = (np.array([getattr(found[pair], end) for pair in tables]) for end in ("low", "high"))
    counts = np.array([(b, w, n - b - w) for b, w in tables])
    for p, q in itertools.product([0.02, 0.05, 0.1, 0.3], repeat=2):
        chance = scipy.stats.multinomial.pmf(counts, n, [p, q, 1 - p - q])
        assert chance.sum() == pytest.approx(1)
        assert chance[(low <= p - q) & (p - q <= high)].sum() > 0.92, (p, q)


# --- leaving groups out -----------------------------------------------------------------------------


def test_the_interval_of_a_mean_is_students_of_the_groups_means():
    x = np.random.default_rng(0).normal(size=200)
    (found,) = jackknife(lambda kept: [x[kept].mean()], 200, groups=10, confidence=0.9)
    groups = np.array([x[start::10].mean() for start in range(10)])
    low, high = scipy.stats.t.interval(0.9, 9, groups.mean(), scipy.stats.sem(groups))
    assert [found.value, *ends(found)] == pytest.approx([x.mean(), low, high])


def test_groups_of_one_sample_each_give_students_interval_of_a_mean():
    x = np.random.default_rng(1).exponential(size=15)
    (found,) = jackknife(lambda kept: [x[kept].mean()], 15)
    assert ends(found) == pytest.approx(scipy.stats.t.interval(0.95, 14, x.mean(), scipy.stats.sem(x)))


def test_every_group_has_its_share_of_each_class_and_no_sample_is_left_out_twice():
    seen = []

    def statistic(kept):
        seen.append(kept)
        return [0.0]

    jackknife(statistic, 120)
    assert len(seen) == 21 and np.array_equal(seen[0], np.arange(120))
    out = [np.setdiff1d(seen[0], kept) for kept in seen[1:]]
    assert np.array_equal(np.sort(np.concatenate(out)), seen[0])
    classes = np.repeat([0, 1, 2], 40)
    assert all(np.array_equal(np.bincount(classes[left]), [2, 2, 2]) for left in out)
    assert all(np.array_equal(kept, np.sort(kept)) for kept in seen)


def by_the_delta_method(x, y):
    """Error of Σx/Σy to first order."""
    ratio = x.mean() / y.mean()
    return np.std(x - ratio * y, ddof=1) / np.sqrt(len(x)) / y.mean()


def test_a_ratio_and_a_difference_have_the_width_that_calculus_gives_them():
    draws = np.random.default_rng(2)
    x = draws.gamma(4.0, size=(2, 4000))
    ratio, difference = jackknife(
        lambda kept: [x[0, kept].sum() / x[1, kept].sum(), x[0, kept].mean() - x[1, kept].mean()], 4000, groups=400
    )
    assert ratio.value == pytest.approx(x[0].sum() / x[1].sum())
    assert (ratio.high - ratio.low) / 2 == pytest.approx(1.96 * by_the_delta_method(*x), rel=0.1)
    error = np.std(x[0] - x[1], ddof=1) / np.sqrt(4000)
    assert (difference.high - difference.low) / 2 == pytest.approx(1.96 * error, rel=0.1)


def test_a_difference_of_two_statistics_of_the_same_samples_is_narrower_than_either():
    shared, own = np.random.default_rng(3).normal(size=(2, 400))
    one, other, both = jackknife(
        lambda kept: [shared[kept].mean(), (shared + own / 10)[kept].mean(), (own / 10)[kept].mean()], 400
    )
    assert both.high - both.low < (one.high - one.low) / 3 and both.value == pytest.approx(other.value - one.value)


@pytest.mark.parametrize("groups", [10, 20])
@pytest.mark.parametrize(
    ("truth", "statistic"),
    [
        (2.0, lambda x, y: x.sum(-1) / y.sum(-1)),
        (np.log(2.0), lambda x, y: np.log(x.mean(-1) / y.mean(-1))),
        (0.5, lambda x, y: (x * y).mean(-1) / np.sqrt((x**2).mean(-1) * (y**2).mean(-1))),
    ],
    ids=["ratio", "logarithm", "cosine"],
)
def test_nineteen_of_twenty_intervals_hold_the_truth(groups, truth, statistic):
    """A thousand data sets side by side, each a row, so that one call does for all.

    Of exponential x and y: E[xy] = E[x] E[y], and E[x²] = 2 E[x]².
    """
    draws, sets = np.random.default_rng(groups), 1000
    x, y = 2 * draws.exponential(size=(sets, 240)), draws.exponential(size=(sets, 240))
    found = jackknife(lambda kept: statistic(x[:, kept], y[:, kept]), 240, groups=groups)
    held = np.mean([one.low <= truth <= one.high for one in found])
    assert 0.93 < held < 0.975, held


# --- refusals ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: proportion([]), r"correct must be truth values \[N\], N > 0, got float64\[0\]"),
        (lambda: proportion(np.zeros(0, bool)), r"got bool\[0\]"),
        (lambda: proportion([0, 1, 1]), r"correct must be truth values \[N\], N > 0, got int64\[3\]"),
        (lambda: proportion(np.ones((2, 2), bool)), r"got bool\[2, 2\]"),
        (lambda: paired_difference([True], [0.5]), "reference must be truth values"),
        (lambda: paired_difference([True, False], [True]), "must be of the same samples, got 2 and 1"),
        (lambda: proportion([True], confidence=1.0), "confidence must lie between 0 and 1, got 1.0"),
        (lambda: paired_difference([True], [True], confidence=0.0), "confidence must lie between 0 and 1, got 0.0"),
        (lambda: jackknife(lambda kept: [0.0], 9, confidence=float("nan")), "confidence must lie between 0 and 1"),
        (lambda: jackknife(lambda kept: [0.0], 1), "at least 2 samples and 2 groups, got 1 and 20"),
        (lambda: jackknife(lambda kept: [0.0], 10, groups=1), "at least 2 samples and 2 groups, got 10 and 1"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
