"""Reading volumes for bookkeeping: names, headers, voxels, content digests.

Training reads images through MONAI's transforms. What is here serves the datalist and its check, where a file that
cannot be read must become one sentence instead of a traceback.
"""

from __future__ import annotations

import gzip
import hashlib
import math
import os
from collections.abc import Iterable, Mapping
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.affines import apply_affine
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

from mnseg.data.soundness import refuse_overstated_size, refuse_unsound_grid
from mnseg.data.volume_formats import NIFTI_SUFFIXES, RASTER_SUFFIXES, case_id, list_volumes, volume_kind
from mnseg.errors import UserError

__all__ = [
    "NIFTI_SUFFIXES",
    "case_id",
    "content_digest",
    "digest_array",
    "list_volumes",
    "open_volume",
    "read_voxels",
    "through_plane_axis",
]

# Voxels by which the two geometries of a NIfTI header may lie apart: as between image and label.
GRID_TOLERANCE_VOXELS = 0.1


def open_volume(path: str | os.PathLike) -> nib.spatialimages.SpatialImage:
    """Open a NIfTI, NRRD or MetaImage file or a DICOM series folder, reading headers only.

    Raises:
        UserError: the file is missing or cannot be read, its grid is no possible one, it is too short for its header,
            or the series is none that can be used.
    """
    if not os.path.exists(path):
        raise UserError(f"{path} does not exist.")
    if not os.path.isfile(path) and not os.path.isdir(path):  # a pipe would be waited for without end
        raise UserError(f"{path} is no regular file.")
    kind = volume_kind(path)
    if kind == "nifti" and str(path).lower().endswith(RASTER_SUFFIXES):
        raise UserError(f"{path} is a 2D image, not a volume: give --planar to 'mnseg datalist' and 'mnseg check', and "
                        "train with bundles/sam_mining.")
    if kind != "nifti":
        from mnseg.data.itk_volumes import open_itk_volume  # here, because importing ITK takes seconds

        image = open_itk_volume(path)
    else:
        image = _open_nifti(path)
    refuse_unsound_grid(path, image.shape, image.affine)
    if isinstance(image, nib.Nifti1Image):
        _refuse_two_grids(image, path)
    return image


def _open_nifti(path: str | os.PathLike) -> nib.spatialimages.SpatialImage:
    try:
        image = nib.load(path)
    except Exception as error:  # nibabel, gzip and zlib raise many unrelated types for a broken file
        raise UserError(f"{path} cannot be read as NIfTI ({_first_line(error)}).") from error
    if not isinstance(image, nib.spatialimages.SpatialImage) or image.affine is None:  # surfaces, streamlines, CIFTI
        raise UserError(f"{path} holds no volume ({type(image).__name__}).")
    if isinstance(image, nib.Nifti1Image):
        _refuse_unknown_orientation(image, path)
    refuse_overstated_size(path, image.shape, image.get_data_dtype().itemsize, os.path.getsize(path))
    return image


def _refuse_unknown_orientation(image: nib.Nifti1Image, path: str | os.PathLike) -> None:
    """nibabel takes a code that the standard does not know for "no orientation"; other programs do not."""
    with nib.openers.ImageOpener(path) as file:
        stored = image.header_class.from_fileobj(file, check=False)
    for key in ("sform_code", "qform_code"):
        if stored[key] != image.header[key]:
            raise UserError(f"{path} has the {key} {int(stored[key])}, which NIfTI does not know; its orientation is "
                            "uncertain.")


def _refuse_two_grids(image: nib.Nifti1Image, path: str | os.PathLike) -> None:
    """Where the sform's voxels are not those of pixdim, MONAI silently goes by the qform; other programs do not."""
    axes = len(image.shape)
    sizes = np.linalg.norm(image.affine[:axes, :axes], axis=0)  # as MONAI, which counts the shift in 4D files
    if axes > 4 or np.allclose(image.header.get_zooms()[:axes], sizes):
        return
    from monai.data.utils import correct_nifti_header_if_necessary  # here, because importing MONAI takes seconds

    other = correct_nifti_header_if_necessary(nib.load(path)).affine
    corners = np.array(list(np.ndindex(2, 2, 2))) * (np.array((*image.shape, 1, 1, 1)[:3]) - 1)
    gap = np.linalg.norm(apply_affine(image.affine, corners) - apply_affine(other, corners), axis=1).max()
    if not gap <= GRID_TOLERANCE_VOXELS * sizes[:3].min():  # NaN too
        by_sform, by_pixdim = (" x ".join(f"{size:.4g}" for size in values[:3])
                               for values in (sizes, image.header.get_zooms()))
        raise UserError(f"{path} contradicts itself: its voxels have {by_sform} mm by the sform, {by_pixdim} mm by "
                        f"pixdim. MONAI would go by the qform, {gap:.3g} mm from where other programs place it; save "
                        "it with one geometry.")


