"""Dilated depthwise convolutions whose backward pass is fast on a CPU: the same network, the same numbers."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

__all__ = ["FastDilatedConv2d", "to_fast_dilated"]


class _DilatedDepthwise(torch.autograd.Function):
    """torch's forward pass; a backward pass of one product for each weight of the kernel.

    oneDNN has kernels for the backward pass of depthwise convolutions and for dilation, not for both at once, and falls
    back to one that is written for no processor. A depthwise gradient is a handful of shifted products, and for one
    sample at a time they stay in the cache.
    """

    @staticmethod
    def forward(ctx: Any, image: Tensor, weight: Tensor, dilation: tuple[int, int]) -> Tensor:
        ctx.save_for_backward(image, weight)
        ctx.dilation = dilation
        return nn.functional.conv2d(image, weight, dilation=dilation, groups=len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        image, weight = ctx.saved_tensors
        windows = _windows(weight.shape[2:], ctx.dilation, grad.shape[2:])
        weights = weight.flatten(1).t().contiguous()[:, :, None, None]  # (taps, C, 1, 1)
        image_grad = torch.zeros_like(image) if ctx.needs_input_grad[0] else None
        weight_grad = torch.zeros_like(weights) if ctx.needs_input_grad[1] else None
        for sample, part in enumerate(grad):
            for tap, window in enumerate(windows):
                if image_grad is not None:
                    image_grad[sample][window].addcmul_(part, weights[tap])
                if weight_grad is not None:
                    weight_grad[tap] += (image[sample][window] * part).sum((1, 2), keepdim=True)
        return image_grad, None if weight_grad is None else weight_grad.flatten(1).t().reshape_as(weight), None


def _windows(kernel: torch.Size, dilation: tuple[int, int], size: torch.Size) -> list[tuple[slice, slice, slice]]:
    """For each weight of the kernel the part of the input ``(C, H, W)`` that it multiplies."""
    starts = itertools.product(*(range(0, edge * step, step) for edge, step in zip(kernel, dilation, strict=True)))
    return [(slice(None), *(slice(at, at + edge) for at, edge in zip(start, size, strict=True))) for start in starts]


class FastDilatedConv2d(nn.Conv2d):
    """A convolution that takes the fast way where it is one: training on a CPU, in full precision."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        fast = input.device.type == "cpu" and torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu")
        if not fast or input.dim() != 4:
            return super().forward(input)
        vertical, horizontal = self.padding
        padded = nn.functional.pad(input, (horizontal, horizontal, vertical, vertical)) if any(self.padding) else input
        result = _DilatedDepthwise.apply(padded, self.weight, self.dilation)
        return result if self.bias is None else result + self.bias.view(-1, 1, 1)


def to_fast_dilated(network: nn.Module) -> nn.Module:
    """Give a 2D network's dilated depthwise convolutions the fast backward pass.

    Only ``Conv2d`` itself with one input channel a group, as many outputs, stride 1 and zero padding is changed;
    names, values and results stay, so that what is saved loads into the stock network.

    Args:
        network: changed in place.

    Returns:
        ``network``.
    """
    for module in network.modules():
        if type(module) is nn.Conv2d and _is_dilated_depthwise(module):
            module.__class__ = FastDilatedConv2d
    return network


def _is_dilated_depthwise(conv: nn.Conv2d) -> bool:
    depthwise = conv.groups > 1 and conv.groups == conv.in_channels == conv.out_channels
    plain = conv.stride == (1, 1) and conv.padding_mode == "zeros" and isinstance(conv.padding, tuple)
    return depthwise and plain and max(conv.dilation) > 1
