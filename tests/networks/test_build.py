"""build_slice_network: what its defaults make of a scan."""

from __future__ import annotations

import pytest
import torch

from mnseg.networks.build import build_slice_network


@pytest.mark.parametrize("model_dir", ["segformer"], indirect=True)
def test_standardized_scans_get_the_mean_and_spread_of_photographs(model_dir):
    """0.45 and 0.225, about those of ImageNet, and then what the model's own preprocessor asks for."""
    net = build_slice_network(model_dir, 3, seed=0)
    mean, std = torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.2, 0.25, 0.5])
    torch.testing.assert_close(net.input_gain.flatten(), 0.225 / std)
    torch.testing.assert_close(net.input_offset.flatten(), (0.45 - mean) / std)
