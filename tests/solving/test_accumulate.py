"""Passes over kernels share the BLAS of the process, and leave it as it was."""

import concurrent.futures
import threading

import numpy as np
import pytest
import threadpoolctl

from npk.solving.accumulate import threads


def blas():
    """Threads of every BLAS there is."""
    return [library["num_threads"] for library in threadpoolctl.threadpool_info() if library["user_api"] == "blas"]


class Paused:
    """A pass in a thread of its own, which waits in the middle until it is let go on."""

    def __init__(self, workers, fails):
        self.reached, self.released, self.fails = threading.Event(), threading.Event(), fails
        self.result = workers.submit(self.run)
        assert self.reached.wait(10)

    def run(self):
        out = np.zeros((3, 1))
        with threads() as pool:
            self.reached.set()
            assert self.released.wait(10)
            if self.fails:
                raise ArithmeticError("no kernel")
            pool.add_product(out, np.ones((3, 3)), np.ones((3, 1)))
        return out

    def end(self):
        self.released.set()
        if self.fails:
            with pytest.raises(ArithmeticError, match="no kernel"):
                self.result.result(10)
        else:
            assert self.result.result(10).ravel().tolist() == [3, 3, 3]


@pytest.fixture
def three_threads():
    """As on a machine of three cores; set by a thread that has ended, which keeps no other from changing it."""

    def done(task, *args, **options):
        with concurrent.futures.ThreadPoolExecutor(1) as worker:
            return worker.submit(task, *args, **options).result()

    limit = done(threadpoolctl.threadpool_limits, 3, user_api="blas")
    assert set(blas()) == {3}
    yield
    done(limit.restore_original_limits)


@pytest.mark.usefixtures("three_threads")
@pytest.mark.parametrize("first_fails", [False, True])
@pytest.mark.parametrize("second_fails", [False, True])
@pytest.mark.parametrize("first_ends_first", [False, True])
def test_passes_that_overlap_leave_the_threads_of_blas_as_they_were(first_fails, second_fails, first_ends_first):
    with concurrent.futures.ThreadPoolExecutor(2) as workers:
        passes = [Paused(workers, first_fails), Paused(workers, second_fails)]
        assert set(blas()) == {1}
        if not first_ends_first:
            passes.reverse()
        passes[0].end()
        assert set(blas()) == {1}, "the other pass still needs it"
        passes[1].end()
        assert set(blas()) == {3}
        with threads():  # and a pass alone, after them, in another thread
            assert set(blas()) == {1}
        assert set(blas()) == {3}
