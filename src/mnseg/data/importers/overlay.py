"""A first overlay for a data set that has none: what headers and labeled scans tell about channels and sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.orientations import io_orientation

from mnseg.data.volume_io import open_volume, read_voxels, through_plane_axis

__all__ = ["describe_volumes", "foreground_window"]

LARGEST_PATCH = {"in-plane": 160, "through-plane": 64}  # the published patch, 160x160x64
SMALLEST_PATCH = {"in-plane": 32, "through-plane": 16}
ANISOTROPY = 1.5
SMALL_SLICE = 128
HEADERS = 50


def describe_volumes(datalist: Mapping[str, Any], is_ct: bool) -> dict[str, Any]:
    """Overlay for train.json: classes, channels, patch, and where they differ from the defaults spacing and window.

    Args:
        datalist: with absolute paths; only labeled and unlabeled scans are looked at.
        is_ct: intensities are Hounsfield units and get a window (`foreground_window`).
    """
    items = datalist["labeled"] + datalist["unlabeled"]
    items = items[:: max(1, len(items) // HEADERS)]
    grids = [_canonical_grid(item["image"]) for item in items]
    shapes, spacings = np.array([shape for shape, _ in grids]), np.array([spacing for _, spacing in grids])
    axis = through_plane_axis(items)
    overlay = {"class_names": list(datalist["class_names"]), "in_channels": _channels(items[0]["image"])}
    sizes = np.median(shapes, axis=0)
    if (spacings.max(axis=0) > ANISOTROPY * spacings.min(axis=0)).any():
        target = np.median(spacings, axis=0)
        sizes = np.median(shapes * spacings, axis=0) / target
        overlay["spacing"] = [round(float(value), 3) for value in target]
    overlay["patch_size"] = _patch(sizes, axis)
    overlay["slice_axis"] = axis
    if np.delete(sizes, axis).max() < SMALL_SLICE:
        overlay["slice_scale"] = 2.0
    if is_ct:
        low, high = foreground_window(datalist["labeled"])
        overlay["intensity"] = {"_target_": "ScaleIntensityRanged", "keys": "image", "a_min": low, "a_max": high,
                                "b_min": -1.0, "b_max": 1.0, "clip": True}
    return overlay


def foreground_window(labeled: Sequence[Mapping[str, Any]], limit: int = 100_000) -> tuple[float, float]:
    """Percentiles 0.5 and 99.5 of the intensities inside the structures of the labeled scans, ``limit`` voxels each.

    The idea is nnU-Net's (Isensee et al., Nature Methods 2021); scans held out for testing are not looked at.
    """
    samples = []
    for item in labeled:
        image, label = (read_voxels(open_volume(item[key]), item[key]) for key in ("image", "label"))
        inside = image[label.reshape(label.shape[:3]) > 0].ravel()
        samples.append(inside[:: max(1, inside.size // limit)])
    low, high = np.percentile(np.concatenate(samples), (0.5, 99.5))
    return round(float(low), 1), round(float(max(high, low + 1)), 1)


def _patch(sizes: np.ndarray, axis: int) -> list[int]:
    """Multiples of 16 that a usual scan holds, within the limits."""
    kinds = ["through-plane" if index == axis else "in-plane" for index in range(3)]
    return [int(np.clip(size // 16 * 16, SMALLEST_PATCH[kind], LARGEST_PATCH[kind]))
            for size, kind in zip(sizes, kinds, strict=True)]


def _channels(path: str) -> int:
    shape = open_volume(path).shape
    return shape[3] if len(shape) == 4 else 1


def _canonical_grid(path: str) -> tuple[np.ndarray, np.ndarray]:
    """Shape (3,) and spacing (3,) in mm along right, anterior, superior; from the header."""
    volume = open_volume(path)
    order = io_orientation(volume.affine)[:, 0].astype(int)
    shape, spacing = np.empty(3), np.empty(3)
    shape[order], spacing[order] = volume.shape[:3], nib.affines.voxel_sizes(volume.affine)
    return shape, spacing
