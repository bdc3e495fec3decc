"""How good is a mined mask? Predicted IoU, agreement with the small network, stability when the prompt moves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mnseg.errors import UserError

__all__ = ["AGREEMENT", "PREDICTED_IOU", "STABILITY", "Thresholds", "best_mask", "iou", "stability"]

PREDICTED_IOU = "predicted IoU too low"
AGREEMENT = "agreement too low"
STABILITY = "stability too low"


@dataclass(frozen=True)
class Thresholds:
    """A mask is kept when each quality is at least its threshold, 0 .. 1; 0 lets everything pass."""

    min_predicted_iou: float = 0.7
    min_agreement: float = 0.5
    min_stability: float = 0.7

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
                raise UserError(f"{name} is {value!r}; it must lie between 0 (everything passes) and 1.")

    def reason(self, predicted_iou: float, agreement: float, stability: float | None) -> str | None:
        """Why a mask is dropped, the first of three reasons; None: it is kept. Stability None was not measured."""
        if predicted_iou < self.min_predicted_iou:
            return PREDICTED_IOU
        if agreement < self.min_agreement:
            return AGREEMENT
        if stability is not None and stability < self.min_stability:
            return STABILITY
        return None


def iou(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two masks (H, W) bool; 0 where both are empty, since an empty mask is no find."""
    union = np.count_nonzero(a | b)
    return np.count_nonzero(a & b) / union if union else 0.0


def best_mask(masks: np.ndarray, predicted: np.ndarray, component: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Of the masks that a model offers for one prompt (SAM: part, whole, surroundings) the one for this structure.

    Predicted IoU alone says how clean a mask is, agreement alone prefers the small network's own faults; the largest
    product wins, of equal ones the first.

    Args:
        masks: (M, H, W) bool.
        predicted: (M,) predicted IoU.
        component: (H, W) bool of the small network.

    Returns:
        The mask (H, W), its predicted IoU and its agreement (IoU with the component).
    """
    agreements = [iou(mask, component) for mask in masks]
    best = int(np.argmax(np.asarray(predicted) * agreements))
    return masks[best], float(predicted[best]), float(agreements[best])


def stability(mask: np.ndarray, others: Sequence[np.ndarray]) -> float | None:
    """Mean IoU of a mask with those of the moved prompts; None without any."""
    return float(np.mean([iou(mask, other) for other in others])) if others else None
