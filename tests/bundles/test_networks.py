"""The default 3D network and every overlay of configs/networks: stock networks that train."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser

ROOT = Path(__file__).resolve().parents[2]
TRAIN = ROOT / "bundles" / "mn_cotraining" / "configs" / "train.json"
SMALL = {
    "default": {"network_def#features": [8, 8, 8, 8, 8, 8]},
    "dynunet": {"network_def#filters": [4, 4, 8, 8, 8]},
    "swin_unetr": {"network_def#feature_size": 12},
}
OVERLAYS = {path.stem: [str(path)] for path in sorted((ROOT / "configs" / "networks").glob("*.json"))}


@pytest.mark.parametrize("name", ["default", *OVERLAYS])
def test_forward_and_backward_at_full_resolution(name):
    parser = ConfigParser()
    parser.read_config([str(TRAIN), *OVERLAYS.get(name, [])])
    parser.update({"class_names": ["background", "a", "b"], "device": "cpu", **SMALL[name]})
    network = parser.get_parsed_content("network_def")
    assert type(network).__module__.startswith("monai.")
    # SwinUNETR halves five times and normalizes what is left: multiples of 32, one axis of at least 64.
    logits = network(torch.randn(1, 1, 64, 32, 32))
    assert logits.shape == (1, 3, 64, 32, 32)
    logits.square().mean().backward()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)
