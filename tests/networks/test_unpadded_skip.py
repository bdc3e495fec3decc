"""The decoder without padding by nothing: the same numbers, fewer copies."""

from __future__ import annotations

import copy

import pytest
import torch
from monai.networks.nets import BasicUNet
from torch.profiler import profile

from mnseg.networks.unpadded_skip import to_unpadded_skips


@pytest.mark.parametrize("upsample", ["deconv", "nontrainable"])
@pytest.mark.parametrize(("shape", "padded"), [((32, 32, 16), 0), ((34, 33, 19), 2), ((48, 32, 24), 1)])
def test_the_same_numbers_and_padding_where_it_is_needed(upsample, shape, padded):
    stock = BasicUNet(3, 1, 3, features=(2, 2, 4, 4, 8, 2), upsample=upsample).eval()
    ours = to_unpadded_skips(copy.deepcopy(stock))
    image = torch.randn(2, 1, *shape)
    counts = []
    for network in (stock, ours):
        with torch.no_grad(), profile() as found:
            output = network(image)
        counts.append(sum(event.count for event in found.key_averages() if event.key == "aten::replication_pad3d"))
        assert torch.equal(output, stock(image))
    assert counts == [4, padded]
    stock.load_state_dict(ours.state_dict())
