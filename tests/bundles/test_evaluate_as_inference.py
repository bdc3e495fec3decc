"""evaluate.json measures the masks that inference.json would write: what the two have in common is the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

CONFIGS = Path(__file__).resolve().parents[2] / "bundles" / "mn_cotraining" / "configs"


def steps(name: str, section: str, key: str) -> list[Any]:
    """What the transforms of a config do to one key up to where its mask is written, each without its other keys.

    Functions of their own ("$...") are left out: they read or name what only one of the two programs needs.
    """
    transforms = ConfigParser.load_config_file(CONFIGS / f"{name}.json")[section]["transforms"]
    targets = [step["_target_"] if isinstance(step, dict) else step for step in transforms]
    if "SaveImaged" in targets:
        transforms = transforms[: len(targets) - targets[::-1].index("SaveImaged")]
    found = []
    for step in transforms:
        if isinstance(step, dict) and step["_target_"] != "SaveImaged":
            keys = [step["keys"]] if isinstance(step["keys"], str) else step["keys"]
            found += [{**step, "keys": key}] if key in keys else []
        elif isinstance(step, str) and step.startswith("@"):
            found.append(step)
    return found


def names(found: list[Any]) -> list[str]:
    return [step if isinstance(step, str) else step["_target_"] for step in found]


def test_both_bring_a_scan_to_the_network_in_the_same_way():
    evaluated, inferred = (steps(name, "preprocessing", "image") for name in ("evaluate", "inference"))
    assert evaluated == inferred
    wanted = {"LoadImaged", "EnsureChannelFirstd", "Orientationd", "Spacingd", "@intensity", "EnsureTyped"}
    assert wanted <= set(names(evaluated))


def test_both_make_the_same_mask_of_the_networks_answer():
    evaluated, inferred = (steps(name, "postprocessing", "pred") for name in ("evaluate", "inference"))
    assert evaluated == inferred
    wanted = {"Activationsd", "AsDiscreted", "Invertd", "KeepLargestConnectedComponentd"}
    assert wanted <= set(names(evaluated))


def test_evaluate_and_inference_share_their_defaults():
    evaluate_json, inference_json = (
        ConfigParser.load_config_file(CONFIGS / f"{n}.json") for n in ("evaluate", "inference")
    )
    own = {"preprocessing", "dataset", "postprocessing", "handlers", "evaluator", "initialize", "run",
           "invert_probabilities", "faults", "name_formatter"}  # fmt: skip
    shared = (set(evaluate_json) & set(inference_json)) - own
    assert {"bundle_root", "intensity", "network_def", "spacing", "inferer", "nifti_writer"} <= shared
    assert {k for k in shared if evaluate_json[k] != inference_json[k]} == set()
