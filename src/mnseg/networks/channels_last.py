"""The 3D networks' tensors with channels last in memory: the same network, faster on a CPU."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from mnseg.networks.narrowing_convolution import NarrowingConv3d, is_narrowing
from mnseg.networks.unpadded_skip import to_unpadded_skips

__all__ = ["to_channels_last"]


class _PerSampleNorm3d(nn.InstanceNorm3d):
    """Instance norm that leaves channels last.

    torch's own makes its input contiguous first, so that every layer would convert twice. A sample's instance norm is
    its batch norm, for which there are kernels of both layouts.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        if input.device.type != "cpu" or input.dim() != 5:
            return super().forward(input)
        parts = [
            functional.batch_norm(sample, None, None, self.weight, self.bias, True, 0.0, self.eps)
            for sample in input.split(1)
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts)


def to_channels_last(network: nn.Module, wanted: bool = True) -> nn.Module:
    """Lay out a network's 3D convolutions for inputs ``(B, C, H, W, D)`` whose channels are last in memory.

    The first convolution brings its input into that layout, and it stays. Names, values and shapes of the weights do
    not change: what is saved loads into the stock network.

    Args:
        network: changed in place; what has no 3D convolution stays as it is.
        wanted: False: nothing is done.

    Returns:
        ``network``.
    """
    if not wanted:
        return network
    for parameter in network.parameters():
        if parameter.dim() == 5:
            # Not contiguous(): one channel or a 1x1x1 kernel is contiguous in both layouts and would keep its strides.
            parameter.data = parameter.data.to(memory_format=torch.channels_last_3d)
    for module in network.modules():
        if type(module) is nn.InstanceNorm3d and not module.track_running_stats:
            module.__class__ = _PerSampleNorm3d
        elif type(module) is nn.Conv3d and is_narrowing(module):
            module.__class__ = NarrowingConv3d
    return to_unpadded_skips(network)
