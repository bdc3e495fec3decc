"""Disagreement and features against values computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mnseg.disagreement import class_disagreement, feature_names, mean_disagreement, scan_features


def masks(*values):
    return [torch.tensor(v, dtype=torch.uint8).reshape(1, 1, -1) for v in values]


def test_by_hand():
    """Class 1: 3 and 2 voxels, 2 in common; class 2: 1 and 2, 1 in common; class 3: nobody's."""
    a, b = masks([1, 1, 1, 2, 0, 0], [1, 1, 0, 2, 2, 0])
    assert class_disagreement(a, b, 4, speck=0) == pytest.approx([1 / 5, 1 / 3, None])
    assert class_disagreement(a, b, 4, speck=10) == pytest.approx([1 / 15, 1 / 13, None])
    assert mean_disagreement([1 / 5, 1 / 3, None]) == pytest.approx(4 / 15)


def test_ends_of_the_scale():
    a, b = masks([1] * 500 + [0] * 500, [0] * 500 + [1] * 500)
    assert class_disagreement(a, a, 2) == [0.0]
    assert class_disagreement(a, b, 2, speck=0) == [1.0]
    assert class_disagreement(*masks([0] * 9, [0] * 9), 2) == [None]
    assert mean_disagreement([None]) is None


def test_a_speck_counts_little_and_a_lost_organ_much():
    empty, speck, organ = masks([0] * 400, [1] * 3 + [0] * 397, [1] * 100 + [0] * 300)
    assert class_disagreement(empty, speck, 2) == pytest.approx([3 / 13])
    assert class_disagreement(empty, organ, 2) == pytest.approx([100 / 110])


def test_does_not_grow_with_the_object():
    """The same shape, twice as fine: eight times the voxels, the same disagreement up to the speck."""
    a, b = torch.zeros(2, 16, 16, 16, dtype=torch.uint8)
    a[2:10, 2:10, 2:10], b[4:12, 2:10, 2:10] = 1, 1
    coarse = class_disagreement(a, b, 2, speck=0)
    fine = class_disagreement(*(m.repeat_interleave(2, 0).repeat_interleave(2, 1).repeat_interleave(2, 2)
                                for m in (a, b)), 2, speck=0)  # fmt: skip
    assert coarse == fine == [0.25]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=60))
def test_symmetric_between_0_and_1_and_one_minus_dice(pairs):
    a, b = masks(*zip(*pairs, strict=True))
    values = class_disagreement(a, b, 4, speck=0)
    assert values == class_disagreement(b, a, 4, speck=0)
    for index, value in enumerate(values, start=1):
        one, other = (a == index).numpy(), (b == index).numpy()
        size = one.sum() + other.sum()
        assert (value is None) == (size == 0)
        if size:
            assert value == pytest.approx(1 - 2 * (one & other).sum() / size) and 0 <= value <= 1


def test_features_by_hand():
    """Voxels of 1 x 2 x 4 mm; class 1 is two voxels at x = 1 and 3, y = 0, z = 1; class 2 is not seen."""
    image = torch.arange(4 * 2 * 5, dtype=torch.float32).reshape(1, 4, 2, 5)
    mask = torch.zeros(4, 2, 5, dtype=torch.long)
    mask[1, 0, 1] = mask[3, 0, 1] = 1
    names = feature_names(["background", "one", "two"])
    found = dict(zip(names, scan_features(image, mask, 3, [1.0, 2.0, 4.0]), strict=True))
    assert found["image p50"] == pytest.approx(19.5) and found["image p1"] == pytest.approx(0.39)
    assert found["log field of view x"] == pytest.approx(math.log(4))
    assert found["log field of view z"] == pytest.approx(math.log(20))
    assert found["one log volume"] == pytest.approx(math.log1p(2 * 8 / 1000))
    assert found["one mean"] == pytest.approx(21) and found["one std"] == pytest.approx(10)
    assert [found[f"one {axis}"] for axis in "xyz"] == pytest.approx([2.5 / 4, 0.5 / 2, 1.5 / 5])
    assert [found[f"one size {axis}"] for axis in "xyz"] == pytest.approx([1.0, 0.0, 0.0])
    assert [value for name, value in found.items() if name.startswith("two ")] == [0.0] * 9


def test_features_of_several_channels_and_of_large_scans():
    image = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 120, 100, 90)).astype(np.float32))
    image[1] += 5
    values = scan_features(image, torch.zeros(120, 100, 90, dtype=torch.long), 2, [1, 1, 1])
    found = dict(zip(feature_names(["background", "x"], 2), values, strict=True))
    for channel in (0, 1):
        whole = np.percentile(image[channel].numpy(), [1, 50, 99])
        taken = [found[f"image {channel} p{p}"] for p in (1, 50, 99)]
        assert taken == pytest.approx(whole, abs=0.02), "percentiles of the thinned scan"
