"""Batch-norm statistics of a pretrained network, measured on new data."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from mnseg.errors import UserError
from mnseg.networks.adaptation import adapt
from mnseg.networks.recalibration import recalibrate_batch_norm
from mnseg.networks.slice_network import SliceNetwork


def test_statistics_become_the_mean_over_the_batches():
    norm = nn.BatchNorm2d(2)
    norm.running_mean.fill_(9.0)
    batches = [torch.full((2, 2, 3, 3), 1.0), torch.full((2, 2, 3, 3), 3.0)]
    assert recalibrate_batch_norm(nn.Sequential(norm), batches) == 1
    torch.testing.assert_close(norm.running_mean, torch.tensor([2.0, 2.0]))
    torch.testing.assert_close(norm.running_var, torch.tensor([0.0, 0.0]))
    assert norm.momentum == 0.1


def test_frozen_batch_norms_are_measured_and_stay_frozen():
    class Segmenter(nn.Module):
        base_model_prefix = "encoder"

        def __init__(self):
            super().__init__()
            self.encoder = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
            self.head = nn.Conv2d(4, 2, 1)

        def forward(self, x):
            return self.head(self.encoder(x))

    network = adapt(Segmenter(), "decoder", freeze_statistics=True).train()
    norm = network.encoder[1]
    weights = copy.deepcopy(dict(network.named_parameters()))
    recalibrate_batch_norm(network, [torch.randn(4, 3, 5, 5) * 3 + 1])
    measured = norm.running_mean.clone()
    assert measured.abs().max() > 0.05
    assert network.training and not norm.training
    network(torch.randn(4, 3, 5, 5) * 9)
    torch.testing.assert_close(norm.running_mean, measured)
    for name, value in network.named_parameters():
        torch.testing.assert_close(value, weights[name])


class Pooled(nn.Module):
    """Its norm sees one value of each slice, as that of DeepLabV3's pooled features."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.norm(x.mean((2, 3), keepdim=True))


@pytest.mark.parametrize("was_training", [True, False])
def test_one_slice_at_a_time_is_refused_where_it_cannot_be_measured(was_training):
    scans = [torch.randn(1, 1, 32, 32, 6)]
    wide = SliceNetwork(nn.BatchNorm2d(3), 3, chunk_size=1).train(was_training)
    assert recalibrate_batch_norm(wide, scans) == 1
    assert wide.network_2d.num_batches_tracked == 6, "statistics over many pixels can be taken"
    network = SliceNetwork(Pooled(), 3, chunk_size=1).train(was_training)
    with pytest.raises(UserError, match="set slice_chunk to at least 2, or recalibrate_batches to 0"):
        recalibrate_batch_norm(network, scans)
    assert network.training == network.network_2d.norm.training == was_training
    network.chunk_size = 2
    assert recalibrate_batch_norm(network, scans) == 1
    assert network.network_2d.norm.num_batches_tracked == 3


def test_without_batch_norms_no_batch_is_read():
    def forbidden():
        raise AssertionError("read")
        yield

    assert recalibrate_batch_norm(nn.Conv2d(1, 1, 1), forbidden()) == 0
