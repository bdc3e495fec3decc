"""The server's network run by OpenVINO: the mask is torch's."""

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
from monai.networks.nets import BasicUNet

from mnseg.errors import UserError
from mnseg.inferers import OpenVINOInferer
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


def test_the_mask_is_that_of_torch(version, tmp_path):
    scan = tmp_path / "scan.nii.gz"
    noise = np.random.default_rng(0).standard_normal((40, 34, 33)).astype(np.float32)
    nib.save(nib.Nifti1Image(noise, np.diag([1.0, 1.0, 2.0, 1.0])), scan)
    predictors = [Predictor(version, BUNDLE, "cpu", openvino=fast) for fast in (False, True)]
    assert [isinstance(predictor._inferer, OpenVINOInferer) for predictor in predictors] == [False, True]
    plain, fast = (predictor.predict(scan) for predictor in predictors)
    assert torch.equal(plain.affine, fast.affine) and len(plain.mask.unique()) == 2
    assert (plain.mask == fast.mask).float().mean() > 0.999


def test_without_openvino_the_server_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "has_openvino", False)
    with pytest.raises(UserError, match=r"OpenVINO is not installed; pip install 'mnseg\[openvino\]'"):
        AppConf.from_conf({"labels": "a", "openvino": "on"}, ROOT / "monailabel_app", str(tmp_path))
