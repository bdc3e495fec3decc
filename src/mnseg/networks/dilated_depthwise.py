"""The backward pass of dilated depthwise convolutions, fast on a CPU."""

from __future__ import annotations

from collections.abc import Sequence
from operator import floordiv, mod

import torch
from torch import Tensor
from torch.nn import functional

from mnseg.networks.convolution_gradients import Convolution, Gradients, stock_gradients

__all__ = ["dilated_gradients"]

SAMPLES = 4  # that stay in the cache with their copies


def dilated_gradients(
    grad: Tensor, image: Tensor, weight: Tensor, settings: Convolution, wanted: tuple[bool, bool, bool]
) -> Gradients:
    """:func:`~mnseg.networks.convolution_gradients.stock_gradients` of a depthwise convolution without stride.

    oneDNN has kernels for the backward pass of depthwise convolutions and for dilation, not for both at once, and falls
    back to one that is written for no processor.
    """
    of_image, *others = wanted
    image_grad = _image_gradient(grad, weight, settings) if of_image else None
    found = _parameter_gradients(grad, image, weight, settings) if any(others) else (None, None)
    return image_grad, *(part if want else None for part, want in zip(found, others, strict=True))


def _image_gradient(grad: Tensor, weight: Tensor, settings: Convolution) -> Tensor:
    """``dL/dx[q] = sum_t w[t] y[q + padding - t dilation]``: a dilated depthwise convolution with the turned kernel.

    For that the forward kernel is there. The border that is left over is cut off or added.
    """
    _, padding, dilation, groups = settings
    sizes = zip(weight.shape[2:], padding, dilation, strict=True)
    border = [(size - 1) * step - pad for size, pad, step in sizes]
    grad = functional.pad(grad, (min(border[1], 0),) * 2 + (min(border[0], 0),) * 2) if min(border) < 0 else grad
    return functional.conv2d(grad, weight.flip(2, 3), None, 1, [max(edge, 0) for edge in border], dilation, groups)


def _parameter_gradients(
    grad: Tensor, image: Tensor, weight: Tensor, settings: Convolution
) -> tuple[Tensor, Tensor]:
    """``dL/dw[t] = sum_p x[p + t dilation - padding] y[p]`` and ``dL/db = sum_p y[p]``.

    Pixels that are ``dilation`` apart never meet others: taken apart into phases and put side by side in the batch, the
    convolution is not dilated, and oneDNN is fast.
    """
    _, padding, dilation, groups = settings
    rest, inner = ([way(pad, step) for pad, step in zip(padding, dilation, strict=True)] for way in (mod, floordiv))
    outputs = [-(-size // step) for size, step in zip(grad.shape[2:], dilation, strict=True)]
    inputs = [out + size - 1 - 2 * pad for out, size, pad in zip(outputs, weight.shape[2:], inner, strict=True)]
    plain = Convolution((1, 1), inner, (1, 1), groups)
    exact = torch.promote_types(weight.dtype, torch.float32)
    # Without the processor's help torch adds up in bfloat16, where a sum loses what is 256 times smaller than itself.
    kind = weight.dtype if torch.ops.mkldnn._is_mkldnn_bf16_supported() else exact
    weight_grad, bias_grad = torch.zeros_like(weight, dtype=exact), weight.new_zeros(len(weight), dtype=exact)
    for samples, part in zip(image.split(SAMPLES), grad.split(SAMPLES), strict=True):
        samples = _phases(samples.to(kind), inputs, rest, dilation)
        part = _phases(part.to(kind), outputs, (0, 0), dilation)
        _, of_weight, of_bias = stock_gradients(part, samples, weight.to(kind), plain, (False, True, True))
        weight_grad += of_weight
        bias_grad += of_bias
    return weight_grad.to(weight.dtype), bias_grad.to(weight.dtype)


def _phases(image: Tensor, sizes: Sequence[int], front: Sequence[int], dilation: tuple[int, int]) -> Tensor:
    """(N, C, H, W), padded with zeros, -> (N * step * step, C, *sizes), phase by phase, channels last."""
    axes = zip(sizes, dilation, front, image.shape[2:], strict=True)
    ends = [size * step - edge - side for size, step, edge, side in axes]
    image = functional.pad(image, (front[1], ends[1], front[0], ends[0])).permute(0, 2, 3, 1)
    image = image.unflatten(2, (sizes[1], dilation[1])).unflatten(1, (sizes[0], dilation[0]))  # N, H, step, W, step, C
    return image.permute(0, 2, 4, 1, 3, 5).flatten(0, 2).permute(0, 3, 1, 2)
