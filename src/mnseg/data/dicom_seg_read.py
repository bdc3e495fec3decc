"""DICOM SEG labels become NIfTI labels on the grid of their scans, once; training never reads SEG."""

from __future__ import annotations

import gzip
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from mnseg.data.dicom_series import SEGMENTATIONS, describe, inspect_series, read_header
from mnseg.data.grids import index_map, inside
from mnseg.data.itk_volumes import LPS_TO_RAS
from mnseg.data.splits import named
from mnseg.data.volume_formats import case_id, is_dicom_file, list_volumes
from mnseg.data.volume_io import open_volume
from mnseg.errors import UserError
from mnseg.files import atomic_write

__all__ = [
    "ConvertedLabels",
    "Segmentation",
    "convert_segmentations",
    "label_of",
    "match_segments",
    "read_segmentation",
    "sound_frames",
]


@dataclass(frozen=True)
class Segmentation:
    """A DICOM SEG file: the label of every segment by its number, and the series that it segments ("" if unsaid)."""

    path: str
    labels: dict[int, str]
    series_uid: str
    dataset: Any = field(repr=False)


@dataclass
class ConvertedLabels:
    """The label files by case, the class names by value, and sentences that a person should read."""

    files: dict[str, Path]
    class_names: list[str]
    notes: list[str]


def convert_segmentations(
    images: str | os.PathLike,
    segmentations: str | os.PathLike,
    output: str | os.PathLike,
    class_names: Sequence[str] | None = None,
) -> ConvertedLabels:
    """Write ``output/<case>.nii.gz`` for every scan that has a DICOM SEG.

    A SEG belongs to the series that it refers to, or else to the scan with its file name or its folder's name.

    Args:
        images: folder of the scans, see `mnseg.data.volume_formats.list_volumes`.
        segmentations: folder whose SEG files, also those in subfolders, are read.
        output: folder for the labels; files that exist are never overwritten.
        class_names: background first; default: the background and all segment labels, in the order they are met.

    Raises:
        UserError: no SEG, two for one scan, segments that match no class or overlap, or a SEG off the scan's grid.
    """
    scans = list_volumes(images)
    found = [read_segmentation(file) for file in _seg_files(Path(segmentations))]
    if not found:
        raise UserError(f"{segmentations} holds no DICOM SEG files.")
    paired, notes = _pair(scans, found)
    labels = dict.fromkeys(label for seg in found for label in seg.labels.values())
    names = list(class_names) if class_names else ["background", *labels]
    matches = {case: match_segments(seg, names) for case, seg in paired.items()}
    notes += _explain(paired, matches, names)
    targets = {case: Path(os.path.abspath(output)) / f"{case}.nii.gz" for case in paired}
    if existing := [str(target) for target in targets.values() if target.exists()]:
        raise UserError(f"{named(existing, noun='label')} would be overwritten; remove them or choose another folder.")
    done: list[Path] = []
    try:
        for case, seg in paired.items():
            _write_label(seg, scans[case], matches[case], names, targets[case])
            done.append(targets[case])
    except BaseException:
        for target in done:  # all or none, so that the corrected command can be repeated
            target.unlink(missing_ok=True)
        raise
    return ConvertedLabels(targets, names, notes)


def read_segmentation(path: str | os.PathLike) -> Segmentation:
    """Read a DICOM SEG file.

    Raises:
        UserError: the file is damaged, or holds probabilities instead of a segmentation.
    """
    import pydicom

    try:
        dataset = pydicom.dcmread(path)
        labels = {int(s.SegmentNumber): str(s.SegmentLabel).strip() for s in dataset.SegmentSequence}
        kind = str(dataset.SegmentationType)
        if kind == "LABELMAP":
            labels.pop(0, None)  # its background, which some programs list
        series = str((dataset.get("ReferencedSeriesSequence") or [{}])[0].get("SeriesInstanceUID", ""))
    except Exception as error:  # pydicom raises many unrelated types for a broken file
        raise UserError(f"{path} cannot be read as DICOM SEG ({describe(error)}).") from error
    if kind == "FRACTIONAL":
        raise UserError(f"{path} is a fractional segmentation (probabilities); make a binary one of it.")
    if kind not in ("BINARY", "LABELMAP"):
        raise UserError(f"{path} is of the segmentation type {kind[:40]!r}, which DICOM does not know; it is damaged.")
    return Segmentation(os.fspath(path), labels, series, dataset)


def match_segments(seg: Segmentation, class_names: Sequence[str]) -> dict[int, int]:
    """Class of every segment number: by name, or by order when no name fits and there are as many as structures.

    Raises:
        UserError: some segments have no class of their name.
    """
    by_name = {_plain(name): value for value, name in enumerate(class_names) if value}
    matched = {number: by_name.get(_plain(label)) for number, label in seg.labels.items()}
    missing = [seg.labels[number] for number, value in matched.items() if value is None]
    if not missing:
        return {number: int(value) for number, value in matched.items() if value is not None}
    if len(missing) == len(seg.labels) == len(class_names) - 1:
        return {number: value for value, number in enumerate(sorted(seg.labels), 1)}
    raise UserError(f"{seg.path} has {named(missing, noun='segment')} without a class of that name; the class names "
                    f"are {', '.join(class_names)}: give --class-names that name every segment.")


