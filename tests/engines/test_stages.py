"""Stages, roles and learning rates: pure functions."""

from __future__ import annotations

from math import cos, pi

import pytest

from mnseg.engines.stages import learning_rate_factor, stage_of, student_of, teachers_of


def test_stages_count_from_one():
    assert [stage_of(e, 500) for e in (1, 500, 501, 4000)] == [(1, 1), (1, 500), (2, 1), (2, 3500)]
    assert stage_of(1, 0) == (2, 1)


def test_odd_epochs_of_stage_2_train_the_3d_network():
    assert student_of(1, 7) == "both"
    assert [student_of(2, e) for e in range(1, 6)] == ["3d", "2d", "3d", "2d", "3d"]
    assert {student_of(2, e, "fixed_teacher") for e in range(1, 6)} == {"3d"}
    assert {student_of(2, e, "distillation") for e in range(1, 6)} == {"3d"}
    assert [student_of(2, e, "mean_teacher") for e in range(1, 4)] == ["3d", "2d", "3d"]
    assert [student_of(2, e, "joint_teacher") for e in range(1, 4)] == ["3d", "2d", "3d"]


def test_warm_up_ends_with_stage_1():
    """A rising rate in stage 2 would mean falling b_u where Eq. 10 speaks of a decay."""
    assert [learning_rate_factor(e, 2, 4, 8) for e in (1, 2, 3)] == [0.5, 1, 1]
    rates = [learning_rate_factor(e, 2, 4, 8, restart=False) for e in range(1, 7)]
    assert rates[:3] == [0.5, 1, 1] and rates[3:] == sorted(rates[3:], reverse=True)
    assert learning_rate_factor(1, 0, 4, 8) == 1


def test_the_other_network_teaches_unless_roles_say_otherwise():
    assert [teachers_of(s) for s in ("3d", "2d")] == [("2d",), ("3d",)]
    assert [teachers_of(s, "fixed_teacher") for s in ("3d", "2d")] == [("2d",), ("3d",)]
    assert [teachers_of(s, "mean_teacher") for s in ("3d", "2d")] == [("3d",), ("3d",)]
    assert [teachers_of(s, "distillation") for s in ("3d", "2d")] == [("3d",), ("3d",)]
    assert [teachers_of(s, "joint_teacher") for s in ("3d", "2d")] == [("3d", "2d"), ("3d", "2d")]


def test_warm_up_cosine_restart_cosine():
    """The paper's schedule: 50 of 500 epochs warm-up, cosine to 0, full rate again at 501, cosine to 0 at 4000."""

    def factor(epoch: int) -> float:
        return learning_rate_factor(epoch, 500, 3500, 50)

    assert factor(1) == 1 / 50
    assert factor(25) == 0.5
    assert factor(50) == factor(51) == 1.0
    assert factor(51 + 225) == pytest.approx(0.5)
    assert factor(51 + 150) == pytest.approx(0.75)  # a third of the way: (1 + cos(pi / 3)) / 2
    assert 0 < factor(500) < 1e-4
    assert factor(501) == 1.0
    assert factor(501 + 1750) == pytest.approx(0.5)
    assert 0 < factor(4000) < 1e-5
    stage_2 = [factor(e) for e in range(501, 4001)]
    assert stage_2 == sorted(stage_2, reverse=True)


def test_without_restart_one_cosine_over_both_stages():
    values = [learning_rate_factor(e, 500, 3500, restart=False) for e in range(1, 4001)]
    assert values == pytest.approx([(1 + cos(pi * e / 4000)) / 2 for e in range(4000)])


@pytest.mark.parametrize("arguments", [(1, 0, 0), (1, 1, 0, 1), (1, 2, 0, 2), (3, 2, 0)])
def test_stages_of_no_length(arguments):
    assert 0 <= learning_rate_factor(*arguments) <= 1
