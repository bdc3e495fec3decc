"""Waiting and computing, by a clock that the test turns."""

from __future__ import annotations

import pytest
import torch
from ignite.engine import Engine, Events

from mnseg.planning.clock import StepClock


class TurnedClock(StepClock):
    """Time moves only when the test says so."""

    def __init__(self) -> None:
        super().__init__(torch.device("cpu"))
        self.time = 0.0

    def now(self) -> float:
        return self.time


def test_waiting_and_computing_are_told_apart_and_warmup_is_left_out():
    clock = TurnedClock()
    waits, computes = [5.0, 1.0, 3.0, 2.0], [9.0, 3.0, 1.0, 2.0]

    def data():
        for seconds in waits:
            clock.time += seconds
            yield None

    engine = Engine(lambda e, batch: setattr(clock, "time", clock.time + computes[e.state.iteration - 1]))
    clock.attach(engine)
    engine.run(data(), epoch_length=4)
    row = clock.row("x", warmup=1)
    assert (row["steps"], row["median_s"], row["min_s"], row["max_s"]) == (3, 4.0, 4.0, 4.0)
    assert row["waiting_share"] == pytest.approx(6 / 12)


def test_a_handler_attached_before_counts_as_part_of_the_step():
    clock = TurnedClock()
    engine = Engine(lambda e, batch: None)
    engine.add_event_handler(Events.ITERATION_COMPLETED, lambda: setattr(clock, "time", clock.time + 7.0))
    clock.attach(engine)
    engine.run([0], epoch_length=1)
    assert clock.computing == [7.0]


def test_warmup_never_leaves_nothing():
    clock = TurnedClock()
    clock.waiting, clock.computing = [1.0], [1.0]
    assert clock.row("x", warmup=3)["steps"] == 1


def test_each_epoch_is_measured_anew_and_what_comes_behind_its_last_step_does_not_count(monkeypatch):
    used = iter([10.0, 30.0, 20.0, 25.0])
    monkeypatch.setattr("mnseg.planning.clock.peak_memory_mib", lambda device: next(used))
    clock, rows = TurnedClock(), []
    engine = Engine(lambda e, batch: setattr(clock, "time", clock.time + 1.0))
    clock.attach(engine)
    engine.add_event_handler(Events.EPOCH_COMPLETED, lambda _: rows.append(clock.row("x", warmup=0)))
    engine.run([0, 0], max_epochs=2)
    assert [(row["steps"], row["peak_memory_mib"]) for row in rows] == [(2, 30.0), (2, 25.0)]
