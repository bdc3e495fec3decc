"""Left atrium: three layouts, the published lists, and what is refused."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from mnseg.cli import main
from mnseg.data.importers.la import UA_MT_TEST, find
from mnseg.data.importers.run import import_dataset
from mnseg.errors import UserError

SHAPE = (7, 6, 4)


@pytest.fixture
def draw():
    rng = np.random.default_rng(0)

    def pair() -> tuple[np.ndarray, np.ndarray]:
        mask = np.zeros(SHAPE, np.uint8)
        mask[2:5, 1:4, 1:3] = 1
        return rng.integers(0, 200, SHAPE, dtype=np.uint8), mask

    return pair


def names(split: list[dict]) -> list[str]:
    return [Path(item["image"]).name.removesuffix(".nii.gz") for item in split]


def write_lists(folder: Path, train: list[str], test: list[str]) -> None:
    (folder / "train.list").write_text("\n".join(train) + "\n")
    (folder / "test.list").write_text("\n".join(test) + "\n")


def test_nrrd_keeps_voxels_and_place_and_masks_become_0_and_1(tmp_path, files, draw):
    pairs = {f"CASE{i:02d}": draw() for i in range(12)}
    for case, (scan, mask) in pairs.items():
        files.write_nrrd(tmp_path / "src/Training Set" / case / "lgemri.nrrd", scan)
        files.write_nrrd(tmp_path / "src/Training Set" / case / "laendo.nrrd", mask * 255)
    order = sorted(pairs, reverse=True)
    write_lists(tmp_path / "src", order[:10], order[10:])
    imported = import_dataset("la", tmp_path / "src", tmp_path / "out")
    content = files.load(tmp_path / "out")
    assert names(content["labeled"]) == order[:8]
    assert names(content["unlabeled"]) == order[8:10]
    assert names(content["testing"]) == order[10:]
    assert content["validation"] == []
    for case, (scan, mask) in pairs.items():
        voxels, affine = files.read(tmp_path / f"out/images/{case}.nii.gz")
        np.testing.assert_array_equal(voxels, scan)
        # LPS to RAS turns the signs of x and y.
        np.testing.assert_allclose(affine, [[-0.625, 0, 0, -10], [0, -0.625, 0, 20], [0, 0, 1.25, 30], [0, 0, 0, 1]])
        voxels, _ = files.read(tmp_path / f"out/labels/{case}.nii.gz")
        np.testing.assert_array_equal(voxels, mask)
    assert "configs/datasets/la.json" in imported.command
    assert all("label" not in item and "hidden_label" not in item for item in content["unlabeled"])
    assert main(["check", str(tmp_path / "out/datalist.json")]) == 0


def test_hdf5_with_lists_beside_the_folder(tmp_path, files, draw):
    cases = [f"C{i}" for i in range(11)]
    for case in cases:
        scan, mask = draw()
        folder = tmp_path / "data/2018LA_Seg_Training Set" / case
        folder.mkdir(parents=True)
        with h5py.File(folder / "mri_norm2.h5", "w") as file:
            file["image"], file["label"] = scan.astype(np.float32) / 7, mask
    write_lists(tmp_path / "data", cases[:9], cases[9:])
    import_dataset("la", tmp_path / "data/2018LA_Seg_Training Set", tmp_path / "out", keep_hidden=True)
    content = files.load(tmp_path / "out")
    assert [len(content[key]) for key in ("labeled", "unlabeled", "validation", "testing")] == [8, 1, 0, 2]
    assert content["unlabeled"][0]["hidden_label"] == "labels/C8.nii.gz"
    voxels, affine = files.read(tmp_path / "out/images/C10.nii.gz")
    np.testing.assert_array_equal(voxels, scan.astype(np.float32) / 7)
    np.testing.assert_array_equal(affine, np.diag([0.625, 0.625, 0.625, 1]))


def test_without_h5py_the_extra_is_named(tmp_path, monkeypatch, draw):
    (tmp_path / "src/C0").mkdir(parents=True)
    for i in range(10):
        (tmp_path / f"src/C{i}").mkdir(exist_ok=True)
        (tmp_path / f"src/C{i}/mri_norm2.h5").touch()
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    with pytest.raises(UserError, match=r"pip install 'mnseg\[import\]'"):
        import_dataset("la", tmp_path / "src", tmp_path / "out", labeled="2")
    assert not (tmp_path / "out/datalist.json").exists()


def nifti_set(folder: Path, files, draw, cases: list[str]) -> None:
    for case in cases:
        scan, mask = draw()
        files.save_nifti(folder / f"images/{case}.nii.gz", scan)
        files.save_nifti(folder / f"labels/{case}.nii.gz", mask)


def test_ua_mts_test_cases_are_known_by_name(tmp_path, files, draw):
    """The challenge's own download has no lists."""
    nifti_set(tmp_path, files, draw, [*UA_MT_TEST, *(f"A{i:02d}" for i in range(10))])
    import_dataset("la", tmp_path, tmp_path, labeled="4", validation="3")
    content = files.load(tmp_path)
    assert names(content["testing"]) == UA_MT_TEST and len(set(UA_MT_TEST)) == 20
    assert names(content["labeled"]) == ["A00", "A01", "A02", "A03"], "the first of the order, not drawn"
    assert names(content["validation"]) == ["A07", "A08", "A09"], "the last before the test cases"
    assert content["labeled"][0] == {"image": "images/A00.nii.gz", "label": "labels/A00.nii.gz"}, "nothing was copied"
    assert not (tmp_path / "out").exists()


