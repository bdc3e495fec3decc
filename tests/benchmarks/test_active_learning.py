"""active_learning.py: the table of rank correlations."""

from __future__ import annotations

import numpy as np
import pytest
from active_learning import correlation, report


def test_correlation_of_what_ranks_perfectly_and_of_what_does_not():
    error = np.random.default_rng(1).random(60)
    assert correlation(error**3, error, draws=50) == pytest.approx((1, 1, 1))
    assert correlation(-error, error, draws=50) == pytest.approx((-1, -1, -1))
    value, low, high = correlation(np.random.default_rng(2).random(60), error, draws=300)
    assert low < 0 < high and low < value < high


def test_report_by_hand():
    """The two scans with the largest score of eight have errors 0.8 and 0.1."""
    scores = [8, 1, 2, 3, 4, 5, 6, 7]
    errors = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]
    rows = [{"error": e, "other": s} for e, s in zip(errors, scores, strict=True)]
    first, _, _, whole, line = report(rows).splitlines()
    assert first == "8 scans, error 0.450 (from 0.100 to 0.800)"
    assert whole == "| error | 1 | 0.750 |"
    assert line.startswith("| other | 0.33 [") and line.endswith("| 0.450 |")  # 1 - 6 (49 + 7) / (8 * 63)
