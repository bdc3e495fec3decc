"""The segments of a DICOM SEG on the grid of its scan, whatever grid they were drawn on."""

from __future__ import annotations

from typing import Any

import nibabel as nib
import numpy as np

from mnseg.data.dicom_seg_read import label_of, sound_frames
from mnseg.data.itk_volumes import LPS_TO_RAS
from mnseg.errors import UserError

__all__ = ["numbers_on_grid"]

# Voxels of a volume that frames are put into; a tiny step would ask for any number of slices.
MOST_VOXELS = 2**31
# Millimeters, and a part of a vector of length 1, by which frames of one grid may differ.
TOLERANCE = 1e-3


def numbers_on_grid(seg: Any, scan: Any) -> np.ndarray:
    """Segment numbers, (X, Y, Z) uint16, on the grid of a scan; 0 where there is no segment.

    Viewers write frames on the voxels of the scan, in any order, and leave empty ones out; these are placed as they
    are. Frames of other voxel size or orientation are resampled: each voxel of the scan gets the segment whose voxel
    holds its center.

    Args:
        seg: `mnseg.data.dicom_seg_read.Segmentation`.
        scan: nibabel image of the scan; its voxels are not read.

    Raises:
        UserError: damaged frames, segments that overlap, or frames that form no regular grid.
    """
    numbers = {number: number for number in seg.labels}
    try:
        return label_of(seg, numbers, scan)
    except UserError as error:
        if "does not lie on the voxels" not in str(error):
            raise
    volume = _assembled(seg)
    from nibabel.processing import resample_from_to

    target = (scan.shape[:3], scan.affine)
    return np.asarray(resample_from_to(volume, target, order=0, mode="constant", cval=0).dataobj).astype(np.uint16)


def _assembled(seg: Any) -> nib.Nifti1Image:
    """The frames as a volume of their own; one empty slice is put around it, so that no slice is drawn out."""
    frames = sound_frames(seg)
    first, rows_columns = frames[0][0], frames[0][1].shape
    across, down = first[:3, 0], first[:3, 1]
    normal = np.cross(across, down)
    if not np.linalg.norm(normal) > 0:  # without a size or a direction, or not a number
        raise _irregular(seg)
    normal /= np.linalg.norm(normal)
    for matrix, frame in frames:
        if frame.shape != rows_columns or np.abs(matrix[:3, :2] - first[:3, :2]).max() > TOLERANCE:
            raise _irregular(seg)
    heights = np.array([matrix[:3, 2] @ normal for matrix, _ in frames])
    levels = np.unique(np.round(heights, 3))
    step = _step(levels, float(_thickness(seg) or 0)) or float(np.linalg.norm(across))
    if not (np.isfinite(heights).all() and np.ptp(heights) / step * np.prod(rows_columns) < MOST_VOXELS):
        raise _irregular(seg)
    places = np.rint((heights - heights.min()) / step).astype(int)
    aside = np.array([matrix[:3, 2] for matrix, _ in frames]) - first[:3, 2] - np.outer(heights - heights[0], normal)
    if np.abs((heights - heights.min()) / step - places).max() > 0.1 or np.abs(aside).max() > 0.1 * step:
        raise _irregular(seg)
    volume = np.zeros((rows_columns[1], rows_columns[0], places.max() + 3), np.uint16)
    overlaps = 0
    for (_, frame), place in zip(frames, places + 1, strict=True):
        there, drawn = volume[..., place], frame.T
        overlaps += int(((there != 0) & (drawn != 0) & (there != drawn)).sum())
        volume[..., place] = np.where(drawn != 0, drawn, there)
    if overlaps:
        raise UserError(f"segments of {seg.path} overlap in {overlaps} voxels, but a voxel of a label has one class; "
                        "decide them in the segmentation.")
    lowest = frames[int(heights.argmin())][0][:3, 2]
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1], affine[:3, 2], affine[:3, 3] = across, down, step * normal, lowest - step * normal
    return nib.Nifti1Image(volume, LPS_TO_RAS @ affine)


def _step(levels: np.ndarray, declared: float) -> float:
    """Distance of two slices (mm), 0 where nothing says it.

    What the file declares, where the frames lie on such slices: frames are left out where nothing was drawn, and the
    smallest gap between those that are there may be several slices.
    """
    gaps = np.diff(levels)
    if not len(gaps):
        return declared
    if declared > 0:
        slices = np.rint(gaps / declared)
        if slices.min() >= 1 and np.abs(gaps / declared - slices).max() <= 0.1:
            return float((levels[-1] - levels[0]) / slices.sum())
    return float(gaps.min())


def _thickness(seg: Any) -> float | None:
    shared = (seg.dataset.get("SharedFunctionalGroupsSequence") or [{}])[0]
    own = seg.dataset.PerFrameFunctionalGroupsSequence[0]
    measures = (own.get("PixelMeasuresSequence") or shared.get("PixelMeasuresSequence") or [{}])[0]
    return measures.get("SpacingBetweenSlices") or measures.get("SliceThickness")


def _irregular(seg: Any) -> UserError:
    return UserError(f"{seg.path} has frames that do not form one regular grid, so it cannot be brought to the scan's.")
