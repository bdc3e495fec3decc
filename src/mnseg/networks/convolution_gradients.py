"""What torch computes in a convolution's backward pass, and what there is to know of the convolution."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Convolution", "Gradients", "stock_gradients"]

Gradients = tuple[Tensor | None, Tensor | None, Tensor | None]


class Convolution(NamedTuple):
    """The settings of a convolution that pads with zeros, each for its two or three axes."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int


def stock_gradients(
    grad: Tensor, image: Tensor, weight: Tensor, settings: Convolution, wanted: tuple[bool, bool, bool]
) -> Gradients:
    """Gradients of image, weight and bias; None for what is not wanted.

    torch.nn.grad has functions for the first two, but none for the bias, which comes along for nothing, and they lose
    the layout on the way, which makes an image's gradient slow.

    Args:
        grad: the output's gradient (N, K, h, w) or (N, K, h, w, d).
        image: (N, C, H, W) or (N, C, H, W, D); for its own gradient only its shape, type and layout count.
        weight: (K, C / groups, ...), of the same type.
        settings: of the convolution.
        wanted: which gradients.
    """
    stride, padding, dilation, groups = settings
    return torch.ops.aten.convolution_backward(
        grad, image, weight, [len(weight)], stride, padding, dilation, False, (0,) * len(stride), groups, wanted
    )
