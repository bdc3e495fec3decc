"""Images and prompts as a promptable model of transformers wants them, and its masks brought back to the image.

transformers' own image processors need torchvision; what they do is stated in preprocessor_config.json.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

from mnseg.errors import UserError
from mnseg.mining.promptable import as_rgb
from mnseg.networks.hub import find_file, read_json
from mnseg.networks.input_normalization import IMAGENET_MEAN, IMAGENET_STD, normalization_of

__all__ = ["ImageFrame", "load_frame"]

logger = logging.getLogger(__name__)

MODES = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers, which the files use


@dataclass(frozen=True)
class ImageFrame:
    """The square input of a model, and how images of any size come into it.

    Attributes:
        edge: of the square, in pixels.
        keep_aspect: True: the longer edge becomes ``edge``, the rest is zero padding at the bottom or right (SAM,
            SAM-HQ). False: both become ``edge`` (SAM 2 and later).
        mean, std: of RGB in [0, 1].
        mode: of torch's interpolate.
    """

    edge: int
    keep_aspect: bool
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    mode: str = "bilinear"

    @property
    def identity(self) -> str:
        """All settings as text."""
        return str(sorted(asdict(self).items()))

    def fitted_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Height and width that an image of ``size`` gets inside the square."""
        if not self.keep_aspect:
            return self.edge, self.edge
        scale = self.edge / max(size)
        return max(int(size[0] * scale + 0.5), 1), max(int(size[1] * scale + 0.5), 1)

    def pixels(self, image: np.ndarray) -> Tensor:
        """(1, 3, edge, edge) float input of an image (H, W) or (H, W, 3) uint8."""
        height, width = self.fitted_size(image.shape[:2])
        values = torch.tensor(as_rgb(image)).permute(2, 0, 1)[None].float()
        values = interpolate(values, (height, width), mode=self.mode, antialias=True).round().clamp(0, 255) / 255
        mean, std = (torch.tensor(each).view(1, 3, 1, 1) for each in (self.mean, self.std))
        return pad((values - mean) / std, (0, self.edge - width, 0, self.edge - height))

    def coordinates(self, points: np.ndarray, size: tuple[int, int]) -> Tensor:
        """Points (…, 2) as row and column of an image of ``size`` -> (…, 2) as x and y of the square."""
        fitted = np.array(self.fitted_size(size))
        scaled = np.asarray(points, dtype=np.float64) * (fitted / np.array(size))
        return torch.tensor(scaled[..., ::-1].copy(), dtype=torch.float32)

    def restore(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        """Mask logits (N, M, h, w) of the square -> (N, M, H, W) bool of an image of ``size``."""
        if self.keep_aspect:
            height, width = self.fitted_size(size)
            logits = interpolate(logits, (self.edge, self.edge), mode="bilinear", align_corners=False)
            logits = logits[..., :height, :width]
        return interpolate(logits, size, mode="bilinear", align_corners=False) > 0


def load_frame(name: str, edge: int, keep_aspect: bool, local_only: bool) -> ImageFrame:
    """The frame that a model's preprocessor_config.json (or the like part of processor_config.json) describes.

    Args:
        name: hub id or directory.
        edge: size of the model's input by its config.json.
        keep_aspect: what the family does unless the file says otherwise.
        local_only: no network.

    Raises:
        UserError: the file states another size than the model has, or a resampling that is not known.
    """
    settings = read_json(find_file(name, "preprocessor_config.json", local_only))
    if settings is None:
        settings = (read_json(find_file(name, "processor_config.json", local_only)) or {}).get("image_processor")
    if settings is None:
        logger.warning("%s has no preprocessor_config.json: its family's usual input is assumed.", name)
        return ImageFrame(edge, keep_aspect)
    stated, keep_aspect = _stated_size(settings, edge, keep_aspect)
    if stated != edge:
        raise UserError(f"preprocessor_config.json of {name} states an image size of {stated}, its config.json one of "
                        f"{edge}: repair one of them, or fetch the model again.")
    resample = settings.get("resample", 2)
    if resample not in MODES:
        raise UserError(f'preprocessor_config.json of {name} asks for "resample" {resample}, which is not known here '
                        "(2 is bilinear, 3 bicubic).")
    mean, std, rescale = normalization_of(settings, name)
    mean, std = (tuple(float(value) / rescale for value in values) for values in (mean, std))
    return ImageFrame(edge, keep_aspect, mean, std, MODES[resample])


def _stated_size(settings: Mapping[str, Any], edge: int, keep_aspect: bool) -> tuple[int, bool]:
    size = settings.get("size") or {}
    if isinstance(size, int):
        return size, keep_aspect
    if "longest_edge" in size:
        return size["longest_edge"], True
    return (max(size["height"], size["width"]), False) if {"height", "width"} <= size.keys() else (edge, keep_aspect)
