"""A whole training with the real bundle on tiny scans: from labels to a published version, then a poisoned one."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from bench import FREE, HELD
from fakes import ROOT, FolderStore, make_conf, until
from lib.infers.traffic import Traffic
from lib.labels.provenance import Provenance
from lib.registry.versions import Registry
from lib.retraining.service import TrainingService

SIZE = 24
SETTINGS = {
    "device": "cpu",
    "patch_size": [16, 16, 16],
    "batch_size": 4,
    "epoch_length": 4,
    "stage_1_epochs": 5,
    "warmup_epochs": 1,
    "stage_2_epochs": 3,
    "learning_rate": 0.02,
    "learning_rate_2d": 0.003,
    "val_interval": 4,
    "refresh_interval": 4,
    "checkpoint_interval": 4,
    "slice_axis": 2,
    "model_2d": "segformer-tiny-random",
    "pretrained": False,
    "finetuning": "whole",
    "overlap": 0.25,
    "network_def": {
        "_target_": "UNet", "spatial_dims": 3, "in_channels": "@in_channels", "out_channels": "@num_classes",
        "channels": [8, 16], "strides": [2], "norm": "INSTANCE",
    },
}  # fmt: skip


def ball(name: str) -> tuple[np.ndarray, np.ndarray]:
    """A bright ball somewhere in noise, and its mask."""
    rng = np.random.default_rng(sum(map(ord, name)) * 7919)
    center, radius = rng.uniform(9, 15, 3), rng.uniform(5, 7)
    grid = np.stack(np.meshgrid(*[np.arange(SIZE)] * 3, indexing="ij"), -1)
    mask = (np.linalg.norm(grid - center, axis=-1) < radius).astype(np.uint8)
    return (100 * mask + rng.normal(50, 10, mask.shape)).astype(np.float32), mask


def write(path: Path, array: np.ndarray) -> None:
    nib.save(nib.Nifti1Image(array, np.diag([1.0, 1.0, 2.0, 1.0])), path)


def add(store: FolderStore, name: str, labeled: bool) -> None:
    image, mask = ball(name)
    write(store.root / "images" / f"{name}.nii.gz", image)
    if labeled:
        write(store.root / "labels" / f"{name}.nii.gz", mask)


@pytest.fixture
def store(tmp_path) -> FolderStore:
    made = FolderStore(tmp_path / "studies")
    for name in (*FREE[:3], *HELD[:3]):
        add(made, name, True)
    for name in FREE[3:5]:
        add(made, name, False)
    return made


@pytest.fixture
def make_service(store, tmp_path, monkeypatch):
    monkeypatch.setattr("lib.trainers.process.NICENESS", 0)  # or the test waits for whatever else the machine does
    made = []

    def make(**more) -> TrainingService:
        conf = make_conf(tmp_path, validation_fraction=0.4, settings=SETTINGS, threads=1, retrain_after=3, **more)
        registry = Registry(conf.workspace / "registry")
        made.append(TrainingService(conf, store, registry, Provenance(conf.workspace), Traffic()))
        made[0].start()
        return made[0]

    yield make
    for service in made:
        service.close()


def ended(service: TrainingService, count: int) -> dict:
    until(lambda: len(jobs := service.runs.all()) == count and jobs[-1].ended, 280)
    return service.status()["job"]


def bundle_without_scoring(tmp_path: Path) -> Path:
    """Starting Python with MONAI takes most of this test; the scoring has tests of its own."""
    source = ROOT / "bundles" / "mn_cotraining"
    (tmp_path / "bundle" / "configs").mkdir(parents=True)
    (tmp_path / "bundle" / "scripts").symlink_to(source / "scripts")
    for path in (source / "configs").iterdir():
        if path.name != "disagreement.json":
            (tmp_path / "bundle" / "configs" / path.name).symlink_to(path)
    return tmp_path / "bundle"


def test_from_labels_to_a_published_version(make_service, tmp_path):
    service = make_service(bundle=bundle_without_scoring(tmp_path))
    job = ended(service, 1)
    assert (job["status"], job["outcome"]) == ("DONE", "published"), job
    version = service.registry.published()
    assert version.facts["verdict"]["dice"] > 0.6 and version.facts["verdict"]["cases"] == 3
    assert {p.name for p in version.predictions.iterdir()} == {f"{name}.nii.gz" for name in HELD[:3]}
    mask = nib.load(version.predictions / f"{HELD[0]}.nii.gz")
    assert mask.get_data_dtype() == np.uint8 and mask.header.get_zooms() == (1.0, 1.0, 2.0)
    assert service.progress().epoch == 8 and service.progress().dice_3d is not None


@pytest.mark.slow
def test_a_poisoned_training_is_refused(make_service, store):
    service = make_service()
    assert ended(service, 1)["outcome"] == "published"
    version = service.registry.published()
    assert set(json.loads(version.scores.read_text())["scans"]) >= set(FREE[3:5])
    for name in FREE[:3]:  # somebody labels everything but the ball
        write(store.root / "labels" / f"{name}.nii.gz", 1 - ball(name)[1])
        service.label_saved(name)
    job = ended(service, 2)
    assert (job["status"], job["outcome"]) == ("DONE", "kept"), job
    assert job["starts"]["main"] == "from mnseg 0001" and job["epochs"] == 4
    assert service.registry.published().id == "0001" and service.registry.history()[-1]["kind"] == "refused"


@pytest.mark.slow
def test_few_patients_in_validation(make_service, store):
    """Out-of-fold masks by real fold models, then a new label whose scan the published main model had seen."""
    for name in HELD[1:3]:
        for folder in ("images", "labels"):
            (store.root / folder / f"{name}.nii.gz").unlink()
    service = make_service()
    job = ended(service, 1)
    assert (job["status"], job["outcome"]) == ("DONE", "published"), job
    version = service.registry.published()
    assert version.facts["verdict"]["cases"] == 4 and version.facts["verdict"]["dice"] > 0.6
    add(store, FREE[3], True)
    for name in (FREE[0], FREE[1], FREE[3]):
        service.label_saved(name)
    job = ended(service, 2)
    assert job["status"] == "DONE" and set(job["starts"].values()) == {"from mnseg 0001"}
    assert job["verdict"]["cases"] == 5, "the new one was predicted by the published fold model that never saw it"
    assert (version.predictions / f"{FREE[3]}.nii.gz").is_file()
