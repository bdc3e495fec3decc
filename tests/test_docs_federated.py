"""The commands of docs/how-to/train-federated.md run, in the page's order, on two small phantoms."""

from __future__ import annotations

import ast
import json
import re
import shlex
from pathlib import Path

import monai.bundle
import torch

from mnseg.cli import main
from mnseg.data.phantom import write_phantom_dataset

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/how-to/train-federated.md"
# The reader's own overlay, here one that makes the page's schedule short and its networks small.
MY_DATA = {
    "class_names": ["background", "lobe", "bean", "tube"],
    "patch_size": [16, 16, 8],
    "network_def": {
        "_target_": "UNet",
        "spatial_dims": 3,
        "in_channels": "@in_channels",
        "out_channels": "@num_classes",
        "channels": [4, 8],
        "strides": [2],
    },
    "batch_size": 2,
    "epoch_length": 1,
    "stage_1_epochs": 1,
    "warmup_epochs": 0,
    "stage_2_epochs": 3,
    "finetuning": "decoder",
    "hidden_cases": 0,
    "slice_axis": 2,
    "device": "cpu",
}


def commands() -> list[list[str]]:
    text = PAGE.read_text().replace("\\\n", " ")
    return [shlex.split(line) for line in re.findall(r"^    ((?:mnseg|python -m monai.bundle) .*)$", text, re.M)]


def test_the_commands_of_the_page(tmp_path, monkeypatch, capsys):
    for name in ("bundles", "configs"):
        (tmp_path / name).symlink_to(ROOT / name)
    for seed, site in enumerate(("north", "south")):
        write_phantom_dataset(tmp_path / "data" / site, 1, 1, 0, 1, size=16, seed=seed)
    (tmp_path / "my-data.json").write_text(json.dumps(MY_DATA))
    monkeypatch.chdir(tmp_path)
    federate, evaluate = commands()
    assert main(federate[1:]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "runs/federated/global/models/model.pt"
    options = {name.removeprefix("--"): value for name, value in zip(evaluate[4::2], evaluate[5::2], strict=True)}
    monai.bundle.run(config_file=ast.literal_eval(options.pop("config_file")), **options)
    assert (tmp_path / "runs/federated/global/eval/metrics.csv").exists()
    for site in ("north", "south"):
        assert len((tmp_path / "runs/federated" / site / "history.jsonl").read_text().splitlines()) == 4
        update = torch.load(tmp_path / "runs/federated" / site / "update.pt", weights_only=True)
        assert update["data_count"] == 1


def test_wrong_commands_are_said_in_a_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    right = ["--rounds", "1", "--config-file", "train.json", "--run-dir", "runs"]
    for arguments, sentence in (
        (["--site", "north", *right], "--site north: write NAME=DIR"),
        (["--site", "../a=x", *right], "--site ../a=x: write NAME=DIR"),
        (["--site", "global=x", *right], "the name 'global' is taken"),
        (["--site", "a=x", "--site", "a=y", *right], "the name 'a' is taken"),
        (["--site", "a=x", *right, "--", "--batch_size"], "--batch_size: after --, write config keys as --KEY VALUE"),
        (["--site", "a=x", *right, "--", "--run_dir", "x"], "run_dir is set by the federation"),
        (["--site", "a=x", *right], "train.json does not exist"),
    ):
        assert main(["federate", *arguments]) == 1
        error = capsys.readouterr().err
        assert sentence in error and error.count("\n") == 1, error
    assert list(tmp_path.iterdir()) == []
