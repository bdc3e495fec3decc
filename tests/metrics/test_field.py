"""The field's metrics against medpy (the oracle), hand-computed values, and the defined values for empty masks."""

from __future__ import annotations

import numpy as np
import pytest

from mnseg.errors import UserError
from mnseg.metrics.field import METRIC_NAMES, field_metrics

binary = pytest.importorskip("medpy.metric.binary")


def blobs(seed: int, shape: tuple[int, ...], share: float) -> np.ndarray:
    """Smooth random blobs that cover about ``share`` of the volume (and touch its borders)."""
    from scipy.ndimage import gaussian_filter

    field = gaussian_filter(np.random.default_rng(seed).normal(size=shape), 1.5)
    return field > np.quantile(field, 1 - share)


def medpy_metrics(result: np.ndarray, reference: np.ndarray, spacing: tuple[float, ...]) -> list[float]:
    return [
        binary.dc(result, reference),
        binary.jc(result, reference),
        binary.hd95(result, reference),
        binary.asd(result, reference),
        binary.hd95(result, reference, voxelspacing=spacing),
        binary.asd(result, reference, voxelspacing=spacing),
    ]


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.7, 0.9, 5.0)])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("shares", [(0.3, 0.3), (0.02, 0.4), (0.5, 0.005)])
def test_equals_medpy_on_random_blobs(spacing, seed, shares):
    result, reference = blobs(seed, (22, 17, 12), shares[0]), blobs(seed + 100, (22, 17, 12), shares[1])
    ours = field_metrics(result, reference, spacing)
    assert [ours[m] for m in METRIC_NAMES] == pytest.approx(medpy_metrics(result, reference, spacing), abs=1e-9)
    assert ours["note"] == ""


@pytest.mark.parametrize("shape", [(9, 8, 1), (16, 15), (5, 5, 5)])
def test_equals_medpy_where_masks_touch_every_border(shape):
    rng = np.random.default_rng(3)
    result, reference = np.ones(shape, dtype=bool), rng.random(shape) > 0.4
    spacing = (2.0, 0.5, 3.0)[: len(shape)]
    for a, b in [(result, reference), (reference, result)]:
        ours = field_metrics(a, b, spacing)
        assert [ours[m] for m in METRIC_NAMES] == pytest.approx(medpy_metrics(a, b, spacing), abs=1e-9)


def test_equals_medpy_for_each_of_several_classes_far_from_the_origin():
    rng = np.random.default_rng(0)
    pred, label = np.zeros((40, 30, 20), dtype=int), np.zeros((40, 30, 20), dtype=int)
    pred[25:38, 20:29, 3:9], label[27:39, 19:28, 4:11] = rng.integers(0, 4, (13, 9, 6)), rng.integers(0, 4, (12, 9, 7))
    for k in (1, 2, 3):
        ours = field_metrics(pred == k, label == k, (1.0, 1.5, 3.0))
        expected = medpy_metrics(pred == k, label == k, (1.0, 1.5, 3.0))
        assert [ours[m] for m in METRIC_NAMES] == pytest.approx(expected, abs=1e-9)


def test_two_voxels_by_hand():
    result, reference = np.zeros((6, 4, 4)), np.zeros((6, 4, 4))
    result[1, 1, 1] = reference[4, 1, 1] = reference[1, 1, 1] = 1
    ours = field_metrics(result, reference, (2.0, 1.0, 1.0))
    # distances: result -> reference {0}; reference -> result {0, 3} voxels; percentile 95 of {0, 0, 3} = 0.9 * 3
    assert ours["dice"] == pytest.approx(2 / 3)
    assert ours["jaccard"] == pytest.approx(1 / 2)
    assert ours["hd95_voxel"] == pytest.approx(2.7)
    assert ours["hd95_mm"] == pytest.approx(5.4)
    assert ours["asd_voxel"] == 0
    # ASD is directed: swapping the masks changes it
    assert field_metrics(reference, result, (2.0, 1.0, 1.0))["asd_voxel"] == pytest.approx(1.5)
    assert field_metrics(reference, result, (2.0, 1.0, 1.0))["asd_mm"] == pytest.approx(3.0)


def test_empty_masks_have_defined_values():
    full, empty = np.ones((4, 4, 4)), np.zeros((4, 4, 4))
    both = field_metrics(empty, empty, (1, 1, 2))
    assert both == {"dice": 1, "jaccard": 1, "hd95_voxel": 0, "asd_voxel": 0, "hd95_mm": 0, "asd_mm": 0,
                    "note": "both empty"}  # fmt: skip
    for masks, note in [((empty, full), "empty prediction"), ((full, empty), "empty reference")]:
        one = field_metrics(*masks, (1, 1, 2))
        assert (one["dice"], one["jaccard"], one["note"]) == (0, 0, note)
        assert all(np.isnan(one[m]) for m in METRIC_NAMES[2:])


def test_different_shapes_are_refused():
    with pytest.raises(UserError, match="differ in shape"):
        field_metrics(np.ones((4, 4, 4)), np.ones((4, 4, 5)))