def read_voxels(image: nib.spatialimages.SpatialImage, path: str | os.PathLike) -> np.ndarray:
    """All voxels in the file's own axis order, scale factors applied, in the narrowest dtype that holds them.

    Raises:
        UserError: the voxel data is truncated or damaged, longer than the header says, or does not fit in memory.
    """
    try:
        voxels = _stored_voxels(image, path)
    except MemoryError as error:
        raise UserError(f"the voxels of {path} do not fit in memory; its header says {image.shape}.") from error
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"the voxels of {path} cannot be read ({_first_line(error)}).") from error
    if voxels.dtype.kind not in "biuf":
        raise UserError(f"{path} holds {voxels.dtype} voxels; expected one number per voxel.")
    return voxels


def _stored_voxels(image: nib.spatialimages.SpatialImage, path: str | os.PathLike) -> np.ndarray:
    if not isinstance(image, nib.Nifti1Image):
        return np.asanyarray(image.dataobj)
    if not os.fspath(path).lower().endswith(".gz"):
        voxels = np.asanyarray(image.dataobj)
        _refuse_surplus(image, path, os.path.getsize(path) - _end_of_voxels(image))
        return voxels
    # nibabel stops after the last voxel and never meets the checksum behind it, so damaged bytes would pass.
    with gzip.open(path) as file:
        voxels = np.asanyarray(type(image).from_stream(file).dataobj)
        surplus = 0
        while chunk := file.read(1 << 20):
            surplus += len(chunk)
            _refuse_surplus(image, path, surplus)
    return voxels


def _end_of_voxels(image: nib.Nifti1Image) -> int:
    return int(image.dataobj.offset) + math.prod(image.shape) * image.get_data_dtype().itemsize


def _refuse_surplus(image: nib.Nifti1Image, path: str | os.PathLike, surplus: int) -> None:
    """Some programs pad a file, but a whole slice too much means that the header states another size or type."""
    if surplus > 0 and surplus >= math.prod(image.shape[:2]) * image.get_data_dtype().itemsize:
        shape = "x".join(str(size) for size in image.shape)
        raise UserError(f"{path} holds more voxels than its header says ({shape}, {image.get_data_dtype()}); one of "
                        "the two is damaged.")


def digest_array(voxels: np.ndarray, affine: np.ndarray) -> str:
    """Digest of the shape and values of a volume, brought to RAS order and float32 first.

    File name, compression, header text, number type and axis order do not change it.

    Args:
        voxels: (H, W, D) or (H, W, D, C), in the file's axis order; one channel is as none.
        affine: (4, 4) voxel-to-world matrix; only its axis order and directions are used.
    """
    canonical = voxels = voxels[..., 0] if voxels.ndim == 4 and voxels.shape[3] == 1 else voxels
    if voxels.ndim >= 3 and np.isfinite(affine).all() and np.linalg.matrix_rank(affine[:3, :3]) == 3:
        canonical = nib.orientations.apply_orientation(voxels, io_orientation(affine))
    digest = hashlib.blake2b(repr(canonical.shape).encode(), digest_size=16)
    # One slab at a time: a float32 copy of the whole volume would multiply the memory of a uint8 scan by four.
    for index in range(canonical.shape[-1] if canonical.ndim else 0):
        digest.update(np.ascontiguousarray(canonical[..., index].T, dtype=np.float32))
    return digest.hexdigest()


def content_digest(path: str | os.PathLike) -> str:
    """`digest_array` of a file.

    Raises:
        UserError: the file is missing or unreadable.
    """
    image = open_volume(path)
    return digest_array(read_voxels(image, path), image.affine)


def through_plane_axis(items: Iterable[Mapping[str, Any]], orientation: str = "RAS", max_items: int = 20) -> int:
    """Spatial axis (0, 1 or 2, after reorientation) along which the slices are thickest.

    Only headers are read: the median voxel spacing (mm) per canonical axis over up to ``max_items`` items spread
    over the list. When no axis is more than 1 % thicker than the others the answer is 2, the axis of the paper.

    Args:
        items: datalist items with an absolute path under "image".
        orientation: the three axis codes that the volumes are brought to.

    Raises:
        UserError: no items, or an image cannot be read.
    """
    paths = [item["image"] for item in items]
    if not paths:
        raise UserError("through_plane_axis got no images; name the slice axis in the configuration instead.")
    step = max(1, len(paths) / max_items)
    chosen = [paths[int(i * step)] for i in range(min(max_items, len(paths)))]
    spacing = np.median([_canonical_spacing(path, orientation) for path in chosen], axis=0)
    second, largest = np.sort(spacing)[1:]
    return 2 if largest <= 1.01 * second else int(np.argmax(spacing))


def _canonical_spacing(path: str | os.PathLike, orientation: str) -> np.ndarray:
    """Voxel spacing (3,) in mm along the axes named by ``orientation``."""
    image = open_volume(path)
    if len(image.shape) < 3:
        raise UserError(f"{path} has {len(image.shape)} dimensions; a volume needs 3.")
    try:
        order = ornt_transform(io_orientation(image.affine), axcodes2ornt(orientation))[:, 0].astype(int)
    except ValueError as error:
        raise UserError(f"the axes of {path} cannot be brought to {orientation} ({_first_line(error)}).") from error
    spacing = np.empty(3)
    spacing[order] = nib.affines.voxel_sizes(image.affine)
    return spacing


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:160] if lines else type(error).__name__
