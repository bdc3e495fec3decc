"""Test-time augmentation by flips: MONAI's sliding window over a volume and its mirror images."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from monai.inferers import SlidingWindowInferer
from torch import Tensor

from mnseg.data.lateralized import allowed_flips

__all__ = ["FlipInferer"]


class FlipInferer(SlidingWindowInferer):
    """The mean of the probabilities over a volume's mirror images, each turned back; 2 ** axes times the work.

    It helps networks that were trained with the same flips (``flip_axes`` of train.json); others have never seen a
    mirrored scan. Left-right flips are left out where class names tell a side.

    Args:
        flip_axes: axes 0, 1, 2 of the volume as the network sees it; all their combinations are averaged.
        class_names, orientation: see :func:`mnseg.data.lateralized.allowed_flips`.
        args, kwargs: as those of ``SlidingWindowInferer``.

    Raises:
        UserError: an axis other than 0, 1, 2.
    """

    def __init__(
        self, *args: Any, flip_axes: Sequence[int] = (0, 1, 2), class_names: Sequence[str] = (),
        orientation: str = "RAS", **kwargs: Any,
    ) -> None:  # fmt: skip
        super().__init__(*args, **kwargs)
        self.flip_axes = allowed_flips(flip_axes, class_names, orientation)

    def __call__(self, inputs: Tensor, network: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        """Logarithms of the mean probabilities (B, K, H, W, D) of a volume (B, C, H, W, D)."""
        if not self.flip_axes:
            return super().__call__(inputs, network, *args, **kwargs)
        total = None
        for number in range(len(self.flip_axes) + 1):
            for axes in itertools.combinations([2 + axis for axis in self.flip_axes], number):
                logits = super().__call__(inputs.flip(axes), network, *args, **kwargs)
                part = logits.flip(axes).log_softmax(dim=1)
                total = part if total is None else torch.logaddexp(total, part)
        return total - len(self.flip_axes) * math.log(2)
