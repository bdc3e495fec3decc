"""train.json hands every setting, network and scan to what it is meant for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser

from short_training import settings, workflow, write_data

SETTINGS = {
    "w_ce": 2.0, "w_kl": 3.0, "w_dice": 4.0, "min_labeled": 2, "learning_rate_final": 1e-6, "max_grad_norm": 5.0,
    "mix_share": 0.25, "micro_batch_size": 3, "slice_stride": 2, "foreground_probability": 0.8, "ema_momentum": 0.1,
    "ema_teacher": True, "restart": False, "spacing": [1.0, 1.0, 1.0], "flip_axes": [0, 1, 2],
}  # fmt: skip


@pytest.fixture(scope="module")
def parser(tmp_path_factory) -> ConfigParser:
    data = write_data(tmp_path_factory.mktemp("data"))
    return workflow(settings(data, tmp_path_factory.mktemp("run"), **SETTINGS)).parser


def content(parser: ConfigParser, *keys: str) -> Any:
    found = [parser.get_parsed_content(key) for key in keys]
    return found[0] if len(found) == 1 else found


def handler(parser: ConfigParser, name: str) -> Any:
    return next(each for each in content(parser, "train::handlers") if type(each).__name__ == name)


def cases(items: Any) -> list[str]:
    return [item["case"] for item in items]


def test_weights_reach_their_losses(parser):
    loss = content(parser, "train::trainer").loss
    assert (loss.labeled.w_ce, loss.labeled.w_dice) == (2, 4)
    assert (loss.unlabeled.w_kl, loss.unlabeled.w_dice) == (3, 4)


def test_settings_reach_trainer_and_handlers(parser):
    trainer = content(parser, "train::trainer")
    assert (trainer.max_grad_norm, trainer.micro_batches["3d"].size, trainer.slice_stride) == (5, 3, 2)
    assert trainer.mix.share == 0.25
    sampling, rates = handler(parser, "LRGSamplingHandler"), handler(parser, "TwoStageLRHandler")
    assert (sampling.min_labeled, sampling.lr_final) == (2, 1e-6)
    assert (rates.lr_final, rates.restart) == (1e-6, False)
    assert [sampling.optimizers["3d"], sampling.optimizers["2d"]] == content(parser, "optimizer", "optimizer_2d")
    assert rates.optimizers == content(parser, "optimizer", "optimizer_2d")


def test_every_network_is_where_it_belongs(parser):
    g, f, product, ema = content(parser, "network", "network_2d", "product", "ema")
    assert product is ema.ema_model is not g
    trainer = content(parser, "train::trainer")
    assert trainer.networks == {"3d": g, "2d": f}
    assert trainer.teachers == {"3d": product, "2d": f}
    assert handler(parser, "PseudoForegroundHandler").network is handler(parser, "SaveModelHandler").network is product


def test_both_networks_are_measured_on_validation_scans_and_on_hidden_labels(parser):
    f, product, datalist = content(parser, "network_2d", "product", "datalist")
    validation, hidden = cases(datalist["validation"]), cases(datalist["unlabeled"][:1])
    found = handler(parser, "CoValidationHandler").evaluators
    assert {name: (each.network, cases(each.data_loader.dataset.data)) for name, each in found.items()} == {
        "val_dice_3d": (product, validation), "val_dice_2d": (f, validation),
        "pseudo_dice_3d": (product, hidden), "pseudo_dice_2d": (f, hidden),
    }  # fmt: skip


def test_crops_seek_the_foreground_of_labels_and_of_pseudo_labels(parser):
    crop = content(parser, "train::preprocessing").transforms[0]
    assert crop.probability == 0.8
    assert crop.pseudo_foreground is content(parser, "pseudo_foreground")
    pool = content(parser, "pool")
    assert [len(pool[i].get("foreground_indices", ())) > 0 for i in range(5)] == [True, True, False, False, False]


def test_labels_keep_their_values_when_resampled(parser):
    transforms = content(parser, "load").flatten().transforms
    spacing = next(each for each in transforms if type(each).__name__ == "Spacingd")
    assert list(spacing.mode) == ["bilinear", "nearest"]


def test_each_axis_is_flipped_by_its_own_transform(parser):
    flips = [each for each in content(parser, "augmentation").transforms if type(each).__name__ == "RandFlipd"]
    assert [each.flipper.spatial_axis for each in flips] == [0, 1, 2]


def test_the_2d_network_sees_ct_windows_with_the_spread_of_photographs(tmp_path):
    """It takes slices for standardized; a window scaled to [0, 1] alone has a quarter of that contrast."""
    configs = Path(__file__).resolve().parents[2] / "configs"
    intensity = ConfigParser(ConfigParser.load_config_file(configs / "datasets" / "pancreas_ct.json"))
    scan = torch.as_tensor(np.random.default_rng(0).normal(50, 100, (1, 16, 16, 8)), dtype=torch.float32)
    scaled = intensity.get_parsed_content("intensity")({"image": scan})["image"]
    assert float(scaled.mean()) == pytest.approx(0, abs=1e-4)
    assert float(scaled.std()) == pytest.approx(1, abs=1e-3)
    beyond = intensity.get_parsed_content("intensity")({"image": torch.tensor([[-175.0, -1000, 250, 3000]])})["image"]
    assert beyond.flatten().tolist() == pytest.approx([-1, -1, 1, 1], abs=1e-4)