def test_the_challenges_own_test_scans_are_left_out(tmp_path, files, draw):
    scan, mask = draw()
    for case in [*(f"Training Set/{name}" for name in [*UA_MT_TEST, *"ABCDEFGHIJ"]), "Testing Set/OTHER"]:
        files.write_nrrd(tmp_path / "src" / case / "lgemri.nrrd", scan)
        files.write_nrrd(tmp_path / "src" / case / "laendo.nrrd", mask)
    source = find(tmp_path / "src")
    assert [case.case for case in source.cases] == [*"ABCDEFGHIJ", *UA_MT_TEST]
    assert any("1 case (OTHER) not in the lists left out" in note for note in source.notes)
    assert any("80 cases, this one 10" in note for note in source.notes)


def test_numbers_are_positions_in_train_list_alone(tmp_path, files, draw):
    cases = [f"X{i:02d}" for i in range(30)]
    nifti_set(tmp_path, files, draw, cases)
    (tmp_path / "train.list").write_text("\n".join(reversed(cases)))
    import_dataset("la", tmp_path, tmp_path / "out", labeled="2", validation="3", check=False)
    content = files.load(tmp_path / "out")
    assert names(content["labeled"]) == ["X29", "X28"]
    assert names(content["testing"]) == [f"X{i:02d}" for i in range(19, 9, -1)], "before the last ten"
    assert names(content["validation"]) == ["X02", "X01", "X00"]


def test_unknown_cases_are_drawn_and_said(tmp_path, files, draw):
    nifti_set(tmp_path, files, draw, [f"X{i:02d}" for i in range(20)])
    imported = import_dataset("la", tmp_path, tmp_path / "out")
    assert imported.counts == {"labeled": 8, "unlabeled": 6, "validation": 2, "testing": 4}
    assert any("it is not the field's" in note for note in imported.notes)


def test_a_list_that_names_an_absent_case_is_refused(tmp_path, files, draw):
    nifti_set(tmp_path, files, draw, ["A", "B"])
    write_lists(tmp_path, ["A", "C"], ["B"])
    with pytest.raises(UserError, match=r"train.list names 1 case \(C\) without an image"):
        import_dataset("la", tmp_path, tmp_path / "out")


def test_a_mask_with_other_values_is_refused(tmp_path, files, draw):
    for i in range(12):
        scan, mask = draw()
        files.write_nrrd(tmp_path / f"src/C{i}/lgemri.nrrd", scan)
        files.write_nrrd(tmp_path / f"src/C{i}/laendo.nrrd", mask * 3)
    with pytest.raises(UserError, match=r"laendo.nrrd has the values \[3\]"):
        import_dataset("la", tmp_path / "src", tmp_path / "out", labeled="2")
    assert not list((tmp_path / "out").rglob("*.nii.gz"))


def test_real_scans(shared_dir, tmp_path, files, monkeypatch):
    """The 80 volumes with train.list alone: the split of docs/benchmarks.md. (All are read by the check elsewhere.)"""
    order = (shared_dir / "data/la/train.list").read_text().split()
    import_dataset("la", shared_dir / "data/la", tmp_path, check=False)
    content = files.load(tmp_path)
    assert names(content["labeled"]) == order[:8]
    assert names(content["unlabeled"]) == order[8:60]
    assert names(content["testing"]) == order[60:70]
    assert names(content["validation"]) == order[70:]
    short = {key: content[key][:1] for key in ("labeled", "unlabeled", "validation", "testing")}
    (tmp_path / "short.json").write_text(__import__("json").dumps({"class_names": content["class_names"], **short}))
    assert main(["check", str(tmp_path / "short.json")]) == 0
