"""Datalists: resolving, writing, building from folders, splitting."""

from __future__ import annotations

import json
import math
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from mnseg.data.build_datalist import build_datalist
from mnseg.data.datalist import load_datalist, through_plane_axis, write_datalist
from mnseg.data.splits import choose_splits, read_case_list, select_cases
from mnseg.data.volume_io import case_id, list_volumes, open_volume
from mnseg.errors import UserError

CASES = [f"c{i:02d}" for i in range(20)]


def stems(items: list[dict]) -> list[str]:
    return [case_id(item["image"]) for item in items]


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """20 empty scan files, c00-c11 with labels: building a datalist opens no file."""
    for name, cases in (("images", CASES), ("labels", CASES[:12])):
        (tmp_path / name).mkdir()
        for case in cases:
            (tmp_path / name / f"{case}.nii.gz").touch()
    return tmp_path


def build(folder: Path, **options):
    return build_datalist(folder / "images", folder / "labels", **options)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("a.nii", "a"), ("x/a.nii.gz", "a"), ("a.v2.nii.gz", "a.v2"), ("A.NII.GZ", "A"), ("a.b.nrrd", "a.b")],
)
def test_case_id(name, expected):
    assert case_id(name) == expected


class TestLoad:
    def test_paths_become_absolute_and_cases_named(self, tmp_path):
        (tmp_path / "d.json").write_text(json.dumps({
            "labeled": [{"image": "images/a.nii.gz", "label": "/elsewhere/a.nii.gz"}],
            "unlabeled": ["images/b.nii", {"image": "c.nii", "case": "mine"}],
            "class_names": ["background", "organ"],
        }))
        loaded = load_datalist(tmp_path / "d.json")
        assert loaded["labeled"] == [
            {"image": str(tmp_path / "images/a.nii.gz"), "label": "/elsewhere/a.nii.gz", "case": "a"}
        ]
        assert [item["case"] for item in loaded["unlabeled"]] == ["b", "mine"]
        assert "label" not in loaded["unlabeled"][0]
        assert loaded["class_names"] == ["background", "organ"]
        assert "validation" not in loaded

    def test_dataset_dir_comes_first_then_the_datalists_folder(self, tmp_path):
        data = tmp_path / "data"
        data.mkdir()
        for file in (data / "a.nii", tmp_path / "a.nii", tmp_path / "b.nii"):
            file.touch()
        (tmp_path / "d.json").write_text('{"labeled": ["a.nii", "b.nii", "missing.nii"]}')
        found = [item["image"] for item in load_datalist(tmp_path / "d.json", data)["labeled"]]
        assert found == [str(data / "a.nii"), str(tmp_path / "b.nii"), str(data / "missing.nii")]

    def test_monai_names_are_taken(self, tmp_path):
        (tmp_path / "d.json").write_text('{"training": [{"image": "a.nii"}], "test": ["b.nii"]}')
        loaded = load_datalist(tmp_path / "d.json")
        assert [item["case"] for item in loaded["labeled"]] == ["a"]
        assert [item["case"] for item in loaded["testing"]] == ["b"]

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("{", "not valid JSON"),
            ("[]", "JSON object"),
            ('{"labeled": {}}', '"labeled" .* must be a list'),
            ('{"labeled": [{"label": "a.nii"}]}', '"labeled" item 0 .* has no "image"'),
            ('{"labeled": [{"image": 3}]}', '"image" must be one file name'),
        ],
    )
    def test_bad_content_is_named(self, tmp_path, text, message):
        (tmp_path / "d.json").write_text(text)
        with pytest.raises(UserError, match=message):
            load_datalist(tmp_path / "d.json")

    def test_missing_file(self, tmp_path):
        with pytest.raises(UserError, match=r"nothing\.json does not exist"):
            load_datalist(tmp_path / "nothing.json")


