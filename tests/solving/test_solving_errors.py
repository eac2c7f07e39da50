"""Kernel ridge regression of what it refuses: what is said of it."""

import pickle
import warnings

import numpy as np
import pytest
from problems import gaussian, targets

from npk import solving
from npk.solving import kernel_ridge


def test_what_is_not_positive_definite_survives_pickling():
    error = solving.NotPositiveDefinite(0.25)
    assert str(pickle.loads(pickle.dumps(error))) == str(error) and "at regularization 0.25 (" in str(error)


@pytest.mark.parametrize("options", [{"method": "cholesky"}, {"method": "cg"}, {"method": "cg", "rank": 0}])
def test_an_asymmetric_kernel_is_refused(options):
    kernel = gaussian(80)
    kernel[3, 5] += 0.01
    with pytest.raises(ValueError, match="the kernel is not symmetric: two random vectors"):
        kernel_ridge(kernel, targets(80), **options)


def test_a_run_is_not_continued_with_an_asymmetric_kernel():
    kernel, seen = gaussian(80), []
    kernel_ridge(kernel, targets(80), method="cg", rank=0, callback=seen.append)
    kernel[3, 5] += 0.01
    with pytest.raises(ValueError, match="the kernel is not symmetric: two random vectors"):
        kernel_ridge(kernel, targets(80), method="cg", rank=0, start=seen[0])


@pytest.mark.parametrize("options", [{"method": "cholesky"}, {"method": "cg", "rank": 0}])
def test_an_indefinite_kernel_is_refused(options):
    vectors = np.linalg.qr(targets(60, 60))[0]
    kernel = (vectors * np.r_[-0.5, np.linspace(0.5, 2, 59)]) @ vectors.T
    kernel = (kernel + kernel.T) / 2
    with pytest.raises(solving.NotPositiveDefinite, match="not positive definite at regularization 0.001") as caught:
        kernel_ridge(kernel, targets(60), **options)
    if options["method"] == "cg":
        assert caught.value.iterate.duals[0].shape == (60, 3)
    shifted = kernel_ridge(kernel, targets(60), regularization=1.0, **options)
    assert shifted.converged


EYE = np.eye(3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: kernel_ridge(np.ones((2, 3)), EYE), r"must be square \[N, N\], got shape \[2, 3\]"),
        (lambda: kernel_ridge(EYE, np.ones((2, 1))), r"targets must be \[3, K\], got shape \[2, 1\]"),
        (lambda: kernel_ridge(EYE, EYE * np.nan), "targets must be finite"),
        (lambda: kernel_ridge(-EYE, EYE), "mean diagonal must be positive"),
        (lambda: kernel_ridge(1e308 * EYE, EYE), "trace leaves the range of float64"),
        (lambda: kernel_ridge(EYE, EYE, regularization=0.0), "regularization must be positive, got"),
        (lambda: kernel_ridge(EYE, EYE, regularization=()), "regularization must be positive"),
        (lambda: kernel_ridge(EYE, EYE, tolerance=0.0), "tolerance must be positive"),
        (lambda: kernel_ridge(EYE, EYE, limit=1), "limit must be at least 2 passes"),
        (lambda: kernel_ridge(EYE, EYE, method="cg", rank=-1), "rank must not be negative, got -1"),
        (lambda: kernel_ridge(EYE, EYE, method="cg", start=np.ones((3, 1))), r"start must be \[3, 3\], got \[3, 1\]"),
        (lambda: kernel_ridge(EYE, EYE).predict(np.ones((2, 2))), r"\[new samples, 3 training samples\]"),
        (lambda: solving.choose_ridge(EYE, [0, 1]), r"labels must be \[3\], one a sample, got shape \[2\]"),
        (lambda: solving.choose_ridge(EYE, [0, 1, 2]), "leaves a side of the split empty"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_preconditioners_and_starts_of_another_problem_are_refused():
    kernel, y = gaussian(20), targets(20)
    with pytest.raises(ValueError, match="of 20 samples, got 10"):
        kernel_ridge(kernel, y, method="cg", preconditioner=solving.nystrom(gaussian(10), 3))
    with pytest.raises(ValueError, match="not both"):
        kernel_ridge(kernel, y, method="cg", rank=3, preconditioner=solving.nystrom(kernel, 3))
    seen = []
    kernel_ridge(kernel, y, method="cg", callback=seen.append)
    with pytest.raises(ValueError, match=r"start is of regularizations \(0.001,\)"):
        kernel_ridge(kernel, y, regularization=1.0, method="cg", start=seen[0])


def test_no_warning_where_all_is_well():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kernel_ridge(gaussian(30), targets(30), method="cg")
