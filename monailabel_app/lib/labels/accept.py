"""A label that somebody sent: brought to the scan's grid and the server's classes, or refused in one sentence.

Statuses of a refusal: 400 what the label says cannot be used (values, segment names, empty mask), 404 its scan is not
there, 409 it lies on another grid than its scan, 413 it is too large, 415 it is no image that can be read, 422 the scan
itself cannot be read.
"""

from __future__ import annotations

import gzip
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from lib.durable import durable_write
from lib.errors import RequestError
from lib.labels.segments import class_values, classes_of, segments_in_file
from lib.labels.upload import MAX_BYTES, require_sound_upload
from mnseg.data.grids import index_map, label_onto_grid
from mnseg.data.volume_io import open_volume, read_voxels
from mnseg.errors import UserError

__all__ = ["AcceptedLabel", "accept_label"]

# A float label may have gone through scale factors of its header.
WHOLE_TOLERANCE = 1e-3


@dataclass(frozen=True)
class AcceptedLabel:
    """A label on its scan's grid.

    Args:
        array: (X, Y, Z) uint8, the server's classes, in the axis order of the scan's file.
        affine: (4, 4), the scan's own, voxel to RAS in mm.
        voxels: labeled voxels of each class by name, 0 for those that do not occur.
        reordered: the file had another order or direction of axes.
        cropped: the file covered a part of the scan; the rest is background.
        remapped: its numbers were others than the server's.
    """

    array: np.ndarray
    affine: np.ndarray
    voxels: Mapping[str, int]
    reordered: bool = False
    cropped: bool = False
    remapped: bool = False

    def write(self, path: str | Path) -> Path:
        """Write as NIfTI (.nii.gz or .nii), whole or not at all; it has reached the disk when the call returns.

        Equal labels give equal bytes.
        """
        image = nib.Nifti1Image(self.array, self.affine)
        image.set_qform(self.affine, code=1)  # both forms: ITK reads a rounded sform alone as not quite orthogonal
        image.set_sform(self.affine, code=1)
        image.header.set_xyzt_units("mm")
        content = image.to_bytes()
        if str(path).lower().endswith(".gz"):
            content = gzip.compress(content, compresslevel=1, mtime=0)
        return durable_write(path, lambda temporary: temporary.write_bytes(content))


def accept_label(
    label_file: str | os.PathLike,
    image_file: str | os.PathLike,
    labels: Sequence[str] | Mapping[str, int],
    label_info: Any = None,
    max_bytes: int = MAX_BYTES,
) -> AcceptedLabel:
    """Read a label that came with a request and bring it to the grid of its scan.

    Taken are NIfTI, NRRD (also .seg.nrrd with one layer) and MetaImage in one file. The grid may be the scan's with
    other order or direction of axes, or a part of it; voxel centers must lie within 0.1 voxel of the scan's, the
    tolerance of the datalist's check (a NIfTI header rounds to float32, and a quaternion near half a turn loses most of
    that). Nothing is ever resampled.

    Args:
        label_file: the upload, under a name with its own suffix.
        image_file: the scan: NIfTI, NRRD, MetaImage, or a folder of a DICOM series.
        labels: the classes: names numbered from 1, or ``{name: value}``; a value 0 is the background.
        label_info: ``[{"name": …, "idx": …}]`` as 3D Slicer sends it; numbers are remapped by name.
        max_bytes: larger files are refused before they are opened.

    Raises:
        RequestError: with the statuses above.
    """
    path = Path(label_file)
    classes = class_values(labels)
    require_sound_upload(path, max_bytes)
    image = _open_scan(image_file)
    shape, affine = image.shape[:3], image.affine
    label, place = _open_on_grid(path, shape, affine)
    voxels = _whole_voxels(label, path)
    values = [int(value) for value in np.unique(voxels) if value]
    if not values:
        raise RequestError(400, "The label is empty: paint at least one voxel before it is submitted.")
    mapping = classes_of(values, classes, segments_in_file(path), label_info)
    voxels = _mapped(voxels, mapping)
    if not voxels.any():
        raise RequestError(400, "The label is empty: all of it is background.")
    if place.is_suspicious(voxels):
        raise _other_grid(label.shape, shape)
    if not place.is_identity:
        voxels = label_onto_grid(voxels, label.affine, shape, affine, "the label")
    counts = np.bincount(voxels.ravel(order="K"), minlength=256)
    return AcceptedLabel(
        array=np.ascontiguousarray(voxels),
        affine=np.asarray(affine, float),
        voxels={name: int(counts[value]) for name, value in classes.items()},
        reordered=place.is_reordered,
        cropped=place.is_cropped,
        remapped=any(value != target for value, target in mapping.items()),
    )


