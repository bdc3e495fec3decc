"""A mask on the grid of a DICOM series becomes a DICOM SEG, by dcmqi; of multi-frame series by highdicom.

Both come with ``pip install 'mnseg[dicom]'``.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from mnseg._version import __version__
from mnseg.data.dicom_series import DicomSeries, inspect_series
from mnseg.data.grids import label_onto_grid
from mnseg.data.segment_codes import code_of
from mnseg.data.volume_formats import case_id, volume_kind
from mnseg.data.volume_io import open_volume, read_voxels
from mnseg.errors import UserError
from mnseg.files import atomic_write

__all__ = ["EmptyMaskError", "Origin", "algorithm_of", "export_masks", "require_dcmqi", "write_dicom_seg"]

NOTICE = "not for diagnosis"
# Distinct on gray images; viewers use them when a segment is first shown.
COLORS = ((221, 84, 77), (77, 160, 221), (120, 190, 80), (240, 180, 60), (150, 110, 200), (80, 200, 190))

logger = logging.getLogger(__name__)


class EmptyMaskError(UserError):
    """A mask without any structure, of which no DICOM SEG can be made."""


@dataclass(frozen=True)
class Origin:
    """How the segments of a DICOM SEG came about.

    kind: DICOM's SegmentAlgorithmType: AUTOMATIC (a model made them), SEMIAUTOMATIC (a person changed what a model
        made) or MANUAL (a person drew them, and there is no algorithm to name).
    author: who is responsible for them (ContentCreatorName).
    series: what the series is called.
    """

    kind: str = "AUTOMATIC"
    author: str = "mnseg"
    series: str = "Segmentation"


def write_dicom_seg(
    scan: str | os.PathLike,
    mask: str | os.PathLike,
    output: str | os.PathLike,
    class_names: Sequence[str],
    algorithm: str | None = None,
    origin: Origin | None = None,
) -> Path:
    """Write the mask of a series as DICOM SEG, one binary segment for each class that occurs.

    Args:
        scan: folder of the DICOM series, or an enhanced multi-frame file.
        mask: file with whole numbers 0..K-1 on the series' voxels; axis order and directions may differ.
        output: the file to write.
        class_names: names of the K classes, the background first; see `code_of` for the terms they are given.
        algorithm: name and version of the model; default: what inference.json wrote into the mask's header. A MANUAL
            segmentation has none.
        origin: whose it is; default: the model's own.

    Raises:
        EmptyMaskError: the mask has background only.
        UserError: the series or mask cannot be used, they do not fit, or dcmqi or highdicom is missing.
    """
    origin = origin or Origin()
    series = inspect_series(scan)
    tool = None if series.multi_frame else require_dcmqi()
    volume = open_volume(mask)
    algorithm = None if origin.kind == "MANUAL" else algorithm or algorithm_of(volume, mask)
    label = _whole_label(read_voxels(volume, mask), mask, len(class_names))
    label = label_onto_grid(label, volume.affine, series.shape, series.affine, f"mask {mask}")
    present = [int(value) for value in np.unique(label) if value]
    if not present:
        raise EmptyMaskError(f"mask {mask} has background only: there is no segment to write, and no file was written.")
    if tool is None:
        from mnseg.data.dicom_seg_multi_frame import multi_frame_seg

        names = {value: class_names[value] for value in present}
        made = multi_frame_seg(series, label, names, algorithm, NOTICE, origin.kind, _person_name(origin.author),
                               _title(origin))
        return atomic_write(output, made.save_as)
    segments = [_segment(value, class_names[value], origin.kind) for value in present]
    with tempfile.TemporaryDirectory() as work:
        draft = _run_dcmqi(tool, series, label, segments, Path(work))
        names = [class_names[value] for value in present]
        return atomic_write(output, lambda temporary: _finish(draft, temporary, series, names, algorithm, origin))


def export_masks(images: Iterable[Any], output_dir: str | os.PathLike, class_names: Sequence[str]) -> list[Path]:
    """``<case>_seg.dcm`` beside ``<case>_seg.nii.gz`` for every DICOM series among the images of an inference run.

    An empty mask is a warning. What cannot be written is reported after all others are.

    Raises:
        UserError: naming the scans for which no DICOM SEG could be written.
    """
    written, failed = [], []
    series = [str(image) for image in images if isinstance(image, (str, os.PathLike)) and volume_kind(image) == "dicom"]
    for scan in series:
        mask = Path(output_dir) / f"{case_id(scan)}_seg.nii.gz"
        try:
            written.append(write_dicom_seg(scan, mask, mask.with_name(f"{case_id(scan)}_seg.dcm"), class_names))
        except EmptyMaskError as error:
            logger.warning("%s", error)
        except UserError as error:
            failed.append(str(error))
    logger.info("wrote %d DICOM SEG for %d DICOM series", len(written), len(series))
    if failed:
        raise UserError(f"no DICOM SEG for {len(failed)} of {len(series)} series (their NIfTI masks are complete): "
                        + " ".join(failed))
    return written


def algorithm_of(mask: Any, path: str | os.PathLike) -> str:
    """Name and version of the model, from the stamp that inference.json leaves in the header of a NIfTI mask."""
    stamp = bytes(mask.header["descrip"]).decode("latin-1").rstrip("\0") if isinstance(mask, nib.Nifti1Pair) else ""
    name, _, notice = stamp.partition(";")
    if notice.strip() != NOTICE:
        raise UserError(f"mask {path} does not say which model made it: name it with --algorithm 'NAME VERSION'.")
    return name.strip()


def require_dcmqi() -> str:
    """Path of dcmqi's itkimage2segimage.

    Raises:
        UserError: dcmqi is not installed.
    """
    folders = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    if tool := shutil.which("itkimage2segimage", path=folders):
        return tool
    raise UserError("DICOM SEG is written by dcmqi, which is not installed: pip install 'mnseg[dicom]'.")


def _whole_label(voxels: np.ndarray, path: str | os.PathLike, num_classes: int) -> np.ndarray:
    voxels = voxels[..., 0] if voxels.ndim == 4 and voxels.shape[3] == 1 else voxels
    if voxels.ndim != 3:
        raise UserError(f"mask {path} has shape {voxels.shape}; expected one volume.")
    if not (np.isfinite(voxels).all() and (voxels == np.rint(voxels)).all()):
        raise UserError(f"mask {path} has values that are not whole numbers; a mask of classes is expected.")
    if voxels.min() < 0 or voxels.max() >= num_classes:
        raise UserError(f"mask {path} has values {voxels.min():g} to {voxels.max():g}, but class_names has "
                        f"{num_classes} names, for 0 to {num_classes - 1}.")
    return voxels.astype(np.uint16)


def _segment(value: int, name: str, kind: str) -> dict[str, Any]:
    """One entry of dcmqi's segmentAttributes. Names come later, by `_finish`: dcmqi takes only ASCII."""
    code = code_of(name)
    segment = {
        "labelID": value,
        "SegmentLabel": f"segment {value}",
        "SegmentAlgorithmType": kind,
        **({} if kind == "MANUAL" else {"SegmentAlgorithmName": "mnseg"}),
        "SegmentedPropertyCategoryCodeSequence": code.category.as_dcmqi(),
        "SegmentedPropertyTypeCodeSequence": code.kind.as_dcmqi(),
        "recommendedDisplayRGBValue": list(COLORS[(value - 1) % len(COLORS)]),
    }
    if code.side:
        segment["SegmentedPropertyTypeModifierCodeSequence"] = code.side.as_dcmqi()
    return segment


