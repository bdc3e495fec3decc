"""Overlays of train.json: what each changes, and what it leaves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser

from mnseg.bundle import unknown_keys
from one_thread import one_thread
from short_training import (
    CONFIGS,
    ROOT,
    history,
    refusal,
    settings,
    train,
    workflow,
    write_data,
)

KINDS = ("ablations", "ingredients", "recipes")
OVERLAYS = [path for kind in KINDS for path in sorted((ROOT / "configs" / kind).glob("*.json"))]


_one_thread = pytest.fixture(scope="module", autouse=True)(one_thread)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


def overlay_keys(path: Path) -> list[str]:
    return [key.lstrip("+").replace("#", "::").split("::")[0] for key in json.loads(path.read_text())]


@pytest.mark.parametrize("path", OVERLAYS, ids=lambda p: p.stem)
def test_overlays_hold_known_keys_alone(path):
    known = ConfigParser.load_config_file(CONFIGS / "train.json")
    assert unknown_keys(dict.fromkeys(overlay_keys(path)), known) == []


# The weights of a hub, or of an earlier run (test_distillation.py), are no part of these tests.
NEEDY = ("paper", "default", "distillation")


@pytest.mark.parametrize("path", [p for p in OVERLAYS if p.stem not in NEEDY], ids=lambda p: p.stem)
def test_overlays_build_a_trainer(path, data, tmp_path):
    """Merged with train.json, its own values kept, everything built, nothing trained."""
    own = set(overlay_keys(path)) - {"model_2d"}  # weights of a hub: no part of the tests
    # Recipes bring networks that halve four times: no training here, so the patch may be large.
    ours = settings(data, tmp_path, cache_rate=0.0, patch_size=[32, 32, 32])
    overrides = {k: v for k, v in ours.items() if k not in own}
    made = workflow(overrides, path)
    trainer = made.parser.get_parsed_content("train::trainer")
    content = json.loads(path.read_text())
    for key in ("sampling", "roles", "finetuning", "batch_size", "stage_2_epochs"):
        if key in content:
            assert made.parser.get_parsed_content(key) == content[key]
    assert trainer.state.max_epochs == made.parser.get_parsed_content("max_epochs")
    if path.stem == "supervised_only":
        assert made.parser.get_parsed_content("batch_sampler").unlabeled == []


def test_channels_last_is_a_layout_and_no_other_network(data, tmp_path):
    made = workflow(settings(data, tmp_path, channels_last=True))
    network = made.parser.get_parsed_content("train::trainer").networks["3d"]
    assert not all(parameter.is_contiguous() for parameter in network.parameters())
    stock = workflow(settings(data, tmp_path)).parser.get_parsed_content("network")
    for name, value in stock.state_dict().items():
        assert value.is_contiguous() and torch.equal(value, network.state_dict()[name])


@pytest.mark.parametrize(("stages", "found"), [
    ({}, (12, 57)), ({"stage_1_epochs": 500, "stage_2_epochs": 3500}, (50, 500)),
    ({"stage_1_epochs": 0, "stage_2_epochs": 3}, (0, 1)),
])  # fmt: skip
def test_the_rest_of_the_best_recipe_follows_its_length(stages, found, data, tmp_path):
    """Warm-up and refresh are shares of it; at the paper's length they are the paper's."""
    recipe = ROOT / "configs/recipes/default.json"
    ours = settings(data, tmp_path)
    named = json.loads(recipe.read_text()).keys() - {"model_2d", "pretrained"}
    parser = workflow({key: ours[key] for key in ours.keys() - named} | stages, recipe).parser
    assert tuple(parser.get_parsed_content(k) for k in ("warmup_epochs", "refresh_interval")) == found
    trainer = parser.get_parsed_content("train::trainer")
    assert trainer.micro_batches["3d"].may_halve and trainer.micro_batches["2d"].may_halve


def test_cudnn_looks_for_its_fastest_algorithm_only_when_asked(data, tmp_path, monkeypatch):
    for asked in (True, False):
        monkeypatch.setattr(torch.backends.cudnn, "benchmark", not asked)
        workflow(settings(data, tmp_path, cudnn_benchmark=asked))
        assert torch.backends.cudnn.benchmark is asked
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    workflow(settings(data, tmp_path))
    assert torch.backends.cudnn.benchmark is False


@pytest.mark.parametrize(("name", "times"), [("higher_rates", 2), ("lower_rates", 0.5)])
def test_rates_are_multiples_of_the_recipe_and_leave_the_sampling(name, times, data, tmp_path):
    own = settings(data, tmp_path / name, stage_1_epochs=1, stage_2_epochs=4, learning_rate=0.002)
    train(own, ROOT / "configs" / "ingredients" / f"{name}.json")
    train(own | {"run_dir": str(tmp_path / "mn")})
    for changed, plain in zip(history(tmp_path / name), history(tmp_path / "mn"), strict=True):
        assert changed["num_unlabeled"] == plain["num_unlabeled"]
        for rate in ("lr_3d", "lr_2d"):
            assert changed[rate] == pytest.approx(times * plain[rate])


def test_other_rates_are_another_run(data, tmp_path):
    own = settings(data, tmp_path, stage_1_epochs=1, stage_2_epochs=1)
    train(own)
    sentence = refusal(own, ROOT / "configs" / "ingredients" / "higher_rates.json")
    assert "learning_rate 0.0001 then, 0.0002 now; learning_rate_2d 0.001 then, 0.002 now" in sentence


def test_a_frequent_refresh_follows_the_length_of_stage_2(data, tmp_path):
    for stage_2_epochs, interval in ((60, 3), (6, 1)):
        own = settings(data, tmp_path, stage_2_epochs=stage_2_epochs)
        del own["refresh_interval"]
        made = workflow(own, ROOT / "configs" / "ingredients" / "frequent_refresh.json")
        assert made.parser.get_parsed_content("refresh_interval") == interval


def test_supervised_only_never_sees_an_unlabeled_scan(data, tmp_path):
    train(
        settings(data, tmp_path, stage_1_epochs=1, stage_2_epochs=2),
        ROOT / "configs" / "ablations" / "supervised_only.json",
    )
    lines = history(tmp_path)
    assert [line["student"] for line in lines] == ["both", "3d", "2d"]
    assert {line["unlabeled_seen"] for line in lines} == {0}


def test_a_mean_teacher_learns_what_g_learns_under_co_training(data, tmp_path):
    overlay = ROOT / "configs" / "ablations" / "mean_teacher.json"
    short = {"stage_1_epochs": 1, "stage_2_epochs": 4, "sampling": "linear"}
    trainer = train(settings(data, tmp_path / "mt", **short), overlay).parser.get_parsed_content("train::trainer")
    train(settings(data, tmp_path / "mn", **short))
    ours, theirs = history(tmp_path / "mn"), history(tmp_path / "mt")
    for key in ("student", "num_unlabeled", "unlabeled_seen"):
        assert [line[key] for line in ours] == [line[key] for line in theirs]
    teacher = trainer.teachers["3d"]
    assert (teacher.passes, teacher.noise) == (4, 0.1)
    assert trainer.loss.unlabeled.max_entropy == 0.75
    average = teacher.network
    assert average is not trainer.networks["3d"] and not average.training
    saved = torch.load(tmp_path / "mt" / "models" / "model.pt", weights_only=True)
    assert all(torch.equal(value, average.state_dict()[name]) for name, value in saved.items())


def test_two_3d_networks_start_apart_and_both_learn(data, tmp_path):
    made = workflow(settings(data, tmp_path), ROOT / "configs" / "ablations" / "two_3d_networks.json")
    networks = made.parser.get_parsed_content("train::trainer").networks
    before = {name: [p.clone() for p in network.parameters()] for name, network in networks.items()}
    assert type(networks["2d"]) is type(networks["3d"])
    assert not all(torch.equal(a, b) for a, b in zip(before["2d"], before["3d"], strict=True))
    made.run()
    for name, network in networks.items():
        assert not all(torch.equal(a, b) for a, b in zip(before[name], network.parameters(), strict=True))


def transform_names(compose: Any) -> list[str]:
    return [type(transform).__name__ for transform in compose.transforms]


def flips(data: Path, run_dir: Path, **more: Any) -> Any:
    return workflow(settings(data, run_dir, **more)).parser.get_parsed_content("augmentation")


def test_flips_are_off_by_default_and_come_last(data, tmp_path):
    """What is drawn before them is the same with and without."""
    plain, flipping = flips(data, tmp_path / "a"), flips(data, tmp_path / "b", flip_axes=[0, 2])
    usual = ["RandPatchZoomd", "RandContrastd"]
    assert transform_names(plain) == usual
    assert transform_names(flipping) == [*usual, "RandFlipd", "RandFlipd"]
    image = torch.rand(1, 18, 18, 10)
    outcomes = set()
    for seed in range(12):
        results = []
        for compose in (plain, flipping, flipping):
            compose.set_random_state(seed)
            results.append(compose({"image": image.clone(), "label": (image > 0.5).to(torch.uint8)}))
        assert torch.equal(results[1]["image"], results[2]["image"]), "the same seed flips the same way"
        candidates = {axes: results[0]["image"].flip([1 + axis for axis in axes])
                      for axes in ((), (0,), (2,), (0, 2))}
        axes = next(axes for axes, flipped in candidates.items() if torch.equal(flipped, results[1]["image"]))
        assert torch.equal(results[0]["label"].flip([1 + axis for axis in axes]), results[1]["label"])
        outcomes.add(axes)
    assert outcomes == {(), (0,), (2,), (0, 2)}, "each axis by itself"


def test_no_left_right_flips_of_lateralized_labels(data, tmp_path, caplog):
    names = ["background", "left lobe", "right lobe", "tube"]
    augmentation = flips(data, tmp_path / "run", flip_axes=[0], class_names=names)
    assert "RandFlipd" not in transform_names(augmentation)
    assert caplog.text.count("left lobe, right lobe") == 1
