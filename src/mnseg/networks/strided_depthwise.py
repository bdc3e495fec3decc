"""The bfloat16 backward pass of depthwise convolutions with a stride, fast on a CPU."""

from __future__ import annotations

import torch
from torch import Tensor

from mnseg.networks.convolution_gradients import Convolution, Gradients, stock_gradients

__all__ = ["strided_gradients"]

SAMPLES = 2  # that stay in the cache between the conversions


def strided_gradients(
    grad: Tensor, image: Tensor, weight: Tensor, settings: Convolution, wanted: tuple[bool, bool, bool]
) -> Gradients:
    """:func:`~mnseg.networks.convolution_gradients.stock_gradients`, the image's gradient by way of float32.

    For the bfloat16 gradient of a strided depthwise convolution's image oneDNN has no fast kernel, for the float32 one
    it has, which is faster with the conversions, and no less exact.
    """
    of_image, *others = wanted
    _, *found = stock_gradients(grad, image, weight, settings, (False, *others))
    return _image_gradient(grad, image, weight.float(), settings) if of_image else None, *found


def _image_gradient(grad: Tensor, image: Tensor, weight: Tensor, settings: Convolution) -> Tensor:
    result = torch.empty_like(image)
    for part, target in zip(grad.split(SAMPLES), result.split(SAMPLES), strict=True):
        like, part = torch.empty_like(target, dtype=weight.dtype), part.to(weight.dtype)
        target.copy_(stock_gradients(part, like, weight, settings, (True, False, False))[0])
    return result