def _run_dcmqi(tool: str, series: DicomSeries, label: np.ndarray, segments: list[dict], work: Path) -> Path:
    image = nib.Nifti1Image(label, series.affine)
    image.set_qform(series.affine, code=1)  # both forms: ITK reads the rounded sform alone as not quite orthogonal
    image.set_sform(series.affine, code=1)
    nib.save(image, work / "mask.nii")
    description = {
        "ContentCreatorName": "mnseg",
        "ClinicalTrialSeriesID": "none",
        "ClinicalTrialTimePointID": "none",
        "SeriesDescription": "Segmentation",
        "SeriesNumber": "300",
        "InstanceNumber": "1",
        "BodyPartExamined": "",
        "segmentAttributes": [segments],
    }
    (work / "segments.json").write_text(json.dumps(description))
    folder = work / "series"
    folder.mkdir()
    for number, file in enumerate(series.files):  # the series alone: dcmqi takes all that it finds, in subfolders too
        shutil.copyfile(file, folder / f"{number}.dcm")
    command = [tool, "--inputDICOMDirectory", folder, "--inputImageList", work / "mask.nii",
               "--inputMetadata", work / "segments.json", "--outputDICOM", work / "seg.dcm"]  # fmt: skip
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    if result.returncode or not (work / "seg.dcm").is_file():
        lines = (result.stdout + result.stderr).strip().splitlines()
        reason = next((line for line in reversed(lines) if "rror" in line or "ailed" in line), f"exit code "
                                                                                          f"{result.returncode}")
        raise UserError(f"dcmqi could not write the DICOM SEG of {series.path} ({reason.strip()}).")
    return work / "seg.dcm"


