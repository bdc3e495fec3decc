"""tables.py: each cell of a comparison is of its own row, network, class and metric."""

from __future__ import annotations

import math

import pytest
import tables

from mnseg.errors import UserError

NAN = math.nan


def line(case: str, name: str, *values: float) -> dict[str, str]:
    """Values in the order of Dice, Jaccard, HD95, ASD, as a CSV file has them."""
    return {"case": case, "class_name": name, **dict(zip(tables.METRICS, map(str, values), strict=True))}


BASE = [line("a", "x", 0.5, 0.4, 9, 3), line("a", "y", 0.3, 0.2, 6, 2),
        line("b", "x", 0.7, 0.5, 7, 5), line("b", "y", 0.5, 0.4, 2, 1)]  # fmt: skip
# Its cases come in another order; class y is missed in a.
OURS = [line("b", "x", 0.9, 0.8, 3, 1), line("b", "y", 0.7, 0.6, 1, 1),
        line("a", "x", 0.8, 0.7, 4, 2), line("a", "y", 0.0, 0.0, NAN, NAN)]  # fmt: skip


def cells(text: str) -> list[list[str]]:
    """Rows of a Markdown table, without head and rule."""
    return [row.strip("| ").split(" | ") for row in text.splitlines()[2:]]


def test_a_class_has_its_own_values_and_its_own_missed_cases():
    found = cells(tables.class_table({("mn", "g"): OURS}))
    assert found == [
        ["mn", "g", "x", "85.00 ± 7.07", "75.00 ± 7.07", "3.50 ± 0.71", "1.50 ± 0.71", "0"],
        ["mn", "g", "y", "35.00 ± 49.50", "30.00 ± 42.43", "1.00", "1.00", "1"],
    ]


def test_the_main_table_averages_the_classes_of_a_case_and_names_what_each_network_cost():
    price = {"g": "10", "f": "4", "seen": "7", "wall": "2.0 min", "cpu": "3.0 min"}
    found = cells(tables.main_table({("mn", "g"): OURS, ("mn", "f"): BASE}, {"mn": price}))
    # Dice of b 0.8 and a 0.4; HD95 of b 2 and of a, where y has none, 4.
    assert found == [
        ["mn", "g", "60.00 ± 28.28", "52.50 ± 24.75", "3.00 ± 1.41", "1.50 ± 0.71", "1", "10", "7", "2.0 min",
         "3.0 min"],
        ["mn", "f", "50.00 ± 14.14", "37.50 ± 10.61", "6.00 ± 2.12", "2.75 ± 0.35", "0", "4", "7", "2.0 min",
         "3.0 min"],
    ]  # fmt: skip


def test_each_difference_is_of_its_own_metric_from_low_to_high():
    (row,) = cells(tables.difference_table({("supervised", "g"): BASE, ("mn", "f"): OURS}))
    assert row[:2] == ["mn", "f"]
    means, ends = zip(*(cell.split(" ", 1) for cell in row[2:]), strict=True)
    # Case a, case b: Dice 0, +20; Jaccard +5, +25; HD95 4 - 7.5, 2 - 4.5; ASD 2 - 2.5, 1 - 3.
    assert means == ("+10.00", "+15.00", "-3.00", "-1.25")
    for end, (least, most) in zip(ends, ((0, 20), (5, 25), (-3.5, -2.5), (-2, -0.5)), strict=True):
        low, high = map(float, end.strip("[]").split(", "))
        assert least <= low < (least + most) / 2 < high <= most


def test_seeds_are_averaged_case_by_case_before_they_are_paired():
    ours = {0: OURS, 1: [line("a", "x", 0.6, 0, 1, 1), line("b", "x", 1.0, 0, 1, 1)], 7: BASE}
    theirs = {0: BASE, 1: BASE, 2: OURS}
    assert tables.over_seeds({seed: ours[seed] for seed in (0, 1)}, "dice") == pytest.approx({"b": 0.9, "a": 0.5})
    mean, low, high = tables.seed_difference(ours, theirs, "dice")
    # Of the seeds 0 and 1 alone: a 0.5 - 0.4, b 0.9 - 0.6.
    assert mean == pytest.approx(0.2) and 0.1 - 1e-9 <= low < 0.2 < high <= 0.3 + 1e-9
    assert tables.seed_difference({3: OURS}, theirs, "dice") is None
    with pytest.raises(UserError, match="different cases"):
        tables.seed_difference({0: OURS[:2]}, theirs, "dice")


def test_seeds_are_paired_by_case_not_by_position():
    """Equal differences have no interval; by position they would be +50 and -30 points."""
    ours = {0: [line("b", "x", 0.9, 0, 1, 1), line("a", "x", 0.5, 0, 1, 1)]}
    theirs = {0: [line("a", "x", 0.4, 0, 1, 1), line("b", "x", 0.8, 0, 1, 1)]}
    assert tables.seed_difference(ours, theirs, "dice") == pytest.approx((0.1, 0.1, 0.1))


def test_only_a_missing_distance_counts_as_one():
    rows = [line("a", "x", 0, 0, NAN, NAN), line("a", "y", NAN, NAN, NAN, NAN), line("b", "x", 0.5, 0.4, 1, 1)]
    assert [tables.no_distance(rows, name) for name in (None, "x", "y")] == [2, 1, 1]
