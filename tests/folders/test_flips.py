"""Every kind of folder, a bit or a file at a time not as it was written: told or harmless, never an error of Python."""

import pytest

from benchmarks import strangers
from benchmarks.flips import given_again, judge, tried

pytestmark = pytest.mark.standard_dtypes

QUICK = ("a stored kernel", "stored kernels", "a stored kernel, verified", "checkpoints", "checkpoints, verified")


def check(name, folder, every, data):
    for count in tried(name, folder, every, data):
        assert not count.silent and not count.tracebacks, count
        assert count.tried and count.told + count.harmless == count.tried


@pytest.mark.parametrize("name", QUICK)
def test_what_is_not_as_it_was_written_is_told_or_harmless(tmp_path, name):
    check(name, tmp_path / "folder", 1999 if name.startswith("checkpoints") else 401, 6)


@pytest.mark.parametrize("name", ["a stored kernel", "a stored kernel, verified", "checkpoints, verified"])
def test_files_of_a_stranger_are_read_or_refused_by_name(tmp_path, name):
    """Every value is another, under a right checksum."""
    count = strangers.tried(name, tmp_path / "folder", 0.5)
    assert count.told and not count.tracebacks, count.tracebacks


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a study, verified", "a comparison, verified"])
def test_runs_that_are_not_as_they_were_written_are_told_or_harmless(tmp_path, name):
    check(name, tmp_path / "folder", 997, 6)
    assert not (count := strangers.tried(name, tmp_path / "folder", 0.1)).tracebacks, count.tracebacks


@pytest.mark.parametrize("job", ["stored kernel", "stored kernels"])
def test_a_command_given_again_ends_as_it_was_or_tells(tmp_path, job):
    count = given_again(job, tmp_path / "folder", 12)
    assert not count.silent and not count.tracebacks, count


def test_what_is_wrong_is_seen(tmp_path):
    def fails(error):
        def read(folder):
            raise error

        return read

    assert judge(tmp_path, lambda folder: (1, []), 1) == "harmless"
    assert judge(tmp_path, lambda folder: (2, []), 1) == "silent: other numbers"
    assert judge(tmp_path, lambda folder: (2, ["a tile is damaged"]), 1) == "told"
    assert judge(tmp_path, fails(ValueError(f"{tmp_path} is damaged")), 1) == "told"
    assert judge(tmp_path, fails(ValueError("damaged")), 1).startswith("names nothing")
    assert judge(tmp_path, fails(KeyError(f"{tmp_path}")), 1).startswith("KeyError")
