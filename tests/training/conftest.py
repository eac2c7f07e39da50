import pytest

from npk.data import load, with_validation


@pytest.fixture(scope="session")
def data():
    return with_validation(load("digits"), 200)
