"""A run of sam_mining's configs that is over in seconds: its settings, and what it left."""

from __future__ import annotations

import json
from pathlib import Path

from monai.bundle import ConfigWorkflow

from mnseg.data.phantom_polyps import write_polyp_dataset

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "bundles" / "sam_mining" / "configs"
FEATURES = [4, 4, 8, 8, 8, 4]
SIZE = (32, 40)
# Stage 2 begins with epoch 3; rounds in epochs 3, 5 and 7.
EPOCH_LENGTH, STAGE_1, STAGE_2 = 2, 2, 5


def write_data(folder: Path) -> Path:
    """A few phantom polyps; returns their folder."""
    return write_polyp_dataset(folder, 3, 4, 1, 2, size=SIZE).parent


def settings(data: Path, run_dir: Path, **more) -> dict:
    return {
        "dataset_dir": str(data),
        "run_dir": str(run_dir),
        "device": "cpu",
        "class_names": ["background", "polyp"],
        "image_size": [32, 32],
        "network_def#features": FEATURES,
        "batch_size": 3,
        "num_unlabeled": 1,
        "epoch_length": EPOCH_LENGTH,
        "stage_1_epochs": STAGE_1,
        "warmup_epochs": 1,
        "stage_2_epochs": STAGE_2,
        "mining_interval": 2,
        "ramp_epochs": 2,
        "val_interval": 3,
        "checkpoint_interval": 1,
        "flip_axes": [0, 1],
        "miner": {"_target_": "fake_mining.FakeMiner", "rejected": ["unlabeled_001"]},
        **more,
    }


def workflow(config: str, overrides: dict, *overlays: Path | str) -> ConfigWorkflow:
    made = ConfigWorkflow(
        config_file=[str(CONFIGS / config), *map(str, overlays)],
        meta_file=str(CONFIGS / "metadata.json"),
        logging_file=False,
        workflow_type="train" if config == "train.json" else "inference",
        **overrides,
    )
    made.initialize()
    return made


def run(config: str, overrides: dict, *overlays: Path | str) -> ConfigWorkflow:
    made = workflow(config, overrides, *overlays)
    made.run()
    made.finalize()
    return made


def history(run_dir: Path) -> list[dict]:
    return [json.loads(line) for line in (run_dir / "history.jsonl").read_text().splitlines()]
