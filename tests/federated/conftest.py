"""Two small hospitals, and a federation of them that takes a second."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mnseg.data.phantom import write_phantom_dataset
from one_thread import one_thread

ROOT = Path(__file__).resolve().parents[2]
TRAIN = ROOT / "bundles" / "mn_cotraining" / "configs" / "train.json"
EPOCHS = 4
SMALL: dict[str, Any] = {
    "device": "cpu",
    "class_names": ["background", "lobe", "bean", "tube"],
    "patch_size": [16, 16, 8],
    "batch_size": 4,
    "epoch_length": 1,
    "stage_1_epochs": 1,
    "warmup_epochs": 0,
    "stage_2_epochs": 3,
    "learning_rate": 0.01,
    "val_interval": 2,
    "refresh_interval": 1,
    "hidden_cases": 0,
    "model_2d": "segformer-tiny-random",
    "pretrained": False,
    "finetuning": "decoder",
    "lora_rank": 4,
    "slice_axis": 2,
    "network_def": {
        "_target_": "UNet",
        "spatial_dims": 3,
        "in_channels": "@in_channels",
        "out_channels": "@num_classes",
        "channels": [4, 8],
        "strides": [2],
        "norm": "batch",
    },
}


_one_thread = pytest.fixture(scope="module", autouse=True)(one_thread)


@pytest.fixture(scope="session")
def hospitals(tmp_path_factory) -> dict[str, str]:
    """"east" has three labeled scans, "west" one."""
    sizes = {"east": (3, 2), "west": (1, 3)}
    return {
        name: str(write_phantom_dataset(tmp_path_factory.mktemp(name), *sizes[name], 1, 1, size=20, seed=seed).parent)
        for seed, name in enumerate(sizes)
    }


@pytest.fixture(scope="session")
def overlay(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("overlay") / "small.json"
    path.write_text(json.dumps(SMALL))
    return path
