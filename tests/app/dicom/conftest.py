"""A bench for every test; see `dicom_bench`."""

from __future__ import annotations

import os

import pytest

pytest.importorskip("monailabel", reason="MONAI Label is not installed (pip install 'mnseg[app]')")

from dicom_bench import Bench  # noqa: E402


@pytest.fixture
def bench(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # seconds a test, where others use the disk
    return Bench(tmp_path)


@pytest.fixture
def fresh(tmp_path, monkeypatch):
    """A server that nobody has asked yet."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    return Bench(tmp_path, is_fetched=False)
