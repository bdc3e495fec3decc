"""The scoring step on networks whose masks are known."""

from __future__ import annotations

import json
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.inferers import SlidingWindowInferer
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged
from torch import nn

from mnseg.disagreement import feature_names
from mnseg.errors import UserError
from mnseg.score_pool import PoolScorer

NAMES = ["background", "bright"]


class Above(nn.Module):
    """Foreground where the image exceeds a threshold; counts its windows."""

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.threshold = nn.Parameter(torch.tensor(threshold))
        self.windows = 0

    def forward(self, x):
        self.windows += len(x)
        score = x[:, :1] - self.threshold
        return torch.cat([-score, score], dim=1)


@pytest.fixture
def pool(tmp_path):
    """Scan k has 100 voxels of 5 and 20 k voxels of 3 on zeros, 2 mm voxels."""
    items = []
    for k in range(4):
        voxels = np.zeros(12 * 12 * 12, np.float32)
        voxels[:100], voxels[1000 : 1000 + 20 * k] = 5, 3
        path = tmp_path / f"scan_{k}.nii.gz"
        nib.save(nib.Nifti1Image(voxels.reshape(12, 12, 12), np.diag([2, 2, 2, 1.0])), path)
        items.append({"image": str(path), "case": f"scan_{k}"})
    return items


def scorer(path: Path, **more) -> PoolScorer:
    made = {
        "network": Above(2.0),
        "network_2d": Above(4.0),
        "transform": Compose([LoadImaged("image"), EnsureChannelFirstd("image")]),
        "inferer": SlidingWindowInferer(8, sw_batch_size=2, overlap=0.25, device="cpu"),
        "class_names": NAMES,
        "in_channels": 1,
        "device": "cpu",
        "scores_file": path,
        "checkpoint": "c0",
        **more,
    }
    return PoolScorer(**made)


def scans(path: Path) -> dict:
    return json.loads(path.read_text())["scans"]


def test_by_hand(pool, tmp_path):
    """Scan k: the 3D network sees 100 + 20 k voxels, the 2D network 100 of them."""
    path = scorer(tmp_path / "scores.json").run(pool[:3], pool[3:])
    content = json.loads(path.read_text())
    assert content["complete"] and content["checkpoint"] == "c0" and content["feature_names"] == feature_names(NAMES)
    for k in range(3):
        record = content["scans"][f"scan_{k}"]
        assert record["disagreement"] == pytest.approx(20 * k / (200 + 20 * k + 10), abs=1e-6)
        assert record["classes"] == {"bright": record["disagreement"]}
        values = dict(zip(content["feature_names"], record["features"], strict=True))
        assert values["bright log volume"] == pytest.approx(np.log1p((100 + 20 * k) * 8 / 1000), rel=1e-5)
        assert values["log field of view z"] == pytest.approx(np.log(24), rel=1e-5)
    assert content["scans"]["scan_3"].keys() == {"features", "stamp"}


def test_the_2d_network_never_sees_labeled_scans(pool, tmp_path):
    made = scorer(tmp_path / "scores.json")
    made.run(pool[:1], pool[1:])
    assert made.networks["3d"].windows == 4 * made.networks["2d"].windows > 0


def test_deterministic_and_a_capped_run_is_part_of_the_whole(pool, tmp_path):
    whole = scorer(tmp_path / "a.json").run(pool).read_bytes()
    assert scorer(tmp_path / "b.json").run(pool[::-1]).read_bytes() == whole
    first = set(scans(scorer(tmp_path / "c.json", max_cases=2).run(pool)))
    assert len(first) == 2 and first < set(scans(scorer(tmp_path / "d.json", max_cases=3).run(pool)))


def test_stopped_and_repeated_goes_on(pool, tmp_path, monkeypatch):
    """Killed at the third scan; the first two are not predicted again, and the end is the same."""
    monkeypatch.setattr("mnseg.score_pool.SAVE_SECONDS", 0.0)
    whole = scorer(tmp_path / "whole.json").run(pool).read_bytes()
    broken, path = scorer(tmp_path / "scores.json"), tmp_path / "scores.json"
    original, calls = broken._score, []

    def stop(item, scored):
        calls.append(item["case"])
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(item, scored)

    monkeypatch.setattr(broken, "_score", stop)
    with pytest.raises(KeyboardInterrupt):
        broken.run(pool)
    assert not json.loads(path.read_text())["complete"] and set(scans(path)) == set(calls[:2])
    again = scorer(path)
    again.run(pool)
    assert path.read_bytes() == whole
    one = scorer(tmp_path / "one.json")
    one.run(pool[:1])
    assert again.networks["3d"].windows == 2 * one.networks["3d"].windows


def test_what_has_changed_is_scored_again(pool, tmp_path):
    path = tmp_path / "scores.json"
    scorer(path).run(pool)
    nothing = scorer(path)
    nothing.run(pool)
    assert nothing.networks["3d"].windows == 0
    os.utime(pool[0]["image"], ns=(1, 1))
    changed = scorer(path)
    changed.run(pool)
    everything = scorer(path, checkpoint="c1")
    everything.run(pool)
    assert everything.networks["3d"].windows == 4 * changed.networks["3d"].windows > 0
    path.write_text("{")
    assert scorer(path).run(pool) and len(scans(path)) == 4, "a broken file is begun anew"


def test_a_labeled_scan_that_lost_its_label_is_scored(pool, tmp_path):
    path = tmp_path / "scores.json"
    scorer(path).run(pool[1:], pool[:1])
    scorer(path).run(pool)
    assert "disagreement" in scans(path)["scan_0"]


def test_one_unreadable_scan_does_not_stop_the_others(pool, tmp_path, caplog):
    Path(pool[0]["image"]).write_bytes(b"no scan")
    found = scans(scorer(tmp_path / "scores.json").run([*pool, {"image": "/nowhere/x.nii.gz", "case": "x"}]))
    assert {name for name, record in found.items() if "fault" in record} == {"scan_0", "x"}
    assert "/nowhere/x.nii.gz" in found["x"]["fault"] and "/nowhere/x.nii.gz" in caplog.text
    with pytest.raises(UserError, match="Not one of 1 scans could be scored"):
        scorer(tmp_path / "none.json").run(pool[:1])
    assert not (tmp_path / "none.json").exists()


def test_nothing_seen_and_not_finite(pool, tmp_path):
    found = scans(scorer(tmp_path / "a.json", network=Above(9.0), network_2d=Above(9.0)).run(pool))
    assert all(record["disagreement"] is None for record in found.values())
    with pytest.raises(UserError, match="3D network's output for scan_. is not finite"):
        scorer(tmp_path / "b.json", network=Above(float("nan"))).run(pool)


def test_an_empty_pool_and_a_wrong_cap(tmp_path):
    assert scans(scorer(tmp_path / "scores.json").run([])) == {}
    for cap in (0, -1, 2.5, "many", True):
        with pytest.raises(UserError, match="score_cases is"):
            scorer(tmp_path / "scores.json", max_cases=cap)
