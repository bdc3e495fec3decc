"""Networks that come back from a checkpoint are those that were trained."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from mnseg.errors import UserError
from mnseg.networks.both import BothNetworks
from mnseg.networks.build import build_slice_network
from mnseg.networks.trained import TrainedNetworks, load_2d_network, load_networks
from short_training import CONFIGS

SETTINGS = {"class_names": "['background', 'bright']", "spacing": "None", "seed": "0", "stage_1_epochs": "2",
            "stage_2_epochs": "6"}  # fmt: skip
BUILD = json.loads((CONFIGS / "train.json").read_text())["network_2d_def"]
ADAPTED = {
    "network_2d_def": json.dumps(BUILD), "model_2d": "segformer-tiny-random", "pretrained": "False",
    "finetuning": "lora", "lora": "[4, 0.1]", "slice_axis": "1", "slice_scale": "2.0", "slice_context": "3",
}  # fmt: skip


class Above(nn.Module):
    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.threshold = nn.Parameter(torch.tensor(threshold))


def checkpoint(path: Path, settings: dict[str, str] = SETTINGS, epoch: int = 8, **objects: nn.Module) -> Path:
    states = {"network": Above(1.0), "network_2d": Above(3.0), **objects}
    states = {name: network.state_dict() for name, network in states.items()}
    torch.save({"settings": settings, "engine": {"epoch": epoch}, "objects": states}, path)
    return path


def test_networks_come_from_the_checkpoint_the_product_being_the_average(tmp_path):
    settings = {"class_names": ["background", "bright"], "spacing": None, "seed": 3, "lora": 2}
    g, f = Above(0.0), Above(0.0)
    plain = load_networks(checkpoint(tmp_path / "a.pt"), g, f, settings)
    assert (g.threshold.item(), f.threshold.item()) == (1.0, 3.0) and len(plain) == 64
    other = load_networks(checkpoint(tmp_path / "b.pt", ema=Above(7.0)), g, f, settings)
    assert (g.threshold.item(), f.threshold.item()) == (7.0, 3.0) and other != plain


def test_checkpoints_that_do_not_fit_are_named(tmp_path):
    path = checkpoint(tmp_path / "checkpoint.pt")
    with pytest.raises(UserError, match=r"spacing None then, \[1, 1, 1\] now"):
        load_networks(path, Above(0.0), Above(0.0), SETTINGS | {"spacing": [1, 1, 1]})
    with pytest.raises(UserError, match="The network_2d in .* does not fit"):
        load_networks(path, Above(0.0), nn.Linear(1, 1), {})
    with pytest.raises(UserError, match="There is no checkpoint"):
        load_networks(tmp_path / "missing.pt", Above(0.0), Above(0.0), {})
    path.write_bytes(b"no checkpoint")
    with pytest.raises(UserError, match="cannot be read"):
        load_networks(path, Above(0.0), Above(0.0), {})


def test_a_training_that_has_not_finished_is_told(tmp_path, caplog):
    TrainedNetworks.read(checkpoint(tmp_path / "whole.pt"))
    assert not caplog.text
    TrainedNetworks.read(checkpoint(tmp_path / "part.pt", epoch=5))
    assert "part.pt is of a training that has not finished: epoch 5 of 8." in caplog.text


def test_the_2d_network_needs_no_config(tmp_path):
    trained = build_slice_network("segformer-tiny-random", 2, False, "lora", 4, slice_axis=1, slice_scale=2.0,
                                  slice_context=3)  # fmt: skip
    with torch.no_grad():
        for weight in trained.parameters():
            weight += 0.1 * torch.randn(weight.shape)
    path = checkpoint(tmp_path / "checkpoint.pt", SETTINGS | ADAPTED, network_2d=trained)
    image = torch.rand(1, 1, 32, 6, 32)
    with torch.no_grad():
        expected, found = (network.eval()(image) for network in (trained, load_2d_network(path)))
    torch.testing.assert_close(found, expected)
    for key, value in (("slice_axis", "2"), ("slice_scale", "1.0"), ("slice_context", "1")):
        other = load_2d_network(checkpoint(tmp_path / "o.pt", SETTINGS | ADAPTED | {key: value}, network_2d=trained))
        with torch.no_grad():
            assert not torch.allclose(other.eval()(image), expected, atol=1e-3), f"{key} is a part of the network"


def test_a_network_of_the_runs_own_is_built_too(tmp_path):
    settings = SETTINGS | ADAPTED | {
        "in_channels": "1",
        "network_2d_def": json.dumps({"_target_": "torch.nn.Conv3d", "in_channels": "@in_channels",
                                      "out_channels": "@num_classes", "kernel_size": 1}),
    }  # fmt: skip
    trained = nn.Conv3d(1, 2, 1)
    found = TrainedNetworks.read(checkpoint(tmp_path / "c.pt", settings, network_2d=trained)).build_2d()
    assert torch.equal(found.weight, trained.weight) and torch.equal(found.bias, trained.bias)


def test_why_a_2d_network_cannot_be_built(tmp_path):
    gone = SETTINGS | ADAPTED | {"model_2d": str(tmp_path / "moved")}
    with pytest.raises(UserError, match=r"The 2D network of .*c\.pt cannot be built .* its model_2d, .*moved, must be"):
        load_2d_network(checkpoint(tmp_path / "c.pt", gone))
    for key in ("lora", "network_2d_def", "class_names"):
        with pytest.raises(UserError, match="cannot be built as in training"):
            load_2d_network(checkpoint(tmp_path / "c.pt", SETTINGS | ADAPTED | {key: "None"}))
    unknown = SETTINGS | ADAPTED | {"network_2d_def": json.dumps({"_target_": "torch.nn.ReLU", "inplace": "@mine"})}
    with pytest.raises(UserError, match="cannot be built .*mine"):
        load_2d_network(checkpoint(tmp_path / "c.pt", unknown))
    with pytest.raises(UserError, match="The network_2d in .* does not fit"):
        load_2d_network(checkpoint(tmp_path / "c.pt", SETTINGS | ADAPTED))


class Says(nn.Module):
    def __init__(self, *logits: float) -> None:
        super().__init__()
        self.logits = torch.tensor(logits).reshape(1, -1, 1, 1, 1)

    def forward(self, image):
        return self.logits.expand(len(image), -1, *image.shape[2:])


def test_both_networks_are_the_mean_of_their_probabilities():
    """(0.9, 0.1) and (0.2, 0.8): (0.55, 0.45), where the mean of logits would give (0.6, 0.4)."""
    both = BothNetworks(Says(*torch.tensor([0.9, 0.1]).log()), Says(*torch.tensor([0.2, 0.8]).log()))
    found = both(torch.zeros(2, 1, 4, 4, 4))
    assert found.shape == (2, 2, 4, 4, 4)
    torch.testing.assert_close(found.exp()[1, :, 0, 0, 0], torch.tensor([0.55, 0.45]))
    torch.testing.assert_close(found.softmax(dim=1), found.exp())


def test_certain_networks_give_no_infinity():
    found = BothNetworks(Says(500.0, 0.0), Says(500.0, -500.0))(torch.zeros(1, 1, 1, 1, 1))
    assert found.isfinite().all() and found.exp().sum() == pytest.approx(1)
