"""What is wrong with one scan or its label is found and named."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from mnseg.data.integrity import check_datalist
from small_dataset import AFFINE, SHAPE, only, save


class TestImages:
    @pytest.mark.parametrize("split", ["labeled", "unlabeled", "validation", "testing"])
    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_not_finite(self, dataset, split, value):
        voxels = dataset.voxels()
        voxels[0, 0, :2] = value
        save(Path(dataset.content[split][0]["image"]), voxels)
        finding = only(dataset.check(), "error")
        assert (finding.split, finding.case) == (split, split[0] + "0")
        assert "2 voxels that are NaN or infinite" in finding.message

    def test_constant(self, dataset):
        save(Path(dataset.content["unlabeled"][0]["image"]), np.full(SHAPE, 7, np.int16))
        assert "constant (every voxel is 7)" in only(dataset.check(), "error").message

    def test_missing(self, dataset):
        Path(dataset.content["unlabeled"][1]["image"]).unlink()
        finding = only(dataset.check(), "error")
        assert finding.case == "u1"
        assert "does not exist" in finding.message

    def test_truncated(self, dataset):
        path = Path(dataset.content["unlabeled"][0]["image"])
        path.write_bytes(path.read_bytes()[:-100])
        assert "cannot be read" in only(dataset.check(), "error").message

    def test_truncated_uncompressed(self, dataset):
        packed = Path(dataset.content["unlabeled"][0]["image"])
        plain = packed.with_suffix("")
        plain.write_bytes(gzip.decompress(packed.read_bytes())[:-10])
        dataset.content["unlabeled"][0]["image"] = str(plain)
        assert "cannot be read" in only(dataset.check(), "error").message

    @pytest.mark.parametrize("content", [b"", b"no scan", gzip.compress(b"no scan", mtime=0)])
    def test_garbage(self, dataset, content):
        Path(dataset.content["unlabeled"][0]["image"]).write_bytes(content)
        assert "cannot be read as NIfTI" in only(dataset.check(), "error").message

    def test_two_dimensions(self, dataset):
        save(Path(dataset.content["unlabeled"][0]["image"]), dataset.voxels()[..., 0])
        assert "has 2 dimensions" in only(dataset.check(), "error").message

    def test_one_slice_is_a_warning(self, dataset):
        save(Path(dataset.content["unlabeled"][0]["image"]), dataset.voxels()[..., :1])
        assert "only one slice" in only(dataset.check(), "warning").message

    def test_singular_affine(self, dataset):
        image = nib.Nifti1Image(dataset.voxels(), None)
        image.header.set_sform(np.diag([1.0, 1, 0, 1]), 1)
        Path(dataset.content["unlabeled"][0]["image"]).write_bytes(gzip.compress(image.to_bytes()))
        assert "singular" in only(dataset.check(), "error").message

    def test_no_orientation_in_the_header(self, dataset):
        image = nib.Nifti1Image(dataset.voxels(), None)
        nib.save(image, dataset.content["unlabeled"][0]["image"])
        assert "no orientation" in only(dataset.check(), "warning").message

    def test_channels_must_agree(self, dataset):
        save(Path(dataset.content["unlabeled"][0]["image"]), np.stack([dataset.voxels(), dataset.voxels()], -1))
        finding = only(dataset.check(), "error")
        assert finding.case == "u0"
        assert "has 2 channels" in finding.message

    def test_very_small_is_fine(self, dataset):
        """Patches larger than a volume are padded."""
        save(Path(dataset.content["unlabeled"][0]["image"]), dataset.voxels()[:2, :2, :2])
        assert dataset.check().findings == []


class TestGrids:
    def relabel(self, dataset, voxels: np.ndarray, affine: np.ndarray = AFFINE) -> None:
        save(Path(dataset.content["labeled"][0]["label"]), voxels, affine)

    def label(self, dataset) -> np.ndarray:
        return np.asarray(nib.load(dataset.content["labeled"][0]["label"]).dataobj)

    def test_shape(self, dataset):
        self.relabel(dataset, self.label(dataset)[:-1])
        message = only(dataset.check(), "error").message
        assert "shape 5x5x4, its image 6x5x4" in message

    def test_label_with_a_channel_of_one(self, dataset):
        self.relabel(dataset, self.label(dataset)[..., None])
        assert dataset.check().findings == []

    def test_one_hot_label(self, dataset):
        self.relabel(dataset, np.stack([self.label(dataset) == k for k in range(3)], -1).astype(np.uint8))
        assert "shape 6x5x4x3" in only(dataset.check(), "error").message

    @pytest.mark.parametrize(("shift", "found"), [(0.05, False), (0.5, True)])
    def test_position(self, dataset, shift, found):
        affine = AFFINE.copy()
        affine[0, 3] = shift
        self.relabel(dataset, self.label(dataset), affine)
        report = dataset.check()
        if found:
            assert f"up to {shift} mm apart" in only(report, "error").message
        else:
            assert report.findings == []

    def test_spacing_counts_at_the_far_corner(self, dataset):
        """2.4 % too wide: nothing at the origin, 5 voxels * 1 mm * 0.024 = 0.12 mm on the far side."""
        affine = AFFINE @ np.diag([1.024, 1, 1, 1])
        self.relabel(dataset, self.label(dataset), affine)
        assert "up to 0.12 mm apart" in only(dataset.check(), "error").message

    def test_reversed_rows_with_their_own_affine(self, dataset):
        affine = AFFINE @ np.diag([1, -1, 1, 1.0])
        affine[1, 3] = SHAPE[1] - 1
        self.relabel(dataset, self.label(dataset)[:, ::-1], affine)
        assert "orientation RPS, its image RAS" in only(dataset.check(), "error").message


class TestLabels:
    def relabel(self, dataset, change, dtype=np.float32, split="labeled") -> None:
        path = Path(dataset.content[split][0]["label"])
        voxels = np.asarray(nib.load(path).dataobj).astype(dtype)
        save(path, change(voxels))

    @staticmethod
    def put(value):
        def change(voxels):
            voxels[0, 0, 0] = value
            return voxels
        return change

    def test_whole_numbers_as_float(self, dataset):
        self.relabel(dataset, lambda voxels: voxels)
        assert dataset.check().findings == []

    @pytest.mark.parametrize(
        ("value", "dtype", "message"),
        [
            (3, np.uint8, "values outside 0..2: 3"),
            (3, np.int16, "values outside 0..2: 3"),
            (3, np.float32, "values outside 0..2: 3"),
            (-1, np.int8, "values outside 0..2: -1"),
            (-1, np.float32, "values outside 0..2: -1"),
            (1.5, np.float32, "not whole numbers: 1.5"),
            (np.nan, np.float32, "not whole numbers: nan"),
            (np.inf, np.float32, "not whole numbers: inf"),
        ],
    )
    def test_wrong_values(self, dataset, value, dtype, message):
        self.relabel(dataset, self.put(value), dtype)
        assert message in only(dataset.check(), "error").message

    def test_classes_from_the_datalist(self, dataset):
        dataset.content["class_names"] = ["background", "organ"]
        report = dataset.check(num_classes=None)
        assert len(report.errors) == 4
        assert all("values outside 0..1: 2" in finding.message for finding in report.errors)

    def test_class_names_of_the_datalist_and_the_network_must_agree(self, dataset):
        dataset.content["class_names"] = ["background", "organ"]
        message = only(dataset.check(num_classes=3), "error").message
        assert message.startswith("its class_names has 2 names (background, organ), but 3 classes were asked for")

    def test_without_classes_any_whole_number_will_do(self, dataset):
        self.relabel(dataset, self.put(40))
        assert dataset.check(num_classes=None).findings == []

    @pytest.mark.parametrize(("split", "level"), [("labeled", "error"), ("validation", "warning"),
                                                  ("testing", "warning")])
    def test_empty(self, dataset, split, level):
        self.relabel(dataset, np.zeros_like, split=split)
        assert "is empty" in only(dataset.check(), level).message

    def test_class_that_no_labeled_case_has(self, dataset):
        dataset.content["class_names"] = ["background", "a", "b", "tumor"]
        message = only(dataset.check(num_classes=None), "warning").message
        assert message == "class 3 (tumor) occurs in no labeled case."

    def test_item_without_label(self, dataset):
        del dataset.content["validation"][0]["label"]
        assert 'has no "label"' in only(dataset.check(), "error").message

    def test_unlabeled_item_with_label(self, dataset):
        dataset.content["unlabeled"][0]["label"] = dataset.content["labeled"][0]["label"]
        assert 'call it "hidden_label"' in only(dataset.check(), "error").message

    def test_hidden_label(self, dataset):
        item = dataset.content["unlabeled"][0]
        item["hidden_label"] = save(dataset.folder / "hidden.nii.gz", np.zeros((2, 2, 2), np.uint8))
        assert dataset.check().findings == []
        assert all(finding.level == "warning" for finding in dataset.check(check_hidden=True).findings)
        assert any("hidden label" in f.message and "shape" in f.message
                   for f in dataset.check(check_hidden=True).findings)
        Path(item["hidden_label"]).unlink()
        assert "does not exist" in only(dataset.check(), "error").message


def test_real_label_with_reversed_rows(shared_dir, tmp_path):
    """The organ mask of the CT is stored in LAS; a scan as DICOM gives it is LPS, on the same grid."""
    mask = nib.load(shared_dir / "data/dicom/ct_abdomen_organs.nii.gz")
    voxels = np.asarray(mask.dataobj)
    image = nib.Nifti1Image(voxels, mask.affine).as_reoriented(np.array([[0, 1], [1, -1], [2, 1]]))
    nib.save(image, tmp_path / "ct.nii.gz")
    content = {"labeled": [{"image": str(tmp_path / "ct.nii.gz"), "label": mask.get_filename()}],
               "unlabeled": [], "validation": []}
    report = check_datalist(content, allow_empty_unlabeled=True)
    assert "orientation LAS, its image LPS" in only(report, "error").message
