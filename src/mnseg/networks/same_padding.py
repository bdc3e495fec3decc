"""TensorFlow's "SAME" padding inside the convolution instead of in front of it: the same network, fewer copies."""

from __future__ import annotations

import copy

from torch import nn

__all__ = ["to_inner_padding"]


def to_inner_padding(network: nn.Module) -> nn.Module:
    """Let the convolutions of MobileNet V1 and V2 pad by themselves where that gives the same numbers.

    With weights that came from TensorFlow transformers pads each layer's input (``tf_padding``) and convolves the
    padded copy; even a 1x1 convolution's input, which needs no border, is copied. With stride 1 and an odd kernel that
    padding is symmetric and does not depend on the image, which the convolution can do without a copy. With stride 2 it
    depends on the image's size: those layers stay as they are.

    Names, values and shapes of the weights do not change.

    Args:
        network: changed in place; what has no such layer stays as it is. Adapters copy a convolution's padding, so
            this comes before they are added.

    Returns:
        ``network``.
    """
    for layer in network.modules():
        convolution = getattr(layer, "convolution", None)
        if not getattr(getattr(layer, "config", None), "tf_padding", False) or not isinstance(convolution, nn.Conv2d):
            continue
        if convolution.stride == (1, 1) and all(size % 2 for size in convolution.kernel_size):
            sizes = zip(convolution.kernel_size, convolution.dilation, strict=True)
            convolution.padding = tuple((size - 1) // 2 * step for size, step in sizes)
            # The layer asks its configuration whether to pad; the network's own must stay as the weights have it.
            layer.config = copy.copy(layer.config)
            layer.config.tf_padding = False
    return network
