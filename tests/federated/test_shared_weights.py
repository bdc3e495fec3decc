"""Which weights of the 2D network a site shares."""

from __future__ import annotations

import pytest
from torch import nn

from mnseg.federated.shared_weights import SharedWeights
from mnseg.networks.adaptation import adapt


@pytest.mark.parametrize("still", [True, False])
def test_statistics_that_a_site_measured_once_stay_there(still):
    encoder = nn.Sequential(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8))
    network_2d = nn.ModuleDict({"encoder": encoder, "head": nn.Conv2d(8, 2, 1)})
    adapt(network_2d, "lora", freeze_statistics=still)
    shared = SharedWeights(nn.Conv3d(1, 2, 1), network_2d).state_dict()
    assert "network_2d.encoder.1.weight" in shared
    assert ("network_2d.encoder.1.running_mean" in shared) is not still