def _title(origin: Origin) -> str:
    return f"{origin.series[:44]}, {NOTICE}"


def _person_name(text: str) -> str:
    """As a value of DICOM's type PN, in which some characters divide names."""
    return " ".join("".join(" " if sign in "\\=" or not sign.isprintable() else sign for sign in text).split())[:64]


def _finish(
    draft: Path, output: Path, series: DicomSeries, names: Sequence[str], algorithm: str | None, origin: Origin
) -> None:
    """Say what is segmented, and what made it, where dcmqi names itself or nothing."""
    import pydicom

    dataset = pydicom.dcmread(draft)
    _in_unicode(dataset, series)
    for segment, name in zip(dataset.SegmentSequence, names, strict=True):
        segment.SegmentLabel, segment.SegmentDescription = name[:64], f"{name}, {NOTICE}"
        if algorithm:
            segment.SegmentAlgorithmName = algorithm[:64]
    algorithm = algorithm or f"mnseg {__version__}"
    dataset.ContentCreatorName, dataset.SeriesDescription = _person_name(origin.author), _title(origin)
    dataset.ContentLabel = "SEGMENTATION"
    dataset.ContentDescription = f"{algorithm}; {NOTICE}"[:64]
    dataset.Manufacturer = "mnseg"
    dataset.ManufacturerModelName = algorithm[:64]
    dataset.SoftwareVersions = [f"mnseg {__version__}", f"dcmqi {dataset.get('SoftwareVersions', '')}".strip()]
    for keyword in ("ClinicalTrialSeriesID", "ClinicalTrialTimePointID"):  # dcmqi wants them; there was no trial
        if keyword in dataset:
            delattr(dataset, keyword)
    for frame in dataset.PerFrameFunctionalGroupsSequence:
        for derivation in frame.get("DerivationImageSequence") or []:
            for source in derivation.SourceImageSequence:
                source.SpatialLocationsPreserved = "YES"  # so readers may go by the source slices alone
    dataset.save_as(output)


def _in_unicode(dataset: Any, series: DicomSeries) -> None:
    """Texts that dcmqi copied from the series byte by byte: read in the series' character set, written as UTF-8."""
    import pydicom

    source = pydicom.dcmread(series.files[0], stop_before_pixels=True, specific_tags=["SpecificCharacterSet"])
    if charset := source.get("SpecificCharacterSet"):
        dataset.SpecificCharacterSet = charset
    dataset.decode()
    dataset.SpecificCharacterSet = "ISO_IR 192"
