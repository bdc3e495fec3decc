"""scale.py: what it writes and measures."""

from __future__ import annotations

import json

import nibabel as nib
import pytest
import scale


@pytest.fixture(autouse=True)
def _loud(monkeypatch):
    monkeypatch.setattr(scale, "quiet", lambda: None)


def test_volumes_are_distinct_and_kept(tmp_path):
    items = scale.write_volumes(tmp_path, 10, 12)
    assert [("label" in item) for item in items] == [True] * 8 + [False] * 2
    images = [nib.load(tmp_path / item["image"]).get_fdata() for item in items]
    assert len({image.tobytes() for image in images}) == 10 and images[0].shape == (12, 12, 12)
    before = (tmp_path / "00003.nii").stat().st_mtime_ns
    scale.write_volumes(tmp_path, 11, 12)
    assert (tmp_path / "00003.nii").stat().st_mtime_ns == before and (tmp_path / "00010.nii").exists()


def test_a_pool_is_measured(tmp_path, capsys):
    arguments = ["--pools", "12", "--size", "12", "--epochs", "6", "--data", str(tmp_path)]
    (row,) = scale.main([*arguments, "--cache-dir", str(tmp_path / "cache")])
    assert row["pool"] == 12 and row["epoch_cpu_s"] > 0 and row["prepare_s"] > 0
    assert len(list((tmp_path / "cache").glob("*.pt"))) == 12
    assert len(json.loads((tmp_path / "datalist.json").read_text())["unlabeled"]) == 4
    assert "| 12 |" in capsys.readouterr().out
