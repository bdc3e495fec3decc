"""Do all trainable parameters of a network take part in its output? Several processes must know it beforehand."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import nn

__all__ = ["has_unreached_parameters"]


def has_unreached_parameters(network: nn.Module, in_channels: int, patch_size: Sequence[int]) -> bool:
    """Whether some parameters that train get no gradient, such as a final norm behind the maps that a decoder reads.

    ``DistributedDataParallel`` then needs ``find_unused_parameters``, which costs a little time in each step and a
    warning where there are none. One patch goes forward and back without memory or arithmetic (torch's meta device).

    Args:
        network: 3D, or a ``SliceNetwork``; left as it is.
        in_channels: channels of a scan.
        patch_size: three numbers of voxels.

    Returns:
        True also where torch cannot tell without data.
    """
    try:
        probe = copy.deepcopy(network).to("meta").train()
        parameters = [parameter for parameter in probe.parameters() if parameter.requires_grad]
        output = probe(torch.empty(1, in_channels, *patch_size, device="meta"))
        gradients = torch.autograd.grad(output.sum(), parameters, allow_unused=True)
    except Exception:
        return True
    return any(gradient is None for gradient in gradients)
