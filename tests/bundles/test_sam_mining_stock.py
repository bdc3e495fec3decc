"""sam_mining in the hands of a receiver: torch, monai, pytorch-ignite, fire, nibabel, itk; no Pillow, no mnseg."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from monai.networks.nets import BasicUNetPlusPlus

from bundles.test_stock_only import HIDE_AND_RUN
from mnseg.data.phantom_polyps import write_polyp_dataset
from mnseg.data.pictures import read_mask

BUNDLE = Path(__file__).resolve().parents[2] / "bundles" / "sam_mining"
FEATURES = [4, 4, 8, 8, 8, 4]
# Both configs in one process: what it imports takes longest.
RUN_BOTH = HIDE_AND_RUN.partition("sys.argv = ")[0].replace('"nibabel"]', '"nibabel", "itk"]').replace(
    '"scipy", "itk"', '"scipy", "PIL"'
) + """
import json
from monai.bundle import run
for arguments in json.loads(sys.argv[1]):
    run(**arguments)
"""


def test_evaluation_and_inference_run_with_stock_monai_alone(tmp_path):
    copy = tmp_path / "my_bundle"
    shutil.copytree(BUNDLE, copy, ignore=shutil.ignore_patterns("models", "eval"))
    (copy / "models").mkdir()
    network = BasicUNetPlusPlus(2, 3, 2, FEATURES)
    torch.save(network.state_dict(), copy / "models" / "model.pt")
    definition = json.loads((BUNDLE / "configs" / "inference.json").read_text())["network_def"]
    model = {"network_def": definition | {"features": FEATURES}, "image_size": [32, 32], "_trained_by": "a test"}
    (copy / "model.json").write_text(json.dumps(model))
    data = write_polyp_dataset(tmp_path / "data", 0, 0, 0, 2, size=(40, 48)).parent
    affine = np.diag([-0.5, -0.5, 1, 1])
    nib.save(nib.Nifti1Image(np.random.default_rng(0).normal(size=(44, 36, 1)), affine), data / "images" / "x.nii.gz")
    runs = [
        {"config_file": [str(copy / "configs" / config), str(copy / "model.json")],
         "meta_file": str(copy / "configs" / "metadata.json"), "logging_file": str(copy / "configs" / "logging.conf"),
         "dataset_dir": str(data / folder), "device": "cpu"}
        for config, folder in (("evaluate.json", "."), ("inference.json", "images"))
    ]  # fmt: skip
    command = [sys.executable, "-c", RUN_BOTH, json.dumps(runs)]
    env = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    lines = (copy / "eval" / "val_mean_dice_raw.csv").read_text().splitlines()
    for line, case in zip(lines[1:], ("testing_000", "testing_001"), strict=True):
        pred, truth = (read_mask(path, 2) > 0 for path in (copy / f"eval/predictions/{case}_pred.png",
                                                           data / f"labels/{case}.png"))
        dice = 2 * (pred & truth).sum() / (pred.sum() + truth.sum())
        np.testing.assert_allclose(float(line.split(",")[1]), dice, atol=1e-4)
        np.testing.assert_array_equal(read_mask(copy / f"eval/{case}_seg.png", 2) > 0, pred)
    mask = nib.load(copy / "eval" / "x_seg.nii.gz")
    assert mask.shape == (44, 36, 1)
    np.testing.assert_allclose(mask.affine, affine)
