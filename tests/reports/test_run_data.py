"""Values of a run's cases."""

from __future__ import annotations

from math import isnan, nan
from pathlib import Path

import pytest

from mnseg.reports.run_data import Run


def test_a_distance_that_there_is_not_is_left_out_of_its_cases_mean():
    rows = [
        {"case": "a", "class": 1, "dice": 0.9, "hd95_mm": 3.0},
        {"case": "a", "class": 2, "dice": 0.0, "hd95_mm": nan},
    ]
    run = Run("one", Path("one"), rows)
    assert run.values("hd95_mm") == {"a": 3.0}
    assert run.values("dice") == {"a": pytest.approx(0.45)}
    assert isnan(run.values("hd95_mm", 2)["a"])
