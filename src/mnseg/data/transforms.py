"""Transforms that MONAI does not have: foreground indices, a crop for labeled and unlabeled items, plain tensors."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from math import ceil

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor, get_track_meta, set_track_meta
from monai.transforms import Compose, MapTransform, Randomizable
from monai.transforms.utils import correct_crop_centers
from torch.nn.functional import pad

from mnseg.data.pseudo_foreground import PseudoForeground, sample_foreground

__all__ = ["ForegroundIndicesd", "PlainTensorCompose", "RandForegroundCropd", "margin_size"]

INDICES_KEY = "foreground_indices"


def margin_size(patch_size: Sequence[int], min_zoom: float) -> list[int]:
    """Size of the crop that still fills ``patch_size`` voxels after zooming out to ``min_zoom`` (<= 1)."""
    return [ceil(size / min(min_zoom, 1.0)) for size in patch_size]


class ForegroundIndicesd(MapTransform):
    """Keep a capped sample of a labeled item's foreground voxels; an item without the label key passes unchanged.

    Args:
        keys: the label, ``(1, H, W, D)`` class indices.
        limit: most indices kept, shared equally by the classes that are present.
    """

    def __init__(self, keys: KeysCollection = "label", limit: int = 2048) -> None:
        super().__init__(keys, allow_missing_keys=True)
        self.limit = limit

    def __call__(self, data: Mapping[Hashable, object]) -> dict:
        item = dict(data)
        for key in self.key_iterator(item):
            item[INDICES_KEY] = sample_foreground(item[key], self.limit)
        return item


class RandForegroundCropd(Randomizable, MapTransform):
    """Crop one patch; with a given probability its center is a foreground voxel.

    For a labeled item the foreground is the label's, for an unlabeled one the 3D network's last prediction. Where
    neither knows any foreground, the crop is uniform: an empty pseudo-label must not stop or loop.

    The crop has a margin (``margin_size``) around the patch, from which a later random zoom takes its voxels. The
    patch itself lies inside the scan, so that a scan's border is seen as often as the rest; where the margin, or the
    patch of a small scan, reaches beyond the scan, it is padded with 0 (label: background), as MONAI's sliding window
    pads a scan that is smaller than its window: a network is trained on what it is shown later.

    Args:
        keys: ``image`` and ``label``, tensors whose affines are lost; ``label`` may be missing.
        patch_size: voxels of the patch, one number an axis.
        probability: chance that a crop is centered on foreground (M&N: 0.5).
        pseudo_foreground: indices of the unlabeled cases, looked up by the item's ``case``.
        min_zoom: smallest zoom that follows; sets the margin. 1: no margin.
    """

    def __init__(
        self,
        keys: KeysCollection,
        patch_size: Sequence[int],
        probability: float = 0.5,
        pseudo_foreground: PseudoForeground | None = None,
        min_zoom: float = 1.0,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys=True)
        self.patch_size = [int(size) for size in patch_size]
        self.crop_size = margin_size(self.patch_size, min_zoom)
        self.probability = probability
        self.pseudo_foreground = pseudo_foreground

    def _indices(self, item: Mapping) -> np.ndarray | None:
        if "label" in item:
            return item.get(INDICES_KEY)
        return None if self.pseudo_foreground is None else self.pseudo_foreground.get(item.get("case", ""))

    def randomize(self, item: Mapping, shape: Sequence[int]) -> list[int]:
        """Draw the patch's center, a voxel of a volume of ``shape``."""
        use_foreground = self.R.random() < self.probability
        position = self.R.random(len(shape))
        indices = self._indices(item)
        if use_foreground and indices is not None and len(indices):
            chosen = int(indices[int(position[0] * len(indices))])
            center = [int(c) for c in np.unravel_index(chosen, shape)]
        else:
            # Uniform over the patches that lie inside, which on a large scan is not the same as over its voxels.
            room = [max(size - patch, 0) for size, patch in zip(shape, self.patch_size, strict=True)]
            center = [
                int(p * (r + 1)) + patch // 2 for p, r, patch in zip(position, room, self.patch_size, strict=True)
            ]
        small = [min(size, patch) for size, patch in zip(shape, self.patch_size, strict=True)]
        return correct_crop_centers(center, small, shape, allow_smaller=True)

    def __call__(self, data: Mapping[Hashable, object]) -> dict:
        item = dict(data)
        shape = item["image"].shape[1:]
        start = [c - size // 2 for c, size in zip(self.randomize(item, shape), self.crop_size, strict=True)]
        for key in self.key_iterator(item):
            item[key] = _crop(item[key], start, self.crop_size)
        item.pop(INDICES_KEY, None)
        return item


def _crop(volume: torch.Tensor, start: Sequence[int], size: Sequence[int]) -> torch.Tensor:
    """A copy of ``size`` voxels from ``start`` on, padded with 0 where it reaches beyond ``(C, H, W, D)``.

    By torch's slices: MONAI's SpatialCrop and BorderPad keep affines and inverses, which a patch that is learned from
    does not need, and take twice as long.
    """
    spans = list(zip(start, size, volume.shape[1:], strict=True))
    inside = volume[(slice(None), *(slice(max(first, 0), first + length) for first, length, _ in spans))]
    outside = [max(n, 0) for first, length, whole in reversed(spans) for n in (-first, first + length - whole)]
    if not any(outside):
        return inside.clone()  # later transforms must not change the cached volume
    return pad(inside, outside)


class PlainTensorCompose(Compose):
    """MONAI's ``Compose`` on plain tensors: what its transforms remember of a ``MetaTensor`` is left out.

    Keeping affines and the list of applied operations takes longer than cropping and zooming a patch, and a patch that
    is learned from is never brought back to its scan's grid. Values and random draws are those of ``Compose``.
    """

    def __call__(self, data: Mapping[Hashable, object], *args, **kwargs) -> dict:
        item = {key: value.as_tensor() if isinstance(value, MetaTensor) else value for key, value in data.items()}
        tracking = get_track_meta()
        set_track_meta(False)
        try:
            return super().__call__(item, *args, **kwargs)
        finally:
            set_track_meta(tracking)
