"""The numbers of the report page, of runs made up value by value."""

from __future__ import annotations

from math import sqrt
from pathlib import Path

import pytest

from html_page import Page
from mnseg.metrics.field import METRIC_NAMES
from mnseg.reports.run_data import Run
from mnseg.reports.tables import difference_table, headlines, metric_table


def made(name: str, *cases: tuple[float, ...]) -> Run:
    """Each case has its values of class 1, 2, …, the same in every metric."""
    rows = [
        {"case": f"case_{i}", "class": k, "class_name": f"class {k}", "note": "", **dict.fromkeys(METRIC_NAMES, value)}
        for i, values in enumerate(cases)
        for k, value in enumerate(values, start=1)
    ]
    return Run(name, Path(name), rows)


def test_the_spread_is_the_samples():
    """Two values at a distance of 0.2: 0.2 / sqrt(2), not the 0.1 of a whole population; a single value has none."""
    rows = Page(metric_table([made("two", (0.7,), (0.9,)), made("one", (0.8,))])).rows
    assert [row[1] for row in rows if row[0] == "class 1"] == [f"80.0 ± {20 / sqrt(2):.1f}", "80.0 ± 0.0"]


def test_each_class_has_its_own_differences():
    ours = made("ours", (0.9, 0.5), (0.8, 0.4), (0.95, 0.3))
    base = made("base", (0.7, 0.5), (0.7, 0.5), (0.7, 0.5))
    means = {row[0]: row[1].split()[0] for row in Page(difference_table([base, ours], base)).rows[1:]}
    assert means == {"ours all classes": "+4.2", "class 1": "+18.3", "class 2": "−10.0"}


@pytest.mark.parametrize(
    ("shift", "verdict"),
    [
        (0.3, ", better than base on these cases."),
        (0.0, "; the interval contains 0, so these cases leave open which is better."),
        (-0.3, ", worse than base on these cases."),
    ],
)
def test_the_interval_decides_what_is_said(shift, verdict):
    base = made("base", *[(0.5,)] * 6)
    ours = made("ours", *[(0.5 + shift + own,) for own in (-0.1, -0.05, 0.02, 0.04, 0.06, 0.08)])
    assert headlines([base, ours], base)[1].endswith(verdict)
