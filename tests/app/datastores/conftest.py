"""A folder of two scans without labels."""

from __future__ import annotations

import pytest


@pytest.fixture
def folder(tmp_path):
    for name in ("a.nii.gz", "b.nii.gz"):
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path / "labels" / "final").mkdir(parents=True)
    return tmp_path
