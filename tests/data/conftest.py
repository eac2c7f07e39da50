"""What the tests of data sets share."""

import dataclasses

import pytest
from prepared_folders import SIZES

from npk.data import STORED


@pytest.fixture
def tiny(monkeypatch):
    """The prepared data sets have a handful of images."""
    for name, stored in STORED.items():
        monkeypatch.setitem(STORED, name, dataclasses.replace(stored, **SIZES))