class TestWrite:
    def test_relative_below_the_datalist_absolute_elsewhere(self, tmp_path):
        inside, outside = tmp_path / "lists/images/a.nii", tmp_path / "labels/a.nii"
        path = write_datalist({"labeled": [{"image": str(inside), "label": str(outside)}], "class_names": ["b", "o"]},
                              tmp_path / "lists/d.json")
        stored = json.loads(path.read_text())
        assert stored == {"class_names": ["b", "o"],
                          "labeled": [{"image": "images/a.nii", "label": outside.as_posix()}]}
        assert [p.name for p in path.parent.iterdir()] == ["d.json"]

    def test_a_moved_dataset_still_resolves(self, folders):
        write_datalist(build(folders).datalist, folders / "d.json")
        moved = folders.rename(folders.with_name("moved"))
        loaded = load_datalist(moved / "d.json")
        assert all(Path(item[key]).is_file() for item in loaded["labeled"] for key in ("image", "label"))
        assert len(loaded["labeled"]) == 12

    def test_loading_and_writing_again_changes_nothing(self, folders):
        first = write_datalist(build(folders, keep_hidden=True, labeled="3").datalist, folders / "d.json").read_text()
        assert write_datalist(load_datalist(folders / "d.json"), folders / "d.json").read_text() == first


class TestBuild:
    def test_default_labels_all_that_have_one(self, folders):
        datalist = build(folders).datalist
        assert stems(datalist["labeled"]) == CASES[:12]
        assert stems(datalist["unlabeled"]) == CASES[12:]
        assert all(set(item) == {"image"} for item in datalist["unlabeled"])
        assert all(case_id(item["label"]) == case_id(item["image"]) for item in datalist["labeled"])

    def test_hidden_labels_only_when_asked(self, folders):
        plain = build(folders, labeled="4").datalist["unlabeled"]
        assert len(plain) == 16
        assert all(set(item) == {"image"} for item in plain)
        kept = build(folders, labeled="4", keep_hidden=True).datalist["unlabeled"]
        hidden = [item for item in kept if "hidden_label" in item]
        assert len(hidden) == 12 - 4
        assert all("label" not in item for item in kept)
        assert all(case_id(item["hidden_label"]) == case_id(item["image"]) for item in hidden)

    def test_hidden_labels_folder(self, folders):
        (folders / "hidden").mkdir()
        (folders / "hidden/c15.nii").touch()
        unlabeled = build(folders, hidden_labels=folders / "hidden").datalist["unlabeled"]
        assert {case_id(i["image"]): i.get("hidden_label") for i in unlabeled if "hidden_label" in i} == {
            "c15": str(folders / "hidden/c15.nii")
        }

    def test_order_ranks_and_restricts(self, folders):
        (folders / "o.list").write_text("# the protocol's order\nc05\nc03.nii.gz\n\nc15\nc01\n")
        built = build(folders, order=folders / "o.list", labeled="first:1", validation="last:1", testing="last:1:2")
        assert stems(built.datalist["labeled"]) == ["c05"]
        assert stems(built.datalist["validation"]) == ["c01"]
        assert stems(built.datalist["testing"]) == ["c03"]
        assert stems(built.datalist["unlabeled"]) == ["c15"]
        assert any("16 cases" in note and "left out" in note for note in built.notes)

    def test_label_without_image_is_noted(self, folders):
        (folders / "labels/stray.nii.gz").touch()
        notes = build(folders).notes
        assert any("1 case (stray)" in note for note in notes)

    def test_unknown_names_are_counted_and_three_shown(self, folders):
        (folders / "o.list").write_text("c01\nx1\nx2\nx3\nx4\n")
        with pytest.raises(UserError, match=r"4 cases \(x1, x2, x3, …\) without an image"):
            build(folders, order=folders / "o.list")
        with pytest.raises(UserError, match=r"4 cases \(x1, x2, x3, …\) without an image"):
            build(folders, labeled=str(folders / "o.list"))

    def test_no_images(self, folders):
        (folders / "empty").mkdir()
        with pytest.raises(UserError, match="holds no scans: no .nii, .nii.gz, .nrrd"):
            build_datalist(folders / "empty")
        with pytest.raises(UserError, match="is not a folder"):
            build_datalist(folders / "absent")

    def test_scans_that_lie_deeper_are_told(self, folders):
        mixed = folders / "mixed"
        for name in ("p1/scan.nii.gz", "p2/study/SCAN.NRRD", "notes/read.me", ".hidden/scan.nii"):
            (mixed / name).parent.mkdir(parents=True)
            (mixed / name).touch()
        with pytest.raises(UserError, match=r"holds no scans: .* 2 sub-folders \(p1, p2\) with volumes: sub-folders "
                                            r"are not searched"):
            build_datalist(mixed)
        (mixed / "c00.nii").touch()
        (mixed / "labels").mkdir()
        (mixed / "labels" / "c00.nii").touch()
        built = build_datalist(mixed, mixed / "labels", labeled="1")
        assert built.notes[0] == "2 sub-folders (p1, p2) with volumes: sub-folders are not searched."

    def test_2d_images_among_scans_are_told_from_volumes(self, folders):
        (folders / "pictures").mkdir()
        (folders / "pictures" / "polyp.JPG").touch()
        with pytest.raises(UserError, match="holds no scans: .* For its 2D images give --planar"):
            build_datalist(folders / "pictures")
        with pytest.raises(UserError, match="polyp.JPG is a 2D image, not a volume: give --planar"):
            open_volume(folders / "pictures" / "polyp.JPG")

    def test_two_files_of_one_stem(self, folders):
        (folders / "images/c00.nii").touch()
        with pytest.raises(UserError, match=r"two files for case c00: c00.nii and c00.nii.gz"):
            build(folders)

    def test_hidden_and_foreign_files_are_skipped(self, folders):
        for name in ("._c00.nii.gz", "notes.txt", "c99.npy"):
            (folders / "images" / name).touch()
        assert list(list_volumes(folders / "images")) == CASES


