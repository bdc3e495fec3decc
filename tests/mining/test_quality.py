"""Qualities by hand."""

from __future__ import annotations

import numpy as np
import pytest

from mnseg.errors import UserError
from mnseg.mining.quality import AGREEMENT, PREDICTED_IOU, STABILITY, Thresholds, best_mask, iou, stability


def strip(start: int, stop: int) -> np.ndarray:
    mask = np.zeros((4, 20), dtype=bool)
    mask[:, start:stop] = True
    return mask


def test_iou_by_hand():
    assert iou(strip(0, 6), strip(3, 9)) == pytest.approx(3 / 9)
    assert iou(strip(0, 6), strip(0, 6)) == 1
    assert iou(strip(0, 0), strip(0, 0)) == 0


def test_the_mask_for_this_structure_wins():
    component, masks = strip(0, 10), np.stack([strip(0, 2), strip(0, 9), strip(0, 20)])
    mask, predicted, agreement = best_mask(masks, np.array([0.95, 0.8, 0.99]), component)
    np.testing.assert_array_equal(mask, strip(0, 9))  # 0.95 x 0.2, 0.8 x 0.9, 0.99 x 0.5
    assert (predicted, agreement) == (0.8, 0.9)


def test_stability_is_a_mean():
    assert stability(strip(0, 10), [strip(0, 10), strip(0, 5)]) == pytest.approx(0.75)
    assert stability(strip(0, 10), []) is None


def test_thresholds_are_inclusive_and_told_in_order():
    limits = Thresholds(0.8, 0.5, 0.7)
    assert limits.reason(0.8, 0.5, 0.7) is None
    assert limits.reason(0.8, 0.5, None) is None
    assert limits.reason(0.79, 0.1, 0.1) == PREDICTED_IOU
    assert limits.reason(0.8, 0.49, 0.1) == AGREEMENT
    assert limits.reason(0.8, 0.5, 0.69) == STABILITY
    assert Thresholds(0, 0, 0).reason(0.0, 0.0, 0.0) is None


@pytest.mark.parametrize("value", [-0.1, 1.1, True, "0.5", float("nan")])
def test_thresholds_lie_between_0_and_1(value):
    with pytest.raises(UserError, match="min_agreement"):
        Thresholds(min_agreement=value)
