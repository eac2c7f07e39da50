"""Links in a folder of a stranger: nothing is written, emptied or removed where they lead."""

import contextlib

import pytest

from benchmarks.crash_jobs import JOBS
from npk.folders import locked

pytestmark = pytest.mark.standard_dtypes


@pytest.fixture
def elsewhere(tmp_path):
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "precious.txt").write_text("precious")
    yield folder
    assert [path.name for path in folder.iterdir()] == ["precious.txt"]
    assert (folder / "precious.txt").read_text() == "precious"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "folder").mkdir()
    return tmp_path / "folder"


def test_a_lock_that_is_a_link(folder, elsewhere):
    (folder / ".lock").symlink_to(elsewhere / "precious.txt")
    with contextlib.suppress(OSError), locked(folder):
        pass


def test_a_lock_that_is_a_link_to_what_is_not_there(folder, elsewhere):
    (folder / ".lock").symlink_to(elsewhere / "made.txt")
    with contextlib.suppress(OSError), locked(folder):
        pass


def test_a_chunk_on_its_way_that_is_a_link(folder, elsewhere):
    run = JOBS["stored kernel"].run
    run(folder / "k", False)
    (folder / "k" / "c.0.0").unlink()
    (folder / "k" / "c.0.0.__lock").symlink_to(elsewhere / "precious.txt")
    with contextlib.suppress(OSError, ValueError):
        run(folder / "k", True)


def test_a_folder_of_an_array_that_is_a_link(folder, elsewhere):
    """Of a store that is begun: its description is there, and one of its arrays lies elsewhere."""
    run = JOBS["stored kernels"].run
    run(folder / "k", False)
    for path in (folder / "k" / "two").iterdir():
        path.unlink()
    (folder / "k" / "two").rmdir()
    (folder / "k" / "two").symlink_to(elsewhere)
    with contextlib.suppress(OSError, ValueError):
        run(folder / "k", True)


@pytest.mark.slow
def test_a_folder_of_arrays_that_is_a_link(folder, elsewhere):
    (folder / "kernels").symlink_to(elsewhere)
    with contextlib.suppress(OSError, ValueError):
        JOBS["study"].run(folder, False)


def test_checkpoints_that_are_links(folder, elsewhere):
    JOBS["training"].run(folder, False)
    for name in ("0", "1.00.partial"):
        (folder / name).symlink_to(elsewhere)
    with contextlib.suppress(OSError, ValueError):
        JOBS["training"].run(folder, True)
