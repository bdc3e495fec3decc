"""The server's network on a device of its own, also where its memory does not hold a whole volume's scores."""

from __future__ import annotations

import json
import weakref
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import torch
from lib.infers.predictor import Predictor
from monai.inferers import SlidingWindowInferer
from monai.networks.nets import BasicUNet

from pretend_gpu import DEVICE, on_pretend_gpu

BUNDLE = Path(__file__).resolve().parents[2] / "bundles" / "mn_cotraining"
NETWORK = {"_target_": "BasicUNet", "spatial_dims": 3, "in_channels": 1, "out_channels": 2,
           "features": [4, 4, 4, 8, 8, 4]}  # fmt: skip


class ShortOfMemory(SlidingWindowInferer):
    """Has room for windows, not for a volume's scores, nor for those beside what a failed attempt holds."""

    windows = 4

    def __call__(self, scan, *args, **kwargs):
        held = getattr(ShortOfMemory, "held", None)
        assert held is None or held() is None, "the next attempt needs the last one's memory"
        if self.device is None or self.sw_batch_size > self.windows:
            scores = np.zeros(1)
            ShortOfMemory.held = weakref.ref(scores)
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        assert self.sw_batch_size == self.windows, "no fewer than fit"
        assert scan.device.type == "cpu", "nor is there room for the scan"
        return super().__call__(scan, *args, **kwargs)


class ShorterOfMemory(ShortOfMemory):
    """Has room for one window: a training takes the rest."""

    windows = 1


class ShortBehind:
    """Postprocessing that has no room on the device."""

    def __init__(self, behind):
        self.behind = behind

    def __call__(self, data):
        if data["pred"].device.type != "cpu":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return self.behind(data)


def segment(folder: str, device: str) -> list[tuple[list[float], list[list[int]]]]:
    """Affine and mask's voxels of a scan: as it is, short of memory, shorter, and short of it for the mask alone."""
    version = SimpleNamespace(id="0001", model_file=Path(folder, "model.pt"), overlay=Path(folder, "model.json"))
    predictor, found = Predictor(version, BUNDLE, device), []
    kinds = (SlidingWindowInferer, ShortOfMemory, ShorterOfMemory, SlidingWindowInferer)
    for index, kind in enumerate(kinds[: 1 if device == "cpu" else 4]):
        predictor._inferer.__class__ = kind
        predictor._behind = ShortBehind(predictor._behind) if index == 3 else predictor._behind
        prediction = predictor.predict(f"{folder}/scan.nii.gz")
        assert prediction.mask.device.type == "cpu"
        inferer = predictor._inferer
        found_now = (inferer.sw_batch_size, inferer.device, inferer.sw_device)
        assert found_now == (4, None, None), "the next scan may find more memory"
        found.append((prediction.affine.flatten().tolist(), prediction.mask.nonzero().tolist()))
    return found


def test_masks_are_those_of_the_cpu(tmp_path):
    torch.manual_seed(0)
    torch.save(BasicUNet(3, 1, 2, features=NETWORK["features"]).state_dict(), tmp_path / "model.pt")
    overlay = {"class_names": ["background", "a"], "patch_size": [32, 32, 32], "network_def": NETWORK}
    (tmp_path / "model.json").write_text(json.dumps(overlay))
    noise = np.random.default_rng(0).standard_normal((40, 34, 33)).astype(np.float32)
    nib.save(nib.Nifti1Image(noise, np.diag([-1.0, 1.0, 2.0, 1.0])), tmp_path / "scan.nii.gz")
    ((affine, expected),) = segment(str(tmp_path), "cpu")
    found = on_pretend_gpu(segment, str(tmp_path), DEVICE)
    assert len(found) == 4 and 1000 < len(expected) < 40 * 34 * 32
    for its_affine, mask in found:
        assert its_affine == affine
        assert len(set(map(tuple, mask)) ^ set(map(tuple, expected))) < 50
