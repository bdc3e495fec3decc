"""Pancreas-CT: DICOM series with labels whose headers may lie, the published split, the duplicates."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import torch
from monai.bundle import ConfigParser

from mnseg.bundle import unknown_keys
from mnseg.cli import main
from mnseg.data.importers.label_alignment import align_label, edge_contrast, reoriented
from mnseg.data.importers.pancreas_ct import DUPLICATES, MC_NET_TEST, MC_NET_TRAIN, find
from mnseg.data.importers.run import import_dataset
from mnseg.errors import UserError

ROOT = Path(__file__).resolve().parents[3]
SHAPE = (20, 18, 12)
SPACING, ORIGIN = (2.0, 2.0, 3.0), (-50.0, -60.0, -70.0)
# The series' grid in NIfTI's RAS+: x and y change sign.
GRID = np.array([[-2.0, 0, 0, 50], [0, -2.0, 0, 60], [0, 0, 3.0, -70], [0, 0, 0, 1]])


def organ(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """An abdomen in HU with one bright organ off the center, and its mask; no mirror image of it fits."""
    scan = np.random.default_rng(seed).normal(-100, 10, SHAPE).astype(np.int16)  # fat
    mask = np.zeros(SHAPE, np.uint8)
    mask[3:9, 2:7, 2:5] = 1
    scan[mask > 0] += 200
    return scan, mask


def write_case(src: Path, files, number: int, label: nib.Nifti1Image) -> None:
    files.write_series(src / f"Pancreas-CT/PANCREAS_{number:04d}/11-24-2015-1/Pancreas-1", organ(number)[0])
    (src / "TCIA_pancreas_labels-02-05-2017").mkdir(exist_ok=True)
    nib.save(label, src / f"TCIA_pancreas_labels-02-05-2017/label{number:04d}.nii.gz")


def on_grid(codes: str) -> nib.Nifti1Image:
    """The true mask, stored with the axis directions ``codes``, with a right header."""
    image = nib.Nifti1Image(organ()[1], GRID)
    change = nib.orientations.ornt_transform(
        nib.orientations.io_orientation(GRID), nib.orientations.axcodes2ornt(codes)
    )
    return image.as_reoriented(change)


@pytest.fixture
def src(tmp_path, files) -> Path:
    """Seven training cases and one test case of the split, and the two duplicates: one empty folder, one full."""
    for number in (*MC_NET_TRAIN[:7], MC_NET_TEST[0]):
        write_case(tmp_path / "src", files, number, on_grid("LPS"))
    write_case(tmp_path / "src", files, DUPLICATES[1], on_grid("LPS"))
    (tmp_path / f"src/Pancreas-CT/PANCREAS_{DUPLICATES[0]:04d}/empty").mkdir(parents=True)
    return tmp_path / "src"


def test_series_and_labels_become_pairs_on_one_grid(src, tmp_path, files):
    cases = [f"PANCREAS_{number:04d}" for number in MC_NET_TRAIN[:7]]
    # Wherever the label's header says the truth, it is followed; where it lies, the scan decides.
    flips = dict(zip(cases, ("LPS", "RAS", "LAS", "LPI", "PLS"), strict=False))
    for case, codes in flips.items():
        nib.save(on_grid(codes), src / f"TCIA_pancreas_labels-02-05-2017/label{case[-4:]}.nii.gz")
    lying = nib.Nifti1Image(organ()[1][:, ::-1, ::-1], GRID)
    nib.save(lying, src / f"TCIA_pancreas_labels-02-05-2017/label{cases[5][-4:]}.nii.gz")
    imported = import_dataset("pancreas_ct", src, tmp_path / "out")
    for case in cases:
        scan, affine = files.read(tmp_path / f"out/images/{case}.nii.gz")
        np.testing.assert_array_equal(scan, organ(int(case[-4:]))[0], err_msg="Hounsfield units, slices by position")
        np.testing.assert_allclose(affine, GRID)
        mask, affine = files.read(tmp_path / f"out/labels/{case}.nii.gz")
        np.testing.assert_array_equal(mask, organ()[1], err_msg=f"{case} {flips.get(case)}")
        np.testing.assert_allclose(affine, GRID)
    (note,) = [note for note in imported.notes if "header is wrong" in note]
    assert cases[5] in note and "mirrored along axis 1 and axis 2" in note
    content = files.load(tmp_path / "out")
    assert [item["patient"] for item in content["labeled"]] == cases[:6], "the first six of the published list"
    assert [item["patient"] for item in content["unlabeled"]] == cases[6:]
    assert [item["patient"] for item in content["testing"]] == [f"PANCREAS_{MC_NET_TEST[0]:04d}"]
    assert any("PANCREAS_0070 left out: another crop of the scan of PANCREAS_0002" in note for note in imported.notes)
    assert "configs/datasets/pancreas_ct.json" in imported.command


def test_overlay_gives_the_published_preprocessing():
    parser = ConfigParser()
    parser.read_config([str(ROOT / "bundles/mn_cotraining/configs/train.json"),
                        str(ROOT / "configs/datasets/pancreas_ct.json")])
    assert parser.get_parsed_content("spacing") == [0.85, 0.85, 0.75]
    assert parser.get_parsed_content("patch_size") == [160, 160, 64]
    scan = torch.tensor([-1000.0, -175.0, 37.5, 250.0, 3000.0])
    windowed = parser.get_parsed_content("intensity").transforms[0]({"image": scan})["image"]
    np.testing.assert_allclose(windowed, [0, 0, 0.5, 1, 1], atol=1e-6)
    known = json.loads((ROOT / "bundles/mn_cotraining/configs/train.json").read_text())
    assert unknown_keys(json.loads((ROOT / "configs/datasets/pancreas_ct.json").read_text()), known) == []


def test_the_split_is_one_of_82_cases():
    assert sorted(MC_NET_TRAIN + MC_NET_TEST) == list(range(1, 83))
    assert (len(MC_NET_TRAIN), len(MC_NET_TEST)) == (62, 20)


def test_a_case_without_label_is_named(src, tmp_path):
    next(src.rglob("label0057.nii.gz")).unlink()
    with pytest.raises(UserError, match=r"no label file for 1 case \(PANCREAS_0057\)"):
        find(src)


def test_an_incomplete_series_is_named(src, tmp_path):
    sorted(src.rglob("PANCREAS_0018/**/*.dcm"))[0].unlink()
    with pytest.raises(UserError, match=r"label0018.nii.gz has 20x18x12 voxels, .*PANCREAS_0018 20x18x11"):
        import_dataset("pancreas_ct", src, tmp_path / "out")


def test_a_series_that_itk_would_misread_is_refused(src, tmp_path):
    """A slice 1 mm from its place: ITK reads as many voxels as before, spaces them evenly, and only warns."""
    file = sorted((src / "Pancreas-CT/PANCREAS_0018").rglob("*.dcm"))[5]
    dataset = pydicom.dcmread(file)
    dataset.ImagePositionPatient[2] += 1
    dataset.save_as(file)
    with pytest.raises(UserError, match=r"PANCREAS_0018.* cannot be used: its slices are irregularly spaced"):
        import_dataset("pancreas_ct", src, tmp_path / "out")
    assert not (tmp_path / "out" / "datalist.json").exists()


def test_two_series_are_refused(src, tmp_path, files):
    files.write_series(src / "Pancreas-CT/PANCREAS_0018/11-24-2015-1/other", organ()[0])
    with pytest.raises(UserError, match="PANCREAS_0018 holds 2 folders with .dcm files"):
        import_dataset("pancreas_ct", src, tmp_path / "out")


def test_command_line(src, tmp_path):
    assert main(["import", "pancreas_ct", str(src), str(tmp_path / "out"), "--labeled", "4", "--validation", "1"]) == 0
    assert main(["check", str(tmp_path / "out/datalist.json")]) == 0


def test_a_label_that_fits_nowhere_is_said_and_kept():
    scan = np.random.default_rng(0).normal(50, 20, SHAPE)
    label, note = align_label(scan, organ()[1])
    np.testing.assert_array_equal(label, organ()[1])
    assert "cannot be seen" in note


def test_edge_contrast_by_hand():
    """Inside 100, outside 0, no spread: 100 / sqrt(1), the 1 HU^2 that keeps the quotient finite."""
    label = np.zeros((9, 9, 9), bool)
    label[3:6, 3:6, 1:4] = True
    contrast = edge_contrast(np.where(label, 100, 0), label)
    assert len(contrast) == 8
    assert contrast[()] == contrast[0, 1] == pytest.approx(100), "symmetric in x and y"
    assert contrast[(2,)] < 0, "z 5 to 7 is empty, a part of the shell is not"
    assert set(edge_contrast(np.zeros((9, 9, 9)), label).values()) == {0.0}


def test_real_label_with_a_right_and_a_wrong_header(shared_dir):
    """A model's organ mask whose rows run against the DICOM's: its header says so. Liver and spleen judge it."""
    from mnseg.data.importers.pancreas_ct import _read_series

    scan, affine = _read_series(shared_dir / "data/dicom/ct_abdomen")
    stored = nib.load(shared_dir / "data/dicom/ct_abdomen_organs.nii.gz")
    organs = np.asarray(stored.dataobj)
    for value in (1, 5, 7):  # spleen, liver, pancreas
        mask = (organs == value).astype(np.uint8)
        right = reoriented(mask, stored.affine, affine)
        label, note = align_label(scan, right)
        assert note is None and label is right
        wrong = reoriented(mask, affine, affine)  # rows taken as they are stored
        label, note = align_label(scan, wrong)
        np.testing.assert_array_equal(label, right)
        assert "mirrored along axis 1" in note
