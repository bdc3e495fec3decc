"""A random zoom that computes a patch's own voxels alone."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from math import ceil

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, Randomizable
from monai.utils import ensure_tuple_rep
from torch.nn.functional import interpolate

from mnseg.errors import UserError

__all__ = ["RandPatchZoomd"]


class RandPatchZoomd(Randomizable, MapTransform):
    """Zoom about the middle of a crop and keep the patch: MONAI's ``RandZoomd`` followed by ``CenterSpatialCropd``.

    Those two zoom the whole crop, margin included (``RandForegroundCropd``), and throw most of it away: at a zoom of
    1.35, with a margin for 0.75, they compute six voxels for each that is kept. Here what the patch does not need is
    cut off first. Along each axis the zoom is rounded to a whole number of voxels; those two round it down.

    Args:
        keys: image and label, plain tensors ``(C, *spatial)``; one that is missing is left out. With the mode
            "nearest-exact" the type stays, else it becomes float32.
        patch_size: voxels of the patch, one number an axis.
        min_zoom: smallest zoom.
        max_zoom: largest zoom; it is drawn uniformly between both.
        mode: of ``torch.nn.functional.interpolate``, one for all keys or one for each.

    Raises:
        UserError: for the mode "nearest", which shifts a label by half a voxel against its image; when called, for a
            crop smaller than ``patch_size / zoom``.
    """

    def __init__(
        self,
        keys: KeysCollection,
        patch_size: Sequence[int],
        min_zoom: float,
        max_zoom: float,
        mode: str | Sequence[str],
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys=True)
        self.patch_size = [int(size) for size in patch_size]
        self.zoom_range = (float(min_zoom), float(max_zoom))
        self.mode = ensure_tuple_rep(mode, len(self.keys))
        if "nearest" in self.mode:
            raise UserError("mode 'nearest' shifts a label against its image: give 'nearest-exact'.")

    def randomize(self, data: object = None) -> float:
        """Draw the zoom."""
        return float(self.R.uniform(*self.zoom_range))

    def __call__(self, data: Mapping[Hashable, object]) -> dict:
        item = dict(data)
        zoom = self.randomize()
        for key, mode in self.key_iterator(item, self.mode):
            item[key] = self._zoomed(item[key], zoom, mode)
        return item

    def _zoomed(self, crop: torch.Tensor, zoom: float, mode: str) -> torch.Tensor:
        least = [ceil(size / zoom) for size in self.patch_size]
        if any(size < wanted for size, wanted in zip(crop.shape[1:], least, strict=True)):
            raise UserError(
                f"A patch of {self.patch_size} voxels at a zoom of {zoom:.2f} needs {least}, and the crop has "
                f"{list(crop.shape[1:])}: give RandForegroundCropd a min_zoom that is no larger."
            )
        # Enlarged, the patch's outermost voxels lie between a needed one and its neighbor outside.
        rim = 2 if zoom > 1 else 0
        needed = middle(crop, [size + rim for size in least])
        # Sizes, no factor: with one, torch copies an axis of an image whose size stays the same, but moves a label's.
        sizes = [round(size * zoom) for size in needed.shape[1:]]
        zoomed = middle(interpolate(needed[None].float(), sizes, mode=mode)[0], self.patch_size)
        # A label stays as small as it was: it goes through collation, and to a GPU.
        return zoomed.to(crop.dtype if mode == "nearest-exact" else zoomed.dtype).contiguous()


def middle(volume: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """The middle ``size`` voxels of ``(C, *spatial)``, where MONAI's crops have it; all of a shorter axis; a view."""
    for axis, wanted in enumerate(size, start=1):
        wanted = min(wanted, volume.shape[axis])
        volume = volume.narrow(axis, volume.shape[axis] // 2 - wanted // 2, wanted)
    return volume
