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
        ``B`` names. Stock collation takes the keys of the first item and would drop or demand every label.

    Raises:
        ValueError: when a labeled item stands behind an unlabeled one.
    """
    has_label = ["label" in item for item in items]
    if has_label != sorted(has_label, reverse=True):
        raise ValueError("labeled items must come first in a batch")
    image = _stack([item["image"] for item in items])
    labels = [item["label"] for item in items if "label" in item]
    label = _stack(labels) if labels else image.new_zeros((0, 1, *image.shape[2:]), dtype=torch.uint8)
    return {"image": image, "label": label, "case": [item.get("case", "?") for item in items]}
