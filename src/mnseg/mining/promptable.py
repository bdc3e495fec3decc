"""What a promptable segmenter is to the miner: an image and prompts in, masks with predicted qualities out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor

__all__ = ["Prompt", "PromptableModel", "as_rgb"]


@dataclass(frozen=True, eq=False)
class Prompt:
    """One structure that a model is asked for. Coordinates are pixel indices, row 0 on top.

    Attributes:
        class_index: 1 .. K-1.
        component: (H, W) bool, the component of the small network's mask that the prompt was made from, or a guess.
        box: row0, column0, row1, column1, half open, margin included, clipped to the image; None: points alone, as a
            person's clicks.
        points: (N, 2) float, row and column.
        point_labels: (N,) int, 1 positive, 0 negative.
    """

    class_index: int
    component: np.ndarray
    box: tuple[float, float, float, float] | None
    points: np.ndarray
    point_labels: np.ndarray


class PromptableModel(Protocol):
    """A frozen large model, or a classical segmenter.

    Attributes:
        identity: names weights and preprocessing; equal identity, equal embedding. Part of the cache's key.
    """

    identity: str

    def embed(self, image: np.ndarray) -> dict[str, Tensor]:
        """What the image encoder makes of an image, without prompts; {} where there is no encoder.

        Args:
            image: (H, W) or (H, W, 3) uint8, rows from top to bottom as a person sees them.
        """

    def segment(
        self, image: np.ndarray, embedding: dict[str, Tensor], prompts: Sequence[Prompt]
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """For every prompt: masks (M, H, W) bool and their predicted quality (M,) in 0 .. 1, M >= 1.

        Args:
            image: as for ``embed``.
            embedding: what ``embed`` gave for this image.
            prompts: all of them pass the model in one batch.
        """


def as_rgb(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 of a gray or RGB image.

    Raises:
        ValueError: another shape or type.
    """
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] != 3):
        raise ValueError(f"expected (H, W) or (H, W, 3) uint8, got {image.shape} {image.dtype}")
    return image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2)
