"""Paired differences: hand-computed means, coverage, edge cases."""

import math

import numpy as np
import pytest

from mnseg.errors import UserError
from mnseg.reports.statistics import paired_difference


def test_mean_is_of_differences_and_interval_holds_it():
    mean, low, high = paired_difference([0.9, 0.8, 0.7, 0.95], [0.5, 0.7, 0.7, 0.75])
    assert mean == pytest.approx((0.4 + 0.1 + 0.0 + 0.2) / 4)
    assert 0.0 < low < mean < high < 0.4


def test_swapping_changes_the_sign_of_the_mean():
    a, b = np.random.default_rng(1).normal(size=(2, 12))
    assert paired_difference(a, b)[0] == pytest.approx(-paired_difference(b, a)[0])


def test_interval_of_a_normal_sample_is_close_to_students():
    difference = np.random.default_rng(2).normal(1.0, 2.0, 200)
    _, low, high = paired_difference(difference, np.zeros(200))
    half = 1.972 * difference.std(ddof=1) / math.sqrt(200)
    assert (low, high) == pytest.approx((difference.mean() - half, difference.mean() + half), abs=0.06)


@pytest.mark.parametrize(("options", "quantile"), [({}, 1.960), ({"confidence": 0.8}, 1.282)])
def test_the_width_follows_the_confidence(options, quantile):
    difference = np.random.default_rng(2).normal(1.0, 2.0, 400)
    _, low, high = paired_difference(difference, np.zeros(400), **options)
    assert high - low == pytest.approx(2 * quantile * difference.std(ddof=1) / math.sqrt(400), rel=0.05)


def test_a_skewed_sample_moves_the_interval():
    """Bias-corrected and accelerated: towards the long tail, compared with the plain percentiles of the resamples."""
    rng = np.random.default_rng(6)
    difference = rng.exponential(1.0, 20) ** 2
    means = rng.choice(difference, (9999, 20)).mean(axis=1)
    plain_low, plain_high = np.percentile(means, [2.5, 97.5])
    _, low, high = paired_difference(difference, np.zeros(20))
    assert low > plain_low + 0.05 * (plain_high - plain_low)
    assert high > plain_high + 0.05 * (plain_high - plain_low)


def test_coverage_is_near_what_is_asked_for():
    rng = np.random.default_rng(3)
    hits = 0
    for _ in range(100):
        _, low, high = paired_difference(rng.normal(0.5, 1, 30), np.zeros(30), resamples=500)
        hits += low <= 0.5 <= high
    assert 86 <= hits <= 100


def test_pairing_narrows_the_interval():
    rng = np.random.default_rng(4)
    hardness = rng.normal(0, 10, 20)
    _, low, high = paired_difference(hardness + 1 + rng.normal(0, 0.1, 20), hardness)
    assert high - low < 0.2 and low > 0.8


def test_equal_differences_need_no_interval():
    assert paired_difference([1.0, 2.0, 3.0], [0.5, 1.5, 2.5]) == (0.5, 0.5, 0.5)


def test_nan_pairs_are_left_out():
    with_nan = paired_difference([1.0, float("nan"), 3.0, 2.0], [0.0, 1.0, 1.0, 1.5])
    assert with_nan == paired_difference([1.0, 3.0, 2.0], [0.0, 1.0, 1.5])


@pytest.mark.parametrize(("count", "mean_known"), [(0, False), (1, True)])
def test_too_few_pairs_have_no_interval(count, mean_known):
    mean, low, high = paired_difference([2.0] * count, [1.0] * count)
    assert math.isnan(low) and math.isnan(high)
    assert math.isnan(mean) is not mean_known


def test_same_input_same_interval():
    a, b = np.random.default_rng(5).normal(size=(2, 9))
    assert paired_difference(a, b) == paired_difference(a, b)


def test_different_lengths_are_refused():
    with pytest.raises(UserError, match="one value per case"):
        paired_difference([1.0, 2.0], [1.0])
