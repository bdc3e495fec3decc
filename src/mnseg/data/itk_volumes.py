"""NRRD, MetaImage and DICOM as nibabel images: geometry first, voxels when asked for, in the axis order of MONAI.

Voxels come from MONAI's ITKReader, so that checks see exactly what training sees.
"""

from __future__ import annotations

import math
import os
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.affines import apply_affine

from mnseg.data.dicom_series import inspect_series
from mnseg.data.itk_headers import meta_voxel_bytes, stored_bytes
from mnseg.data.itk_module import load_itk
from mnseg.data.soundness import refuse_overstated_size
from mnseg.data.volume_formats import volume_kind
from mnseg.errors import UserError

__all__ = ["LPS_TO_RAS", "open_itk_volume"]

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
# Voxels by which the corners of a DICOM series may lie apart in its headers and in what ITK makes of them.
AFFINE_TOLERANCE_VOXELS = 0.1
OTHER_READERS = (".png", ".jpg", ".jpeg", ".bmp", ".npy", ".npz")  # suffixes that MONAI's other readers claim


def open_itk_volume(path: str | os.PathLike) -> nib.spatialimages.SpatialImage:
    """Open a NRRD or MetaImage file, a DICOM series folder or a multi-frame DICOM file; only headers are read.

    Returns:
        Image with shape (X, Y, Z) or (X, Y, Z, C) and the RAS affine that MONAI's ITKReader gives; of DICOM,
        ``extra["modality"]`` is what the series states.

    Raises:
        UserError: the file cannot be read, or the series is none that can be used.
    """
    if volume_kind(path) == "dicom":
        if os.path.isfile(path) and os.fspath(path).lower().endswith(OTHER_READERS):
            raise UserError(f"{path} is DICOM with the suffix of another format, by which MONAI would read it; rename "
                            "it to .dcm.")
        series = inspect_series(path)
        voxels = _ItkVoxels(path, series.shape, series.affine)
        return nib.spatialimages.SpatialImage(voxels, series.affine, extra={"modality": series.modality})
    shape, affine, itemsize = _file_geometry(os.fspath(path))
    voxels = _ItkVoxels(path, shape, affine, math.prod(shape) * itemsize)
    return nib.spatialimages.SpatialImage(voxels, affine)


class _ItkVoxels:
    """nibabel's array proxy: the voxels are read whenever the array is asked for, and not kept."""

    is_proxy = True
    dtype = np.dtype(np.float32)  # only for nibabel's header; the array has the file's own type

    def __init__(
        self, path: str | os.PathLike, shape: tuple[int, ...], affine: np.ndarray, num_bytes: int | None = None
    ) -> None:
        self.path, self.shape, self.ndim, self._affine = os.fspath(path), shape, len(shape), affine
        self._bytes = num_bytes

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        from monai.data import ITKReader

        if self._bytes is not None and (found := meta_voxel_bytes(self.path)) not in (None, self._bytes):
            raise ValueError(f"it holds {found} bytes of voxels, its header says {self._bytes}")
        reader = ITKReader()
        voxels, meta = reader.get_data(reader.read(self.path))
        self._compare(voxels.shape, np.asarray(meta["affine"]))
        return np.asarray(voxels, dtype=dtype)

    def __getitem__(self, index: Any) -> np.ndarray:
        return np.asarray(self)[index]

    def _compare(self, shape: tuple[int, ...], affine: np.ndarray) -> None:
        """A reader that leaves slices out or misplaces them must not go unnoticed."""
        if tuple(shape) != tuple(self.shape):
            raise ValueError(f"ITK reads shape {tuple(shape)}, the headers say {tuple(self.shape)}")
        if self.ndim < 3:
            return
        corners = np.array(list(np.ndindex(2, 2, 2))) * (np.array(shape[:3]) - 1)
        gap = np.linalg.norm(apply_affine(self._affine, corners) - apply_affine(affine, corners), axis=1).max()
        if not gap <= AFFINE_TOLERANCE_VOXELS * np.linalg.norm(self._affine[:3, :3], axis=0).min():  # NaN too
            raise ValueError(f"ITK places its corners {gap:.3g} mm from where the headers say")


def _file_geometry(path: str) -> tuple[tuple[int, ...], np.ndarray, int]:
    """Shape, RAS affine and bytes of one number from the header of a NRRD or MetaImage file."""
    itk = load_itk()
    if not os.path.isfile(path):
        raise UserError(f"{path} does not exist.")
    stored = stored_bytes(path)
    try:
        header = itk.ImageIOFactory.CreateImageIO(path, itk.CommonEnums.IOFileMode_ReadMode)
        header.SetFileName(path)
        header.ReadImageInformation()
        itemsize = header.GetComponentSize()
    except Exception as error:  # None for a file that no reader knows, RuntimeError for a damaged header
        raise UserError(f"{path} cannot be read: its header is damaged or of another format.") from error
    size = header.GetNumberOfDimensions()
    axes = min(size, 3)
    affine = np.eye(4)
    for axis in range(axes):
        affine[:axes, axis] = np.array(header.GetDirection(axis))[:axes] * header.GetSpacing(axis)
        affine[axis, 3] = header.GetOrigin(axis)
    channels = header.GetNumberOfComponents()
    shape = tuple(header.GetDimensions(axis) for axis in range(size)) + ((channels,) if channels > 1 else ())
    refuse_overstated_size(path, shape, itemsize, stored)
    return shape, LPS_TO_RAS @ affine, itemsize
