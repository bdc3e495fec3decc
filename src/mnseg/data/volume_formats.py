"""What a path is: NIfTI, another file that ITK reads, or DICOM; and which scans a folder holds."""

from __future__ import annotations

import os
from pathlib import Path

from mnseg.errors import UserError

__all__ = [
    "ITK_SUFFIXES",
    "NIFTI_SUFFIXES",
    "RASTER_SUFFIXES",
    "VOLUME_SUFFIXES",
    "case_id",
    "holds_dicom",
    "is_dicom_file",
    "list_labels",
    "list_volumes",
    "volume_kind",
]

NIFTI_SUFFIXES = (".nii.gz", ".nii")
ITK_SUFFIXES = (".nrrd", ".nhdr", ".mha", ".mhd")
VOLUME_SUFFIXES = NIFTI_SUFFIXES + ITK_SUFFIXES
# 2D images, known here only to say what to do with them.
RASTER_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")


def volume_kind(path: str | os.PathLike) -> str:
    """"dicom" for a folder and for a DICOM file under any name; "itk" for NRRD and MetaImage; else "nifti"."""
    name = Path(path).name.lower()
    if os.path.isdir(path):
        return "dicom"
    if name.endswith(NIFTI_SUFFIXES):
        return "nifti"
    if name.endswith(ITK_SUFFIXES):
        return "itk"
    return "dicom" if is_dicom_file(path) else "nifti"


def is_dicom_file(path: str | os.PathLike) -> bool:
    """Whether a file begins like DICOM (part 10: "DICM" after 128 bytes). Names tell nothing: many have no suffix."""
    if not os.path.isfile(path) or Path(path).name == "DICOMDIR":  # a table of contents, not an image
        return False
    with open(path, "rb") as file:
        return file.read(132)[128:] == b"DICM"


def holds_dicom(folder: str | os.PathLike) -> bool:
    """Whether a folder has DICOM files directly inside."""
    return any(is_dicom_file(path) for path in sorted(Path(folder).iterdir()) if not path.name.startswith("."))


def case_id(path: str | os.PathLike) -> str:
    """File name without folder and volume suffix; other suffixes lose their last part. A folder keeps its whole name.

    Folders of DICOM series are often named by their UID, in which the last dot is no suffix.
    """
    name = Path(path).name
    for suffix in VOLUME_SUFFIXES:
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name if os.path.isdir(path) else Path(name).stem


def list_volumes(folder: str | os.PathLike) -> dict[str, Path]:
    """The scans of ``folder`` as ``{case id: path}``, sorted by case id.

    These are its NIfTI, NRRD and MetaImage files, its subfolders that hold DICOM files, and the folder itself if it
    holds DICOM files. Hidden files are skipped: macOS leaves ``._scan.nii.gz`` beside every file that it copies.

    Raises:
        UserError: no such folder, or two scans with the same case id (``a.nii`` and ``a.nii.gz``).
    """
    folder = Path(os.path.abspath(folder))
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder.")
    found: dict[str, Path] = {}
    for path in [*sorted(folder.iterdir()), folder]:
        if path.name.startswith(".") and path != folder or not _is_volume(path):
            continue
        if (stem := case_id(path)) in found:
            raise UserError(f"{folder} has two files for case {stem}: {found[stem].name} and {path.name}; keep one.")
        found[stem] = path
    return dict(sorted(found.items()))


def list_labels(folder: str | os.PathLike) -> dict[str, Path]:
    """`list_volumes` for labels, which must be voxel files.

    Raises:
        UserError: as `list_volumes`, or the folder holds DICOM.
    """
    found = list_volumes(folder)
    if dicom := [path for path in found.values() if path.is_dir()]:
        raise UserError(f"labels in {dicom[0]} are DICOM: make NIfTI labels of them with `mnseg seg-to-nifti`.")
    return found


def _is_volume(path: Path) -> bool:
    if path.is_dir():
        return holds_dicom(path)
    return path.name.lower().endswith(VOLUME_SUFFIXES)
