"""Collation of batches in which only the first items carry a label."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from monai.data import MetaTensor

__all__ = ["collate_mixed"]


def _stack(items: Sequence[Any]) -> torch.Tensor:
    return torch.stack([i.as_tensor() if isinstance(i, MetaTensor) else torch.as_tensor(i) for i in items])


def collate_mixed(items: Sequence[dict]) -> dict:
    """Stack ``image`` over all items and ``label`` over the labeled ones, which must come first.

    Returns:
        ``image``: ``(B, C, H, W, D)``; ``label``: ``(b_l, 1, H, W, D)``, possibly with ``b_l = 0``; ``case``: list of
        ``B`` names. Where a label leaves classes undrawn also ``ignored``: ``(b_l, K)`` bool, from the items'
        "ignored_mask". Stock collation takes the keys of the first item and would drop or demand every label.

    Raises:
        ValueError: when a labeled item stands behind an unlabeled one.
    """
    has_label = ["label" in item for item in items]
    if has_label != sorted(has_label, reverse=True):
        raise ValueError("labeled items must come first in a batch")
    image = _stack([item["image"] for item in items])
    labels = [item["label"] for item in items if "label" in item]
    label = _stack(labels) if labels else image.new_zeros((0, 1, *image.shape[2:]), dtype=torch.uint8)
    batch = {"image": image, "label": label, "case": [item.get("case", "?") for item in items]}
    masks = [item.get("ignored_mask") for item in items[: len(labels)]]
    if known := [mask for mask in masks if mask is not None]:
        complete = [False] * len(known[0])
        batch["ignored"] = torch.tensor([complete if mask is None else mask for mask in masks], dtype=torch.bool)
    return batch
