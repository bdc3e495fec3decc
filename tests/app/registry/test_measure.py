"""One mask against one label, with numbers computed by hand."""

from __future__ import annotations

import math

import nibabel as nib
import numpy as np
import pytest
from lib.registry.measure import CaseResult, measure_case

from mnseg.errors import UserError

NAMES = ["background", "liver", "spleen"]
AFFINE = np.diag([2.0, 1.0, 5.0, 1.0])  # 10 mm³ a voxel


def write(path, voxels, affine=AFFINE, dtype=np.uint8):
    nib.save(nib.Nifti1Image(voxels.astype(dtype), affine), path)
    return path


@pytest.fixture
def label(tmp_path):
    voxels = np.zeros((10, 8, 6))
    voxels[2:6, 2:6, 1:5] = 1
    voxels[8, 6, 4] = 2
    return write(tmp_path / "case7.nii.gz", voxels)


def test_hand_computed(label, tmp_path):
    voxels = np.zeros((10, 8, 6))
    voxels[4:8, 2:6, 1:5] = 1  # 64 voxels, moved by 2 voxels of 2 mm
    result = measure_case(write(tmp_path / "mask.nii.gz", voxels), label, NAMES)
    liver, spleen = result.classes["liver"], result.classes["spleen"]
    assert liver.dice == pytest.approx(2 * 32 / 128)
    assert liver.hd95_mm == pytest.approx(4.0)
    assert (liver.volume_ml, liver.truth_ml) == pytest.approx((0.64, 0.64))
    assert spleen.dice == 0 and math.isnan(spleen.hd95_mm)
    assert (spleen.volume_ml, spleen.truth_ml) == pytest.approx((0.0, 0.01))
    assert result.dice == pytest.approx(0.25)
    assert (result.case, result.patient, result.empty) == ("case7", "case7", False)
    assert list(result.classes) == ["liver", "spleen"]


def test_the_same_mask_on_reordered_axes(label, tmp_path):
    image = nib.load(label)
    turned = image.as_reoriented(np.array([[1, -1], [2, 1], [0, -1]]))
    assert turned.shape == (6, 10, 8)
    nib.save(turned, tmp_path / "turned.nii.gz")
    result = measure_case(tmp_path / "turned.nii.gz", label, NAMES, case="a", patient="p")
    assert result.dice == 1 and result.classes["liver"].hd95_mm == 0
    assert (result.case, result.patient) == ("a", "p")


def test_empty_and_broken_masks(label, tmp_path):
    result = measure_case(write(tmp_path / "empty.nii.gz", np.zeros((10, 8, 6))), label, NAMES)
    assert result.empty and result.dice == 0
    broken = measure_case(write(tmp_path / "nan.nii.gz", np.full((10, 8, 6), np.nan), dtype=np.float32), label, NAMES)
    assert broken.empty and math.isnan(broken.dice)
    both = write(tmp_path / "none.nii.gz", np.zeros((10, 8, 6)))
    assert not measure_case(both, both, NAMES).empty and measure_case(both, both, NAMES).dice == 1


def test_another_grid_is_no_comparison(label, tmp_path):
    moved = AFFINE.copy()
    moved[0, 3] = 1.0
    with pytest.raises(UserError, match="does not lie on the voxels"):
        measure_case(write(tmp_path / "moved.nii.gz", np.zeros((10, 8, 6)), moved), label, NAMES)


def test_through_json_and_back(label, tmp_path):
    result = measure_case(write(tmp_path / "empty.nii.gz", np.zeros((10, 8, 6))), label, NAMES)
    content = result.as_dict()
    assert content["classes"]["liver"]["hd95_mm"] is None
    again = CaseResult.from_dict(content)
    assert again.as_dict() == content and math.isnan(again.classes["liver"].hd95_mm)
