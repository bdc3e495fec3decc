"""How good one mask is: what a version is compared by."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import nibabel as nib
import numpy as np

from lib.durable import as_json
from mnseg.data.grids import label_onto_grid
from mnseg.data.volume_io import case_id, open_volume, read_voxels
from mnseg.metrics.field import field_metrics

__all__ = ["CaseResult", "ClassResult", "measure_case"]

NAN = float("nan")


@dataclass(frozen=True)
class ClassResult:
    """One structure of one case: Dice, HD95 in mm (NaN when one of the masks is empty), volumes in ml."""

    dice: float
    hd95_mm: float
    volume_ml: float
    truth_ml: float


@dataclass(frozen=True)
class CaseResult:
    """One mask against its label.

    Args:
        case: id of the scan.
        patient: whom it shows; cases of one patient are not independent.
        dice: mean over the classes; NaN when the mask holds no numbers.
        classes: the structures by name, without the background.
        empty: the mask has no structure at all, the label has.
    """

    case: str
    patient: str
    dice: float
    classes: Mapping[str, ClassResult]
    empty: bool = False

    def as_dict(self) -> dict[str, Any]:
        """For JSON; NaN becomes null."""
        return as_json(asdict(self))

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> CaseResult:
        """Reverse of `as_dict`."""
        def number(value: float | None) -> float:
            return NAN if value is None else float(value)

        classes = {name: ClassResult(**{key: number(value) for key, value in parts.items()})
                   for name, parts in content["classes"].items()}
        return cls(content["case"], content["patient"], number(content["dice"]), classes, bool(content["empty"]))


def measure_case(
    prediction: str | os.PathLike,
    label: str | os.PathLike,
    class_names: Sequence[str],
    case: str | None = None,
    patient: str | None = None,
) -> CaseResult:
    """Compare a mask file with a label file by the field's metrics (`mnseg.metrics.field`).

    Args:
        prediction: mask 0..K-1; its grid may have another order of axes than the label's, but the same voxels.
        label: label 0..K-1.
        class_names: the K names, the background first, as in model.json.
        case: id of the scan; default: the label's file name.
        patient: default: the case.

    Raises:
        UserError: a file cannot be read, or both do not lie on the same voxels.
    """
    truth_image, mask_image = open_volume(label), open_volume(prediction)
    truth, mask = (_volume(image, path) for image, path in ((truth_image, label), (mask_image, prediction)))
    case = case_id(label) if case is None else case
    patient = case if patient is None else patient
    spacing = nib.affines.voxel_sizes(truth_image.affine)
    voxel_ml = abs(np.linalg.det(truth_image.affine[:3, :3])) / 1000
    if not np.isfinite(mask).all():
        broken = {name: ClassResult(NAN, NAN, NAN, np.count_nonzero(truth == value) * voxel_ml)
                  for value, name in enumerate(class_names) if value}
        return CaseResult(case, patient, NAN, broken, empty=bool(truth.any()))
    mask = label_onto_grid(mask, mask_image.affine, truth.shape, truth_image.affine, f"prediction {prediction}")
    classes = {name: _class_result(mask == value, truth == value, spacing, voxel_ml)
               for value, name in enumerate(class_names) if value}
    dice = float(np.mean([result.dice for result in classes.values()]))
    return CaseResult(case, patient, dice, classes, empty=bool(truth.any() and not mask.any()))


def _volume(image: nib.spatialimages.SpatialImage, path: str | os.PathLike) -> np.ndarray:
    voxels = read_voxels(image, path)
    return voxels.reshape(voxels.shape[:3]) if voxels.ndim > 3 and set(voxels.shape[3:]) == {1} else voxels


def _class_result(mask: np.ndarray, truth: np.ndarray, spacing: np.ndarray, voxel_ml: float) -> ClassResult:
    values = field_metrics(mask, truth, [float(size) for size in spacing])
    return ClassResult(float(values["dice"]), float(values["hd95_mm"]), float(np.count_nonzero(mask) * voxel_ml),
                       float(np.count_nonzero(truth) * voxel_ml))
