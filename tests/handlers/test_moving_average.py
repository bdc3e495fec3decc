"""The moving average follows the 3D network's own updates."""

from __future__ import annotations

import torch
from ignite.handlers import EMAHandler
from torch import nn

from mnseg.handlers import MovingAverageHandler


def test_it_moves_only_where_the_3d_network_learns(make_engine, run):
    network = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(network.weight)
    ema = EMAHandler(network, momentum=0.5)
    engine = make_engine(stage_1=1, num_unlabeled=1)
    MovingAverageHandler(ema).attach(engine)
    with torch.no_grad():
        network.weight.fill_(1.0)
    run(engine, 3)  # two batches each: both networks, the 3D one, the 2D one
    assert ema.ema_model.weight.item() == 1 - 0.5**4


def test_without_an_average_nothing_is_attached(make_engine, run):
    engine = make_engine()
    MovingAverageHandler(None).attach(engine)
    run(engine, 1)
