"""The command of docs/how-to/several-gpus.md, run as it stands there, on two CPU processes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from mnseg.data.phantom import write_phantom_dataset

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "how-to" / "several-gpus.md"
SETTINGS = {
    "device": "cpu",
    "class_names": ["background", "lobe", "bean", "tube"],
    "patch_size": [16, 16, 8],
    "batch_size": 2,
    "epoch_length": 1,
    "stage_1_epochs": 1,
    "warmup_epochs": 0,
    "stage_2_epochs": 2,
    "sampling": "fixed",
    "num_unlabeled": 1,
    "val_interval": 2,
    "refresh_cases": 2,
    "hidden_cases": 1,
    "model_2d": "segformer-tiny-random",
    "pretrained": False,
    "lora_rank": 4,
    "slice_axis": 2,
    "cache_dir": "cache",
    "network_def": {
        "_target_": "UNet",
        "spatial_dims": 3,
        "in_channels": "@in_channels",
        "out_channels": "@num_classes",
        "channels": [4, 8],
        "strides": [2],
    },
}


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> SimpleNamespace:
    folder = tmp_path_factory.mktemp("work")
    for name in ("bundles", "configs"):
        (folder / name).symlink_to(ROOT / name)
    write_phantom_dataset(folder / "data", 2, 2, 1, 0, size=18)
    (folder / "my-data.json").write_text(json.dumps(SETTINGS))
    command = re.search(r"^    torchrun(?:.*\\\n)+.*", PAGE.read_text(), re.MULTILINE).group()
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    result = subprocess.run(
        ["bash", "-c", command], cwd=folder, capture_output=True, text=True, timeout=300,
        env={**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-4000:]
    return SimpleNamespace(folder=folder, run=folder / "runs" / "mn", text=result.stdout + result.stderr)


def test_one_process_writes(done):
    lines = [json.loads(line) for line in (done.run / "history.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    assert [(line["num_labeled"], line["num_unlabeled"]) for line in lines] == [(2, 0), (1, 1), (1, 1)]
    assert [line["unlabeled_seen"] for line in lines] == [0, 2, 4], "of both processes"
    assert {"val_dice_3d", "pseudo_dice_3d"} <= lines[1].keys()
    assert len(list((done.run / "tensorboard").glob("events*"))) == 1
    assert {p.name for p in (done.run / "models").iterdir()} == {"model.pt", "model_best.pt", "checkpoint.pt"}
    assert done.text.count("epoch 3/3: stage 2") == 1
    assert len(list((done.folder / "cache").glob("*.pt"))) == 6  # 2 + 2 + 1, and the hidden case with its label


def test_the_model_has_no_trace_of_the_wrapper(done):
    checkpoint = torch.load(done.run / "models" / "checkpoint.pt", weights_only=True)
    assert checkpoint["processes"] == 2
    names = [key for name in ("network", "network_2d") for key in checkpoint["objects"][name]]
    names += torch.load(done.run / "models" / "model.pt", weights_only=True).keys()
    assert names and not [name for name in names if name.startswith("module.")]
