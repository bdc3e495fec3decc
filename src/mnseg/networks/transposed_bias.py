"""Transposed convolutions whose bias has a gradient that is fast on a CPU: the same numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from mnseg.networks.convolution_gradients import Convolution
from mnseg.networks.fast_convolution import as_bfloat16, in_bfloat16

__all__ = ["SummedBiasTranspose2d", "SummedBiasTranspose3d", "to_summed_bias"]


class _Transposed(torch.autograd.Function):
    """A transposed convolution, ``dL/db`` of which is the sum over the output's gradient.

    oneDNN has a function for that sum which is written for no processor and takes several times as long as both other
    gradients together.
    """

    @staticmethod
    def forward(ctx: Any, image: Tensor, weight: Tensor, bias: Tensor, settings: Convolution) -> Tensor:
        stride, padding, dilation, groups = settings
        ctx.save_for_backward(image, weight)
        ctx.settings = settings
        way = functional.conv_transpose2d if image.dim() == 4 else functional.conv_transpose3d
        return way(image, weight, bias, stride, padding, 0, groups, dilation)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        image, weight = ctx.saved_tensors
        stride, padding, dilation, groups = ctx.settings
        wanted = (*ctx.needs_input_grad[:2], False)
        image_grad, weight_grad, _ = torch.ops.aten.convolution_backward(
            grad, image, weight, None, stride, padding, dilation, True, (0,) * len(stride), groups, wanted
        )
        bias_grad = grad.sum((0, *range(2, grad.dim()))) if ctx.needs_input_grad[2] else None
        return image_grad, weight_grad, bias_grad, None


class _SummedBias:
    """Mixin: trained on a CPU, the bias's gradient is a sum; else the stock layer."""

    def forward(self, input: Tensor, output_size: Sequence[int] | None = None) -> Tensor:  # noqa: A002
        if output_size is not None or not self._is_fast(input):
            return super().forward(input, output_size)
        image, weight, bias = input, self.weight, self.bias
        if in_bfloat16(image):
            image, weight, bias = as_bfloat16(image, weight, bias)
        settings = Convolution(self.stride, self.padding, self.dilation, self.groups)
        return _Transposed.apply(image, weight, bias, settings)

    def _is_fast(self, image: Tensor) -> bool:
        batched = image.dim() == len(self.kernel_size) + 2
        unmixed = not torch.is_autocast_enabled("cpu") or image.dtype is torch.float64
        return image.device.type == "cpu" and torch.is_grad_enabled() and batched and (unmixed or in_bfloat16(image))


class SummedBiasTranspose2d(_SummedBias, nn.ConvTranspose2d):
    """``ConvTranspose2d`` with such a bias."""


class SummedBiasTranspose3d(_SummedBias, nn.ConvTranspose3d):
    """``ConvTranspose3d`` with such a bias."""


def to_summed_bias(network: nn.Module) -> nn.Module:
    """Give a network's transposed convolutions a bias whose gradient is fast on a CPU.

    Args:
        network: changed in place; names, values and results stay, so that what is saved loads into the stock network.
            A second derivative is not to be had of it.

    Returns:
        ``network``.
    """
    ours = {nn.ConvTranspose2d: SummedBiasTranspose2d, nn.ConvTranspose3d: SummedBiasTranspose3d}
    for module in network.modules():
        if type(module) in ours and module.bias is not None and not any(module.output_padding):
            module.__class__ = ours[type(module)]
    return network
