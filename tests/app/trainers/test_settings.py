"""What a run is told: settings merged as texts, the run's overlay, where it begins."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lib.registry.parts import sha256_of
from lib.trainers.settings import OF_BOTH, OF_MODEL, config_files, merged_settings, run_overlay, signature
from lib.trainers.warm_start import choose_start

from mnseg.errors import UserError

BUNDLE = Path(__file__).parents[3] / "bundles" / "mn_cotraining"


def test_later_files_win_and_nested_keys_reach_in(tmp_path):
    (tmp_path / "overlay.json").write_text('{"network_def#features": [1, 2], "stage_1_epochs": 7, "train::trainer": 1}')
    merged = merged_settings(config_files(BUNDLE, [tmp_path / "overlay.json"]), {"stage_1_epochs": 9})
    assert merged["network_def"]["features"] == [1, 2] and merged["network_def"]["_target_"] == "BasicUNet"
    assert merged["stage_1_epochs"] == 9 and merged["train"]["trainer"] == 1


def test_it_agrees_with_monai(tmp_path):
    from monai.bundle import ConfigParser

    (tmp_path / "overlay.json").write_text('{"network_def#features": [1, 2], "intensity#transforms#0#lower": 2.0}')
    files = [*config_files(BUNDLE, [tmp_path / "overlay.json"]), Path(__file__).parents[3] / "configs/recipes/cpu.json"]
    parser = ConfigParser()
    parser.read_config([str(path) for path in files])
    merged = merged_settings(files, {})
    assert {key: merged[key] for key in (*OF_MODEL, *OF_BOTH)} == {key: parser[key] for key in (*OF_MODEL, *OF_BOTH)}


@pytest.mark.parametrize("name", ["$import os", "@seed", "%x", "a@#b"])
def test_names_that_a_config_would_evaluate_are_refused(tmp_path, name):
    with pytest.raises(UserError, match="expression"):
        run_overlay(tmp_path, ["background", name], {}, None, 0.5)


def test_a_warm_start_takes_its_share_of_the_epochs(tmp_path):
    settings = {"stage_1_epochs": 500, "stage_2_epochs": 3500, "warmup_epochs": 1}
    overlay = run_overlay(tmp_path, ["background", "a"], settings, tmp_path / "c.pt", 0.5)
    assert [overlay[key] for key in settings] == [250, 1750, 1]
    assert not set(settings) & run_overlay(tmp_path, ["background", "a"], settings, None, 0.5).keys()


def test_a_warm_start_learns_at_a_lower_rate(tmp_path):
    settings = {"learning_rate": 0.01, "learning_rate_2d": "$@learning_rate / 5", "learning_rate_final": 0.0}
    overlay = run_overlay(tmp_path, ["background", "a"], settings, tmp_path / "c.pt", 0.5, 0.3)
    assert overlay["learning_rate"] == pytest.approx(0.003)
    assert overlay["learning_rate_final"] == 0
    assert "learning_rate_2d" not in overlay  # it follows by itself
    assert "learning_rate" not in run_overlay(tmp_path, ["background", "a"], settings, None, 1.0, 0.3)


@pytest.fixture
def version(tmp_path):
    facts = {"signature": {**signature({}), "class_names": ["background", "a"], "model_2d": "x"}}
    for name in ("model.pt", "checkpoint.pt", "fold.pt"):
        torch.save({"weight": torch.zeros(99)}, tmp_path / name)
    facts["model_sha256"] = sha256_of(tmp_path / "model.pt")
    (tmp_path / "datalist.json").write_text(json.dumps({"seen": ["s1"], "folds": [{"index": 0, "seen": ["s2"]}]}))
    return SimpleNamespace(name="mnseg 0001", facts=facts, model_file=tmp_path / "model.pt",
                           checkpoint=tmp_path / "checkpoint.pt", fold_checkpoint=lambda fold: tmp_path / "fold.pt",
                           datalist=tmp_path / "datalist.json", overlay=tmp_path / "model.json")  # fmt: skip


@pytest.mark.parametrize(
    ("change", "forbidden", "fold", "file", "words"),
    [
        ({}, [], None, "checkpoint.pt", "from mnseg 0001"),
        ({"model_2d": "y"}, [], None, "model.pt", "2D network begins anew: the 2D network is another one"),
        ({"class_names": ["background", "b"]}, [], None, None, "class_names differs"),
        ({"network_def": {}}, [], None, None, "network_def differs"),
        ({}, ["s1"], None, None, "was trained on s1"),
        ({}, ["s1"], 0, "fold.pt", "from mnseg 0001"),
        ({}, ["s2"], 0, None, "was trained on s2"),
        ({}, [], 1, None, "no model of which it is known"),
        ({"model_2d": "y"}, [], 0, None, "no files to begin with: the 2D network is another one"),
    ],
)
def test_where_a_run_begins(version, change, forbidden, fold, file, words):
    start = choose_start(version, {**version.facts["signature"], **change}, forbidden, fold)
    assert (start.file.name if start.file else None) == file and words in start.reason


def test_a_damaged_datalist_gives_no_start(version):
    version.datalist.write_text("{")
    assert choose_start(version, version.facts["signature"], []).file is None


def cut(file):
    file.write_bytes(file.read_bytes()[:-50])


def turn_a_bit(file):
    """Within the weights, where nothing but the checksum tells."""
    content = bytearray(file.read_bytes())
    content[content.index(bytes(99 * 4)) + 200] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("damage", [cut, turn_a_bit, lambda file: file.write_bytes(b"")])
def test_no_run_begins_with_damaged_files(version, damage):
    wanted = version.facts["signature"]
    damage(version.fold_checkpoint(0))
    start = choose_start(version, wanted, [], 0)
    assert start.file is None and start.reason.endswith("no files to begin with: its checkpoint is damaged")
    damage(version.checkpoint)
    start = choose_start(version, wanted, [])
    assert start.file == version.model_file and start.reason.endswith("begins anew: its checkpoint is damaged")
    damage(version.model_file)
    assert choose_start(version, wanted, []).file is None
    version.checkpoint.unlink()
    version.model_file.unlink()
    start = choose_start(version, wanted, [])
    assert start.file is None and start.reason.endswith("no files to begin with: there is no checkpoint")
