"""BasicUNet's decoder without the padding that pads nothing: the same network, fewer copies."""

from __future__ import annotations

import torch
from monai.networks.nets.basic_unet import UpCat
from torch import Tensor, nn

__all__ = ["to_unpadded_skips"]


class _UnpaddedUpCat(UpCat):
    """An ``UpCat`` that pads its upsampled input only where the skip connection is larger.

    MONAI pads by nothing as well, for patches of which every level is even; torch copies for it, forward and backward.
    """

    def forward(self, x: Tensor, x_e: Tensor | None) -> Tensor:
        if x_e is None or any(2 * small != large for small, large in zip(x.shape[2:], x_e.shape[2:], strict=True)):
            return super().forward(x, x_e)
        return self.convs(torch.cat([x_e, self.upsample(x)], dim=1))


def to_unpadded_skips(network: nn.Module) -> nn.Module:
    """Leave out needless copies of a BasicUNet's decoder, in place; weights, names and numbers stay."""
    for module in network.modules():
        if type(module) is UpCat:
            module.__class__ = _UnpaddedUpCat
    return network
