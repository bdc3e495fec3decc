"""Batch norms with known statistics inside the convolutions in front of them: the same network, fewer passes."""

from __future__ import annotations

from torch import Tensor, nn

from mnseg.networks.adaptation import StillBatchNorm2d
from mnseg.networks.dilated_depthwise import FastDilatedConv2d

__all__ = ["fold_norms", "unfold_norms"]


def _folds(norm: nn.BatchNorm2d, tensor: Tensor) -> bool:
    """Whether the convolution does the norm's work for this tensor: on a CPU, statistics known."""
    return not norm.training and tensor.device.type == "cpu"


class _FoldedConvolution:
    """Mixin: a convolution that multiplies its weights by the norm's gain, and adds the norm's shift.

    The products are part of the graph, so that the norm's gain and shift get their gradients.
    """

    # In a tuple: as a child its weights would have two names.
    norm_behind: tuple[nn.BatchNorm2d]

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        (norm,) = self.norm_behind
        if not _folds(norm, input):
            return super().forward(input)
        gain = norm.weight * (norm.running_var + norm.eps).rsqrt()
        shift = norm.bias - (norm.running_mean if self.bias is None else norm.running_mean - self.bias) * gain
        return self._conv_forward(input, self.weight * gain.view(-1, 1, 1, 1), shift)


class _FoldedNorm:
    """Mixin: a norm that has nothing left to do where the convolution has done it."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        return input if _folds(self, input) else super().forward(input)


class FoldedConv2d(_FoldedConvolution, nn.Conv2d):
    """A convolution with a norm behind it."""


class FoldedFastDilatedConv2d(_FoldedConvolution, FastDilatedConv2d):
    """A dilated depthwise convolution with a norm behind it."""


class FoldedBatchNorm2d(_FoldedNorm, nn.BatchNorm2d):
    """A norm that follows its batch in training: folded in evaluation alone."""


class FoldedStillBatchNorm2d(_FoldedNorm, StillBatchNorm2d):
    """A norm with fixed statistics: folded in training too."""


_FOLDED = {
    nn.Conv2d: FoldedConv2d,
    FastDilatedConv2d: FoldedFastDilatedConv2d,
    nn.BatchNorm2d: FoldedBatchNorm2d,
    StillBatchNorm2d: FoldedStillBatchNorm2d,
}
_LAYER = {"convolution", "normalization", "activation"}
_STOCK = {folded: stock for stock, folded in _FOLDED.items()}


def fold_norms(network: nn.Module) -> nn.Module:
    """Let convolutions do the work of the batch norms behind them, where the statistics are known.

    A norm with known statistics is a gain and a shift a channel; put into the convolution's weights they cost nothing,
    while the norm itself reads and writes every activation, three times in training. Changed are the layers of
    transformers' convolutional networks that consist of a ``convolution``, its ``normalization`` and an ``activation``
    (MobileNet, MobileViT, ResNet, RegNet). Names, values and shapes of the weights do not change.

    Args:
        network: changed in place; other layers, and convolutions with adapters, stay as they are.

    Returns:
        ``network``.
    """
    for layer in network.modules():
        children = dict(layer.named_children())
        convolution, norm = children.get("convolution"), children.get("normalization")
        if type(convolution) not in _FOLDED or type(norm) not in _FOLDED or children.keys() - _LAYER:
            continue
        if norm.affine and norm.track_running_stats and norm.num_features == convolution.out_channels:
            convolution.__class__, norm.__class__ = _FOLDED[type(convolution)], _FOLDED[type(norm)]
            convolution.norm_behind = (norm,)
    return network


def unfold_norms(network: nn.Module) -> nn.Module:
    """Take ``fold_norms`` back."""
    for module in network.modules():
        folded = next((kind for kind in type(module).__mro__ if kind in _STOCK), None)  # a mixin may stand in front
        if folded is not None:
            module.__class__ = _STOCK[folded]
    return network
