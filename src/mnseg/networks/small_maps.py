"""Convolutions of small feature maps in full precision, where a CPU's mixed precision spoils them."""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn

__all__ = ["is_small_map", "to_exact_small_maps"]


class _ExactSmallMaps:
    """Mixin: under a CPU's autocast a small map is convolved in float32; larger ones, and all else, as before.

    oneDNN's bfloat16 gradient of the weights is wrong where a map is smaller than the kernel, and with a stride also
    somewhat above: of 3x3x3 kernels wherever the first side is 2, of 5x5x5 ones from 2 to 4 (torch 2.13, AVX-512 with
    bfloat16). Numbers of another size, infinite ones, and with a stride also bytes written behind the end of an array.
    Such maps are a network's deepest ones, and cost next to nothing.
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # noqa: A002
        if not is_small_map(self, input):
            return super()._conv_forward(input, weight, bias)
        with torch.autocast("cpu", enabled=False):
            return super()._conv_forward(input.float(), weight.float(), None if bias is None else bias.float())


def is_small_map(conv: nn.Conv2d | nn.Conv3d, image: Tensor) -> bool:
    """Whether a CPU's autocast would spoil this convolution of this map."""
    if image.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
        return False
    axes = zip(image.shape[-len(conv.kernel_size) :], conv.kernel_size, conv.stride, strict=True)
    return any(side < kernel * stride for side, kernel, stride in axes if kernel > 1)


@functools.cache
def _mixed(stock: type[nn.Module]) -> type[nn.Module]:
    return type(f"ExactSmallMaps{stock.__name__}", (_ExactSmallMaps, stock), {})


def to_exact_small_maps(network: nn.Module) -> nn.Module:
    """Let a network's 2D and 3D convolutions be trained in bfloat16 on a CPU.

    Args:
        network: changed in place; names, values and shapes of the weights stay, and so does all that is computed
            outside of a CPU's autocast.

    Returns:
        ``network``.
    """
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Conv3d)) and not isinstance(module, _ExactSmallMaps):
            module.__class__ = _mixed(type(module))
    return network