def label_of(seg: Segmentation, classes: Mapping[int, int], image: Any) -> np.ndarray:
    """The classes of a SEG on the grid of its scan, (X, Y, Z); slices that it leaves out are background.

    Raises:
        UserError: a frame lies beside the scan's voxels or outside of it, or two classes share a voxel.
    """
    label = np.zeros(image.shape[:3], np.uint16)
    what = f"segmentation {seg.path}"
    overlaps = 0
    for position, frame in sound_frames(seg):
        pixels = np.nonzero(frame)  # rows, columns
        matrix, offset = index_map(LPS_TO_RAS @ position, image.affine, frame.shape[::-1], what)
        places = inside(label.shape, matrix @ np.array(pixels[::-1]) + offset[:, None], what)
        values = _values(seg, classes, frame[pixels])
        overlaps += int(((label[places] != 0) & (label[places] != values)).sum())
        label[places] = values
    if overlaps:
        raise UserError(f"segments of {seg.path} overlap in {overlaps} voxels, but a voxel of a label has one class; "
                        "decide them in the segmentation.")
    return label


def _write_label(seg: Segmentation, scan: Path, classes: Mapping[int, int], names: Sequence[str], target: Path) -> None:
    image = open_volume(scan)
    label = label_of(seg, classes, image)
    nifti = nib.Nifti1Image(label.astype(np.uint8 if len(names) <= 256 else np.uint16), image.affine)
    atomic_write(target, lambda temporary: temporary.write_bytes(gzip.compress(nifti.to_bytes(), mtime=0)))


def _seg_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder.")
    files = [path for path in sorted(folder.rglob("*")) if is_dicom_file(path)]
    return [path for path in files if str(read_header(path).get("SOPClassUID")) in SEGMENTATIONS]


def _pair(scans: Mapping[str, Path], segs: Sequence[Segmentation]) -> tuple[dict[str, Segmentation], list[str]]:
    cases = {inspect_series(path).series_uid: case for case, path in scans.items() if path.is_dir()}
    paired: dict[str, Segmentation] = {}
    lonely = []
    for seg in segs:
        names = (cases.get(seg.series_uid), case_id(seg.path), Path(seg.path).parent.name)
        case = next((name for name in names if name in scans), None)
        if case is None:
            lonely.append(seg.path)
        elif case in paired:
            raise UserError(f"scan {case} has two segmentations, {paired[case].path} and {seg.path}; keep one.")
        else:
            paired[case] = seg
    if not paired:
        raise UserError(f"no scan belongs to {named(lonely, noun='segmentation')}: neither by the series that they "
                        "refer to nor by name.")
    return paired, [f"{named(lonely, noun='segmentation')} of no scan: ignored."] if lonely else []


def _explain(paired: Mapping[str, Segmentation], matches: Mapping[str, Mapping[int, int]], names: Sequence[str]
             ) -> list[str]:
    """One sentence for each way in which segments became classes."""
    ways: dict[str, list[str]] = {}
    for case, seg in paired.items():
        way = ", ".join(f"{seg.labels[number]} -> {value} ({names[value]})"
                        for number, value in sorted(matches[case].items()))
        ways.setdefault(way, []).append(case)
    return [f"{named(cases)}: {way}." for way, cases in ways.items()]


def sound_frames(seg: Segmentation) -> list[tuple[np.ndarray, np.ndarray]]:
    """All frames of a SEG: index-to-LPS matrix (4, 3) of (column, row), and the segment numbers (rows, columns).

    Raises:
        UserError: a value is damaged; pydicom raises many unrelated types then.
    """
    try:
        frames = list(_frames(seg))
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{seg.path} cannot be read as DICOM SEG ({describe(error)}).") from error
    if not all(np.isfinite(position).all() for position, _ in frames):
        raise UserError(f"{seg.path} has a frame whose position, orientation or spacing is not finite.")
    return frames


def _frames(seg: Segmentation) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Index-to-LPS matrix (4, 3) of (column, row), and the pixels as segment numbers (rows, columns), of each frame."""
    dataset = seg.dataset
    pixels = dataset.pixel_array.reshape(-1, int(dataset.Rows), int(dataset.Columns))
    shared = (dataset.get("SharedFunctionalGroupsSequence") or [{}])[0]
    for frame, own in zip(pixels, dataset.PerFrameFunctionalGroupsSequence, strict=True):
        groups = [(own.get(name) or shared.get(name) or [{}])[0] for name in
                  ("PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence",
                   "SegmentIdentificationSequence")]  # fmt: skip
        try:
            orientation = np.array(groups[1].ImageOrientationPatient, dtype=float)
            spacing = np.array(groups[2].PixelSpacing, dtype=float)
            matrix = np.zeros((4, 3))
            matrix[:3, 0], matrix[:3, 1] = orientation[:3] * spacing[1], orientation[3:] * spacing[0]
            matrix[:, 2] = [*np.array(groups[0].ImagePositionPatient, dtype=float), 1]
            if dataset.SegmentationType == "BINARY":
                frame = frame.astype(np.uint16) * int(groups[3].ReferencedSegmentNumber)
        except AttributeError as error:
            raise UserError(f"{seg.path} has a frame without position or segment ({error}).") from error
        yield matrix, frame


def _values(seg: Segmentation, classes: Mapping[int, int], numbers: np.ndarray) -> np.ndarray:
    values = np.zeros(numbers.shape, np.uint16)
    for number in np.unique(numbers):
        if int(number) not in classes:
            raise UserError(f"{seg.path} has voxels of segment {number}, which it does not list.")
        values[numbers == number] = classes[int(number)]
    return values


def _plain(name: str) -> str:
    return " ".join(name.replace("_", " ").lower().split())
