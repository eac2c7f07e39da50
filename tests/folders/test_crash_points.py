"""A process ends at any event below a folder, and the command is given again: the same files, and nothing else."""

import pytest

from benchmarks.crash_points import shim, sweep, unlike


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """Whether events of C++ are met; without a compiler it is those of Python."""
    return shim(tmp_path_factory.mktemp("shim")) is not None


def wrong(found):
    return [f"{moment.at} {moment.event}: {moment.verdict}" for moment in found.moments if not moment.fine]


def kinds(found):
    return {event.split()[0] for event in found.events}


def test_a_stored_kernel_ends_the_same_whenever_its_process_ends(compiled):
    """All events: of Python and of TensorStore."""
    with sweep("stored kernel") as found:
        assert not wrong(found)
    if compiled:
        assert {"open", "write", "fsync", "rename", "link", "remove", "mkdir"} <= kinds(found)
        assert {f"rename c.{i}.{j}" for i in range(3) for j in range(3)} <= set(found.events)
    assert len(found.events) > (80 if compiled else 15)


@pytest.mark.parametrize(
    "job, how",
    [
        ("stored kernels", {"every": 19}),
        ("stored kernel", {"every": 19, "halves": True, "twice": True}),
        ("stored kernel", {"every": 9, "compiled": False}),
        ("harmed kernels, repaired", {"every": 7}),
        ("older kernel, repaired", {}),
    ],
)
def test_stores_that_are_begun_gone_on_with_and_mended(job, how):
    with sweep(job, **how) as found:
        assert not wrong(found)


@pytest.mark.slow
@pytest.mark.parametrize(
    "job, moments",
    [
        ("study", [8, 60, -4]),
        ("training", [9, -35, -12]),  # at the end an older checkpoint is let go
        ("harmed comparison", [-18]),  # a lost array is there again, and the run's file is not yet
    ],
)
def test_runs_go_on_whenever_their_process_ends(job, moments):
    with sweep(job, moments) as found:
        assert not wrong(found)


def test_what_is_not_the_same_is_named():
    whole = {"a": "1", "b": "2"}
    assert unlike(whole, whole) == ""
    assert unlike({"a": "3", "c": "1"}, whole) == "left over: c, missing: b, another: a"


def test_a_job_that_believes_half_a_file_is_found():
    """The harness itself: of what is written in two steps, one is there."""
    with sweep("careless", [-2, -1]) as found:
        assert found.events[-2:] == ["write beside.txt"] * 2 or "open beside.txt" in found.events[-1]
        assert [text.partition(": ")[2] for text in wrong(found)] in (["another: beside.txt"] * 2, [])
