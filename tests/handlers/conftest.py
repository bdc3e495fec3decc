"""An engine without networks, to see one handler at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events

from mnseg.engines.stages import stage_of, student_of


@pytest.fixture
def make_engine() -> Callable[..., Engine]:
    """Engine whose state has what a CoTrainer publishes; two iterations an epoch, losses 1.0 and 3.0."""

    def make(stage_1: int = 2, **state: Any) -> Engine:
        def step(engine: Engine, batch: int) -> dict[str, float]:
            return {"loss_labeled_3d": 1.0 + 2.0 * batch}

        engine = Engine(step)
        defaults = {"device": torch.device("cpu"), "num_unlabeled": 0, "unlabeled_seen": 0, "best_metric": -1}
        for name, value in (defaults | {"best_metric_epoch": -1} | state).items():
            setattr(engine.state, name, value)
        engine.autocast = contextlib.nullcontext
        engine.scalers = {}
        engine.data_loader = SimpleNamespace(batch_sampler=SimpleNamespace(batch_size=4))

        @engine.on(Events.EPOCH_STARTED)
        def publish(engine: Engine) -> None:
            engine.state.stage, engine.state.stage_epoch = stage_of(engine.state.epoch, stage_1)
            engine.state.student = student_of(engine.state.stage, engine.state.stage_epoch)

        return engine

    return make


@pytest.fixture
def run() -> Callable[[Engine, int], None]:
    def run(engine: Engine, epochs: int) -> None:
        engine.run([0, 1], max_epochs=epochs)

    return run
