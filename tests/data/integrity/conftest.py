"""A sound data set for every test."""

from __future__ import annotations

from pathlib import Path

import pytest

from small_dataset import Dataset


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return Dataset(tmp_path)
