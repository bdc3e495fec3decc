"""The masks of a comparison: what becomes of a model that cannot be loaded."""

from __future__ import annotations

import json

import pytest
from fakes import ROOT

pytest.importorskip("monailabel", reason="MONAI Label is not installed (pip install 'mnseg[app]')")

from lib.trainers.comparison_main import main, predict  # noqa: E402

from mnseg.errors import UserError  # noqa: E402

OPTIONS = {"spatial_dims": 3, "in_channels": 1, "out_channels": 2, "features": [4] * 6}
OVERLAY = {"class_names": ["background", "a"], "patch_size": [32] * 3,
           "network_def": {"_target_": "BasicUNet", **OPTIONS}}


@pytest.fixture
def task(tmp_path):
    """Of a whole model."""
    import torch
    from monai.networks.nets import BasicUNet

    torch.save(BasicUNet(**OPTIONS).state_dict(), tmp_path / "model.pt")
    (tmp_path / "model.json").write_text(json.dumps(OVERLAY))
    return {"model_file": str(tmp_path / "model.pt"), "overlay": str(tmp_path / "model.json"), "cases": ["a"],
            "folder": str(tmp_path / "masks"), "needed": False}


def plan_of(*tasks, **more):
    return {"tasks": tasks, "bundle": str(ROOT / "bundles" / "mn_cotraining"), "device": "cpu", "images": {},
            "class_names": ["background", "a"], **more}


def test_a_published_model_that_cannot_be_loaded_ends_no_training(tmp_path, task, caplog):
    (tmp_path / "model.pt").write_bytes(b"half a file")
    assert predict(plan_of(task), tmp_path) == {}
    assert "model.pt cannot be read" in caplog.text and "the published version makes no masks of a" in caplog.text
    with pytest.raises(UserError, match="model.pt cannot be read"):
        predict(plan_of({**task, "needed": True}), tmp_path)


@pytest.mark.parametrize("overlay", [None, '{"class_names": ["back',
                                     json.dumps(OVERLAY | {"network_def": {"_target_": "NoSuchNet"}}),
                                     json.dumps(OVERLAY | {"class_names": ["background", "b"]})])
def test_nor_does_one_whose_model_json_is_missing_or_damaged_or_of_another_model(tmp_path, task, overlay, caplog):
    (tmp_path / "model.json").unlink()
    if overlay is not None:
        (tmp_path / "model.json").write_text(overlay)
    assert predict(plan_of(task), tmp_path) == {}
    assert "the published version makes no masks of a" in caplog.text


def test_memory_that_runs_out_says_nothing_of_the_model(tmp_path, task, monkeypatch):
    import lib.infers.predictor
    import torch

    def full(*arguments):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(lib.infers.predictor, "Predictor", full)
    with pytest.raises(torch.OutOfMemoryError):
        predict(plan_of(task), tmp_path)


@pytest.mark.parametrize("damage", [False, True])
def test_without_a_mask_the_results_say_whether_the_published_version_can_make_any(tmp_path, task, damage):
    if damage:
        (tmp_path / "model.json").write_text("{")
    plan = plan_of(candidate={}, published={}, own={}, version="0001", served={**task, "cases": []})
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    main([str(tmp_path / "plan.json"), str(tmp_path / "results.json")])
    assert json.loads((tmp_path / "results.json").read_text())["loadable"] is not damage
