"""A study that several files look at."""

import pytest
from small_studies import TINY

from npk.studies import run_study


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished") / "run"
    return folder, run_study(TINY, folder)
