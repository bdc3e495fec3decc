"""largest_component: of every class the largest piece alone is written and measured."""

from __future__ import annotations

import csv
import importlib.util
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow

BUNDLE = Path(__file__).resolve().parents[2] / "bundles" / "mn_cotraining"
COPY = {"_target_": "torch.nn.Conv3d", "in_channels": 1, "out_channels": 3, "kernel_size": 1}


def pieces() -> tuple[np.ndarray, np.ndarray]:
    """A mask, and what is left of it: pieces that touch at a corner are one; each class is cleaned by itself."""
    kept = np.zeros((20, 18, 14), np.uint8)
    kept[2:6, 2:6, 2:6] = 1
    kept[6:8, 6:8, 6:8] = 1  # touches the first at one corner
    kept[12:18, 8:15, 5:11] = 2
    mask = kept.copy()
    mask[10:14, 2:5, 2:5] = 1  # apart, smaller than both together
    mask[3, 12, 3] = 2
    return mask, kept


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Logits 2 k x - k**2: the class of a voxel is its value."""
    (tmp_path / "models").mkdir()
    weight = torch.tensor([0.0, 2.0, 4.0]).reshape(3, 1, 1, 1, 1)
    torch.save({"weight": weight, "bias": torch.tensor([0.0, -1.0, -4.0])}, tmp_path / "models" / "model.pt")
    scans = tmp_path / "scans"
    scans.mkdir()
    mask, kept = pieces()
    image = mask.astype(np.float32)
    for name, data in {"image": image, "label": kept, "empty": 0.1 * image}.items():
        nib.save(nib.Nifti1Image(data, np.diag([-1.0, 1.5, 2.0, 1.0])), scans / f"{name}.nii.gz")
    (scans / "datalist.json").write_text(json.dumps({"testing": [{"image": "image.nii.gz", "label": "label.nii.gz"}]}))
    return tmp_path


def run(folder: Path, config: str, **override) -> None:
    flow = ConfigWorkflow(
        str(BUNDLE / "configs" / f"{config}.json"), workflow_type="infer", logging_file=False, run_dir=str(folder),
        dataset_dir=str(folder / "scans"), device="cpu", class_names=["background", "low", "high"], network_def=COPY,
        patch_size=[16, 16, 16], intensity={"_target_": "Compose", "transforms": []}, **override,
    )  # fmt: skip
    flow.initialize()
    flow.run()
    flow.finalize()


def written(folder: Path, name: str) -> np.ndarray:
    return np.asarray(nib.load(folder / "eval" / name).dataobj)


@pytest.mark.parametrize("probabilities", [False, True])
def test_inference_writes_the_largest_pieces(folder, probabilities):
    pytest.importorskip("skimage")
    mask, kept = pieces()
    run(folder, "inference", image_pattern="[ie]m*", largest_component=True, save_probabilities=probabilities)
    np.testing.assert_array_equal(written(folder, "image_seg.nii.gz"), kept)
    assert json.loads((folder / "eval" / "provenance.json").read_text())["largest_component"] is True
    assert not written(folder, "empty_seg.nii.gz").any()
    if probabilities:  # what the network said stays
        np.testing.assert_array_equal(written(folder, "image_prob.nii.gz").argmax(-1), mask)


def test_evaluation_measures_them(folder):
    pytest.importorskip("skimage")
    found = {}
    for largest in (False, True):
        run(folder, "evaluate", largest_component=largest)
        with (folder / "eval" / "val_mean_dice_raw.csv").open() as file:
            found[largest] = [float(v) for v in list(csv.reader(file))[1][1:3]]
    mask, kept = pieces()
    np.testing.assert_array_equal(written(folder, "predictions/image_pred.nii.gz"), kept)
    by_hand = [2 * (kept == k).sum() / ((kept == k).sum() + (mask == k).sum()) for k in (1, 2)]
    assert found[False] == pytest.approx(by_hand, abs=1e-5)
    assert found[True] == [1.0, 1.0]
    assert json.loads((folder / "eval" / "evaluation.json").read_text())["largest_component"] is True


def test_without_scikit_image_a_run_says_so_before_it_writes(folder, monkeypatch):
    found = importlib.util.find_spec
    hide = lambda name, *rest: None if name == "skimage" else found(name, *rest)  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", hide)
    for config, more in (("inference", {"image_pattern": "image*"}), ("evaluate", {})):
        with pytest.raises(SystemExit, match="largest_component needs scikit-image: pip install scikit-image"):
            run(folder, config, largest_component=True, **more)
        assert not (folder / "eval").exists()
    run(folder, "inference", image_pattern="image*")
