"""What a kernel will take is timed on a part of it, or told beforehand."""

import logging

import jax
import numpy as np
import pytest
from draws import normal

import npk
from npk.path_kernels import costs

P = {"w": normal(3, 4), "v": normal(4, 2, seed=1)}


def f(p, x):
    return jax.nn.relu(x @ p["w"]) @ p["v"]


@pytest.mark.parametrize("two", [None, normal(3, 3, seed=3)], ids=["one batch", "two"])
def test_an_estimate_holds_the_bytes_of_the_kernel_and_of_its_gates(two):
    x = normal(5, 3, seed=2)
    cost = npk.path_kernel(f).estimate(P, x, two)
    samples = 5 if two is None else 8
    assert cost.memory == 4 * 5 * (5 if two is None else 3) + samples * 4 * 4
    assert 0 < cost.low == cost.seconds == cost.high and cost.timed == 5  # all of it was timed


def test_what_was_not_timed_grows_with_the_pairs(monkeypatch):
    """A clock under which every pair takes a millisecond, and every call one second besides."""
    now = [0.0]
    monkeypatch.setattr(costs.time, "perf_counter", lambda: now[0])

    def kernel(a, b):
        now[0] += 1.0 + 1e-3 * len(a) * len(a if b is None else b)
        return np.zeros((len(a), len(a if b is None else b)), np.float32)

    monkeypatch.setattr(costs, "_TIMED", 1.1)
    cost = costs.timed(kernel, np.zeros((1000, 2)), None, gate_bytes=7)
    np.testing.assert_allclose([cost.seconds, cost.low, cost.high], [1001.0, 500.5, 2002.0])
    assert cost.timed == 16 and cost.memory == 1000 * 1000 * 4 + 1000 * 7


def test_only_long_calls_are_announced(caplog):
    with caplog.at_level(logging.WARNING, "npk"):
        costs.tell_if_long(100, [256] * 4)
        assert not caplog.records
        costs.tell_if_long(50_000**2 // 2, [1024] * 4)
    assert "1,250,000,000 pairs of samples will take about" in caplog.text and "days" in caplog.text


def test_an_estimate_asks_what_the_kernel_asks():
    with pytest.raises(ValueError, match="at least one sample"):
        npk.path_kernel(f).estimate(P, np.zeros((0, 3), np.float32))
