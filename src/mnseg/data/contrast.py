"""A random contrast for which the host does not wait for the device."""

from __future__ import annotations

from typing import Any

from monai.transforms import AdjustContrast, RandAdjustContrastd
from torch import Tensor

__all__ = ["RandContrastd"]


class RandContrastd(RandAdjustContrastd):
    """MONAI's ``RandAdjustContrastd`` on plain tensors ``(C, *spatial)``: the same draws, the same values.

    MONAI's asks the host for the range of an image's values. Where scans lie on a GPU (``cache_on_device``) it would
    wait there for all that the step in front has queued. With ``invert_image`` or ``retain_stats`` it is MONAI's.

    Args:
        args, kwargs: those of ``RandAdjustContrastd``.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not (self.adjuster.invert_image or self.adjuster.retain_stats):
            self.adjuster.adjust_contrast = _Contrast(1.0)


class _Contrast(AdjustContrast):
    def __call__(self, img: Tensor, gamma: float | None = None) -> Tensor:
        lowest = img.min()
        extent = img.max() - lowest
        return ((img - lowest) / (extent + 1e-7)) ** (self.gamma if gamma is None else gamma) * extent + lowest
