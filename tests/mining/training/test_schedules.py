"""Schedules as functions of the epoch."""

from __future__ import annotations

from math import exp

import pytest

from mnseg.errors import UserError
from mnseg.mining.training.schedules import Schedule


def test_one_time_mines_once_when_stage_1_has_ended():
    schedule = Schedule("one_time", stage_1_epochs=3, interval=2, pseudo_weight=0.5)
    assert [schedule.round(epoch) for epoch in range(1, 9)] == [0, 0, 0, 1, 1, 1, 1, 1]
    assert [epoch for epoch in range(1, 9) if schedule.mines(epoch)] == [4]
    assert [schedule.weight(epoch) for epoch in (1, 3, 4, 8)] == [0, 0, 0.5, 0.5]


def test_continuous_mines_every_few_epochs_and_the_weight_rises():
    schedule = Schedule("continuous", stage_1_epochs=2, interval=3, pseudo_weight=2.0, ramp_epochs=4)
    assert [schedule.round(epoch) for epoch in range(1, 10)] == [0, 0, 1, 1, 1, 2, 2, 2, 3]
    assert [epoch for epoch in range(1, 10) if schedule.mines(epoch)] == [3, 6, 9]
    expected = [2 * exp(-5 * (1 - t) ** 2) for t in (0.25, 0.5, 0.75, 1)]
    assert [schedule.weight(epoch) for epoch in (3, 4, 5, 6, 7)] == pytest.approx([*expected, 2.0])


def test_without_stage_1_the_first_epoch_mines():
    assert Schedule("continuous", 0, 5).mines(1)
    assert not Schedule("continuous", 0, 5).mines(2)


def test_the_baseline_never_mines():
    schedule = Schedule("supervised", stage_1_epochs=1, interval=1)
    assert not any(schedule.mines(e) or schedule.round(e) or schedule.weight(e) for e in range(1, 9))
    assert {schedule.stage(e) for e in range(1, 9)} == {1}


def test_other_names_are_refused():
    with pytest.raises(UserError, match="schedule is 'twice'; it must be one of supervised, one_time, continuous"):
        Schedule("twice", 1)
