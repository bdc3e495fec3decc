"""The check of one case: can its files be read, are the values sane, do image and label lie on one grid?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from nibabel import Nifti1Pair
from nibabel.affines import apply_affine
from nibabel.orientations import aff2axcodes

from mnseg.data.outliers import ScanProfile, scan_profile
from mnseg.data.volume_io import digest_array, open_volume, read_voxels
from mnseg.errors import UserError

__all__ = ["CaseResult", "Finding", "check_case", "hidden_label_faults"]

# The largest distance between the corners of image and label, in voxels. Rounding in a header moves corners by less
# than 0.001; half a voxel, the classic mistake of resampling tools, must be found.
AFFINE_TOLERANCE_VOXELS = 0.1


@dataclass(frozen=True)
class Finding:
    """One defect: ``level`` is "error" or "warning", ``case`` the case id ("" for the datalist as a whole)."""

    level: str
    split: str
    case: str
    message: str

    def __str__(self) -> str:
        place = "/".join(part for part in (self.split, self.case) if part) or "datalist"
        return f"{self.level}: {place}: {self.message}"


@dataclass
class CaseResult:
    """What one volume pair tells: its findings, and what only a comparison over all cases can judge."""

    split: str
    case: str
    image: str
    findings: list[Finding] = field(default_factory=list)
    digest: str | None = None
    channels: int | None = None
    classes: frozenset[int] = frozenset()
    profile: ScanProfile | None = None

    def add(self, level: str, message: str) -> None:
        self.findings.append(Finding(level, self.split, self.case, message))


def check_case(split: str, item: Mapping[str, Any], num_classes: int | None, check_hidden: bool) -> CaseResult:
    result = CaseResult(split, item["case"], item["image"])
    image = None
    try:
        image = open_volume(item["image"])
        _check_image(image, item["image"], result, item.get("modality"))
    except UserError as error:
        result.add("error", str(error))
    if split == "unlabeled":
        if "label" in item:
            result.add("error", 'an unlabeled item must not have a "label"; call it "hidden_label" or leave it out.')
        _check_hidden_label(image, item.get("hidden_label"), result, num_classes if check_hidden else None,
                            check_hidden)
    elif "label" not in item:
        level = "warning" if split == "testing" else "error"
        result.add(level, f'has no "label", which every {split} item needs.')
    else:
        _check_label_file(image, item["label"], result, num_classes)
    return result


def _check_image(image: Any, path: str, result: CaseResult, modality: str | None) -> None:
    """Geometry and values of an image; sets ``result.digest``, ``result.channels`` and ``result.profile``."""
    if len(image.shape) not in (3, 4):
        result.add("error", f"{path} has {len(image.shape)} dimensions; a volume needs 3 (or 4 with channels last).")
        return
    if isinstance(image, Nifti1Pair) and image.header["sform_code"] == 0 and image.header["qform_code"] == 0:
        result.add("warning", f"{path} states no orientation (sform and qform codes are 0); RAS is not certain.")
    if 1 in image.shape[:3]:
        result.add("warning", f"{path} has only one slice along an axis (shape {_shape(image.shape)}).")
    result.channels = image.shape[3] if len(image.shape) == 4 else 1
    voxels = read_voxels(image, path)
    if voxels.dtype.kind == "f" and (count := voxels.size - int(np.isfinite(voxels).sum())):
        result.add("error", f"{path} has {count} voxels that are NaN or infinite.")
    elif voxels.min() == voxels.max():
        result.add("error", f"{path} is constant (every voxel is {voxels.flat[0]:g}).")
    result.digest = digest_array(voxels, image.affine)
    result.profile = scan_profile(voxels, image.affine, modality or image.extra.get("modality"))


def _check_label_file(image: Any, path: str, result: CaseResult, num_classes: int | None) -> None:
    try:
        label = open_volume(path)
        if image is not None:
            _compare_grids(image, label, path, result)
        result.classes = _check_label_values(read_voxels(label, path), path, result, num_classes)
    except UserError as error:
        result.add("error", str(error))


def _compare_grids(image: Any, label: Any, path: str, result: CaseResult) -> None:
    """Label and image must lie on one grid: shape, axis directions, and position within 0.1 voxel at every corner."""
    if label.shape[:3] != image.shape[:3] or any(size != 1 for size in label.shape[3:]):
        result.add("error", f"label {path} has shape {_shape(label.shape)}, its image {_shape(image.shape)}.")
        return
    if len(image.shape) < 3:
        return  # too few dimensions, which the check of the image has said
    codes = ["".join(aff2axcodes(volume.affine)) for volume in (label, image)]
    if codes[0] != codes[1]:
        result.add("error", f"label {path} has orientation {codes[0]}, its image {codes[1]}; "
                            "save the label on the image's grid.")
        return
    corners = np.array(list(np.ndindex(2, 2, 2))) * (np.array(image.shape[:3]) - 1)
    gap = np.linalg.norm(apply_affine(label.affine, corners) - apply_affine(image.affine, corners), axis=1).max()
    spacing = np.linalg.norm(image.affine[:3, :3], axis=0).min()
    if gap > AFFINE_TOLERANCE_VOXELS * spacing:
        result.add("error", f"label {path} and its image have different affines: corners lie up to {gap:.3g} mm "
                            "apart; save the label on the image's grid.")


def _check_label_values(
    voxels: np.ndarray, path: str, result: CaseResult, num_classes: int | None
) -> frozenset[int]:
    """Report values that are no class; return the classes that occur."""
    values = _distinct(voxels)
    whole = values[np.isfinite(values) & (values == np.round(values))] if values.dtype.kind == "f" else values
    if len(whole) < len(values):
        others = np.setdiff1d(values, whole)
        result.add("error", f"label {path} has values that are not whole numbers: {_listed(others)}.")
    wrong = whole[(whole < 0) | (whole >= (num_classes or np.inf))]
    if len(wrong):
        allowed = f"0..{num_classes - 1}" if num_classes else "0 and above"
        result.add("error", f"label {path} has values outside {allowed}: {_listed(wrong)}.")
    if not values.any():
        level = "error" if result.split == "labeled" else "warning"
        result.add(level, f"label {path} is empty (background only).")
    return frozenset(int(value) for value in whole)


def _distinct(voxels: np.ndarray) -> np.ndarray:
    """Sorted distinct values; counting beats sorting for the small integers that labels are made of."""
    if voxels.dtype.kind in "bu" and voxels.dtype.itemsize == 1:
        return np.flatnonzero(np.bincount(voxels.ravel(order="K").view(np.uint8), minlength=1))
    return np.unique(voxels)


def _check_hidden_label(
    image: Any, path: str | None, result: CaseResult, num_classes: int | None, full: bool
) -> None:
    """A hidden label must exist; with ``full`` its other defects are warnings, since it never trains anything."""
    if path is None:
        return
    if not Path(path).is_file():
        result.add("error", f"hidden label {path} does not exist.")
    elif full:
        for finding in _hidden_findings(image, path, result, num_classes):
            result.add("warning", f"hidden {finding.message}")


def _hidden_findings(image: Any, path: str, result: CaseResult, num_classes: int | None) -> list[Finding]:
    inner = CaseResult(result.split, result.case, result.image)
    _check_label_file(image, path, inner, num_classes)
    return inner.findings


def hidden_label_faults(item: Mapping[str, Any], num_classes: int | None) -> list[str]:
    """Why pseudo-labels cannot be measured by the "hidden_label" of an unlabeled item, whose image is sound."""
    result = CaseResult("unlabeled", item["case"], item["image"])
    found = _hidden_findings(open_volume(item["image"]), item["hidden_label"], result, num_classes)
    return [finding.message for finding in found if finding.level == "error"]


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(str(size) for size in shape)


def _listed(values: np.ndarray, limit: int = 5) -> str:
    return ", ".join(f"{value:g}" for value in values[:limit]) + (", …" if len(values) > limit else "")
