"""A sliding window whose network is made ready once: what the faster roads have in common."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch
from monai.inferers import SlidingWindowInferer
from torch import Tensor, nn

__all__ = ["PreparedInferer"]


class PreparedInferer(SlidingWindowInferer):
    """The same windows and the same overlap; the network is replaced by a faster one that gives the same logits.

    It is made ready when it is first used, and again when its weights have changed (what is written through ``.data``
    is not noticed). Where gradients are asked for, and on devices for which there is no faster road, this is MONAI's
    inferer. Arguments: as those of ``SlidingWindowInferer``. Several threads may share it.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._prepared: tuple[Any, Callable[[Tensor], Tensor]] | None = None
        self._lock = threading.Lock()

    def __call__(
        self, inputs: Tensor, network: Callable[..., Tensor], *args: Any, **kwargs: Any
    ) -> Tensor:
        """Logits (B, K, H, W, D) of a volume (B, C, H, W, D)."""
        device = inputs.device if self.sw_device is None else torch.device(self.sw_device)
        if isinstance(network, nn.Module) and not torch.is_grad_enabled() and self._suits(device, network):
            network = self._network(network)
        return super().__call__(inputs, network, *args, **kwargs)

    def _suits(self, device: torch.device, network: nn.Module) -> bool:
        """Whether there is a faster road for the network on the device that computes the windows."""
        raise NotImplementedError

    def _prepare(self, network: nn.Module) -> Callable[[Tensor], Tensor]:
        """A function of windows (B, C, *roi_size) that gives the network's logits; the network stays as it is."""
        raise NotImplementedError

    def _network(self, network: nn.Module) -> Callable[[Tensor], Tensor]:
        # Not the state_dict, whose tensors have no version in inference mode.
        tensors = [*network.parameters(), *network.buffers()]
        state = (network, [(tensor.data_ptr(), _version(tensor)) for tensor in tensors])
        with self._lock:
            if self._prepared is None or self._prepared[0] != state:
                self._prepared = (state, self._prepare(network))
            return self._prepared[1]


def _version(tensor: Tensor) -> Any:
    """Equal as long as a tensor stays as it is; what was made in inference mode counts as changed each time."""
    return object() if tensor.is_inference() else tensor._version
