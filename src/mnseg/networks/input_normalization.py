"""What a 2D network expects of its input, from preprocessor_config.json."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from mnseg.errors import UserError
from mnseg.networks.hub import find_file, read_json

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "input_normalization", "normalization_of"]

logger = logging.getLogger(__name__)

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def input_normalization(name: str, local_only: bool) -> tuple[tuple[float, ...], tuple[float, ...], float]:
    """Mean, std and the factor from [0, 1] to their range, from preprocessor_config.json.

    Read as JSON: transformers' image processors cannot be built without torchvision.
    """
    settings = read_json(find_file(name, "preprocessor_config.json", local_only))
    if settings is None:
        logger.warning("%s has no preprocessor_config.json: ImageNet's mean and std are used for its input.", name)
        return IMAGENET_MEAN, IMAGENET_STD, 1.0
    return normalization_of(settings, name)


def normalization_of(settings: Mapping[str, Any], name: str) -> tuple[tuple[float, ...], tuple[float, ...], float]:
    """The same from the content of preprocessor_config.json."""
    # Images have 8 bits: x in [0, 1] is x * 255 before the processor's own rescaling.
    rescale = 255.0 * float(settings.get("rescale_factor", 1 / 255)) if settings.get("do_rescale", True) else 255.0
    if not settings.get("do_normalize", True):
        return (0.0,) * 3, (1.0,) * 3, rescale
    mean, std = settings.get("image_mean", IMAGENET_MEAN), settings.get("image_std", IMAGENET_STD)
    if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
        raise UserError(f"preprocessor_config.json of {name} needs three values of image_mean and of image_std > 0.")
    return tuple(mean), tuple(std), rescale
