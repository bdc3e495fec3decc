"""The command of docs/how-to/several-gpus.md, run as it stands there, on two CPU processes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import SwinConfig

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


def prepare(folder: Path, **settings) -> str:
    """A folder in which the page's command runs; the command."""
    for name in ("bundles", "configs"):
        (folder / name).symlink_to(ROOT / name)
    write_phantom_dataset(folder / "data", 2, 2, 1, 0, size=18)
    (folder / "my-data.json").write_text(json.dumps(SETTINGS | settings))
    return re.search(r"^    torchrun(?:.*\\\n)+.*", PAGE.read_text(), re.MULTILINE).group()


def started(command: str, folder: Path) -> subprocess.Popen:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return subprocess.Popen(
        ["bash", "-c", command], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def complete(command: str, folder: Path) -> SimpleNamespace:
    process = started(command, folder)
    try:
        stdout, stderr = process.communicate(timeout=300)
    finally:
        process.kill()
    return SimpleNamespace(returncode=process.returncode, stdout=stdout, stderr=stderr)


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> SimpleNamespace:
    folder = tmp_path_factory.mktemp("work")
    # Of the 2D networks one with parameters that no output depends on.
    SwinConfig(image_size=32, embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], window_size=4).save_pretrained(
        folder / "swin"
    )
    result = complete(prepare(folder, model_2d="swin"), folder)
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


def workers_of(torchrun: int) -> list[int]:
    """The training processes, by rank: torchrun's children. (bash replaces itself with torchrun.)"""
    children = Path(f"/proc/{torchrun}/task/{torchrun}/children").read_text().split()
    ranks = {}
    for child in children:
        environment = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
        ranks[next(entry for entry in environment if entry.startswith(b"RANK="))] = int(child)
    return [ranks[name] for name in sorted(ranks)]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds the processes by Linux's /proc")
@pytest.mark.parametrize("overlay", [None, "mean_teacher", "two_3d_networks"])
@pytest.mark.parametrize("victims", [(1,), (0, 1)], ids=["one killed", "both killed"])
def test_a_killed_run_continues_to_the_same_weights(tmp_path, overlay, victims):
    """The page's command, SIGKILL in the fourth epoch, the command again: equal to a run without a stop."""
    more = {"stage_2_epochs": 5, "batch_size": 4, "checkpoint_interval": 1, "num_unlabeled": 1}
    models = []
    for name in ("whole", "killed"):
        folder = tmp_path / name
        folder.mkdir()
        command = prepare(folder, **more)
        if overlay:
            command = command.replace("'my-data.json'", f"'my-data.json','configs/ablations/{overlay}.json'")
        if name == "killed":
            kill_after_epoch(3, started(command, folder), folder, victims)
        result = complete(command, folder)
        assert result.returncode == 0, result.stderr[-4000:]
        models.append(torch.load(folder / "runs" / "mn" / "models" / "model.pt", weights_only=True))
        lines = (folder / "runs" / "mn" / "history.jsonl").read_text().splitlines()
        assert [json.loads(line)["epoch"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert all(torch.equal(models[0][key], models[1][key]) for key in models[0])


def kill_after_epoch(epoch: int, torchrun: subprocess.Popen, folder: Path, victims: tuple[int, ...]) -> None:
    history = folder / "runs" / "mn" / "history.jsonl"
    end = time.monotonic() + 200
    while not (history.is_file() and len(history.read_text().splitlines()) >= epoch):
        assert torchrun.poll() is None and time.monotonic() < end, "it did not come so far"
        time.sleep(0.05)
    workers = workers_of(torchrun.pid)
    for victim in victims:
        os.kill(workers[victim], signal.SIGKILL)
    _, stderr = torchrun.communicate(timeout=60)
    assert torchrun.returncode != 0 and "SIGKILL" in stderr
    assert len(history.read_text().splitlines()) < 6
