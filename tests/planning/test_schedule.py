"""The epochs that a plan counts are those that a training really has."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from monai.bundle import ConfigWorkflow

from mnseg.data.phantom import write_phantom_dataset
from mnseg.handlers import PseudoForegroundHandler
from mnseg.planning.schedule import epochs_of
from one_thread import one_thread

TRAIN = str(Path(__file__).resolve().parents[2] / "bundles" / "mn_cotraining" / "configs" / "train.json")
SETTINGS = {
    "batch_size": 4, "min_labeled": 1, "num_unlabeled": 2, "stage_1_epochs": 2, "stage_2_epochs": 8,
    "warmup_epochs": 1, "restart": True, "refresh_interval": 3, "refresh_cases": 2, "val_interval": 4,
    "roles": "alternate", "sampling": "learning_rate",
}  # fmt: skip
LABELED, UNLABELED = 2, 3

_one_thread = pytest.fixture(scope="module", autouse=True)(one_thread)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_phantom_dataset(tmp_path_factory.mktemp("data"), LABELED, UNLABELED, 1, 0, size=20).parent


def tiny(data: Path, run_dir: Path) -> dict:
    network = {"_target_": "UNet", "spatial_dims": 3, "in_channels": 1, "out_channels": 4, "channels": [2, 4],
               "strides": [2]}  # fmt: skip
    return {
        "dataset_dir": str(data), "run_dir": str(run_dir), "device": "cpu", "patch_size": [8, 8, 8],
        "class_names": ["background", "lobe", "bean", "tube"], "network_def": network, "slice_axis": 2,
        "model_2d": "segformer-tiny-random", "pretrained": False, "lora_rank": 4, "epoch_length": 1, "hidden_cases": 0,
    }  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [{}, {"sampling": "linear"}, {"sampling": "uniform"}, {"sampling": "fixed"}, {"roles": "fixed_teacher"},
     {"roles": "joint_teacher"}, {"restart": False, "refresh_cases": None}],
    ids=str,
)  # fmt: skip
def test_they_are_those_of_the_history(data, tmp_path, monkeypatch, change):
    settings, refreshed = {**SETTINGS, **change}, []
    original = PseudoForegroundHandler._predict

    def predict(self, index, network, engine):
        refreshed.append(engine.state.epoch)
        return original(self, index, network, engine)

    monkeypatch.setattr(PseudoForegroundHandler, "_predict", predict)
    workflow = ConfigWorkflow(TRAIN, workflow_type="train", logging_file=False, **tiny(data, tmp_path), **settings)
    workflow.initialize()
    workflow.run()
    lines = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    planned = epochs_of(settings, LABELED, UNLABELED)
    assert [(e.student, e.num_unlabeled) for e in planned] == [(x["student"], x["num_unlabeled"]) for x in lines]
    assert [e.refreshed for e in planned] == [refreshed.count(x["epoch"]) for x in lines]
    assert [e.validates for e in planned] == ["val_dice_3d" in x for x in lines]


def test_an_empty_pool_has_labeled_batches_only():
    assert {(e.num_unlabeled, e.refreshed) for e in epochs_of(SETTINGS, LABELED, 0)} == {(0, 0)}
