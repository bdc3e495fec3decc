"""has_unreached_parameters: 3D networks here; 2D ones, family by family, in test_families.py."""

from __future__ import annotations

import pytest
import torch
from monai.networks.nets import AttentionUnet, BasicUNet, SegResNet, SwinUNETR
from torch import nn

from mnseg.networks.channels_last import to_channels_last
from mnseg.networks.unreached import has_unreached_parameters

PATCH = (64, 32, 32)


class Forgetful(nn.Module):
    """With a layer that its output does not depend on."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = nn.Conv3d(1, 2, 1), nn.Conv3d(1, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.unused(x)
        return self.used(x)


class Undecided(Forgetful):
    """Asks its input's values, which a tensor without data has not."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.used(x) if x.sum() > 0 else self.unused(x)


@pytest.mark.parametrize(
    "network",
    [
        lambda: BasicUNet(3, 1, 2, features=(2, 2, 4, 4, 8, 2)),
        lambda: to_channels_last(BasicUNet(3, 1, 2, features=(2, 2, 4, 4, 8, 2))),
        lambda: SegResNet(3, 8, 1, 2),
        lambda: AttentionUnet(3, 1, 2, (4, 8), (2,)),
        lambda: SwinUNETR(1, 2, feature_size=12),
    ],
    ids=["BasicUNet", "channels last", "SegResNet", "AttentionUnet", "SwinUNETR"],
)
def test_networks_of_monai_use_all_they_have(network):
    network = network()
    network(torch.rand(1, 1, *PATCH)).sum().backward()
    assert not any(parameter.grad is None for parameter in network.parameters())
    network.zero_grad()
    assert has_unreached_parameters(network, 1, PATCH) is False
    assert all(parameter.device.type == "cpu" and parameter.grad is None for parameter in network.parameters())


def test_what_is_left_over_is_found():
    network = Forgetful()
    assert has_unreached_parameters(network, 1, PATCH)
    network.unused.requires_grad_(False)
    assert not has_unreached_parameters(network, 1, PATCH)
    assert has_unreached_parameters(Undecided(), 1, PATCH), "where it cannot be told"
    normed = nn.utils.weight_norm(nn.Conv3d(1, 2, 1))
    normed(torch.rand(1, 1, *PATCH))
    assert has_unreached_parameters(normed, 1, PATCH), "where it cannot be copied"
