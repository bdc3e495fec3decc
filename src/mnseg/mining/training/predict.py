"""What the small network says of an image, on the image's own grid, and that image as a large model takes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from monai.inferers import Inferer
from monai.transforms import Compose
from torch import nn
from torch.nn import functional

from mnseg.data.pictures import read_picture

__all__ = ["Predictor", "as_uint8"]


def as_uint8(picture: np.ndarray) -> np.ndarray:
    """An image (H, W) or (H, W, 3) with 8 bits; wider ones are scaled between their percentiles 0.5 and 99.5."""
    if picture.dtype == np.uint8:
        return picture
    low, high = np.percentile(picture, (0.5, 99.5))
    scaled = (picture.astype(np.float32) - low) / max(float(high - low), 1e-12)
    return np.rint(np.clip(scaled, 0, 1) * 255).astype(np.uint8)


class Predictor:
    """Reads images and segments them.

    Args:
        network: (B, C, H, W) -> (B, K, H, W) logits, alone or in a list.
        inferer: how the network is applied; it gives one tensor.
        transform: from {"image": path} to the network's input.
        device: where the network is.
    """

    def __init__(self, network: nn.Module, inferer: Inferer, transform: Compose, device: torch.device | str) -> None:
        self.network = network
        self.inferer = inferer
        self.transform = transform
        self.device = device

    @torch.no_grad()
    def __call__(self, item: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        """The image (H, W) or (H, W, 3) uint8 and the network's probabilities (K, H, W) of it.

        Raises:
            PictureError: the image cannot be read.
        """
        picture = as_uint8(read_picture(item["image"]))
        data = self.transform({"image": item["image"], "case": item["case"]})["image"].as_tensor()
        self.network.eval()
        logits = self.inferer(data[None].to(self.device), self.network)
        probabilities = logits.float().softmax(dim=1)
        # As stock inference brings them back: probabilities are resized, not the mask.
        probabilities = functional.interpolate(probabilities, picture.shape[:2], mode="bilinear", align_corners=False)
        return picture, probabilities[0].cpu().numpy()
