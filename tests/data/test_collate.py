"""Batches in which only the first items have a label."""

from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor

from mnseg.data.collate import collate_mixed


def item(value: float, labeled: bool, case: str) -> dict:
    result = {"image": MetaTensor(torch.full((1, 2, 3, 4), value)), "case": case}
    if labeled:
        result["label"] = MetaTensor(torch.full((1, 2, 3, 4), int(value), dtype=torch.uint8))
    return result


@pytest.mark.parametrize("b_l", range(4))
def test_images_over_all_labels_over_the_labeled(b_l):
    batch = collate_mixed([item(float(i), i < b_l, f"c{i}") for i in range(3)])
    assert batch["image"].shape == (3, 1, 2, 3, 4)
    assert batch["label"].shape == (min(b_l, 3), 1, 2, 3, 4)
    assert batch["label"].dtype == torch.uint8
    assert batch["case"] == ["c0", "c1", "c2"]
    assert [float(x.mean()) for x in batch["image"]] == [0, 1, 2]
    assert [float(x.float().mean()) for x in batch["label"]] == list(range(b_l))
    assert not isinstance(batch["image"], MetaTensor), "metadata of one scan must not stand for a batch"


def test_labeled_behind_unlabeled_is_refused():
    with pytest.raises(ValueError, match="labeled items must come first"):
        collate_mixed([item(0.0, False, "a"), item(1.0, True, "b")])


def test_ignored_classes_of_the_labeled_items():
    items = [item(float(i), i < 2, f"c{i}") for i in range(3)]
    assert "ignored" not in collate_mixed(items)
    items[1]["ignored_mask"] = [False, True, False]
    items[2]["ignored_mask"] = [False, False, True]  # of an unlabeled scan's hidden label, which no loss sees
    ignored = collate_mixed(items)["ignored"]
    assert ignored.dtype == torch.bool
    assert ignored.tolist() == [[False, False, False], [False, True, False]]


def test_two_dimensional_items():
    batch = collate_mixed([{"image": torch.zeros(3, 5, 6)}])
    assert batch["label"].shape == (0, 1, 5, 6)
    assert batch["case"] == ["?"]
