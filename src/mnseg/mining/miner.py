"""Mining one image: the small network's prediction becomes prompts, the large model's masks become a pseudo-label."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from mnseg.mining.promptable import PromptableModel

__all__ = ["KEPT", "MinedImage", "Miner"]

KEPT = "kept"


@dataclass
class MinedImage:
    """What became of one image.

    Attributes:
        case: its name.
        label: (H, W) uint8 class indices, None where the image was rejected or nothing was found.
        decision: "kept", "nothing found", "predicted IoU too low", "agreement too low", "stability too low".
        components: one row a component of the small network's mask: class, size (pixels), box (row0, column0, row1,
            column1), predicted_iou, agreement, stability (None where it was not asked for), kept, reason.
    """

    case: str
    label: np.ndarray | None
    decision: str
    components: list[dict[str, Any]] = field(default_factory=list)


class Miner:
    """Turns predictions of a small network into pseudo-labels with the help of a promptable model.

    Args:
        model: the promptable model.
        cache: an ``EmbeddingCache``; None computes embeddings anew each time.
        min_component_size: share of the image's pixels; smaller components of the small network's mask are noise and
            become background.
        box_margin: by which share of its height and width a component's box is enlarged, on every side.
        positive_points, negative_points: how many points a prompt has inside the component and in the ring around it.
        point_selection: "distance" (positive points lie as deep inside as possible) or "confidence" (where the small
            network is surest).
        min_predicted_iou, min_agreement, min_stability: thresholds, 0 .. 1; 0 lets everything pass.
        jitter: by which share of its size a box's edges and its points move when stability is measured.
        jitter_count: how many moved prompts; 0: stability is not measured.
        partial_images: what becomes of an image of which only some components are kept: "reject" the image, or take
            the dropped components for "background".
        seed: of the jitter.
    """

    def __init__(
        self,
        model: PromptableModel,
        cache: Any = None,
        min_component_size: float = 0.001,
        box_margin: float = 0.1,
        positive_points: int = 3,
        negative_points: int = 4,
        point_selection: Literal["distance", "confidence"] = "distance",
        min_predicted_iou: float = 0.7,
        min_agreement: float = 0.5,
        min_stability: float = 0.7,
        jitter: float = 0.1,
        jitter_count: int = 3,
        partial_images: Literal["reject", "background"] = "reject",
        seed: int = 0,
    ) -> None:
        raise NotImplementedError

    def mine(self, case: str, image: np.ndarray, probabilities: np.ndarray) -> MinedImage:
        """Mine one image.

        Args:
            case: its name.
            image: (H, W) or (H, W, 3) uint8.
            probabilities: (K, H, W) of the small network, at the image's own size.
        """
        raise NotImplementedError
