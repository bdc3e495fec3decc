"""Which scans are there, and which of them cannot be used: said before anything is written.

Run by path from inference.json and evaluate.json. Needs monai and nibabel; NRRD, MetaImage and DICOM also need itk.
Where mnseg is installed, its readers judge the files, which find more.
"""

import gzip
import os
from functools import lru_cache
from glob import escape, glob
from pathlib import Path

import nibabel as nib
import numpy as np
from monai.data.utils import correct_nifti_header_if_necessary
from monai.transforms import LoadImage
from monai.utils import optional_import

SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd")
NIFTI = SUFFIXES[:2]
FOLDERS = 200  # are looked into for scans that no pattern finds
# Of image and label, and of a slice's place in a series: rounding moves them less, half a voxel must be found.
TOLERANCE_VOXELS = 0.1
# A scale factor in a label's header may move its values by rounding; interpolation moves them further.
WHOLE = 1e-3

itk = optional_import("itk")[0]
inspect_fully, has_mnseg = optional_import("mnseg.data.dicom_series", name="series_fault")
mnseg_io = optional_import("mnseg.data.volume_io")[0]


def find_scans(folder, pattern):
    """Volume files and DICOM series folders that match ``folder/pattern``; the folder itself, if it is a series."""
    folder = Path(folder).absolute()
    found = glob(str(Path(escape(str(folder))) / pattern), recursive=True)
    return sorted(path for path in {str(folder), *(path.rstrip("/") for path in found)} if is_scan(path))


def subfolders_with_scans(folder, pattern, besides):
    """Names of folders in ``folder`` that hold scans which ``*`` does not find; not of ``besides``, where masks are."""
    if pattern != "*" or not Path(folder).is_dir():
        return []
    inner = [path for path in sorted(Path(folder).iterdir()) if path.is_dir() and not path.name.startswith(".")]
    return [path.name for path in inner if not is_scan(str(path)) and _holds_scans(path, Path(besides).resolve())]


def _holds_scans(folder, besides):
    """Whether there is one at any depth; of the files without a known suffix, the first of a folder tells for all."""
    for count, (path, folders, names) in enumerate(os.walk(folder)):
        if Path(path).resolve() == besides:
            folders.clear()
        elif any(name.lower().endswith(SUFFIXES) for name in names) or _begins_with_dicom(path, names):
            return True
        if count == FOLDERS:
            break
    return False


def _begins_with_dicom(folder, names):
    try:
        first = next((name for name in sorted(names) if name != "DICOMDIR" and not name.startswith(".")), None)
        return first is not None and is_dicom(Path(folder, first))
    except OSError:  # may not be read; only a hint depends on it
        return False


def is_scan(path):
    return path.lower().endswith(SUFFIXES) or is_series(path)


def is_series(path):
    return Path(path).is_dir() and any(is_dicom(entry) for entry in Path(path).iterdir())


def is_dicom(path):
    """By its content: DICOM files often have no suffix, and DICOMDIR is an index."""
    return path.is_file() and path.name != "DICOMDIR" and b"DICM" in np.fromfile(path, "S4", 1, offset=128)


def case_of(path):
    """Name of a scan's results: its file's without suffix, its folder's as it is (it may be a UID with dots)."""
    path = Path(path)
    if path.is_dir():
        return path.name
    suffix = max((suffix for suffix in SUFFIXES if path.name.lower().endswith(suffix)), key=len, default=path.suffix)
    return path.name[: len(path.name) - len(suffix)]


def find_faults(files, channels):
    """``{file: what is wrong with it}`` for the scans that cannot be used."""
    faults = {path: file_fault(path, channels, blank=False) for path in files}
    _open.cache_clear()  # or the last scans would stay in memory during the run
    return {path: why for path, why in faults.items() if why}


def find_case_faults(cases, channels, num_classes):
    """The same for the images and labels of a datalist's cases."""
    faults = {}
    for case in cases:
        image, label = case["image"], case["label"]
        if isinstance(image, str):
            images, found = [image], {image: file_fault(image, channels, blank=False)}
        else:  # one of several sequences may be missing
            images, found = image, {path: file_fault(path, 1) for path in image}
        found[label] = file_fault(label, 1)
        found = {path: why for path, why in found.items() if why}
        faults |= found or {path: why for path, why in [(label, label_fault(images[0], label, num_classes))] if why}
    _open.cache_clear()
    return faults


def listed(faults, limit=5):
    parts = [f"{path} ({why})" for path, why in list(faults.items())[:limit]]
    rest = [f"and {len(faults) - limit} more"] if len(faults) > limit else []
    return "; ".join(parts + rest)


def _fault_of(find, path):
    """What ``find`` says of a file, or why it failed: readers raise errors of many kinds."""
    try:
        return find()
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        if type(error).__name__ == "UserError":  # mnseg's own sentence
            return lines[0].removeprefix(f"{path} ").removeprefix(f"the voxels of {path} ")
        return f"unusable, {type(error).__name__}: {lines[0][:200]}"


@lru_cache(None)
def file_fault(path, channels, blank=True):
    """A label may be ``blank``: it has no structures. A scan may not: normalized, it is noise."""
    if not Path(path).is_file() and not Path(path).is_dir():  # a pipe would be waited for without end
        return "is a link to nothing, or no regular file"
    of_series = series_fault if Path(path).is_dir() else lambda _: ""
    return _fault_of(lambda: of_series(path) or _scan_fault(path, channels, blank), path)


