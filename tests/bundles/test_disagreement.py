"""disagreement.json over train.json: a trained run scores its unlabeled scans."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigWorkflow

from mnseg.data.phantom import write_phantom_dataset
from mnseg.errors import UserError, user_error_in

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "bundles" / "mn_cotraining" / "configs"
UNET = {"_target_": "UNet", "spatial_dims": 3, "in_channels": "@in_channels", "out_channels": "@num_classes",
        "channels": [4, 8], "strides": [2]}  # fmt: skip
SETTINGS = {
    "device": "cpu", "class_names": ["background", "lobe", "bean", "tube"], "patch_size": [16, 16, 8], "batch_size": 4,
    "epoch_length": 1, "stage_1_epochs": 1, "warmup_epochs": 1, "stage_2_epochs": 1, "hidden_cases": 0,
    "model_2d": "segformer-tiny-random", "pretrained": False, "lora_rank": 4, "slice_axis": 2, "ema_momentum": 0.2,
    "network_def": UNET,
}  # fmt: skip


def workflow(run_dir: Path, data: Path, *configs: str, **more) -> ConfigWorkflow:
    made = ConfigWorkflow(
        config_file=[str(CONFIGS / name) for name in ("train.json", *configs)],
        meta_file=str(CONFIGS / "metadata.json"), logging_file=False, workflow_type="train",
        run_dir=str(run_dir), dataset_dir=str(data), **{**SETTINGS, **more},
    )  # fmt: skip
    made.initialize()
    return made


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_phantom_dataset(tmp_path_factory.mktemp("data"), 2, 3, 1, 0, size=20).parent


@pytest.fixture(scope="module")
def run_dir(data, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    workflow(folder, data).run()
    return folder


def test_as_a_child_process(run_dir, data, tmp_path):
    """Every scan is there; the command repeated changes nothing; the run's own files stay as they are."""
    (tmp_path / "overlay.json").write_text(json.dumps(SETTINGS))
    files = [CONFIGS / "train.json", tmp_path / "overlay.json", CONFIGS / "disagreement.json"]
    before = {path: path.stat().st_mtime_ns for path in run_dir.rglob("*")}
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", str([str(path) for path in files]),
               "--run_dir", str(run_dir), "--dataset_dir", str(data)]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-3000:]
    content = json.loads((run_dir / "scores.json").read_text())
    lists = json.loads((data / "datalist.json").read_text())
    cases = {k: [Path(item["image"]).name.removesuffix(".nii.gz") for item in v] for k, v in lists.items()
             if k in ("labeled", "unlabeled", "validation")}  # fmt: skip
    assert content["complete"] and set(content["scans"]) == {case for names in cases.values() for case in names}
    for case, record in content["scans"].items():
        assert len(record["features"]) == len(content["feature_names"])
        assert ("disagreement" in record) == (case in cases["unlabeled"])
    assert {path: path.stat().st_mtime_ns for path in before if path != run_dir} == {
        path: mtime for path, mtime in before.items() if path != run_dir
    }
    text = (run_dir / "scores.json").read_bytes()
    again = workflow(run_dir, data, "disagreement.json")
    again.run()
    assert (run_dir / "scores.json").read_bytes() == text


def test_the_moving_average_is_scored(run_dir, data, tmp_path):
    parser = workflow(run_dir, data, "disagreement.json", scores_file=str(tmp_path / "s.json")).parser
    network = parser.get_parsed_content("scorer").networks["3d"]
    product = torch.load(run_dir / "models" / "model.pt", weights_only=True)
    assert all(torch.equal(value, product[name]) for name, value in network.state_dict().items())
    assert not network.training


def refusal(*args, **more) -> str:
    with pytest.raises(Exception) as caught:  # noqa: B017, PT011
        workflow(*args, **more).run()
    error = user_error_in(caught.value)
    assert isinstance(error, UserError), repr(caught.value)
    return str(error)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"score_case": 3}, "'score_case' (did you mean 'score_cases'?)"),
        ({"score_cases": 0}, "score_cases is 0"),
        ({"spacing": [2, 2, 2]}, "spacing None then, [2, 2, 2] now"),
        ({"ckpt_dir": "/nowhere"}, "no checkpoint /nowhere/checkpoint.pt"),
        ({"data_list_file_path": "/nowhere/list.json"}, "/nowhere/list.json does not exist"),
    ],
)
def test_refused_by_name(run_dir, data, tmp_path, change, words):
    message = refusal(run_dir, data, "disagreement.json", **{"scores_file": str(tmp_path / "s.json"), **change})
    assert words in message and not (tmp_path / "s.json").exists()
