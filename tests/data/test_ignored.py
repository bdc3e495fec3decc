"""Structures that were not drawn: how a datalist says so, and what the check finds wrong with it."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from mnseg.data.datalist import load_datalist, write_datalist
from mnseg.data.ignored import ignored_indices, read_ignored
from mnseg.data.integrity import check_datalist, require_sound_datalist
from mnseg.errors import UserError

NAMES = ["background", "liver", "tumor", "vessel"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [(["tumor"], [2]), (["vessel", "liver"], [1, 3]), ([2], [2]), ([3, "tumor", 3], [2, 3]), ("tumor", [2]), ([], [])],
)
def test_names_and_label_values(value, expected):
    assert ignored_indices(value, NAMES) == expected


def test_label_values_need_no_names():
    assert ignored_indices([5], None) == [5]
    assert ignored_indices([2], None, num_classes=4) == [2]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (["tumour"], "'tumour', which is none of the classes background, liver, tumor, vessel"),
        (["background"], "names the background"),
        ([0, 2], "names the background"),
        ([4], "label value 4, but there are 4 classes"),
        ([-1], "label value -1"),
        ([1, 2, 3], "names all structures"),
        ([True], "none of the classes"),
        ([1.0], "none of the classes"),
        ({"tumor": 1}, "must be a list"),
        (None, "must be a list"),
    ],
)
def test_what_cannot_be_ignored(value, message):
    with pytest.raises(UserError, match=message) as error:
        ignored_indices(value, NAMES, where='"labeled" item 3 of d.json')
    assert str(error.value).startswith('"labeled" item 3 of d.json: ')


def test_a_name_needs_class_names():
    with pytest.raises(UserError, match='has no "class_names"'):
        ignored_indices(["tumor"], None, 4)


def write(path: Path, label: np.ndarray, seed: int) -> dict[str, str]:
    scan = np.random.default_rng(seed).normal(size=label.shape).astype(np.float32)
    item = {"image": str(path / f"c{seed}.nii.gz"), "label": str(path / f"c{seed}_label.nii.gz")}
    for key, voxels in (("image", scan), ("label", label)):
        nib.save(nib.Nifti1Image(voxels, np.eye(4)), item[key])
    return item


@pytest.fixture
def content(tmp_path) -> dict:
    """c0 and c2 complete, c1 without a tumor."""
    label = np.zeros((6, 5, 4), np.uint8)
    label[1:3, 1:3, 1:3], label[3, 3, 1], label[4, 3, 1] = 1, 2, 3
    partial = np.where(label == 2, 0, label).astype(np.uint8)
    return {
        "class_names": NAMES,
        "labeled": [write(tmp_path, label, 0), write(tmp_path, partial, 1) | {"ignored": ["tumor"]}],
        "unlabeled": [],
        "validation": [write(tmp_path, label, 2)],
    }


def test_a_partial_label_is_sound_and_gets_a_mask(content, tmp_path):
    assert check_datalist(content, allow_empty_unlabeled=True).findings == []
    path = write_datalist(content, tmp_path / "datalist.json")
    assert json.loads(path.read_text())["labeled"][1]["ignored"] == ["tumor"]
    assert load_datalist(path)["labeled"][1]["ignored"] == [2]
    content["labeled"][0]["ignored"] = []
    assert "ignored" not in load_datalist(write_datalist(content, path))["labeled"][0], "nothing is nothing"
    datalist = require_sound_datalist(path, num_classes=4, allow_empty_unlabeled=True)
    assert datalist["labeled"][1]["ignored_mask"] == [False, False, True, False]
    assert "ignored_mask" not in datalist["labeled"][0]


def test_the_trainings_class_names_serve_where_the_datalist_has_none(content, tmp_path):
    del content["class_names"]
    path = write_datalist(content, tmp_path / "datalist.json")
    datalist = require_sound_datalist(path, num_classes=4, allow_empty_unlabeled=True, class_names=NAMES)
    assert datalist["labeled"][1]["ignored_mask"] == [False, False, True, False]
    with pytest.raises(UserError, match=r'"labeled" item 1 of .*datalist.json: .*has no "class_names"'):
        require_sound_datalist(path, num_classes=4, allow_empty_unlabeled=True)


def test_a_label_with_voxels_of_an_ignored_class_is_an_error(content):
    content["labeled"][0]["ignored"] = ["vessel"]
    report = check_datalist(content, allow_empty_unlabeled=True)
    assert [(f.level, f.split, f.case) for f in report.findings] == [("error", "labeled", "c0")]
    assert 'class 3 (vessel), but label' in report.findings[0].message


def test_loading_names_the_item(content, tmp_path):
    content["validation"][0]["ignored"] = ["tumour"]
    path = write_datalist(content, tmp_path / "datalist.json")
    with pytest.raises(UserError, match=r'"validation" item 0 of .*datalist.json: "ignored" names .tumour.'):
        load_datalist(path)


def test_the_check_knows_the_number_of_classes_from_its_caller(content):
    del content["class_names"]
    content["labeled"][1]["ignored"] = [2, 3, 1]
    report = check_datalist(content, num_classes=4, allow_empty_unlabeled=True)
    assert "names all structures" in report.errors[0].message
    content["labeled"][1]["ignored"] = [7]
    report = check_datalist(content, num_classes=4, allow_empty_unlabeled=True)
    assert "label value 7, but there are 4 classes" in report.errors[0].message


class TestTable:
    def table(self, folder: Path, text: str) -> Path:
        (folder / "ignored.csv").write_text(text)
        return folder / "ignored.csv"

    def test_lines_of_a_case_add_up(self, tmp_path):
        path = self.table(tmp_path, "case,class,why\na,tumor,late\na.nii.gz, 3 ,\n\nb,tumor,\n")
        assert read_ignored(path, {"a", "b", "c"}, NAMES) == {"a": ["tumor", 3], "b": ["tumor"]}

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("case,class\nz,tumor\n", "names case z, which has no image"),
            ("case,class\na,kidney\n", "case a in .*ignored.csv: .*'kidney'"),
            ("case,class\na,\n", r"line without class \(a,\)"),
            ("case,structure\na,tumor\n", 'has no column class: its first line must be "case,class"'),
            ("a,tumor\n", "no column case and no column class"),
            ("", "no column case"),
        ],
    )
    def test_mistakes(self, tmp_path, text, message):
        with pytest.raises(UserError, match=message):
            read_ignored(self.table(tmp_path, text), {"a"}, NAMES)

    def test_missing_file(self, tmp_path):
        with pytest.raises(UserError, match="nowhere.csv does not exist"):
            read_ignored(tmp_path / "nowhere.csv", {"a"}, NAMES)
