import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from npk import solving

seeds = st.integers(0, 2**32 - 1)


def problem(seed, n=30, m=9, classes=3):
    generator = np.random.default_rng(seed)
    features = generator.normal(size=(n + m, 40))
    labels = np.arange(n) % classes
    return features[:n] @ features[:n].T, features[n:] @ features[:n].T, labels


@given(seeds, st.sampled_from([1e-6, 1e-2, 1.0, 100.0]))
def test_ridge_solves_its_normal_equations(seed, regularization):
    kernel, test_kernel, labels = problem(seed)
    targets = np.eye(3)[labels]
    fit = solving.kernel_ridge(kernel, targets, regularization=regularization)
    system = kernel + regularization * np.trace(kernel) / 30 * np.eye(30)
    expected = test_kernel @ np.linalg.solve(system, targets - targets.mean(0)) + targets.mean(0)
    np.testing.assert_allclose(fit.predict(test_kernel), expected, rtol=1e-7, atol=1e-7)


@given(seeds, st.floats(0.01, 100.0))
def test_regularization_is_relative_to_the_kernel(seed, scale):
    kernel, test_kernel, labels = problem(seed)
    targets = np.eye(3)[labels]
    fit = solving.kernel_ridge(kernel, targets, regularization=0.1)
    scaled = solving.kernel_ridge(scale * kernel, targets, regularization=0.1)
    np.testing.assert_allclose(scaled.predict(scale * test_kernel), fit.predict(test_kernel), rtol=1e-8, atol=1e-10)


def test_no_regularization_to_speak_of_interpolates_and_too_much_gives_the_mean():
    kernel, _, labels = problem(0)
    targets = solving.one_hot(labels)
    np.testing.assert_allclose(
        solving.kernel_ridge(kernel, targets, regularization=1e-12).predict(kernel), targets, atol=1e-6
    )
    np.testing.assert_allclose(
        solving.kernel_ridge(kernel, targets, regularization=1e12).predict(kernel), 1 / 3, atol=1e-6
    )


@given(seeds)
def test_choice_equals_fitting_every_candidate(seed):
    kernel, _, labels = problem(seed)
    best, accuracies = solving.choose_ridge(kernel, labels, candidates=(1e-4, 1e-1, 10.0), seed=3)
    held = solving.held_out(labels, 0.25, 3)
    for candidate, found in accuracies.items():
        inner = kernel[np.ix_(~held, ~held)]
        # The same absolute regularisation: that of the whole kernel's diagonal.
        relative = candidate * np.mean(np.diag(kernel)) / np.mean(np.diag(inner))
        fit = solving.kernel_ridge(inner, np.eye(3)[labels[~held]], regularization=relative)
        assert found == solving.accuracy(fit.predict(kernel[np.ix_(held, ~held)]), labels[held])
    assert accuracies[best] == max(accuracies.values())
    assert best == max(c for c, a in accuracies.items() if a == accuracies[best])


def test_the_held_out_part_is_stratified_and_repeatable():
    labels = np.repeat([0, 1, 2, 3], [40, 20, 3, 1])
    held = solving.held_out(labels, 0.25, 0)
    assert [int(held[labels == c].sum()) for c in range(4)] == [10, 5, 1, 0], "each class is kept in part"
    assert np.array_equal(held, solving.held_out(labels, 0.25, 0))
    assert not np.array_equal(held, solving.held_out(labels, 0.25, 1))


def test_a_kernel_positive_only_up_to_rounding_is_chosen_for_without_trouble():
    kernel, _, labels = problem(1)
    vectors = np.linalg.eigh(kernel)[1]
    kernel = (vectors * np.r_[np.full(10, -1e-9), np.linspace(1, 2, 20)]) @ vectors.T
    best, _ = solving.choose_ridge(kernel, labels)
    assert solving.kernel_ridge(kernel, solving.one_hot(labels), regularization=best).dual.shape == (30, 3)


