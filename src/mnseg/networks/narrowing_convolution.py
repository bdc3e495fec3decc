"""3D convolutions to fewer channels whose backward pass is fast on a CPU with channels last: the same numbers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from mnseg.networks.convolution_gradients import Convolution, stock_gradients
from mnseg.networks.fast_convolution import as_bfloat16, in_bfloat16

__all__ = ["NarrowingConv3d", "is_narrowing"]


class _NarrowingConvolution(torch.autograd.Function):
    """A convolution to fewer channels whose weight's gradient is computed with image and gradient in exchanged roles.

    ``dL/dW[o, i, t] = sum_p x[i, p + t] y[o, p]`` reads the same from either side. oneDNN divides this work by the
    second channel; with channels last it takes half the time where that is the narrow side.
    """

    @staticmethod
    def forward(ctx: Any, image: Tensor, weight: Tensor, bias: Tensor | None, padding: tuple[int, ...]) -> Tensor:
        ctx.save_for_backward(image, weight)
        ctx.padding = padding
        return functional.conv3d(image, weight, bias, padding=padding)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        image, weight = ctx.saved_tensors
        image_grad = weight_grad = None
        bias_grad = grad.sum((0, 2, 3, 4)) if ctx.needs_input_grad[2] else None
        settings = Convolution((1, 1, 1), ctx.padding, (1, 1, 1), 1)
        if ctx.needs_input_grad[0]:
            image_grad = stock_gradients(grad, image, weight, settings, (True, False, False))[0]
        if ctx.needs_input_grad[1]:
            turned = weight.transpose(0, 1).contiguous(memory_format=torch.channels_last_3d)
            found = stock_gradients(image, grad, turned, settings, (False, True, False))[1]
            weight_grad = found.transpose(0, 1).flip(2, 3, 4)
        return image_grad, weight_grad, bias_grad, None


class NarrowingConv3d(nn.Conv3d):
    """A ``Conv3d`` of the decoder, whose inputs are the concatenated features of two levels."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # noqa: A002
        mixed = in_bfloat16(input)
        fast = input.device.type == "cpu" and torch.is_grad_enabled() and input.dim() == 5
        if not fast or (torch.is_autocast_enabled("cpu") and not mixed):
            return super()._conv_forward(input, weight, bias)
        if mixed:
            input, weight, bias = as_bfloat16(input, weight, bias)
        return _NarrowingConvolution.apply(input, weight, bias, self.padding)


def is_narrowing(conv: nn.Conv3d) -> bool:
    """Whether it is one of them, and the exchange of roles gives the gradient: the output is as large as the input."""
    if not isinstance(conv.padding, tuple):
        return False
    same_size = all(2 * pad == size - 1 for pad, size in zip(conv.padding, conv.kernel_size, strict=True))
    plain = conv.groups == 1 and {*conv.stride, *conv.dilation} == {1} and conv.padding_mode == "zeros"
    return plain and same_size and max(conv.kernel_size) > 1 and conv.in_channels >= 2 * conv.out_channels
