"""Which class names tell a side, and which flips that forbids."""

from __future__ import annotations

import logging

import pytest

from mnseg.data.lateralized import allowed_flips, lateralized
from mnseg.errors import UserError

KIDNEYS = ["background", "left kidney", "right kidney"]


@pytest.mark.parametrize(
    "name",
    ["left kidney", "Kidney-R", "kidney_l", "RightLung", "lung right", "L hippocampus", "LEFT_ATRIUM", "lt. ovary",
     "ren sinister", "pulmo dexter", "auricula dextra", "left-sided mass", "femurLeft"],
)
def test_sided(name):
    assert lateralized(["background", name]) == [name]


@pytest.mark.parametrize(
    "name",
    ["liver", "LA", "atrium", "cleft", "bright spot", "upright", "alright", "lumen", "rectum", "L5", "vertebra L1",
     "foreground", "anterior", "T2 lesion", "ventricle"],
)
def test_not_sided(name):
    assert lateralized(["background", name]) == []


def test_left_right_flips_go_and_the_classes_are_named(caplog):
    with caplog.at_level(logging.WARNING):
        assert allowed_flips([0, 1, 2], KIDNEYS) == [1, 2]
    assert "no flips along axis 0" in caplog.text and "left kidney, right kidney" in caplog.text


@pytest.mark.parametrize(("orientation", "expected"), [("RAS", [1, 2]), ("LPS", [1, 2]), ("PIL", [0, 1]),
                                                       ("ALS", [0, 2])])
def test_the_axis_follows_the_orientation(orientation, expected):
    assert allowed_flips([0, 1, 2], KIDNEYS, orientation) == expected


def test_nothing_to_take_off_says_nothing(caplog):
    with caplog.at_level(logging.WARNING):
        assert allowed_flips([], KIDNEYS) == []
        assert allowed_flips([2, 1], KIDNEYS) == [1, 2]
        assert allowed_flips([0, 0], ["background", "liver"]) == [0]
    assert caplog.text == ""


@pytest.mark.parametrize("flip_axes", [[3], [-1], 0, "0", ["0"], [0.5]])
def test_bad_axes(flip_axes):
    with pytest.raises(UserError, match="flip_axes is"):
        allowed_flips(flip_axes, KIDNEYS)
