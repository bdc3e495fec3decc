"""Which feature maps of an encoder feed the decoder, found by looking at them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from mnseg.errors import UserError

__all__ = ["FeatureMaps", "choose_feature_maps"]

PLAIN_TAPS = 4


@dataclass(frozen=True)
class FeatureMaps:
    """The maps that an encoder hands out.

    Attributes:
        channels, strides: of each map, finest first; strides in input pixels.
        image_size: edge of the square input that the encoder insists on; None: any multiple of its stride.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]
    image_size: int | None

    @property
    def is_plain(self) -> bool:
        """Whether all maps have one stride, as those of a plain vision transformer."""
        return len(set(self.strides)) == 1


def choose_feature_maps(backbone: PreTrainedModel) -> FeatureMaps:
    """Set ``backbone.out_features`` to the maps that a decoder can use, and describe them.

    A hierarchical encoder gives its last map of each stride, a plain one those after each quarter of its blocks (as in
    DPT, Ranftl et al. 2021). Channels and strides are measured on one small image: not every configuration states them
    rightly.

    Raises:
        UserError: the encoder takes no image of 3 channels, or its strides do not double from map to map.
    """
    name = type(backbone).__name__
    shapes, edge, image_size = _measure(backbone)
    strides = [edge // shape[-1] for shape in shapes]
    stages, count = backbone.out_features, len(shapes)
    if len(set(strides)) == 1:
        if count < PLAIN_TAPS:
            raise UserError(f"The encoder {name} has {count} blocks of one stride: give one with {PLAIN_TAPS} or more.")
        kept = [math.ceil(count * i / PLAIN_TAPS) - 1 for i in range(1, PLAIN_TAPS + 1)]
    else:
        kept = sorted({stride: i for i, stride in enumerate(strides)}.values())
    chosen = tuple(strides[i] for i in kept)
    if len(set(chosen)) > 1 and any(after != 2 * before for before, after in zip(chosen, chosen[1:], strict=False)):
        raise UserError(f"The encoder {name} has feature maps of strides {strides}: they must double from map to map.")
    backbone.out_features = [stages[i] for i in kept]
    return FeatureMaps(tuple(shapes[i][1] for i in kept), chosen, image_size)


@torch.no_grad()
def _measure(backbone: PreTrainedModel) -> tuple[list[torch.Size], int, int | None]:
    """Shapes of the maps of one square image, its edge, and the edge again where the encoder takes no other."""
    patch, fixed = (_first(getattr(backbone.config, key, None)) for key in ("patch_size", "image_size"))
    was_training, failure = backbone.training, None
    backbone.eval()
    try:
        for edge, only_size in ((math.lcm(32, patch or 1), None), (fixed, fixed)):
            if edge is None:
                continue
            try:
                maps = backbone(torch.zeros(1, 3, edge, edge)).feature_maps
            except (RuntimeError, ValueError, TypeError) as error:  # what encoders of one input size raise
                failure = error
            else:
                return [m.shape for m in maps], edge, only_size
    finally:
        backbone.train(was_training)
    raise UserError(f"The encoder {type(backbone).__name__} gives no feature maps of an image.") from failure


def _first(value: int | list[int] | tuple[int, ...] | None) -> int | None:
    return value[0] if isinstance(value, (list, tuple)) else value