@given(seeds)
def test_a_classification_tells_which_test_samples_are_right(seed):
    """At the regularization that the training samples choose: by the normal equations, class by class."""
    kernel, test_kernel, labels = problem(seed, m=25)
    test_labels = np.random.default_rng(seed).integers(0, 3, 25)
    found = solving.classify(kernel, test_kernel, labels, test_labels)
    best, tried = solving.choose_ridge(kernel, labels)
    assert (found.regularization, found.validation_accuracy) == (best, tried[best])
    targets = np.eye(3)[labels]
    system = kernel + best * np.trace(kernel) / 30 * np.eye(30)
    scores = test_kernel @ np.linalg.solve(system, targets - targets.mean(0)) + targets.mean(0)
    assert np.array_equal(found.correct, scores.argmax(1) == test_labels)
    assert found.test_accuracy == np.mean(scores.argmax(1) == test_labels)


def test_what_is_chosen_by_does_not_see_the_test_samples():
    kernel, test_kernel, labels = problem(3)
    right, wrong = (solving.classify(kernel, test_kernel, labels, np.full(9, number)) for number in (0, 2))
    assert right.regularization == wrong.regularization
    assert right.validation_accuracy == wrong.validation_accuracy
    assert not (right.correct & wrong.correct).any(), "and one score cannot be largest at two classes"


def test_a_sample_is_hit_where_its_own_score_is_the_first_of_the_largest():
    scores = [[0.2, 0.5, 0.3], [0.1, 0.1, 0.8], [0.4, 0.4, 0.2], [0.4, 0.4, 0.2], [-3.0, -1.0, -2.0]]
    found = solving.hits(scores, [1, 0, 0, 1, 1])
    assert found.dtype == bool and found.tolist() == [True, False, True, False, True]
    assert solving.accuracy(scores, [1, 0, 0, 1, 1]) == 0.6


EYE, TARGETS = np.eye(3), np.eye(3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: solving.kernel_ridge(np.ones((2, 3)), TARGETS), r"kernel must be square \[N, N\], got shape \[2, 3\]"),
        (lambda: solving.kernel_ridge(EYE, np.ones((2, 1))), r"targets must be \[3, K\]"),
        (lambda: solving.kernel_ridge(EYE * np.nan, TARGETS), "must be finite"),
        (lambda: solving.kernel_ridge(EYE, TARGETS, regularization=0.0), "regularization must be positive, got 0.0"),
        (lambda: solving.kernel_ridge(np.diag([3.0, -1, 1]), TARGETS), "not positive semi-definite: entry 1"),
        (lambda: solving.kernel_ridge(np.ones((3, 3)) - EYE / 2, TARGETS), "not positive definite at regularization"),
        (lambda: solving.kernel_ridge(-EYE, TARGETS), "mean diagonal must be positive, got -1"),
        (lambda: solving.kernel_ridge(1e308 * EYE, TARGETS), "trace leaves the range of float64"),
        (lambda: solving.kernel_ridge(EYE, TARGETS).predict(np.ones((2, 2))), r"\[new samples, 3 training samples\]"),
        (lambda: solving.one_hot([0.0, 1.0]), r"whole numbers \[N\], N > 0, got float64\[2\]"),
        (lambda: solving.one_hot([0, 3], 3), r"must lie in 0 … 2, got 0 … 3"),
        (lambda: solving.one_hot([-1, 0]), "must lie in 0"),
        (lambda: solving.choose_ridge(EYE, [0, 1, 1], candidates=()), "regularization must be positive"),
        (lambda: solving.choose_ridge(EYE, [0, 1, 1], candidates=(0.1, 0.0)), "regularization must be positive"),
        (lambda: solving.choose_ridge(EYE, [0, 1, 2]), "leaves a side of the split empty"),
        (lambda: solving.accuracy(EYE, [0, 1]), r"must match, got \[3, 3\] and \[2\]"),
        (lambda: solving.hits(EYE, [0, 1]), r"must match, got \[3, 3\] and \[2\]"),
        (lambda: solving.hits(EYE[0], [0, 1, 2]), r"must match, got \[3\] and \[3\]"),
        (lambda: solving.hits(np.zeros((0, 3)), []), r"must match, got \[0, 3\] and \[0\]"),
        (lambda: solving.classify(EYE, EYE, [0, 1, 2], [0, 1, 2]), "leaves a side of the split empty"),
        (lambda: solving.classify(np.eye(4), np.eye(4)[:2], [0, 1, 0, 1], [0]), r"must match, got \[2, 2\] and \[1\]"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
