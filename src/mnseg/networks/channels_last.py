"""The 3D networks' tensors with channels last in memory: the same network, faster on a CPU."""

from __future__ import annotations

import torch
from torch import nn

from mnseg.networks.narrowing_convolution import NarrowingConv3d, is_narrowing
from mnseg.networks.per_sample_norm import PerSampleNorm3d
from mnseg.networks.transposed_bias import to_summed_bias
from mnseg.networks.unpadded_skip import to_unpadded_skips

__all__ = ["to_channels_last"]


def to_channels_last(network: nn.Module, wanted: bool = True) -> nn.Module:
    """Lay out a network's 3D convolutions for inputs ``(B, C, H, W, D)`` whose channels are last in memory.

    The first convolution brings its input into that layout, and it stays. Names, values and shapes of the weights do
    not change: what is saved loads into the stock network. (``torch.jit.script`` reads the stock network alone; traces
    and exports are made of both.)

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
            module.__class__ = PerSampleNorm3d
        elif type(module) is nn.Conv3d and is_narrowing(module):
            module.__class__ = NarrowingConv3d
    return to_summed_bias(to_unpadded_skips(network))
