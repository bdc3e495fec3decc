"""A receiver of the bundle has torch, monai, pytorch-ignite, fire and nibabel, and nothing else.

The subprocess hides every other installed distribution (mnseg, transformers, peft, scipy, itk, …): only what these five
need without extras can be imported, as in an environment into which just they were installed.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.networks.nets import BasicUNet

BUNDLE = Path(__file__).resolve().parents[2] / "bundles" / "mn_cotraining"
FEATURES = [4, 4, 8, 8, 8, 4]

HIDE_AND_RUN = """
import importlib, importlib.metadata as metadata, re, runpy, sys

def closure(names):
    seen = set()
    while names:
        name = re.sub(r"[-_.]+", "-", names.pop()).lower()
        if name in seen:
            continue
        try:
            needs = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        seen.add(name)
        names += [re.match(r"[\\w.-]+", need).group() for need in needs if "extra ==" not in need]
    return seen

stock = closure(["torch", "monai", "pytorch-ignite", "fire", "nibabel"])
normal = lambda name: re.sub(r"[-_.]+", "-", name).lower()
owners = metadata.packages_distributions()
hidden = {module for module, dists in owners.items() if not stock & {normal(d) for d in dists}} | {"mnseg"}

class Hide:
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in hidden or not hasattr(self.finder, "find_spec"):
            return None
        return self.finder.find_spec(name, path, target)
    def __getattr__(self, name):
        return getattr(self.finder, name)

sys.meta_path[:] = [Hide(finder) for finder in sys.meta_path]
for name in ("mnseg", "transformers", "peft", "scipy", "itk", "tqdm", "tensorboard"):
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        continue
    sys.exit(f"{name} was not hidden")
sys.argv = ["monai.bundle", *sys.argv[1:]]
runpy.run_module("monai.bundle", run_name="__main__", alter_sys=True)
"""


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A copy of the bundle with small random weights, the overlay that training writes, and two labeled scans."""
    copy = tmp_path / "somewhere" / "my_bundle"
    (copy / "configs").mkdir(parents=True)
    for name in ("evaluate.json", "inference.json", "metadata.json", "logging.conf"):
        shutil.copy(BUNDLE / "configs" / name, copy / "configs")
    shutil.copytree(BUNDLE / "scripts", copy / "scripts")
    (copy / "models").mkdir()
    torch.save(BasicUNet(3, 1, 3, FEATURES).state_dict(), copy / "models" / "model.pt")
    network = json.loads((BUNDLE / "configs" / "inference.json").read_text())["network_def"] | {"features": FEATURES}
    model = {"network_def": network, "patch_size": [32, 32, 32], "spacing": [1.0, 1.0, 1.5]}
    model["class_names"] = ["background", "drawn", "undrawn"]
    (copy / "model.json").write_text(json.dumps(model))
    rng = np.random.default_rng(0)
    (tmp_path / "scans").mkdir()
    items = []
    for name in ("a", "b"):
        affine = np.diag([-1.0, 1.2, 2.0, 1.0])
        image, label = rng.normal(size=(24, 20, 12)).astype(np.float32), np.zeros((24, 20, 12), dtype=np.uint8)
        label[6:18, 5:15, 3:9] = 1
        nib.save(nib.Nifti1Image(image, affine), tmp_path / "scans" / f"{name}.nii.gz")
        nib.save(nib.Nifti1Image(label, affine), tmp_path / f"{name}_label.nii.gz")
        items.append({"image": f"{name}.nii.gz", "label": str(tmp_path / f"{name}_label.nii.gz")})
    items[1]["ignored"] = ["undrawn"]
    (tmp_path / "scans" / "datalist.json").write_text(json.dumps({"testing": items}))
    return copy


def run_stock(bundle: Path, config: str, *options: str) -> subprocess.CompletedProcess[str]:
    files = f"['{bundle}/configs/{config}','{bundle}/model.json']"
    command = [sys.executable, "-c", HIDE_AND_RUN, "run", "--config_file", files, *options]
    env = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    # another working directory: outputs must still land in the bundle
    cwd = bundle.parent
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=300, check=False)


def test_inference_runs_with_stock_monai_alone(bundle, tmp_path):
    result = run_stock(bundle, "inference.json", "--dataset_dir", str(tmp_path / "scans"))
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    for name in ("a", "b"):
        mask = nib.load(bundle / "eval" / f"{name}_seg.nii.gz")
        assert mask.shape == (24, 20, 12)
        np.testing.assert_allclose(mask.affine, np.diag([-1.0, 1.2, 2.0, 1.0]), atol=2e-6)


def test_evaluation_runs_with_stock_monai_alone(bundle, tmp_path):
    result = run_stock(bundle, "evaluate.json", "--dataset_dir", str(tmp_path / "scans"))
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    assert "scipy is not installed" in result.stdout
    lines = (bundle / "eval" / "val_mean_dice_raw.csv").read_text().splitlines()
    assert len(lines) == 3
    pred = np.asarray(nib.load(bundle / "eval" / "predictions" / "a_pred.nii.gz").dataobj) == 1
    truth = np.asarray(nib.load(tmp_path / "a_label.nii.gz").dataobj) > 0
    dice = 2 * (pred & truth).sum() / (pred.sum() + truth.sum())
    assert float(lines[1].split(",")[1]) == pytest.approx(dice, abs=1e-4)
    assert lines[2].split(",")[2] == "nan", "the structure that was not drawn in b"
    assert "nan" not in lines[1]


def test_a_mistyped_key_is_refused_without_mnseg_too(bundle, tmp_path):
    result = run_stock(bundle, "inference.json", "--dataset_dir", str(tmp_path / "scans"), "--modelfile", "x.pt",
                       "--_own", "1", "--experiment_name", "as --tracking adds it")  # fmt: skip
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert "has the key 'modelfile' (did you mean 'model_file'?)" in result.stderr and "_own" not in result.stderr
    assert "experiment" not in result.stderr
    assert not (bundle / "eval").exists()


def test_training_without_mnseg_is_refused_in_a_sentence(bundle, tmp_path):
    shutil.copy(BUNDLE / "configs" / "train.json", bundle / "configs")
    result = run_stock(bundle, "train.json", "--dataset_dir", str(tmp_path / "scans"))
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert "this config needs the package mnseg" in result.stderr.strip().splitlines()[-1]


def test_a_missing_model_is_one_sentence_and_exit_code_1(bundle, tmp_path):
    (bundle / "models" / "model.pt").unlink()
    result = run_stock(bundle, "inference.json", "--dataset_dir", str(tmp_path / "scans"))
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert result.stderr.strip().splitlines()[-1].startswith(f"no model at {bundle / 'models' / 'model.pt'}")
    assert not (bundle / "eval").exists()
