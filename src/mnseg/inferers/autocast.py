"""MONAI's sliding window in the precision in which the networks are trained."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from monai.inferers import SlidingWindowInferer
from torch import Tensor
from torch.utils._pytree import tree_map

from mnseg.engines.micro_batches import halve_where_memory_ends, unless_memory_ends
from mnseg.engines.precision import amp_dtype_of

__all__ = ["AutocastInferer"]


class AutocastInferer(SlidingWindowInferer):
    """Windows are computed under ``torch.autocast`` and put together in float32; the network is used as it is.

    For validation while training: a network computes as it does when it teaches, and no copy of it is prepared. Where
    a GPU's memory ends, a scan's windows are put together in the computer's memory, and where that does not suffice,
    fewer pass the network at once from then on: the scores do not depend on it.

    Args:
        amp_dtype: as the trainer's: None (MONAI's inferer), "bfloat16", "float16" or "auto".
        others: those of ``SlidingWindowInferer``.
    """

    def __init__(self, *args: Any, amp_dtype: str | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.amp_dtype = amp_dtype

    def __call__(self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """(B, C, H, W, D) -> (B, K, H, W, D) logits, float32, on the device of ``inputs`` if its memory holds them.

        Raises:
            UserError: for an ``amp_dtype`` of another name.
        """
        dtype = amp_dtype_of(self.amp_dtype, inputs.device)
        predict, place = super().__call__, kwargs.pop("device", self.device)

        def run(windows: Tensor, *rest: Any, **named: Any) -> Any:
            with torch.autocast(windows.device.type, dtype):
                found = network(windows, *rest, **named)
            return tree_map(lambda part: part.float() if part.is_floating_point() else part, found)

        def sized(sw_batch_size: int, device: Any = place) -> Any:
            self.sw_batch_size = sw_batch_size
            return predict(inputs, network if dtype is None else run, *args, device=device, **kwargs)

        def outside() -> Any:
            return halve_where_memory_ends(
                partial(sized, device=torch.device("cpu")), self.sw_batch_size, "windows (sw_batch_size)"
            )

        return unless_memory_ends(
            partial(sized, self.sw_batch_size), outside,
            f"not enough GPU memory to segment a volume of {tuple(inputs.shape[1:])}: its scores are kept outside",
        )  # fmt: skip
