from __future__ import annotations

import pytest
import torch
from ignite.engine import Events

from mnseg.handlers import TwoStageLRHandler


def optimizer(rate: float) -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=rate)


def rates_of(make_engine, run, **options) -> tuple[list[float], list[float]]:
    optimizers = [optimizer(0.1), optimizer(1.0)]
    engine = make_engine(stage_1=4)
    TwoStageLRHandler(optimizers, 4, 4, warmup_epochs=2, **options).attach(engine)
    seen: list[list[float]] = []
    engine.add_event_handler(
        Events.EPOCH_COMPLETED, lambda _: seen.append([o.param_groups[0]["lr"] for o in optimizers])
    )
    run(engine, 8)
    return tuple(map(list, zip(*seen, strict=True)))  # type: ignore[return-value]


def test_warm_up_cosine_restart(make_engine, run):
    """Stage 1: 1/2, 1 of the rate, then cosine at 0 and 1/2; stage 2: cosine at 0, 1/4, 1/2, 3/4."""
    first, second = rates_of(make_engine, run)
    assert second == pytest.approx([0.5, 1, 1, 0.5, 1, 0.853553, 0.5, 0.146447], abs=1e-6)
    assert first == pytest.approx([0.1 * rate for rate in second])


def test_final_rate(make_engine, run):
    first, _ = rates_of(make_engine, run, lr_final=0.02)
    assert first[6] == pytest.approx(0.06)  # half way between 0.1 and 0.02


def test_the_rate_of_the_optimizer_is_remembered():
    """A second handler, built in the middle of a run, still knows where the schedule began."""
    one = optimizer(0.1)
    TwoStageLRHandler([one], 1, 1)
    one.param_groups[0]["lr"] = 0.03
    TwoStageLRHandler([one], 1, 1)
    assert one.param_groups[0]["initial_lr"] == 0.1
