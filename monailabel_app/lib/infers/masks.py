"""Masks as files, in the kinds that clients ask for, with a notice in their headers."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np

from mnseg.data.dicom_seg_write import COLORS
from mnseg.data.itk_module import load_itk

__all__ = [
    "DTYPES",
    "EXTENSIONS",
    "centroids",
    "keep_largest",
    "label_colors",
    "removed_on_error",
    "temporary_file",
    "write_mask",
]

EXTENSIONS = (".nrrd", ".nii.gz", ".nii")
DTYPES = ("uint8", "uint16", "int16", "int32", "float32")
DESCRIP_LENGTH = 79


def write_mask(path: Path, mask: np.ndarray, affine: np.ndarray, notice: str, compress: bool = True) -> Path:
    """Write a mask (H, W, D), whose type is kept, by the suffix of ``path`` (one of `EXTENSIONS`).

    Args:
        affine: (4, 4), voxel indices to mm (RAS).
        notice: model, version, "not for diagnosis"; in NIfTI's ``descrip``, a key of NRRD.
        compress: of a NRRD file; NIfTI says it by its suffix.
    """
    if path.name.endswith(".nrrd"):
        return _write_nrrd(path, mask, affine, notice, compress)
    image = nib.Nifti1Image(mask, np.asarray(affine, np.float64), dtype=mask.dtype)
    image.header["descrip"] = notice.encode("ascii", "replace")[:DESCRIP_LENGTH]
    image.header.set_xyzt_units("mm")
    nib.save(image, path)
    return path


def _write_nrrd(path: Path, mask: np.ndarray, affine: np.ndarray, notice: str, compress: bool) -> Path:
    from monai.data import ITKWriter

    itk = load_itk()
    image = ITKWriter.create_backend_obj(mask, channel_dim=None, affine=np.asarray(affine), dtype=mask.dtype)
    image["notice"] = notice
    itk.imwrite(image, str(path), compression=compress)
    return path


def keep_largest(mask: np.ndarray) -> np.ndarray:
    """Only the largest piece of every structure (26 neighbors)."""
    from monai.transforms import KeepLargestConnectedComponent

    values = [int(value) for value in np.unique(mask) if value]
    if not values:
        return mask
    keep = KeepLargestConnectedComponent(applied_labels=values, is_onehot=False, independent=True, connectivity=3)
    return np.asarray(keep(mask[None])[0]).astype(mask.dtype)


def centroids(mask: np.ndarray, labels: Sequence[str]) -> dict[str, list[str]]:
    """Center of mass of every structure that is there, as whole voxel indices in texts: what OHIF's panel reads."""
    found = {}
    for value, name in enumerate(labels, 1):
        where = np.nonzero(mask == value)
        if where[0].size:
            found[name] = [str(int(round(float(axis.mean())))) for axis in where]
    return found


def label_colors(labels: Sequence[str]) -> dict[str, list[int]]:
    """Red, green, blue (0..255) of every structure: the viewers' own color where they know the name."""
    from monailabel.datastore.utils.colors import GENERIC_ANATOMY_COLORS

    return {
        name: list(GENERIC_ANATOMY_COLORS.get(name.replace("_", " ").lower()) or COLORS[place % len(COLORS)])
        for place, name in enumerate(labels)
    }


@contextlib.contextmanager
def removed_on_error(path: Path) -> Iterator[None]:
    """A full disk must not be filled further by masks that nobody will fetch."""
    try:
        yield
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def temporary_file(extension: str) -> Path:
    with tempfile.NamedTemporaryFile(prefix="mnseg-", suffix=extension, delete=False) as file:
        return Path(file.name)
