"""Checks that a bundle's config makes of its own text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigWorkflow

from mnseg.bundle import (
    MODEL_KEYS,
    config_text,
    model_metadata,
    model_overlay,
    refuse_unknown_keys,
    require_sound_settings,
    unknown_keys,
)
from mnseg.errors import user_error_in

MN_CONFIGS = Path(__file__).resolve().parents[1] / "bundles/mn_cotraining/configs"
MODULE_NAMES = ("refuse_unknown_keys", "require_sound_settings", "config_text", "model_metadata", "model_overlay")
CONFIG = {
    "imports": [f"$from mnseg.bundle import {name}" for name in MODULE_NAMES],
    "run_dir": "",
    "pretrained": True,
    "batch_size": 4,
    "lite": False,
    "in_channels": 1,
    "patch_size": [32, 32, 16],
    "class_names": ["background", "organ"],
    "num_classes": "$len(@class_names)",
    "spacing": "$[2, 2, 2] if @lite else None",
    "network_def": {"_target_": "torch.nn.Conv3d", "in_channels": 1, "out_channels": "@num_classes", "kernel_size": 1},
    "overlay": "$model_overlay()",
    "weights": None,
    "metadata": "$model_metadata(@weights)",
    "text": "$config_text('network_def')",
    "initialize": ["$refuse_unknown_keys()"],
    "run": ["$@network_def"],
}


@pytest.fixture
def configs(tmp_path: Path) -> Path:
    folder = tmp_path / "bundle" / "configs"
    folder.mkdir(parents=True)
    (folder / "train.json").write_text(json.dumps(CONFIG))
    (folder / "inference.json").write_text(json.dumps({"overlap": 0.5}))
    (folder / "metadata.json").write_text(json.dumps({"version": "0.1.0"}))
    return folder


def start(configs: Path, *overlays: dict, **override) -> ConfigWorkflow:
    files = [str(configs / "train.json")]
    for i, overlay in enumerate(overlays):
        files.append(str(configs.parents[1] / f"overlay{i}.json"))
        Path(files[-1]).write_text(json.dumps(overlay))
    workflow = ConfigWorkflow(
        config_file=files,
        workflow_type="train",
        logging_file=False,
        run_dir=str(configs.parents[1] / "run"),
        **override,
    )
    workflow.initialize()
    return workflow


def refusal(*args, **kwargs) -> str:
    with pytest.raises(Exception) as caught:  # noqa: B017, PT011
        start(*args, **kwargs)
    error = user_error_in(caught.value)
    assert error is not None, repr(caught.value)
    assert "\n" not in str(error)
    return str(error)


def test_unknown_keys():
    assert unknown_keys({"a": 1, "_mine": 2, "c": 3, "b": 4}, ["a"]) == ["b", "c"]


def test_known_keys_of_any_config_pass(configs):
    start(configs, {"batch_size": 2, "overlap": 0.25, "network_def#kernel_size": 3, "_note": "mine"})


def test_mistyped_key_in_an_overlay(configs):
    message = refusal(configs, {"bach_size": 2})
    assert "'bach_size' (did you mean 'batch_size'?)" in message and str(configs) in message


def test_mistyped_key_on_the_command_line(configs):
    assert "'xyzzy'" in refusal(configs, xyzzy=1)
    assert "did you mean" not in refusal(configs, xyzzy=1)


@pytest.mark.parametrize(("text", "word"), [("false", "False"), ("true", "True"), ("null", "None"), ("none", "None")])
def test_words_that_would_count_as_true(configs, text, word):
    message = refusal(configs, pretrained=text)
    assert f"pretrained is the text '{text}'" in message and f"--pretrained {word}" in message


def test_words_as_values_pass(configs):
    start(configs, pretrained=False)
    start(configs, pretrained="someone/false-positives")


def test_settings_that_cannot_be_meant_are_refused_together(configs):
    changes = {"initialize": ["$refuse_unknown_keys()", "$require_sound_settings()"], "batch_size": 0}
    assert refusal(configs, changes, pretrained="yes") == (
        "batch_size is 0; it must be a whole number of at least 1. pretrained is 'yes'; it must be true or false."
    )
    require_sound_settings()  # outside a workflow: nothing to check


def test_outside_a_workflow_nothing_is_checked():
    refuse_unknown_keys()
    assert model_overlay() == {} == model_metadata() and config_text("intensity") == ""


def test_model_overlay_describes_the_model_in_training(configs):
    changes = {"lite": True, "class_names": ["background", "a", "b"], "network_def#kernel_size": 3}
    content = start(configs, changes).parser.get_parsed_content("overlay")
    content = json.loads(json.dumps(content))
    described = {key for key in content if not key.startswith("_")}
    assert described == set(MODEL_KEYS) & set(CONFIG)
    assert content["class_names"] == ["background", "a", "b"]
    assert content["lite"] is True and content["spacing"] == CONFIG["spacing"]
    assert content["network_def"]["kernel_size"] == 3
    again = start(configs, content)
    assert again.parser.get_parsed_content("spacing") == [2, 2, 2]
    assert isinstance(again.parser.get_parsed_content("network_def"), torch.nn.Conv3d)
    assert again.parser.get_parsed_content("network_def").out_channels == 3


def test_config_text_is_what_the_config_says(configs):
    parser = start(configs, {"network_def#kernel_size": 5}).parser
    assert json.loads(parser.get_parsed_content("text")) == CONFIG["network_def"] | {"kernel_size": 5}


def test_metadata_tells_of_the_model_and_whose_weights_it_started_from(configs, tmp_path):
    bundle = json.loads((MN_CONFIGS / "metadata.json").read_text())
    (configs / "metadata.json").write_text(json.dumps(bundle))
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n")
    names = ["background", "head", "tail"]
    changes = {"class_names": names, "patch_size": [48, 48, 32], "weights": str(tmp_path / "weights")}
    content = json.loads(json.dumps(start(configs, **changes).parser.get_parsed_content("metadata")))
    assert content.pop("pretrained_weights") == {
        "model_2d": str(tmp_path / "weights"), "license": "cc-by-nc-4.0", "license_restricts_use": True,
    }
    image, pred = content["network_data_format"]["inputs"]["image"], content["network_data_format"]["outputs"]["pred"]
    assert image["spatial_shape"] == pred["spatial_shape"] == [48, 48, 32]
    assert image["channel_def"] == {"0": "image"}
    assert (pred["num_channels"], pred["channel_def"]) == (3, {"0": "background", "1": "head", "2": "tail"})
    assert content.keys() == bundle.keys() and content["version"] == bundle["version"]
    random = start(configs).parser.get_parsed_content("metadata")["pretrained_weights"]
    assert random == {"model_2d": None, "license": None, "license_restricts_use": False}