class TestSplits:
    def split(self, labels=12, seed=0, patients=None, **wanted):
        return choose_splits(CASES, set(CASES[:labels]), wanted, seed, patients)

    @pytest.mark.parametrize("seed", range(5))
    def test_every_case_once(self, seed):
        splits = self.split(labeled="4", validation="3", testing="2", seed=seed)
        assert {split: len(cases) for split, cases in splits.items()} == {
            "labeled": 4, "validation": 3, "testing": 2, "unlabeled": 11
        }
        assert sorted(sum(splits.values(), [])) == CASES
        for split in ("labeled", "validation", "testing"):
            assert set(splits[split]) <= set(CASES[:12])

    def test_seed_decides(self):
        assert self.split(labeled="4", seed=1) == self.split(labeled="4", seed=1)
        assert len({tuple(self.split(labeled="4", seed=seed)["labeled"]) for seed in range(10)}) > 5

    @pytest.mark.parametrize("seed", range(5))
    def test_more_labels_keep_the_first_and_the_held_out(self, seed):
        few = self.split(labeled="2", validation="3", testing="2", seed=seed)
        more = self.split(labeled="6", validation="3", testing="2", seed=seed)
        assert set(few["labeled"]) < set(more["labeled"])
        assert (few["validation"], few["testing"]) == (more["validation"], more["testing"])

    @pytest.mark.parametrize("seed", range(5))
    def test_drawn_cases_avoid_chosen_ones(self, seed):
        splits = self.split(labeled="first:8", validation="4", seed=seed)
        assert splits["labeled"] == CASES[:8]
        assert splits["validation"] == CASES[8:12]

    @pytest.mark.parametrize(
        ("spec", "expected"),
        [
            ("3", 3),
            ("first:2", CASES[:2]),
            ("last:2", CASES[-2:]),
            ("first:2:3", CASES[3:5]),
            ("last:2:3", CASES[15:17]),
            ("last:20", CASES),
            ("last:0", []),
        ],
    )
    def test_select(self, spec, expected):
        assert select_cases(spec, CASES) == expected

    @pytest.mark.parametrize(
        ("wanted", "message"),
        [
            ({"labeled": "13"}, "13 labeled cases were asked for, but only 12"),
            ({"labeled": "10", "validation": "3"}, "10 labeled cases were asked for, but only 9"),
            ({"labeled": "first:4", "testing": "first:2:3"}, r"1 case \(c03\) would be in both testing and labeled"),
            ({"labeled": "last:2"}, r"2 cases \(c18, c19\) chosen for labeled without a label"),
            ({"labeled": "first:21"}, "asks for more cases than there are"),
            ({"labeled": "middle:3"}, "neither a number"),
            ({"labeled": "-3"}, "neither a number"),
        ],
    )
    def test_impossible_wishes(self, wanted, message):
        with pytest.raises(UserError, match=message):
            self.split(**wanted)

    def test_case_list_file(self, tmp_path):
        path = tmp_path / "v.list"
        path.write_text("c02.v1.nii\r\n# comment\r\n c01 \r\n")
        assert read_case_list(path) == ["c02.v1", "c01"]
        path.write_text("c01\nc02\nc01\n")
        with pytest.raises(UserError, match=r"1 case \(c01\) more than once"):
            read_case_list(path)
        path.write_text("# nothing\n")
        with pytest.raises(UserError, match="names no case"):
            read_case_list(path)

    @pytest.mark.parametrize("seed", range(10))
    def test_patients_stay_together(self, seed):
        patients = {case: f"p{int(case[1:]) // 3}" for case in CASES}
        splits = self.split(labeled="3", validation="2", testing="2", seed=seed, patients=patients)
        assert [len(splits[s]) for s in ("labeled", "validation", "testing")] == [3, 2, 2]
        training, validation, testing = (
            {patients[case] for name in names for case in splits[name]}
            for names in (("labeled", "unlabeled"), ("validation",), ("testing",))
        )
        assert not training & validation
        assert not training & testing
        assert not validation & testing

    def test_patient_in_two_lists(self):
        patients = {case: f"p{int(case[1:]) // 3}" for case in CASES}
        with pytest.raises(UserError, match=r"1 patient \(p0\)"):
            self.split(labeled="first:2", validation="first:1:2", patients=patients)

    def test_group_by_pattern(self, folders):
        built = build(folders, labeled="2", validation="2", group_by=r"^c(\d)")
        assert {item["patient"] for item in built.datalist["labeled"]} <= {"0", "1"}
        with pytest.raises(UserError, match=r"does not match 20 cases"):
            build(folders, group_by="z")
        with pytest.raises(UserError, match="not a regular expression"):
            build(folders, group_by="(")


