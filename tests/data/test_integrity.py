"""The check: every defect is found and named, and sound data passes."""

from __future__ import annotations

import gzip
import json
import logging
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from mnseg.data.datalist import write_datalist
from mnseg.data.integrity import check_datalist, require_sound_datalist
from mnseg.data.volume_io import content_digest
from mnseg.errors import UserError

SHAPE = (6, 5, 4)
AFFINE = np.diag([1.0, 1.0, 2.0, 1.0])


def save(path: Path, voxels: np.ndarray, affine: np.ndarray = AFFINE) -> str:
    nib.save(nib.Nifti1Image(voxels, affine), path)
    return str(path)


class Dataset:
    """Two labeled, two unlabeled, one validation and one testing case, all sound until a test breaks one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rng = np.random.default_rng(0)
        self.content = {"labeled": [self.pair("l0"), self.pair("l1")], "unlabeled": [self.scan("u0"), self.scan("u1")],
                        "validation": [self.pair("v0")], "testing": [self.pair("t0")]}

    def voxels(self) -> np.ndarray:
        return self.rng.normal(size=SHAPE).astype(np.float32)

    def scan(self, case: str) -> dict[str, str]:
        return {"image": save(self.folder / f"{case}.nii.gz", self.voxels())}

    def pair(self, case: str) -> dict[str, str]:
        label = np.zeros(SHAPE, np.uint8)
        label[1:3, 1:3, 1:3], label[3:5, 3:5, 1:3] = 1, 2
        return {**self.scan(case), "label": save(self.folder / f"{case}_label.nii.gz", label)}

    def check(self, **options):
        return check_datalist(self.content, **{"num_classes": 3, "jobs": 1, **options})

    def write(self) -> Path:
        return write_datalist(self.content, self.folder / "datalist.json")


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return Dataset(tmp_path)


def only(report, level: str):
    """The one finding of a report, which must be of ``level``."""
    assert len(report.findings) == 1, [str(finding) for finding in report.findings]
    assert report.findings[0].level == level
    return report.findings[0]


def test_sound_data_passes(dataset):
    report = dataset.check()
    assert report.findings == []
    assert report.counts == {"labeled": 2, "unlabeled": 2, "validation": 1, "testing": 1}
    assert report.summary() == "2 labeled, 2 unlabeled, 1 validation, 1 testing: 0 errors, 0 warnings"
    report.raise_for_errors()


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


class TestLeakage:
    def test_renamed_and_repacked_copy(self, dataset):
        original = Path(dataset.content["testing"][0]["image"])
        copy = dataset.folder / "innocent.nii"
        copy.write_bytes(gzip.decompress(original.read_bytes()))
        dataset.content["unlabeled"].append({"image": str(copy)})
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


class TestReport:
    def test_all_defects_are_reported_errors_first(self, dataset):
        save(Path(dataset.content["validation"][0]["label"]), np.zeros(SHAPE, np.uint8))
        save(Path(dataset.content["testing"][0]["image"]), np.zeros(SHAPE, np.uint8))
        Path(dataset.content["labeled"][1]["label"]).unlink()
        report = dataset.check()
        assert [(finding.level, finding.case) for finding in report.findings] == [
            ("error", "l1"), ("error", "t0"), ("warning", "v0")
        ]
        with pytest.raises(UserError) as error:
            report.raise_for_errors(limit=1)
        lines = str(error.value).splitlines()
        assert lines[0] == "the datalist has 2 errors:"
        assert "labeled/l1" in lines[1]
        assert "1 more" in lines[2]
        assert len(lines) == 3

    def test_jobs_do_not_change_the_result(self, dataset):
        for item in dataset.content["unlabeled"]:
            save(Path(item["image"]), np.zeros(SHAPE, np.uint8))
        assert dataset.check(jobs=1).findings == dataset.check(jobs=4).findings

    def test_misspelled_key(self, dataset):
        dataset.content["unlabelled"] = dataset.content.pop("unlabeled")
        error, warning = dataset.check().findings
        assert 'has no "unlabeled"' in error.message
        assert '"unlabelled" is not one of' in warning.message

    @pytest.mark.parametrize("key", ["labeled", "unlabeled", "validation"])
    def test_missing_key(self, dataset, key):
        del dataset.content[key]
        assert f'has no "{key}"' in only(dataset.check(), "error").message

    def test_testing_may_be_missing(self, dataset):
        del dataset.content["testing"]
        assert dataset.check().findings == []

    def test_empty_unlabeled(self, dataset):
        dataset.content["unlabeled"] = []
        assert "allow_empty_unlabeled" in only(dataset.check(), "warning").message
        assert dataset.check(allow_empty_unlabeled=True).findings == []

    def test_no_scan_at_all(self):
        assert "names no scan" in only(check_datalist({"labeled": []}), "error").message

    def test_relative_paths_of_a_dict(self, dataset):
        content = {"labeled": [{"image": "l0.nii.gz", "label": "l0_label.nii.gz"}],
                   "unlabeled": [{"image": "u0.nii.gz"}], "validation": []}
        assert check_datalist(content, dataset.folder, 3).findings == []


class TestRequire:
    def test_returns_all_splits_resolved(self, dataset):
        del dataset.content["testing"]
        datalist = require_sound_datalist(dataset.write(), num_classes=3, batch_size=4)
        assert {key: len(datalist[key]) for key in ("labeled", "unlabeled", "validation", "testing")} == {
            "labeled": 2, "unlabeled": 2, "validation": 1, "testing": 0
        }
        assert datalist["unlabeled"][0] == {"image": str(dataset.folder / "u0.nii.gz"), "case": "u0"}

    @pytest.mark.parametrize("key", ["labeled", "unlabeled", "validation"])
    def test_missing_key(self, dataset, key):
        del dataset.content[key]
        with pytest.raises(UserError, match=rf'datalist\.json has no "{key}"'):
            require_sound_datalist(dataset.write())

    def test_no_labeled_case(self, dataset):
        dataset.content["labeled"] = []
        with pytest.raises(UserError, match="has no labeled case"):
            require_sound_datalist(dataset.write())

    def test_empty_pool(self, dataset):
        dataset.content["unlabeled"] = []
        with pytest.raises(UserError, match="allow_empty_unlabeled"):
            require_sound_datalist(dataset.write())
        assert require_sound_datalist(dataset.write(), allow_empty_unlabeled=True)["unlabeled"] == []

    @pytest.mark.parametrize(("batch_size", "min_labeled"), [(0, 1), (2, 3), (-1, 0)])
    def test_batch_without_labeled_item(self, dataset, batch_size, min_labeled):
        with pytest.raises(UserError, match=f"batch_size {batch_size}"):
            require_sound_datalist(dataset.write(), batch_size=batch_size, min_labeled=min_labeled)

    def test_settings_that_weaken_training_are_logged(self, dataset, caplog):
        dataset.content["validation"] = []
        with caplog.at_level(logging.WARNING, "mnseg.data.integrity"):
            require_sound_datalist(dataset.write(), batch_size=2, min_labeled=1)
            assert "no case under \"validation\"" in caplog.text
            assert "equals min_labeled" not in caplog.text
            require_sound_datalist(dataset.write(), batch_size=2, min_labeled=2)
        assert "equals min_labeled" in caplog.text

    def test_errors_stop(self, dataset):
        path = dataset.write()
        with pytest.raises(UserError, match=r"(?s)datalist\.json: .*labeled/l0: .*values outside 0\.\.1"):
            require_sound_datalist(path, num_classes=2)

    def test_channels_that_the_network_does_not_take(self, dataset):
        save(dataset.folder / "u1.nii.gz", dataset.rng.normal(size=(*SHAPE, 2)).astype(np.float32))
        path = dataset.write()
        with pytest.raises(UserError, match=r"has 1 error:\n.*u1\.nii\.gz has 2 channels, but in_channels is 1"):
            require_sound_datalist(path, in_channels=1)
        with pytest.raises(UserError, match="has 5 errors") as error:
            require_sound_datalist(path, in_channels=2)
        assert "l0.nii.gz has 1 channel, but in_channels is 2" in str(error.value)

    def test_warnings_are_logged(self, dataset, caplog):
        save(Path(dataset.content["testing"][0]["label"]), np.zeros(SHAPE, np.uint8))
        with caplog.at_level(logging.WARNING, "mnseg.data.integrity"):
            require_sound_datalist(dataset.write())
        assert "testing/t0" in caplog.text
        assert "is empty" in caplog.text


def test_real_hippocampus_passes(shared_dir):
    """All 208 scans; two of the label files are float32."""
    data = shared_dir / "data/hippocampus"
    items = [{"image": str(path), "label": str(data / "labels" / path.name)}
             for path in sorted((data / "images").glob("*.nii.gz"))]
    assert len(items) == 208
    assert check_datalist({"labeled": items[:120], "unlabeled": [{"image": item["image"]} for item in items[120:160]],
                           "validation": items[160:]}, num_classes=3).findings == []


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


def test_findings_are_json(dataset):
    report = dataset.check(num_classes=2)
    again = json.loads(json.dumps(report.as_dict()))
    assert again["errors"] == 4
    assert again["findings"][0] == {"level": "error", "split": "labeled", "case": "l0",
                                    "message": report.findings[0].message}
