"""An Orthanc filled with phantoms and real scans, label servers on it, and a Chromium; all end with the tests."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

pytest.importorskip("monailabel", reason="MONAI Label is not installed (make test-e2e)")

sys.path.insert(0, str(Path(__file__).parent))
from dicom_phantoms import AXIAL, OBLIQUE, abdomen, ball, threshold_model, write_series  # noqa: E402
from patients import HELD, HELD_OUT, TRAIN, VIEWED  # noqa: E402
from servers import ORTHANC, PLUGIN, LabelServer, Orthanc  # noqa: E402

# A network that learns a bright ball in some seconds.
SETTINGS = {
    "device": "cpu", "patch_size": [16, 16, 16], "batch_size": 4, "epoch_length": 4, "stage_1_epochs": 5,
    "warmup_epochs": 1, "stage_2_epochs": 3, "learning_rate": 0.02, "learning_rate_2d": 0.003, "val_interval": 4,
    "refresh_interval": 4, "checkpoint_interval": 4, "slice_axis": 2, "model_2d": "segformer-tiny-random",
    "pretrained": False, "finetuning": "whole", "overlap": 0.25,
    "network_def": {
        "_target_": "UNet", "spatial_dims": 3, "in_channels": "@in_channels", "out_channels": "@num_classes",
        "channels": [8, 16], "strides": [2], "norm": "INSTANCE",
    },
}  # fmt: skip


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.e2e)


@pytest.fixture(scope="session")
def orthanc(tmp_path_factory):
    """Its ``uids``: series by patient; its ``masks``: the truth, (columns, rows, slices)."""
    if not (ORTHANC.exists() and PLUGIN.exists()):
        pytest.skip("Orthanc is not installed: apt-get install orthanc orthanc-dicomweb")
    folder = tmp_path_factory.mktemp("orthanc")
    server = Orthanc(folder / "server")
    server.uids, server.masks, server.folders = {}, {}, {}

    def add(name, made, *options):
        server.folders[name] = folder / name
        server.uids[name], server.masks[name] = write_series(folder / name, made[0], name, *options), made[1]
        server.send(folder / name)

    for k, name in enumerate((*TRAIN, *HELD)):
        add(name, ball(name), "MR", OBLIQUE if k % 2 else AXIAL)
    for k, name in enumerate(VIEWED):
        add(name, abdomen(k + 3), "CT", AXIAL, (2.0, 2.0, 4.0), name.endswith("down"))
    yield server
    server.end()


@pytest.fixture(scope="session")
def shared_series(orthanc, shared_dir):
    """The real MR and CT, sent to Orthanc; folders."""
    folders = {"MR": shared_dir / "data" / "dicom" / "mr_hippocampus_crop", "CT": shared_dir / "data/dicom/ct_abdomen"}
    for folder in folders.values():
        orthanc.send(folder)
    return folders


@pytest.fixture(scope="session")
def mr_server(orthanc, tmp_path_factory):
    """Labels MR series; nothing is trained yet."""
    conf = {"settings": json.dumps(SETTINGS), "retrain": "off", "min_labels": 3, "validation_fraction": HELD_OUT,
            "threads": 1, "seg_interval": 2}
    server = LabelServer(orthanc.dicomweb, "MR", "organ", tmp_path_factory.mktemp("mr") / "workspace", conf)
    yield server
    server.end()


@pytest.fixture(scope="session")
def ct_server(orthanc, tmp_path_factory):
    """Labels CT series, with a model that finds what is bright."""
    model = threshold_model(tmp_path_factory.mktemp("model") / "bundle")
    conf = {"model": model, "retrain": "off", "threads": 1, "seg_interval": 2, "promptable": "random-walker"}
    server = LabelServer(orthanc.dicomweb, "CT", "organ", tmp_path_factory.mktemp("ct") / "workspace", conf)
    yield server
    server.end()


@pytest.fixture
def pictures(tmp_path):
    """Where screenshots go: MNSEG_SCREENSHOTS, or the test's own folder."""
    folder = Path(os.environ.get("MNSEG_SCREENSHOTS") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    return folder
