"""The commands of docs/how-to/prepare-data.md and large-pools.md run."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import monai.bundle
import nibabel as nib
import numpy as np
import pytest

from mnseg.cli import main
from mnseg.data.phantom import write_phantom_dataset
from page_commands import ROOT, commands


def write_set(folder: Path, names: list[str], classes: int, images: str = "images") -> None:
    """Small scans with labels of the values 0 .. classes."""
    rng = np.random.default_rng(len(names))
    for name in names:
        label = np.zeros((8, 8, 8), np.uint8)
        for value in range(1, classes + 1):
            label[2 * value : 2 * value + 2, 2:5, 2:5] = value
        for kind, voxels in ((images, rng.integers(0, 255, label.shape).astype(np.int16)), ("labels", label)):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(voxels, np.eye(4)), folder / kind / f"{name}.nii.gz")


@pytest.fixture
def reader(tmp_path, monkeypatch) -> Path:
    """What the reader of prepare-data.md has: 36 scans of 18 patients, and the left-atrium set."""
    monkeypatch.chdir(tmp_path)
    names = [f"{number // 2:04d}_{'baseline' if number % 2 else 'followup'}" for number in range(36)]
    write_set(tmp_path, names, 2, "scans")
    (tmp_path / "patients.csv").write_text("case,patient\n" + "".join(f"{name},{name[:4]}\n" for name in names))
    (tmp_path / "ignored.csv").write_text("case,class\n0000_baseline,tumor\n")
    label = nib.load(tmp_path / "labels/0000_baseline.nii.gz")
    voxels = np.asarray(label.dataobj) * (np.asarray(label.dataobj) < 2)
    nib.save(nib.Nifti1Image(voxels.astype(np.uint8), label.affine), tmp_path / "labels/0000_baseline.nii.gz")
    cases = [f"C{number:02d}" for number in range(40)]
    write_set(tmp_path / "la", cases, 1)
    (tmp_path / "la/train.list").write_text("\n".join(cases))
    return tmp_path


def test_datalists_of_every_kind(reader, capsys):
    """An ellipsis stands for the options of the first command; series of DICOM are written by tests/test_cli.py."""
    lines = [line[1:] for line in commands("prepare-data.md") if line[1] in ("datalist", "check")]
    first = lines[0]
    shared = [word for word in first if word not in ("datalist", "-o", "datalist.json")]
    names = ["--class-names", "background,liver,spleen"]
    run = 0
    for line in lines:
        if "PatientID" in line:
            continue
        if "…" in line:
            rest = [word for word in line[1:] if word != "…"]
            own = [word for word in shared if word not in names] if "--class-names" in rest else shared
            line = ["datalist", *own, *rest, "-o", "other.json"]
        assert main(line) == 0, f"{line}: {capsys.readouterr().err}"
        run += 1
    assert run == len(lines) - 1 >= 5
    content = json.loads((reader / "la.json").read_text())
    assert [len(content[split]) for split in ("labeled", "unlabeled", "validation", "testing")] == [8, 12, 10, 10]
    ignored = [item for item in json.loads((reader / "other.json").read_text())["labeled"] if "ignored" in item]
    assert [item["ignored"] for item in ignored] in ([["tumor"]], []), "unless it was drawn for measuring"


def test_a_large_pool_on_disk(tmp_path, monkeypatch):
    (command,) = commands("large-pools.md", "python -m monai.bundle")
    write_phantom_dataset(tmp_path / "data", 2, 4, 1, 0, size=16)
    for name in ("bundles", "configs"):
        (tmp_path / name).symlink_to(ROOT / name)
    network = {"_target_": "UNet", "spatial_dims": 3, "in_channels": 1, "out_channels": 4, "channels": [4, 8],
               "strides": [2]}  # fmt: skip
    (tmp_path / "my-data.json").write_text(json.dumps({
        "class_names": ["background", "lobe", "bean", "tube"], "patch_size": [16, 16, 8], "network_def": network,
        "batch_size": 2, "epoch_length": 1, "stage_1_epochs": 1, "warmup_epochs": 0, "stage_2_epochs": 2,
        "model_2d": "segformer-tiny-random", "pretrained": False, "finetuning": "decoder", "hidden_cases": 0,
        "slice_axis": 2, "device": "cpu",
    }))  # fmt: skip
    monkeypatch.chdir(tmp_path)
    words = command[4:]
    options = {name.removeprefix("--"): value for name, value in zip(words[::2], words[1::2], strict=True)}
    options |= {"cache_dir": str(tmp_path / "scratch"), "cache_gb": ast.literal_eval(options["cache_gb"])}
    monai.bundle.run(config_file=ast.literal_eval(options.pop("config_file")), **options)
    assert (tmp_path / "runs/mn/models/model.pt").is_file()
    assert len(list((tmp_path / "scratch").glob("*.pt"))) == 7, "labeled, unlabeled, validation"