def _open_scan(image_file: str | os.PathLike) -> nib.spatialimages.SpatialImage:
    if not os.path.exists(image_file):
        raise RequestError(404, f"The scan {Path(image_file).name} of this label is not there.")
    try:
        image = open_volume(image_file)
    except UserError as error:
        raise RequestError(422, f"The scan of this label cannot be used: {_without_path(error, image_file)}") from error
    if len(image.shape) < 3:
        raise RequestError(422, f"The scan {Path(image_file).name} has {len(image.shape)} dimensions; a volume has 3.")
    return image


@dataclass(frozen=True)
class _Place:
    """How a label's grid lies in that of its scan."""

    matrix: np.ndarray
    first: np.ndarray  # lowest index of the scan that it covers, along each of the scan's axes
    last: np.ndarray
    shape: tuple[int, ...]

    @property
    def is_reordered(self) -> bool:
        return not np.array_equal(self.matrix, np.eye(3, dtype=int))

    @property
    def is_cropped(self) -> bool:
        return bool((self.first > 0).any() or (self.last < np.array(self.shape) - 1).any())

    @property
    def is_identity(self) -> bool:
        return not self.is_reordered and not self.is_cropped

    def is_suspicious(self, voxels: np.ndarray) -> bool:
        """Smaller than the scan, from the same corner on, without a labeled voxel where it ends.

        Programs crop to what is labeled. A grid that is merely shorter belongs to another scan whose header happens to
        be alike: many scans begin at the same place.
        """
        if not self.is_cropped or (self.first > 0).any():
            return False
        ends_early = np.flatnonzero(self.last < np.array(self.shape) - 1)
        labeled = [np.flatnonzero(voxels.any(axis=tuple(set(range(3)) - {axis}))) for axis in range(3)]
        for scan_axis in ends_early:
            axis = int(np.flatnonzero(self.matrix[scan_axis])[0])
            end = voxels.shape[axis] - 1 if self.matrix[scan_axis, axis] > 0 else 0
            if end not in labeled[axis]:
                return True
        return False


def _open_on_grid(
    path: Path, shape: tuple[int, ...], affine: np.ndarray
) -> tuple[nib.spatialimages.SpatialImage, _Place]:
    """The label, opened, and its place; no voxel has been read yet."""
    try:
        label = open_volume(path)
    except UserError as error:
        raise RequestError(415, f"The label cannot be used: {_without_path(error, path)}") from error
    if math.prod(label.shape[3:]) != 1:
        raise RequestError(400, "The label has several layers or components, but a voxel can have only one class; let "
                                "no segments overlap and save again.")
    size = label.shape[:3]
    if len(size) < 3:
        raise _other_grid(size, shape)
    try:
        matrix, offset = index_map(label.affine, affine, size, "the label")
    except UserError as error:
        raise _other_grid(size, shape) from error
    corners = matrix @ (np.array(list(np.ndindex(2, 2, 2))) * (np.array(size) - 1)).T + offset[:, None]
    place = _Place(matrix, corners.min(1), corners.max(1), shape)
    if (place.first < 0).any() or (place.last >= np.array(shape)).any():
        raise _other_grid(size, shape)
    return label, place


def _other_grid(size: Sequence[int], shape: Sequence[int]) -> RequestError:
    label, scan = ("x".join(str(length) for length in lengths) for lengths in (size, shape))
    sizes = f"{label} and {scan} voxels" if label != scan else f"both {scan} voxels, at another place"
    return RequestError(409, f"The label does not lie on the voxels of its scan ({sizes}): is it of another scan? "
                             "Otherwise export it with the scan as reference.")


def _whole_voxels(label: nib.spatialimages.SpatialImage, path: Path) -> np.ndarray:
    """(X, Y, Z) integers."""
    try:
        voxels = read_voxels(label, path)
    except UserError as error:
        raise RequestError(415, f"The label cannot be used: {_without_path(error, path)}") from error
    voxels = voxels.reshape(voxels.shape[:3])
    if voxels.dtype.kind != "f":
        return voxels
    if not np.isfinite(voxels).all():
        raise RequestError(400, "The label has voxels that are NaN or infinite; a label has whole numbers.")
    whole = np.rint(voxels)
    beside = np.abs(voxels - whole)
    if beside.max() > WHOLE_TOLERANCE:
        value = voxels.flat[int(beside.argmax())]
        raise RequestError(400, f"The label has fractional values such as {value:g}; a label has whole numbers: send a "
                                "mask, not probabilities.")
    return whole


def _mapped(voxels: np.ndarray, mapping: Mapping[int, int]) -> np.ndarray:
    if any(value < 0 for value in mapping):
        raise RequestError(400, f"The label has the negative value {min(mapping)}.")
    mapped = np.zeros(voxels.shape, np.uint8)
    for value, target in mapping.items():
        mapped[voxels == value] = target
    return mapped


def _without_path(error: UserError, path: str | os.PathLike) -> str:
    """Clients do not know the server's folders."""
    return str(error).replace(os.fspath(path), Path(path).name)
