"""Which settings are refused before a training starts."""

from __future__ import annotations

from pathlib import Path

import pytest
from monai.bundle import ConfigParser

from mnseg.settings import RULES, wrong_settings

ROOT = Path(__file__).resolve().parents[1]
TRAIN, MINING = (
    ConfigParser.load_config_file(ROOT / "bundles" / name / "configs" / "train.json")
    for name in ("mn_cotraining", "sam_mining")
)


def test_the_defaults_are_sound_and_the_rules_are_about_existing_keys():
    assert list(wrong_settings(TRAIN)) == list(wrong_settings(MINING)) == []
    assert RULES.keys() <= TRAIN.keys() | MINING.keys()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("dataset_dir", 5, "dataset_dir is 5; it must be the name of a folder (./5 for one that is called 5)."),
        ("val_interval", 0, "val_interval is 0; it must be a whole number of at least 1."),
        ("batch_size", "four", "batch_size is 'four'; it must be a whole number of at least 1."),
        ("batch_size", True, "batch_size is True; it must be a whole number of at least 1."),
        ("learning_rate", "fast", "learning_rate is 'fast'; it must be a number above 0."),
        ("overlap", 1.0, "overlap is 1.0; it must be a number at least 0 and below 1."),
        ("cache_rate", 2.0, "cache_rate is 2.0; it must be a number at least 0 and at most 1."),
        ("patch_size", 32, "patch_size is 32; it must be three whole numbers above 0, one an axis."),
        ("patch_size", [32, 48], "patch_size is [32, 48]; it must be three whole numbers above 0, one an axis."),
        ("gamma", [1.2, 0.8], "gamma is [1.2, 0.8]; it must be two numbers above 0, the smaller one first."),
        ("ema_momentum", 2.0, "ema_momentum is 2.0; it must be a number above 0 and below 1, or null."),
        ("sampling", "linar", "sampling is 'linar'; it must be one of learning_rate, linear, uniform, fixed."),
        ("amp_dtype", "bf16", "amp_dtype is 'bf16'; it must be one of auto, bfloat16, float16, or null."),
        ("learning_rate_final", 0.0001, "learning_rate_final is 0.0001; it must be below learning_rate (0.0001)."),
        ("min_zoom", 1.5, "min_zoom is 1.5; it must not be above max_zoom (1.1)."),
        ("image_size", [32], "image_size is [32]; it must be two whole numbers above 0, rows and columns."),
        ("mining_interval", 0, "mining_interval is 0; it must be a whole number of at least 1."),
        ("in_channels", "two", "in_channels is 'two'; it must be a whole number of at least 1."),
        ("class_names", "lobe", "class_names is 'lobe'; it must be a list of 2 to 256 different names"),
        ("class_names", ["background"], "class_names is ['background']; it must be a list of 2 to 256"),
        ("class_names", ["a", "a"], "class_names is ['a', 'a']; it must be a list of 2 to 256 different names"),
        ("min_labeled", 0, "min_labeled is 0; it must be a whole number of at least 1."),
        ("orientation", "XYZ", "orientation is 'XYZ'; it must be three letters"),
        ("orientation", "RLS", "orientation is 'RLS'; it must be three letters"),
        ("orientation", "ras", "orientation is 'ras'; it must be three letters"),
        ("spacing", [1, 1], "spacing is [1, 1]; it must be three numbers above 0, in mm, or null."),
        ("spacing", [1, 1, 0], "spacing is [1, 1, 0]; it must be three numbers above 0, in mm, or null."),
        ("model_2d", 5, "model_2d is 5; it must be the name or the folder of a model."),
        ("pretrained", "no", "pretrained is 'no'; it must be true or false."),
        ("resume", 1, "resume is 1; it must be true or false."),
        ("network_def", None, "network_def is None; it must be an object whose _target_"),
        ("network_2d_def", {"a": 1}, "network_2d_def is {'a': 1}; it must be an object whose _target_"),
        ("slice_axis", 7, "slice_axis is 7; it must be 0, 1 or 2, or a list of different ones."),
        ("slice_context", 2, "slice_context is 2; it must be one of 1, 3."),
        ("ema_teacher", True, "ema_teacher is true, but ema_momentum is null"),
        ("cache_on_device", 1, "cache_on_device is 1; it must be true or false."),
        ("max_minutes", -1, "max_minutes is -1; it must be a number at least 0, or null."),
    ],
)
def test_one_wrong_setting_is_one_sentence(key, value, message):
    (found,) = wrong_settings({**TRAIN, key: value})
    assert found.startswith(message)


@pytest.mark.parametrize(("key", "value"), [("cache_dir", "/scratch"), ("num_workers", 4)])
def test_scans_on_a_device_are_read_there_alone(key, value):
    (found,) = wrong_settings({**TRAIN, "cache_on_device": True, key: value})
    assert found.startswith("cache_on_device is true, but ") and f"set {key} to " in found


def test_more_classes_than_a_mask_can_tell_apart():
    assert list(wrong_settings({**TRAIN, "class_names": [f"structure {k}" for k in range(256)]})) == []
    (found,) = wrong_settings({**TRAIN, "class_names": [f"structure {k}" for k in range(257)]})
    assert found.endswith("...; it must be a list of 2 to 256 different names, the background first.")
    assert len(found) < 250


def test_what_may_be_meant():
    sound = {"spacing": [0.85, 0.85, 0.75], "orientation": "AIL", "class_names": ("background", "left atrium"),
             "network_2d_def": "%network_def", "pretrained": False, "slice_axis": [2, 0]}
    assert list(wrong_settings({**TRAIN, **sound})) == []


@pytest.mark.parametrize("overlay", sorted((ROOT / "configs").rglob("*.json")), ids=lambda path: path.stem)
def test_the_overlays_of_the_repository_are_sound(overlay):
    content = ConfigParser.load_config_file(overlay)
    whole = {key: value for key, value in content.items() if "#" not in key and "::" not in key}
    assert list(wrong_settings({**TRAIN, **whole})) == []


def test_no_epoch_at_all():
    assert len(list(wrong_settings({**TRAIN, "stage_1_epochs": 0, "stage_2_epochs": 0}))) == 1


def test_expressions_are_left_to_whoever_uses_them():
    assert list(wrong_settings({**TRAIN, "patch_size": "$[8] * 3", "learning_rate_2d": "@learning_rate"})) == []
