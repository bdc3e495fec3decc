"""The commands of docs/how-to/dicom.md run, in the page's order, on a made-up study."""

from __future__ import annotations

import ast
import json
import re
import shlex
from pathlib import Path

import monai.bundle
import nibabel as nib
import numpy as np
import pydicom
import pytest
import torch

from mnseg.cli import main
from mnseg.data.dicom_seg_write import write_dicom_seg
from mnseg.data.dicom_series import inspect_series

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/how-to/dicom.md"
STORED = np.random.default_rng(0).integers(0, 2000, (8, 12, 10)).astype(np.int16)
NAMES = ["background", "liver", "spleen"]


def commands() -> list[list[str]]:
    text = PAGE.read_text().replace("\\\n", " ")
    return [shlex.split(line) for line in re.findall(r"^    ((?:mnseg|python -m monai.bundle) .*)$", text, re.M)]


@pytest.fixture
def study(tmp_path, write_series, monkeypatch) -> Path:
    """Two scans to train on, one with a SEG; a new one; and a model that finds liver where the scan is above 0."""
    for name in ("bundles", "configs"):
        (tmp_path / name).symlink_to(ROOT / name)
    for number, folder in enumerate(("scans/patient01", "scans/patient02", "new_scans/patient03")):
        write_series(tmp_path / folder, STORED + number)
    label = (STORED.T > 1000).astype(np.uint8)
    label[:3][label[:3] == 1] = 2
    nib.save(nib.Nifti1Image(label, inspect_series(tmp_path / "scans/patient01").affine), tmp_path / "label.nii.gz")
    write_dicom_seg(tmp_path / "scans/patient01", tmp_path / "label.nii.gz", tmp_path / "segs/any.dcm", NAMES, "me 1")
    (tmp_path / "runs/mn/models").mkdir(parents=True)
    weight = torch.tensor([0.0, 1.0, 0.0]).reshape(3, 1, 1, 1, 1)
    torch.save({"weight": weight, "bias": torch.tensor([0.0, -0.5, -1.0])}, tmp_path / "runs/mn/models/model.pt")
    network = {"_target_": "torch.nn.Conv3d", "in_channels": 1, "out_channels": 3, "kernel_size": 1}
    overlay = {"class_names": NAMES, "patch_size": [16] * 3, "network_def": network,
               "intensity": {"_target_": "Compose", "transforms": []}}
    (tmp_path / "runs/mn/model.json").write_text(json.dumps(overlay))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_commands_of_the_page(study):
    for command in commands():
        if command[0] == "mnseg":
            assert main(command[1:]) == 0, command
            continue
        options = {name.removeprefix("--"): value for name, value in zip(command[4::2], command[5::2], strict=True)}
        monai.bundle.run(config_file=ast.literal_eval(options.pop("config_file")), **options)
    label = np.asarray(nib.load(study / "label.nii.gz").dataobj)
    np.testing.assert_array_equal(nib.load(study / "labels/patient01.nii.gz").dataobj, label)
    datalist = json.loads((study / "datalist.json").read_text())
    assert datalist["labeled"] == [{"image": "scans/patient01", "label": "labels/patient01.nii.gz"}]
    assert datalist["unlabeled"] == [{"image": "scans/patient02"}]
    np.testing.assert_array_equal(nib.load(study / "masks/patient03_seg.nii.gz").dataobj, STORED.T + 2 > 1000)
    for file in ("masks/patient03_seg.dcm", "patient03_seg.dcm"):
        segmentation = pydicom.dcmread(study / file)
        assert [segment.SegmentLabel for segment in segmentation.SegmentSequence] == ["liver"]
        assert segmentation.pixel_array.sum() == (STORED + 2 > 1000).sum()


def test_the_page_has_commands_of_every_kind():
    kinds = {command[1] if command[0] == "mnseg" else "run" for command in commands()}
    assert kinds == {"seg-to-nifti", "datalist", "check", "run", "dicom-seg"}
