"""Each column of the report's tables is of its own metric, in its own unit, over its own cases."""

from __future__ import annotations

from math import nan
from pathlib import Path

import pytest

from html_page import Page
from mnseg.metrics.field import METRIC_NAMES
from mnseg.reports.run_data import Run
from mnseg.reports.tables import compare, difference_table, headlines, metric_table


def line(case: str, number: int, values: tuple[float, ...], note: str = "") -> dict:
    """Values in the order of ``METRIC_NAMES``."""
    named = dict(zip(METRIC_NAMES, values, strict=True))
    return {"case": case, "class": number, "class_name": f"class {number}", "note": note, **named}


MISSED = (0.0, 0.0, nan, nan, nan, nan)
BASE = Run("base", Path("base"), [
    line("a", 1, (0.50, 0.40, 10.0, 3.0, 8.0, 2.0)),
    line("b", 1, (0.50, 0.40, 12.0, 5.0, 6.0, 4.0)),
    line("c", 1, MISSED, "empty prediction"),
])  # fmt: skip
# Its cases come in another order.
OURS = Run("ours", Path("ours"), [
    line("c", 1, (0.60, 0.20, 7.0, 1.0, 5.0, 1.0)),
    line("b", 1, (0.80, 0.60, 9.0, 2.0, 3.0, 1.0)),
    line("a", 1, (0.70, 0.50, 5.0, 1.0, 4.0, 1.5)),
])  # fmt: skip


def test_each_metric_has_its_own_mean_and_unit():
    (row,) = [row for row in Page(metric_table([OURS])).rows if row[0] == "class 1"]
    # Dice and Jaccard in percent; HD95 and ASD in voxels, then both in mm.
    assert [cell.split()[0] for cell in row[1:7]] == ["70.0", "43.3", "7.00", "1.33", "4.00", "1.17"]


def test_each_difference_is_of_its_own_metric_and_leaves_out_cases_without_a_distance():
    head, *rows = Page(difference_table([OURS, BASE], BASE)).rows
    (row,) = [row for row in rows if row[0] == "class 1"]
    assert head[1:] == ["Dice, points", "Jaccard, points", "HD95, mm", "ASD, mm", "pairs"]
    # Dice (20 + 30 + 60) / 3, Jaccard (10 + 20 + 20) / 3; of a and b alone: HD95 (-4 - 3) / 2, ASD (-0.5 - 3) / 2.
    assert [cell.split()[0] for cell in row[1:5]] == ["+36.7", "+16.7", "−3.50", "−1.75"]
    assert row[5] == "3 (2 for distances)"
    assert compare(OURS, BASE, "hd95_mm")[3] == 2 and compare(OURS, BASE, "dice")[3] == 3


def test_an_interval_is_written_from_its_lower_to_its_higher_end():
    dice, hd95 = (cell.partition("[")[2].rstrip("]").replace("−", "-").split(", ")
                  for cell in Page(difference_table([OURS, BASE], BASE)).rows[1][1:4:2])  # fmt: skip
    assert 20 <= float(dice[0]) < 36.7 < float(dice[1]) <= 60
    assert -4 <= float(hd95[0]) <= -3.5 <= float(hd95[1]) <= -3


def test_the_mean_of_the_headline_is_over_cases():
    """A case in which one of two structures was drawn counts as much as one in which both were."""
    rows = [line("a", 1, (0.9,) * 6), line("a", 2, (0.7,) * 6), line("b", 1, (0.2,) * 6), line("b", 2, (nan,) * 6)]
    (sentence,) = headlines([Run("one", Path("one"), rows)], None)
    assert sentence == "one: mean Dice 50.0 % on 2 cases."


def test_the_headlines_interval_goes_from_low_to_high():
    sentence = headlines([OURS, BASE], BASE)[0]
    low, _, high = sentence.partition("95 % interval ")[2].partition(")")[0].partition(" to ")
    assert sentence.startswith("ours: mean Dice 70.0 % on 3 cases, +36.7 points against base (95 % interval ")
    assert 20 <= float(low) < 36.7 < float(high) <= 60


def test_empty_masks_and_measured_cases_are_counted_class_by_class():
    rows = [
        line("a", 1, (0.9,) * 6), line("a", 2, MISSED, "empty prediction"), line("a", 3, (nan,) * 6, "ignored"),
        line("b", 1, (0.9,) * 6), line("b", 2, MISSED, "empty reference"), line("b", 3, (0.5,) * 6),
    ]  # fmt: skip
    counts = {row[0]: row[-2:] for row in Page(metric_table([Run("one", Path("one"), rows)])).rows[1:]}
    assert counts == {"one all classes": ["2", "1"], "class 1": ["2", "0"], "class 2": ["2", "1"],
                      "class 3": ["1", "0"]}  # fmt: skip


@pytest.mark.parametrize("metric", METRIC_NAMES)
def test_a_case_is_the_mean_of_its_classes(metric):
    rows = [line("a", k, (value,) * 6) for k, value in ((1, 0.1), (2, 0.2), (3, 0.9))]
    assert Run("one", Path("one"), rows).values(metric) == {"a": pytest.approx(0.4)}
