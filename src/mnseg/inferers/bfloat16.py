"""MONAI's sliding window with the network in bfloat16."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from mnseg.engines.precision import amp_dtype_of
from mnseg.inferers.prepared import PreparedInferer
from mnseg.networks.channels_last import to_channels_last
from mnseg.networks.small_maps import to_exact_small_maps

__all__ = ["BFloat16Inferer"]


class BFloat16Inferer(PreparedInferer):
    """The same windows, the same overlap, the same weights; convolutions are computed in bfloat16, channels last.

    Only where the device has instructions for it (a CPU's AVX-512 BF16 or AMX, a GPU from Ampere on), and for networks
    in float32 and evaluation mode; else this is MONAI's inferer. A network is copied for it. Windows are put together
    in float32. Arguments: as those of ``SlidingWindowInferer``.
    """

    def _suits(self, device: torch.device, network: nn.Module) -> bool:
        plain = not network.training and all(part.dtype is torch.float32 for part in network.parameters())
        return plain and amp_dtype_of("auto", device) is not None

    def _prepare(self, network: nn.Module) -> Callable[[Tensor], Tensor]:
        # Outside of inference mode, in which no layout may be changed of what is used without it.
        with torch.inference_mode(False), torch.no_grad():
            ready = to_exact_small_maps(to_channels_last(copy.deepcopy(network)))

        def run(windows: Tensor, *args: Any, **kwargs: Any) -> Any:
            with torch.autocast(windows.device.type, torch.bfloat16):
                found = ready(windows, *args, **kwargs)
            return tree_map(lambda part: part.float() if part.is_floating_point() else part, found)

        return run
