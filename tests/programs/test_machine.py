"""What a process may take of its machine."""

import os

import pytest

from npk.programs.machine import cores


def test_cores_are_those_this_process_may_run_on():
    if not hasattr(os, "sched_getaffinity"):
        pytest.skip("this system has no bounds on cores")
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert cores() == 1
    finally:
        os.sched_setaffinity(0, allowed)
    assert cores() == len(allowed)


def test_cores_can_be_counted_where_there_are_no_such_bounds(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 12)
    assert cores() == 12
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert cores() == 1
