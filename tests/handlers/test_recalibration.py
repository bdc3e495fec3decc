"""Only a new run measures the batch norms, on the first batches."""

from __future__ import annotations

import torch
from ignite.engine import Events
from torch import nn

from mnseg.handlers import RecalibrationHandler


def run(make_engine, epoch: int, num_batches: int) -> nn.BatchNorm3d:
    norm = nn.BatchNorm3d(1)
    engine = make_engine()
    engine.data_loader = [{"image": torch.full((2, 1, 2, 2, 2), value)} for value in (4.0, 6.0, 100.0)]
    engine.add_event_handler(Events.STARTED, lambda e: setattr(e.state, "epoch", epoch))
    RecalibrationHandler(norm, num_batches).attach(engine)
    engine.run([0, 1], max_epochs=4)
    return norm


def test_a_new_run_measures_the_first_batches(make_engine):
    assert float(run(make_engine, 0, 2).running_mean) == 5.0


def test_a_continued_run_keeps_its_statistics(make_engine):
    assert float(run(make_engine, 3, 2).running_mean) == 0.0


def test_zero_batches_leave_the_pretrained_statistics(make_engine):
    assert float(run(make_engine, 0, 0).running_mean) == 0.0
