"""2D convolutions that are fast where oneDNN has a slow way and a fast one to the same numbers."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from mnseg.networks.convolution_gradients import Convolution, Gradients, stock_gradients
from mnseg.networks.dilated_depthwise import dilated_gradients
from mnseg.networks.strided_depthwise import strided_gradients

__all__ = [
    "FastConv2d",
    "as_bfloat16",
    "can_clamp",
    "clamped_convolution",
    "in_bfloat16",
    "pads_with_zeros",
    "to_fast_convolutions",
]

RELU6 = (0.0, 6.0)


class _Convolution(torch.autograd.Function):
    """A convolution, with a ReLU6 behind it if wanted, and the fastest backward pass that is known."""

    @staticmethod
    def forward(
        ctx: Any, image: Tensor, weight: Tensor, bias: Tensor | None, settings: Convolution, clamped: bool
    ) -> Tensor:
        way = _clamped if clamped else functional.conv2d
        out = way(image, weight, bias, *settings)
        # A ReLU6's gradient can be told from what it gave, which the next layer keeps anyway.
        ctx.save_for_backward(image, weight, *([out] if clamped else []))
        ctx.settings = settings
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        image, weight, *clamped = ctx.saved_tensors
        for out in clamped:
            grad = torch.ops.aten.hardtanh_backward(grad, out, *RELU6)
        return *_gradients(grad, image, weight, ctx.settings, ctx.needs_input_grad[:3]), None, None


def _gradients(
    grad: Tensor, image: Tensor, weight: Tensor, settings: Convolution, wanted: tuple[bool, bool, bool]
) -> Gradients:
    if _is_dilated(weight, settings):
        return dilated_gradients(grad, image, weight, settings, wanted)
    if _is_strided(weight, settings) and grad.dtype is torch.bfloat16:
        return strided_gradients(grad, image, weight, settings, wanted)
    return stock_gradients(grad, image, weight, settings, wanted)


def _is_depthwise(weight: Tensor, settings: Convolution) -> bool:
    return settings.groups > 1 and settings.groups == len(weight) and weight.shape[1] == 1


def _is_dilated(weight: Tensor, settings: Convolution) -> bool:
    return _is_depthwise(weight, settings) and max(settings.dilation) > 1 and max(settings.stride) == 1


def _is_strided(weight: Tensor, settings: Convolution) -> bool:
    return _is_depthwise(weight, settings) and max(settings.stride) > 1 and max(settings.dilation) == 1


def _clamped(image: Tensor, weight: Tensor, bias: Tensor | None, *settings: Any) -> Tensor:
    """oneDNN's convolution with ReLU6 in the same pass over the output."""
    stride, padding, dilation, groups = settings
    return torch.ops.mkldnn._convolution_pointwise(
        image, weight, bias, padding, stride, dilation, groups, "hardtanh", RELU6, ""
    )


@functools.cache
def _has_clamped() -> bool:
    """Whether this torch and this processor have it, in bfloat16."""
    one = torch.ones(1, 1, 1, 1, dtype=torch.bfloat16)
    try:
        return float(_clamped(one, 7 * one, None, (1, 1), (0, 0), (1, 1), 1)) == RELU6[1]
    except (AttributeError, RuntimeError, NotImplementedError):
        return False


def in_bfloat16(tensor: Tensor) -> bool:
    """Whether convolutions of this tensor are computed in bfloat16 by a CPU's autocast, which leaves float64 alone."""
    mixed = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") is torch.bfloat16
    return mixed and tensor.device.type == "cpu" and tensor.dtype is not torch.float64


def as_bfloat16(*parts: Tensor | None) -> tuple[Tensor | None, ...]:
    """What autocast does to a convolution's image, weight and bias; it does not look into functions of our own."""
    return tuple(None if part is None else part.bfloat16() for part in parts)


def can_clamp(tensor: Tensor) -> bool:
    """Whether :func:`clamped_convolution` is there for this tensor: in bfloat16 on a CPU.

    It takes NaN for 0, so that it is for trainers alone, which look at all weights first and at every gradient.
    """
    return in_bfloat16(tensor) and tensor.dim() == 4 and _has_clamped()


def clamped_convolution(conv: nn.Conv2d, image: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``relu6(conv(image))`` with other weights than the convolution's own, in one pass, in bfloat16."""
    image, weight, bias = as_bfloat16(image, weight, bias)
    settings = _settings(conv)
    if torch.is_grad_enabled():
        return _Convolution.apply(image, weight, bias, settings, True)
    return _clamped(image, weight, bias, *settings)


def _settings(conv: nn.Conv2d) -> Convolution:
    return Convolution(conv.stride, conv.padding, conv.dilation, conv.groups)


class FastConv2d(nn.Conv2d):
    """A convolution that takes the fast way where it is one: training on a CPU; strided ones in bfloat16 alone."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # noqa: A002
        if not self._is_fast(input, weight):
            return super()._conv_forward(input, weight, bias)
        if in_bfloat16(input):
            input, weight, bias = as_bfloat16(input, weight, bias)
        return _Convolution.apply(input, weight, bias, _settings(self), False)

    def _is_fast(self, image: Tensor, weight: Tensor) -> bool:
        if image.device.type != "cpu" or image.dim() != 4 or not torch.is_grad_enabled() or not pads_with_zeros(self):
            return False
        if in_bfloat16(image):
            return _is_dilated(weight, _settings(self)) or _is_strided(weight, _settings(self))
        unmixed = not torch.is_autocast_enabled("cpu") or image.dtype is torch.float64
        return unmixed and _is_dilated(weight, _settings(self))


def to_fast_convolutions(network: nn.Module) -> nn.Module:
    """Give a 2D network's depthwise convolutions with dilation or stride their fast backward passes.

    Only ``Conv2d`` itself with one input channel a group, as many outputs and zero padding is changed; names, values
    and results stay, so that what is saved loads into the stock network.

    Args:
        network: changed in place.

    Returns:
        ``network``.
    """
    for module in network.modules():
        if type(module) is nn.Conv2d and pads_with_zeros(module):
            settings = _settings(module)
            if _is_dilated(module.weight, settings) or _is_strided(module.weight, settings):
                module.__class__ = FastConv2d
    return network


def pads_with_zeros(conv: nn.Conv2d) -> bool:
    """Whether a convolution's settings say all: no other padding than so many zeros."""
    return conv.padding_mode == "zeros" and isinstance(conv.padding, tuple)