class TestThroughPlane:
    def items(self, folder: Path, affines: list[np.ndarray]) -> list[dict]:
        paths = [folder / f"{i}.nii" for i in range(len(affines))]
        for path, affine in zip(paths, affines, strict=True):
            nib.save(nib.Nifti1Image(np.zeros((3, 4, 5), np.uint8), affine), path)
        return [{"image": str(path)} for path in paths]

    @pytest.mark.parametrize("axis", [0, 1, 2])
    def test_thickest(self, tmp_path, axis):
        spacing = np.ones(4)
        spacing[axis] = 2.5
        assert through_plane_axis(self.items(tmp_path, [np.diag(spacing)])) == axis

    def test_nearly_equal_is_the_last(self, tmp_path):
        assert through_plane_axis(self.items(tmp_path, [np.diag([1.005, 1.0, 1.0, 1])])) == 2
        assert through_plane_axis(self.items(tmp_path, [np.diag([1.02, 1.0, 1.0, 1])])) == 0

    def test_axes_are_those_of_the_world(self, tmp_path):
        # Stored sagittally: the file's third axis (3 mm) runs from left to right.
        affine = np.array([[0, 0, -3, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]], float)
        items = self.items(tmp_path, [affine])
        assert through_plane_axis(items) == 0
        assert through_plane_axis(items, orientation="SPR") == 2

    def test_oblique_spacing_is_the_length_of_the_column(self, tmp_path):
        c, s = math.cos(0.6), math.sin(0.6)
        affine = np.eye(4)
        affine[:3, :3] = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.diag([1, 2, 1.5])
        assert through_plane_axis(self.items(tmp_path, [affine])) == 1

    def test_median_over_items(self, tmp_path):
        thick, odd = np.diag([1, 1, 4, 1.0]), np.diag([30, 1, 1, 1.0])
        assert through_plane_axis(self.items(tmp_path, [odd, thick, thick])) == 2

    def test_none(self):
        with pytest.raises(UserError, match="no images"):
            through_plane_axis([])


def test_protocol_of_the_atrial_set(shared_dir):
    """The split that the shared data's README describes, as one call."""
    data = shared_dir / "data/la"
    built = build_datalist(data / "images", data / "labels", order=data / "train.list", labeled="first:8",
                           validation="last:10", testing="last:10:10", keep_hidden=True)
    order = (data / "train.list").read_text().split()
    datalist = built.datalist
    assert stems(datalist["labeled"]) == order[:8]
    assert stems(datalist["unlabeled"]) == order[8:60]
    assert stems(datalist["testing"]) == order[60:70]
    assert stems(datalist["validation"]) == order[70:]
    assert all("hidden_label" in item for item in datalist["unlabeled"])
    assert through_plane_axis(datalist["labeled"]) == 2
