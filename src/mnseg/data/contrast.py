"""A random contrast for which the host does not wait for the device."""

from __future__ import annotations

from collections.abc import Sequence

from monai.config import KeysCollection
from monai.transforms import AdjustContrast, RandAdjustContrastd
from torch import Tensor

__all__ = ["RandContrastd"]


class RandContrastd(RandAdjustContrastd):
    """MONAI's ``RandAdjustContrastd`` on plain tensors: the same draws, the same values.

    MONAI's asks the host for the range of an image's values. Where scans lie on a GPU (``cache_on_device``) it would
    wait there for all that the step in front has queued.

    Args:
        keys: images ``(C, *spatial)``.
        prob: share of the images that are changed.
        gamma: least and largest exponent; it is drawn uniformly between both.
        allow_missing_keys: whether an item may lack a key.
    """

    def __init__(
        self, keys: KeysCollection, prob: float, gamma: Sequence[float], allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, prob, gamma, allow_missing_keys=allow_missing_keys)
        self.adjuster.adjust_contrast = _Contrast(1.0)


class _Contrast(AdjustContrast):
    def __call__(self, img: Tensor, gamma: float | None = None) -> Tensor:
        lowest = img.min()
        extent = img.max() - lowest
        return ((img - lowest) / (extent + 1e-7)) ** (self.gamma if gamma is None else gamma) * extent + lowest
