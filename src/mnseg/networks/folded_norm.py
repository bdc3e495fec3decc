"""Batch norms with known statistics inside the convolutions in front of them: the same network, fewer passes."""

from __future__ import annotations

from collections import Counter

from torch import Tensor, nn
from torch.nn import functional

from mnseg.networks.adaptation import StillBatchNorm2d
from mnseg.networks.fast_convolution import FastConv2d, can_clamp, clamped_convolution, pads_with_zeros
from mnseg.networks.small_maps import is_small_map

__all__ = ["fold_norms", "let_clamp", "unfold_norms"]


def _folds(norm: nn.BatchNorm2d, tensor: Tensor) -> bool:
    """Whether the convolution does the norm's work for this tensor: on a CPU, statistics known."""
    return not norm.training and tensor.device.type == "cpu"


class FoldedConv2d(FastConv2d):
    """A convolution with a norm behind it: it multiplies its weights by the norm's gain, and adds the norm's shift.

    The products are part of the graph, so that the norm's gain and shift get their gradients. A ReLU6 behind the norm
    is computed in the same pass, where a trainer has allowed that.
    """

    norm_behind: tuple[nn.BatchNorm2d]  # in a tuple: as a child its weights would have two names
    clamps = False

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        (norm,) = self.norm_behind
        if not _folds(norm, input):
            return super().forward(input)
        gain = norm.weight * (norm.running_var + norm.eps).rsqrt()
        shift = norm.bias - (norm.running_mean if self.bias is None else norm.running_mean - self.bias) * gain
        weight = self.weight * gain.view(-1, 1, 1, 1)
        if not (self.clamps and can_clamp(input)):
            return self._conv_forward(input, weight, shift)
        if is_small_map(self, input):
            return functional.relu6(self._conv_forward(input, weight, shift), inplace=True)
        return clamped_convolution(self, input, weight, shift)


class _FoldedNorm:
    """Mixin: a norm that has nothing left to do where the convolution has done it."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        return input if _folds(self, input) else super().forward(input)


class FoldedBatchNorm2d(_FoldedNorm, nn.BatchNorm2d):
    """A norm that follows its batch in training: folded in evaluation alone."""


class FoldedStillBatchNorm2d(_FoldedNorm, StillBatchNorm2d):
    """A norm with fixed statistics: folded in training too."""


class FoldedReLU6(nn.ReLU6):
    """A ReLU6 behind a norm that folds: in place, or left to the convolution in front of it."""

    norm_behind: tuple[nn.BatchNorm2d]
    clamped = False  # the convolution's ``clamps``

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        (norm,) = self.norm_behind
        if not _folds(norm, input):
            return super().forward(input)
        # In place: a convolution's backward pass does not need what it gave. (A hook that keeps it sees it clamped.)
        return input if self.clamped and can_clamp(input) else functional.relu6(input, inplace=True)


_CONVOLUTIONS = {nn.Conv2d, FastConv2d}
_NORMS = {nn.BatchNorm2d: FoldedBatchNorm2d, StillBatchNorm2d: FoldedStillBatchNorm2d}
_LAYER = {"convolution", "normalization", "activation"}


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
    used = Counter(id(module) for layer in network.modules() for module in layer.children())
    for layer in network.modules():
        children = dict(layer.named_children())
        convolution, norm, activation = (children.get(name) for name in ("convolution", "normalization", "activation"))
        if type(convolution) not in _CONVOLUTIONS or type(norm) not in _NORMS or children.keys() - _LAYER:
            continue
        if norm.affine and norm.track_running_stats and norm.num_features == convolution.out_channels:
            _fold(convolution, FoldedConv2d, norm)
            norm.unfolded, norm.__class__ = type(norm), _NORMS[type(norm)]
            # One activation of several layers would not know whose convolution has done its work.
            if type(activation) is nn.ReLU6 and used[id(activation)] == 1 and pads_with_zeros(convolution):
                _fold(activation, FoldedReLU6, norm)
    return network


def _fold(module: nn.Module, kind: type[nn.Module], norm: nn.BatchNorm2d) -> None:
    module.unfolded, module.__class__, module.norm_behind = type(module), kind, (norm,)


def let_clamp(network: nn.Module) -> nn.Module:
    """Let folded convolutions compute the ReLU6 behind them in bfloat16 on a CPU, for a trainer.

    Such a ReLU6 takes NaN for 0: whoever calls this looks at the weights, and at every gradient before it is used.

    Args:
        network: changed in place.

    Returns:
        ``network``.
    """
    for layer in network.modules():
        children = dict(layer.named_children())
        convolution, activation = children.get("convolution"), children.get("activation")
        if isinstance(convolution, FoldedConv2d) and isinstance(activation, FoldedReLU6):
            convolution.clamps = activation.clamped = True
    return network


def unfold_norms(network: nn.Module) -> nn.Module:
    """Take ``fold_norms``, and what :mod:`~mnseg.networks.small_maps` made of folded convolutions, back."""
    for module in network.modules():
        if hasattr(module, "unfolded"):
            module.__class__ = module.unfolded
            for name in ("unfolded", "norm_behind", "clamps", "clamped"):
                module.__dict__.pop(name, None)
    return network
