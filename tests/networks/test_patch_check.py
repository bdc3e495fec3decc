"""A patch that the 3D network cannot take is refused by name, before any work."""

from __future__ import annotations

import pytest
import torch
from monai.networks.nets import BasicUNet

from mnseg.errors import UserError
from mnseg.networks.patch_check import require_fitting_patch


@pytest.fixture(scope="module")
def network() -> BasicUNet:
    return BasicUNet(spatial_dims=3, in_channels=1, out_channels=2, features=(2, 2, 2, 2, 2, 2))


@pytest.mark.parametrize("size", [[32, 32, 32], [80, 64, 32], [160, 160, 64]])
def test_fitting_patches_pass_and_leave_the_network_alone(network, size):
    before = {name: value.clone() for name, value in network.state_dict().items()}
    require_fitting_patch(network, 1, size)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert next(network.parameters()).device.type == "cpu"


@pytest.mark.parametrize("size", [[16, 16, 16], [32, 32], [0, 32, 32], [32.0, 32, 32]])
def test_unfitting_patches_are_named(network, size):
    with pytest.raises(UserError, match="patch_size"):
        require_fitting_patch(network, 1, size)
