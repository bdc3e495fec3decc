"""Dilated depthwise convolutions whose backward pass is fast on a CPU: the same network, the same numbers."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

__all__ = ["FastDilatedConv2d", "to_fast_dilated"]


class _DilatedDepthwise(torch.autograd.Function):
    """torch's forward pass; a backward pass that is fast.

    oneDNN has kernels for the backward pass of depthwise convolutions and for dilation, not for both at once, and falls
    back to one that is written for no processor. The input's gradient is itself a dilated depthwise convolution, of the
    output's gradient with the turned kernel, for which the forward kernel is there. The weight's is a handful of
    shifted products, and for one sample at a time they stay in the cache.
    """

    @staticmethod
    def forward(
        ctx: Any,
        image: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        padding: tuple[int, int],
        dilation: tuple[int, int],
    ) -> Tensor:
        ctx.save_for_backward(image, weight)
        ctx.padding, ctx.dilation = padding, dilation
        return functional.conv2d(image, weight, bias, 1, padding, dilation, len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        image, weight = ctx.saved_tensors
        image_grad = weight_grad = None
        bias_grad = grad.sum((0, 2, 3)) if ctx.needs_input_grad[2] else None
        if ctx.needs_input_grad[0]:
            image_grad = _image_gradient(grad, weight, ctx.padding, ctx.dilation)
        if ctx.needs_input_grad[1]:
            weight_grad = _weight_gradient(grad, image, weight, ctx.padding, ctx.dilation)
        return image_grad, weight_grad, bias_grad, None, None


def _image_gradient(grad: Tensor, weight: Tensor, padding: tuple[int, int], dilation: tuple[int, int]) -> Tensor:
    """``dL/dx[q] = sum_t w[t] y[q + padding - t dilation]``; the border that is left over is cut off or added."""
    sizes = zip(weight.shape[2:], padding, dilation, strict=True)
    border = [(size - 1) * step - pad for size, pad, step in sizes]
    grad = functional.pad(grad, (min(border[1], 0),) * 2 + (min(border[0], 0),) * 2) if min(border) < 0 else grad
    return functional.conv2d(grad, weight.flip(2, 3), None, 1, [max(edge, 0) for edge in border], dilation, len(weight))


def _weight_gradient(
    grad: Tensor, image: Tensor, weight: Tensor, padding: tuple[int, int], dilation: tuple[int, int]
) -> Tensor:
    """``dL/dw[t] = sum_p x[p + t dilation - padding] y[p]``, without the products with the border's zeros.

    The samples' products are added up first, pixel by pixel, in the layout that they are in and at least in float32:
    in bfloat16 a sum would lose what is 256 times smaller than itself.
    """
    sums, windows = [], []
    for tap in itertools.product(*map(range, weight.shape[2:])):
        offsets = [at * step - pad for at, step, pad in zip(tap, dilation, padding, strict=True)]
        windows.append(list(zip(*map(_overlap, offsets, image.shape[2:], grad.shape[2:]), strict=True)))
        sums.append(torch.zeros_like(grad[0], dtype=torch.promote_types(grad.dtype, torch.float32)))
    for sample, part in zip(image, grad, strict=True):
        sample, part = sample.to(sums[0].dtype), part.to(sums[0].dtype)  # once, not for each of the kernel's places
        for total, (source, target) in zip(sums, windows, strict=True):
            total[:, *target].addcmul_(sample[:, *source], part[:, *target])
    return torch.stack([total.sum((1, 2)) for total in sums], dim=1).view_as(weight).to(weight.dtype)


def _overlap(offset: int, size: int, out_size: int) -> tuple[slice, slice]:
    """Where input and output meet along an axis when the input is read ``offset`` further on: both ranges."""
    first, last = max(0, -offset), max(0, -offset, min(out_size, size - offset))
    return slice(first + offset, last + offset), slice(first, last)


class FastDilatedConv2d(nn.Conv2d):
    """A convolution that takes the fast way where it is one: training on a CPU, in full precision or bfloat16."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # noqa: A002
        mixed = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None
        fast = input.device.type == "cpu" and torch.is_grad_enabled() and mixed in (None, torch.bfloat16)
        if not fast or input.dim() != 4:
            return super()._conv_forward(input, weight, bias)
        if mixed is not None:  # autocast does not look into functions of our own
            input, weight, bias = (None if part is None else part.to(mixed) for part in (input, weight, bias))
        return _DilatedDepthwise.apply(input, weight, bias, self.padding, self.dilation)


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
