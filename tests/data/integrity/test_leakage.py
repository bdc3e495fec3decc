"""A scan or a patient in two splits is found by content, whatever its name."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from mnseg.data.volume_io import content_digest
from mnseg.errors import UserError
from small_dataset import SHAPE, only, save


class TestLeakage:
    def test_renamed_and_repacked_copy(self, dataset):
        original = Path(dataset.content["testing"][0]["image"])
        copy = dataset.folder / "innocent.nii"
        copy.write_bytes(gzip.decompress(original.read_bytes()))
        dataset.content["unlabeled"].append({"image": str(copy)})
        assert "unlabeled/innocent, testing/t0" in only(dataset.check(), "error").message

    def test_copy_with_an_axis_for_its_one_channel(self, dataset):
        original = nib.load(dataset.content["testing"][0]["image"])
        voxels = np.asanyarray(original.dataobj)[..., None]
        nib.save(nib.Nifti1Image(voxels, original.affine), dataset.folder / "innocent.nii")
        dataset.content["unlabeled"].append({"image": str(dataset.folder / "innocent.nii")})
        assert "unlabeled/innocent, testing/t0" in only(dataset.check(), "error").message

    def test_same_file_twice(self, dataset):
        dataset.content["validation"].append(dict(dataset.content["labeled"][0]))
        assert "labeled/l0, validation/l0" in only(dataset.check(), "error").message

    def test_same_missing_file_twice(self, dataset):
        dataset.content["validation"].append(dict(dataset.content["labeled"][0]))
        Path(dataset.content["labeled"][0]["image"]).unlink()
        assert any("labeled/l0, validation/l0" in finding.message for finding in dataset.check().errors)

    def test_twice_in_one_split_is_a_warning(self, dataset):
        copy = shutil.copy(dataset.content["unlabeled"][0]["image"], dataset.folder / "again.nii.gz")
        dataset.content["unlabeled"].append({"image": str(copy)})
        assert "occurs 2 times: unlabeled/u0, unlabeled/again" in only(dataset.check(), "warning").message

    def test_patient_in_training_and_test(self, dataset):
        dataset.content["labeled"][0]["patient"] = dataset.content["unlabeled"][0]["patient"] = "p1"
        assert dataset.check().findings == []
        dataset.content["testing"][0]["patient"] = "p1"
        assert "patient p1" in only(dataset.check(), "error").message

    def test_two_scans_of_one_name(self, dataset):
        (dataset.folder / "other").mkdir()
        path = save(dataset.folder / "other/u0.nii.gz", dataset.voxels())
        dataset.content["unlabeled"].append({"image": path})
        assert "share this case id" in only(dataset.check(), "error").message
        dataset.content["unlabeled"][-1]["case"] = "other-u0"
        assert dataset.check().findings == []


class TestDigest:
    def test_number_type_compression_and_axis_order_do_not_matter(self, tmp_path):
        voxels = np.random.default_rng(0).integers(0, 200, SHAPE).astype(np.uint8)
        reference = content_digest(save(tmp_path / "a.nii.gz", voxels))
        assert content_digest(save(tmp_path / "b.nii", voxels.astype(np.float64))) == reference
        canonical = nib.load(tmp_path / "a.nii.gz")
        turned = canonical.as_reoriented(np.array([[2, -1], [0, 1], [1, -1]]))
        assert turned.shape != canonical.shape
        nib.save(turned, tmp_path / "c.nii.gz")
        assert content_digest(tmp_path / "c.nii.gz") == reference

    def test_one_voxel_and_the_shape_matter(self, tmp_path):
        voxels = np.random.default_rng(0).integers(0, 200, SHAPE).astype(np.uint8)
        reference = content_digest(save(tmp_path / "a.nii.gz", voxels))
        other = voxels.copy()
        other[2, 3, 1] += 1
        assert content_digest(save(tmp_path / "b.nii.gz", other)) != reference
        regrouped = voxels.reshape(-1, order="F").reshape((5, 6, 4), order="F")
        assert content_digest(save(tmp_path / "c.nii.gz", regrouped)) != reference

    def test_missing_file(self, tmp_path):
        with pytest.raises(UserError, match="does not exist"):
            content_digest(tmp_path / "none.nii")
