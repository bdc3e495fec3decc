"""What a file holds by other programs than mnseg's readers: NIfTI by its specification, the rest by SimpleITK."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import SimpleITK as sitk

__all__ = ["read_independently"]

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_TYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"}
# Field: offset and type in NIfTI-1, offset and type in NIfTI-2 (nifti1.h, nifti2.h).
_LAYOUT = {
    "dim": (40, "8i2", 16, "8i8"), "datatype": (70, "i2", 12, "i2"), "pixdim": (76, "8f4", 104, "8f8"),
    "vox_offset": (108, "f4", 168, "i8"), "slope": (112, "f4", 176, "f8"), "inter": (116, "f4", 184, "f8"),
    "qform": (252, "i2", 344, "i4"), "sform": (254, "i2", 348, "i4"), "quatern": (256, "6f4", 352, "6f8"),
    "srow": (280, "12f4", 400, "12f8"),
}  # fmt: skip


def read_independently(path: Path, form: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Voxels (X, Y, Z) or (X, Y, Z, C), and the RAS affine (None where the file states none).

    Raises:
        Exception: of any kind, when the file cannot be read.
    """
    if form == "nifti":
        return _nifti(path)
    if path.is_dir():
        reader = sitk.ImageSeriesReader()
        reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(path)))
        return _voxels_and_affine(reader.Execute())
    return _voxels_and_affine(sitk.ReadImage(str(path)))


def _voxels_and_affine(image: sitk.Image) -> tuple[np.ndarray, np.ndarray]:
    array, dimension = sitk.GetArrayFromImage(image), image.GetDimension()
    affine = np.eye(4)
    axes = min(dimension, 3)
    affine[:axes, :axes] = (np.reshape(image.GetDirection(), (dimension, -1)) * image.GetSpacing())[:axes, :axes]
    affine[:axes, 3] = image.GetOrigin()[:axes]
    spatial = np.moveaxis(array, -1, 0) if image.GetNumberOfComponentsPerPixel() > 1 else array
    return (spatial.T if spatial is array else np.moveaxis(spatial.transpose(), -1, dimension)), LPS_TO_RAS @ affine


def _nifti(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    data = path.read_bytes()
    data = gzip.decompress(data) if path.name.lower().endswith(".gz") else data
    order = "<" if 1 <= np.frombuffer(data, "<i2", 1, 40)[0] <= 7 or data[:2] == b"\x1c\x02" else ">"
    second = int(np.frombuffer(data, order + "i4", 1)[0]) == 540
    field = {}
    for name, layout in _LAYOUT.items():
        offset, kind = layout[2 * second : 2 * second + 2]
        count, code = (kind[:-2] or "1"), kind[-2:]
        field[name] = np.frombuffer(data, order + code, int(count), offset)
    shape = tuple(int(size) for size in field["dim"][1 : field["dim"][0] + 1])
    stored = np.frombuffer(data, order + _TYPES[int(field["datatype"][0])], int(np.prod(shape)),
                           int(field["vox_offset"][0]))
    slope, inter = float(field["slope"][0]), float(field["inter"][0])
    if np.isfinite(slope) and slope != 0:
        stored = stored * slope + inter
    return stored.reshape(shape, order="F"), _nifti_affine(field)


def _nifti_affine(field: dict[str, np.ndarray]) -> np.ndarray | None:
    affine = np.eye(4)
    if field["sform"][0] > 0:
        affine[:3] = field["srow"].reshape(3, 4)
        return affine
    if field["qform"][0] <= 0:
        return None
    b, c, d, *offset = (float(value) for value in field["quatern"])
    a = np.sqrt(max(1 - b * b - c * c - d * d, 0))
    turn = np.array([
        [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
        [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
        [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
    ])  # fmt: skip
    pixdim = field["pixdim"].astype(float)
    pixdim[1:] = abs(pixdim[1:])  # as nifti1_io.c
    affine[:3, :3] = turn * [pixdim[1], pixdim[2], pixdim[3] * (-1 if pixdim[0] == -1 else 1)]
    affine[:3, 3] = offset
    return affine
