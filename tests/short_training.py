"""A training by train.json that is over in a second: its settings, and what it left."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigWorkflow

from mnseg.data.phantom import write_phantom_dataset
from mnseg.errors import UserError, user_error_in

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "bundles" / "mn_cotraining" / "configs"
LABELED, UNLABELED = 2, 3
STAGE_1, STAGE_2, EPOCH_LENGTH, BATCH_SIZE = 2, 6, 2, 4


def write_data(folder: Path) -> Path:
    """A phantom of a few scans of 20x20x20; returns its folder."""
    return write_phantom_dataset(folder, LABELED, UNLABELED, 1, 1, size=20).parent


def settings(data: Path, run_dir: Path, **more: Any) -> dict[str, Any]:
    return {
        "dataset_dir": str(data),
        "run_dir": str(run_dir),
        "device": "cpu",
        "class_names": ["background", "lobe", "bean", "tube"],
        "patch_size": [16, 16, 8],
        "batch_size": BATCH_SIZE,
        "epoch_length": EPOCH_LENGTH,
        "stage_1_epochs": STAGE_1,
        "warmup_epochs": 1,
        "stage_2_epochs": STAGE_2,
        "checkpoint_interval": 2,
        "val_interval": 4,
        "refresh_interval": 3,
        "refresh_cases": 2,
        "hidden_cases": 1,
        "model_2d": "segformer-tiny-random",
        "pretrained": False,
        "lora_rank": 4,
        "slice_axis": 2,
        "network_def": {
            "_target_": "UNet",
            "spatial_dims": 3,
            "in_channels": "@in_channels",
            "out_channels": "@num_classes",
            "channels": [4, 8],
            "strides": [2],
        },
        **more,
    }


def workflow(overrides: dict[str, Any], *overlays: Path | str, kind: str = "train") -> ConfigWorkflow:
    names = [str(CONFIGS / "train.json"), *map(str, overlays)]
    made = ConfigWorkflow(
        config_file=names[0] if len(names) == 1 else names,
        meta_file=str(CONFIGS / "metadata.json"),
        logging_file=False,
        workflow_type=kind,
        **overrides,
    )
    made.initialize()
    return made


def train(overrides: dict[str, Any], *overlays: Path | str) -> ConfigWorkflow:
    made = workflow(overrides, *overlays)
    made.run()
    made.finalize()
    return made


def command(overrides: dict[str, Any], *overlays: Path | str, **env: str) -> subprocess.CompletedProcess:
    names = [str(CONFIGS / "train.json"), *map(str, overlays)]
    arguments = [part for key, value in overrides.items() for part in (f"--{key}", str(value))]
    return subprocess.run(
        [sys.executable, "-m", "monai.bundle", "run", "--config_file", str(names), *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **env},
    )


def history(run_dir: Path) -> list[dict]:
    return [json.loads(line) for line in (run_dir / "history.jsonl").read_text().splitlines()]


def weights(run_dir: Path) -> dict[str, torch.Tensor]:
    """All tensors of the final checkpoint: networks, optimizers, moving average, pseudo-foreground."""
    tensors: dict[str, torch.Tensor] = {}

    def walk(name: str, value: Any) -> None:
        if isinstance(value, torch.Tensor):
            tensors[name] = value
        elif isinstance(value, dict):
            for key, inner in value.items():
                walk(f"{name}/{key}", inner)

    walk("", torch.load(run_dir / "models" / "checkpoint.pt", weights_only=True)["objects"])
    return tensors


def refusal(*args: Any) -> str:
    with pytest.raises(Exception) as caught:  # noqa: B017, PT011
        train(*args)
    error = user_error_in(caught.value)
    assert isinstance(error, UserError), repr(caught.value)
    return str(error)
