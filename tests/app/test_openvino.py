"""The server's network run by OpenVINO, in bfloat16, or both: the mask is torch's."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import torch
from lib.conf import AppConf
from lib.infers.predictor import Predictor
from monai.inferers import SlidingWindowInferer
from monai.networks.nets import BasicUNet

from mnseg.engines.precision import amp_dtype_of
from mnseg.errors import UserError
from mnseg.inferers import BFloat16Inferer, OpenVINOInferer
from mnseg.inferers import openvino as module

ROOT = Path(__file__).resolve().parents[2]
BUNDLE = ROOT / "bundles" / "mn_cotraining"
NETWORK = {"_target_": "BasicUNet", "spatial_dims": 3, "in_channels": 1, "out_channels": 2,
           "features": [4, 4, 4, 8, 8, 4]}  # fmt: skip


@pytest.fixture
def version(tmp_path) -> SimpleNamespace:
    torch.manual_seed(0)
    torch.save(BasicUNet(3, 1, 2, features=NETWORK["features"]).state_dict(), tmp_path / "model.pt")
    overlay = {"class_names": ["background", "a"], "patch_size": [32, 32, 32], "network_def": NETWORK}
    (tmp_path / "model.json").write_text(json.dumps(overlay))
    return SimpleNamespace(id="0001", model_file=tmp_path / "model.pt", overlay=tmp_path / "model.json")


ROADS = [
    ({"openvino": True}, OpenVINOInferer, False),
    ({"bfloat16": True}, BFloat16Inferer, None),
    ({"openvino": True, "bfloat16": True}, OpenVINOInferer, amp_dtype_of("auto", "cpu") is not None),
]


@pytest.mark.parametrize(("road", "kind", "bfloat16"), ROADS, ids=["OpenVINO", "bfloat16", "both"])
def test_the_mask_is_that_of_torch(version, tmp_path, road, kind, bfloat16):
    scan = tmp_path / "scan.nii.gz"
    noise = np.random.default_rng(0).standard_normal((40, 34, 33)).astype(np.float32)
    nib.save(nib.Nifti1Image(noise, np.diag([1.0, 1.0, 2.0, 1.0])), scan)
    predictors = [Predictor(version, BUNDLE, "cpu", **chosen) for chosen in ({}, road)]
    assert [type(predictor._inferer) for predictor in predictors] == [SlidingWindowInferer, kind]
    assert getattr(predictors[1]._inferer, "bfloat16", None) is bfloat16
    plain, fast = (predictor.predict(scan) for predictor in predictors)
    assert torch.equal(plain.affine, fast.affine) and len(plain.mask.unique()) == 2
    assert (plain.mask == fast.mask).float().mean() > (0.98 if "bfloat16" in road else 0.999)


def test_without_openvino_the_server_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "has_openvino", False)
    with pytest.raises(UserError, match=r"OpenVINO is not installed; pip install 'mnseg\[openvino\]'"):
        AppConf.from_conf({"labels": "a", "openvino": "on"}, ROOT / "monailabel_app", str(tmp_path))


def test_both_switches_come_from_the_command_line(tmp_path):
    conf = AppConf.from_conf({"labels": "a", "bfloat16": "on"}, ROOT / "monailabel_app", str(tmp_path))
    assert conf.bfloat16 and not conf.openvino
