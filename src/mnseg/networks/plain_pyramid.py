"""PlainPyramid: feature maps of one stride, as a plain vision transformer has them, become a pyramid."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

__all__ = ["PlainPyramid"]


class PlainPyramid(nn.Module):
    """Brings four maps (N, C, h, w) of one stride s to strides s/4, s/2, s, 2s.

    Transposed convolutions upsample and max pooling downsamples, as in the simple feature pyramid of ViTDet (Li et al.,
    "Exploring plain vision transformer backbones for object detection", ECCV 2022, Fig. 2). ViTDet feeds all levels
    from the last block; here each level has a block of its own, so that skip connections bring early features.

    Args:
        channels: C of the four maps; multiples of 4.
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        first, second, third, fourth = channels
        self.channels = (first // 4, second // 2, third, fourth)
        self.levels = nn.ModuleList(
            [
                nn.Sequential(_double(first), nn.GroupNorm(1, first // 2), nn.GELU(), _double(first // 2)),
                _double(second),
                nn.Identity(),
                nn.MaxPool2d(2),
            ]
        )

    def forward(self, maps: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        return [level(x) for level, x in zip(self.levels, maps, strict=True)]


def _double(channels: int) -> nn.Module:
    """Twice the size, half the channels."""
    return nn.ConvTranspose2d(channels, channels // 2, kernel_size=2, stride=2)