def _scan_fault(path, channels, blank):
    affine, data = np.asarray(_open(path).affine), _voxels(path)
    if data.size == 0:
        return f"has no voxels, shape {data.shape}"
    if data.ndim < 3:
        return f"is {data.ndim}-D, not 3-D"
    if (data.shape[3:] or (1,)) != (channels,):
        return f"has shape {data.shape}, but {channels} channel(s) of a 3-D scan are expected"
    if data.dtype.kind not in "biuf":
        return f"holds {data.dtype} voxels, not plain numbers"
    if not np.isfinite(data).all():
        return "has NaN or infinite voxels"
    if not blank and data.min() == data.max():
        return f"is constant, every voxel is {data.flat[0]:g}"
    if not abs(np.linalg.det(affine)) > 0:
        return "has an affine that cannot be inverted"
    if path.lower().endswith(NIFTI) and _moves(path, affine, data.shape):
        return "contradicts itself: its sform has other voxel sizes than its pixdim, and MONAI would go by the qform"
    return ""


def _moves(path, affine, shape):
    other = correct_nifti_header_if_necessary(nib.load(path)).affine
    moved = np.linalg.inv(affine) @ other - np.eye(4)
    return not np.abs(moved[:3] * [*shape[:3], 1]).sum(axis=1).max() <= TOLERANCE_VOXELS


def label_fault(image, label, num_classes):
    return _fault_of(lambda: _label_fault(_open(image), _open(label), _voxels(label), num_classes), label)


def _label_fault(image, label, values, num_classes):
    if image.shape[:3] != label.shape[:3]:
        return f"has shape {label.shape}, its image {image.shape}"
    moved = np.linalg.inv(np.asarray(image.affine)) @ np.asarray(label.affine) - np.eye(4)
    if np.abs(moved[:3] * [*image.shape[:3], 1]).sum(axis=1).max() > TOLERANCE_VOXELS:
        return f"lies elsewhere than its image: the affines differ by more than {TOLERANCE_VOXELS} voxel"
    whole = np.rint(values)
    if np.abs(values - whole).max() > WHOLE:
        return f"has values that are not whole numbers, such as {values.flat[np.abs(values - whole).argmax()]:g}"
    wrong = np.setdiff1d(whole, range(num_classes))
    return f"has values {wrong[:5].tolist()} outside the {num_classes} classes of class_names" if wrong.size else ""


@lru_cache(2)
def _open(path):
    if has_mnseg and isinstance(path, str):
        return mnseg_io.open_volume(path)
    return nib.load(path) if isinstance(path, str) and path.lower().endswith(NIFTI) else LoadImage()(path)


def _voxels(path):
    scan = _open(path)
    if has_mnseg and isinstance(path, str):
        return mnseg_io.read_voxels(scan, path)
    if hasattr(scan, "dataobj") and path.lower().endswith(".gz"):
        _require_checksum(path)
    return np.asanyarray(scan.dataobj if hasattr(scan, "dataobj") else scan)


def _require_checksum(path):
    """nibabel stops at the last voxel, before the checksum that tells damaged bytes."""
    with gzip.open(path) as file:
        while file.read(1 << 20):
            pass


def series_fault(folder):
    """Why a DICOM series cannot be read as one volume: mnseg's full inspection, or what itk alone can see."""
    return inspect_fully(folder) if has_mnseg else stock_series_fault(folder)


def stock_series_fault(folder):
    series = _slice_files(folder)
    if len(series) != 1:
        return f"holds {len(series)} DICOM series, or slices of several thicknesses: give each a folder of its own"
    slices = [_slice_header(file) for file in series[0]]
    if len(slices) * slices[0].GetDimensions(2) < 2:
        return "is a single slice, not a volume"
    if slices[0].GetNumberOfComponents() > 1:
        return "is in color"
    if len({(*s.GetDirection(0), *s.GetDirection(1), s.GetDimensions(0), s.GetDimensions(1)) for s in slices}) > 1:
        return "has slices of different orientation or size"
    if len(slices) > 1 and _off_grid(slices):
        return "has slices that are missing, repeated, irregularly spaced or sheared by a tilted gantry"
    return ""


def _slice_files(folder):
    """The files of each series, in order, as MONAI's ITKReader finds them."""
    names = itk.GDCMSeriesFileNames.New()
    names.SetUseSeriesDetails(True)
    names.AddSeriesRestriction("0008|0021")
    names.SetDirectory(str(folder))
    return [list(names.GetFileNames(uid)) for uid in names.GetSeriesUIDs()]


def _slice_header(file):
    header = itk.GDCMImageIO.New()
    header.SetFileName(file)
    header.ReadImageInformation()
    return header


def _off_grid(slices):
    at = np.array([[s.GetOrigin(i) for i in range(3)] for s in slices])
    normal = np.array(slices[0].GetDirection(2))
    gap = (at[-1] - at[0]) @ normal / (len(at) - 1)
    off = np.abs(at - at[0] - np.outer(range(len(at)), normal * gap)).max()
    return not gap > 0 or off > TOLERANCE_VOXELS * min(gap, slices[0].GetSpacing(0), slices[0].GetSpacing(1))
