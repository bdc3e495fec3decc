"""MobileNetV2's pooled features spread over the map, not interpolated: the same network, a faster backward pass."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers.models.mobilenet_v2.modeling_mobilenet_v2 import MobileNetV2DeepLabV3Plus

__all__ = ["SpreadPoolHead", "to_spread_pool"]


class SpreadPoolHead(MobileNetV2DeepLabV3Plus):
    """The segmentation head; a map of one pixel is interpolated to that pixel's value everywhere.

    Its gradient is a sum, for which torch's interpolation is a long way round.
    """

    def forward(self, features: Tensor) -> Tensor:
        """Features (N, C, h, w) -> logits (N, K, h, w)."""
        found = self.conv_aspp(features)
        # In the layout of the other half: what is spread by strides alone would bring both out of channels last.
        pooled = self.conv_pool(self.avg_pool(features)).expand_as(found)
        last = found.is_contiguous(memory_format=torch.channels_last)
        pooled = pooled.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
        both = torch.cat([pooled, found], dim=1)
        return self.classifier(self.dropout(self.conv_projection(both)))


def to_spread_pool(network: nn.Module) -> nn.Module:
    """Let a MobileNetV2 segmenter spread its pooled features; names, values and results stay.

    Args:
        network: changed in place; any other network stays as it is.

    Returns:
        ``network``.
    """
    for module in network.modules():
        if type(module) is MobileNetV2DeepLabV3Plus:
            module.__class__ = SpreadPoolHead
    return network
