"""Is this folder one DICOM series that ITK reads right? Its geometry, or the reason why not.

ITK takes what it gets: missing slices are stretched over, a tilted gantry is made upright, a second series or slices of
another thickness are left out, all with a warning at most. So the headers are judged here, with pydicom.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mnseg.data.volume_formats import is_dicom_file
from mnseg.errors import UserError

__all__ = ["DicomSeries", "inspect_series", "read_header", "series_fault"]

# Voxels by which a slice may lie beside its place on a regular grid: as between image and label.
TOLERANCE_VOXELS = 0.1
SEGMENTATIONS = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")  # binary or fractional; label map
# By these tags ITK divides the slices of one series, and then reads the first part only.
_ITK_DIVIDES_BY = ("SeriesNumber", "SequenceName", "SliceThickness", "SeriesDate")
_LAST_GROUPS = (0x7FE0, 0xFFFA, 0xFFFC)  # pixels, signatures, padding
_TAGS = (
    "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "SeriesDescription", "Modality",
    "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "Rows", "Columns", "NumberOfFrames",
    "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated", "PixelRepresentation", "RescaleSlope",
    "RescaleIntercept", "ModalityLUTSequence", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
    "PixelData", "FloatPixelData", "DoubleFloatPixelData", *_ITK_DIVIDES_BY,
)  # fmt: skip


@dataclass(frozen=True)
class DicomSeries:
    """One series: its files in the order of the slices, shape (columns, rows, slices), voxel-to-RAS affine (mm).

    ``modality``: as DICOM names it ("CT", "MR", "PT", …), or None.
    """

    path: str
    files: tuple[str, ...]
    shape: tuple[int, int, int]
    affine: np.ndarray
    series_uid: str
    study_uid: str
    multi_frame: bool
    modality: str | None


@dataclass(frozen=True)
class _Slice:
    file: str
    position: np.ndarray
    orientation: np.ndarray
    spacing: np.ndarray
    rescale: tuple[float, float]


class _Unfit(Exception):
    """Why a series cannot be used; becomes a `UserError` that names it."""


def inspect_series(path: str | os.PathLike) -> DicomSeries:
    """Read the headers of a series folder, or of one multi-frame file, and judge them.

    Raises:
        UserError: no DICOM, several series, no pixel data, color, a single slice, slices of different size, thickness
            or orientation, two slices at one position, missing or irregular slices, gantry tilt, or values that ITK
            would scale wrongly.
    """
    try:
        return _judged(os.fspath(path))
    except _Unfit as reason:
        raise UserError(f"DICOM series {path} cannot be used: {reason}.") from None


def series_fault(path: str | os.PathLike) -> str:
    """The reason why `inspect_series` refuses a series, or "" when it does not; for the bundle's own check."""
    try:
        _judged(os.fspath(path))
    except _Unfit as reason:
        return str(reason)
    except UserError as error:
        return str(error)
    return ""


def read_header(file: str | os.PathLike) -> Any:
    """All of a DICOM file that is looked at here, its pixels left on disk (a ``pydicom.Dataset``).

    Raises:
        UserError: the file is damaged.
    """
    import pydicom

    try:
        return pydicom.dcmread(file, defer_size=1024, specific_tags=list(_TAGS))
    except Exception as error:  # pydicom raises many unrelated types for a broken file
        if isinstance(error, OSError) and error.filename is not None:
            raise
        raise UserError(f"{file} cannot be read as DICOM ({describe(error)}).") from error


def describe(error: BaseException) -> str:
    """Type and first line of an error of pydicom, whose messages can be pages long."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:160]}"


def _judged(path: str) -> DicomSeries:
    """pydicom converts values when they are looked at, so that damage may show anywhere in `_inspect`."""
    try:
        return _inspect(path)
    except (_Unfit, UserError, OSError):
        raise
    except Exception as error:
        raise _Unfit(f"its headers are damaged ({describe(error)})") from error


def _inspect(path: str) -> DicomSeries:
    files = _dicom_files(path)
    headers = {file: read_header(file) for file in files}
    _refuse_what_is_no_scan(headers)
    first = headers[files[0]]
    multi_frame = int(first.get("NumberOfFrames") or 1) > 1
    if multi_frame and len(files) > 1:
        raise _Unfit(f"it has {len(files)} multi-frame files; give each a folder of its own")
    slices = list(_frames(files[0], first)) if multi_frame else [_slice(file, headers[file]) for file in files]
    if len(slices) < 2:
        raise _Unfit("it is a single slice, not a volume" + ("" if os.path.isdir(path) else "; name its folder"))
    _refuse_mixtures(headers, slices)
    slices, step, normal = _in_order(slices, multi_frame)
    _refuse_odd_scaling(slices, multi_frame)
    affine = np.eye(4)
    affine[:3, 0] = slices[0].orientation[:3] * slices[0].spacing[1]
    affine[:3, 1] = slices[0].orientation[3:] * slices[0].spacing[0]
    affine[:3, 2], affine[:3, 3] = step * normal, slices[0].position
    return DicomSeries(
        path,
        tuple(dict.fromkeys(one.file for one in slices)),
        (int(first.Columns), int(first.Rows), len(slices)),
        np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine,  # DICOM's axes point left and back, those of NIfTI right and front
        str(first.SeriesInstanceUID),
        str(first.get("StudyInstanceUID", "")),
        multi_frame,
        str(first.get("Modality") or "").strip() or None,
    )


def _dicom_files(path: str) -> list[str]:
    if os.path.isfile(path):
        return [path]
    if not os.path.isdir(path):
        raise UserError(f"{path} does not exist.")
    paths = sorted(str(file) for file in Path(path).iterdir() if not file.name.startswith("."))
    if odd := [file for file in paths if not os.path.isfile(file) and not os.path.isdir(file)]:
        raise _Unfit(f"{os.path.basename(odd[0])} in it is a link to nothing, or no regular file")
    files = [file for file in paths if is_dicom_file(file)]
    known = set(files)
    if broken := [file for file in paths if file.lower().endswith(".dcm") and file not in known]:
        raise _Unfit(f"{os.path.basename(broken[0])} is no DICOM file in spite of its name; it may be damaged")
    if not files:
        raise _Unfit("the folder holds no DICOM files")
    return files


def _refuse_what_is_no_scan(headers: dict[str, Any]) -> None:
    names = {str(h.get("SeriesInstanceUID", "")): h.get("SeriesDescription") or "no description"
             for h in headers.values()}
    if len(names) > 1:
        listed = ", ".join(f"{uid} ({text})" for uid, text in list(names.items())[:4])
        raise _Unfit(f"it holds {len(names)} series: {listed}; give each series a folder of its own")
    for file, header in headers.items():
        name = os.path.basename(file)
        if str(header.get("SOPClassUID")) in SEGMENTATIONS:
            raise _Unfit(f"{name} is a segmentation (DICOM SEG), not a scan; `mnseg seg-to-nifti` makes a label of it")
        if not any(key in header for key in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
            raise _Unfit(f"{name} has no pixel data")
        if int(header.get("SamplesPerPixel", 1)) != 1 or "PALETTE" in header.get("PhotometricInterpretation", ""):
            raise _Unfit(f"{name} is in color ({header.get('PhotometricInterpretation')}); one gray value is expected")
        _refuse_wrong_length(name, header)
        if header.get("ModalityLUTSequence"):
            raise _Unfit(f"{name} has a modality lookup table, which ITK does not apply")


def _refuse_wrong_length(name: str, header: Any) -> None:
    """Uncompressed pixels must be as many bytes as the header says; ITK fills up what is missing."""
    if header.file_meta.TransferSyntaxUID.is_encapsulated or "PixelData" not in header:
        return
    frames = int(header.get("NumberOfFrames") or 1)
    expected = frames * int(header.Rows) * int(header.Columns) * int(header.BitsAllocated) // 8
    raw = header.get_item("PixelData")
    found = getattr(raw, "length", None)
    found = len(raw.value) if found is None else found
    if expected < 1 or found not in (expected, expected + expected % 2):
        raise _Unfit(f"{name} has {found} bytes of pixels instead of {expected}; it is damaged")
    _refuse_trailing_bytes(name, header, getattr(raw, "value_tell", None), found)


def _refuse_trailing_bytes(name: str, header: Any, start: int | None, length: int) -> None:
    """Behind the pixels only a signature or padding may follow; ITK's reading of anything else is not reliable."""
    if start is None or not header.filename or header.file_meta.TransferSyntaxUID.is_deflated:
        return
    order = "little" if header.file_meta.TransferSyntaxUID.is_little_endian else "big"
    with open(header.filename, "rb") as file:
        file.seek(start + length)
        group = file.read(2)
        size = os.fstat(file.fileno()).st_size
    if size < start + length or size >= start + length + 8 and int.from_bytes(group, order) not in _LAST_GROUPS:
        raise _Unfit(f"{name} does not end with its pixels; it is damaged")


def _slice(file: str, header: Any) -> _Slice:
    return _place(file, header, header, header, header, os.path.basename(file))


def _frames(file: str, header: Any) -> Iterator[_Slice]:
    """The frames of an enhanced multi-frame file, in the order of the file."""
    frames = header.get("PerFrameFunctionalGroupsSequence")
    if not frames:
        raise _Unfit("its multi-frame file states no position for each frame")
    shared = (header.get("SharedFunctionalGroupsSequence") or [{}])[0]

    def group(frame: Any, name: str) -> Any:
        return (frame.get(name) or shared.get(name) or [{}])[0]

    for number, frame in enumerate(frames, 1):
        yield _place(
            file, group(frame, "PlanePositionSequence"), group(frame, "PlaneOrientationSequence"),
            group(frame, "PixelMeasuresSequence"), group(frame, "PixelValueTransformationSequence"), f"frame {number}",
        )  # fmt: skip


def _place(file: str, position: Any, orientation: Any, measures: Any, values: Any, name: str) -> _Slice:
    found = (position.get("ImagePositionPatient"), orientation.get("ImageOrientationPatient"),
             measures.get("PixelSpacing"))
    tags = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
    for tag, value, length in zip(tags, found, (3, 6, 2), strict=True):
        if value is None or len(value) != length:
            raise _Unfit(f"{name} has no {tag}, so its place is unknown")
    slope, intercept = values.get("RescaleSlope"), values.get("RescaleIntercept")
    rescale = (1.0 if slope is None else float(slope), 0.0 if intercept is None else float(intercept))
    numbers = [np.array(value, dtype=float) for value in found]
    if not np.isfinite(np.concatenate([*numbers, rescale])).all() or rescale[0] == 0:
        raise _Unfit(f"{name} has a position, orientation, pixel spacing or rescale slope that is no possible one")
    return _Slice(file, *numbers, rescale)


def _refuse_mixtures(headers: dict[str, Any], slices: list[_Slice]) -> None:
    """Slices that differ where one volume has only one value."""
    rules: list[tuple[str, Callable[[Any], Any]]] = [
        ("sizes", lambda h: f"{h.get('Columns')}x{h.get('Rows')}"),
        ("number types", lambda h: f"{h.get('BitsAllocated')} bit, sign {h.get('PixelRepresentation')}"),
        *((f"values of {tag}", lambda h, tag=tag: str(h.get(tag, "none"))) for tag in _ITK_DIVIDES_BY),
    ]
    for what, value_of in rules:
        counts = Counter(value_of(header) for header in headers.values())
        if len(counts) > 1:
            listed = ", ".join(f"{count} with {value}" for value, count in counts.most_common(3))
            raise _Unfit(f"its slices have different {what} ({listed}); give each kind a folder of its own")
    for what, values in (("orientations", [s.orientation for s in slices]), ("pixel spacings",
                                                                              [s.spacing for s in slices])):
        if np.ptp(values, axis=0).max() > 1e-3:
            raise _Unfit(f"its slices have different {what}; give each kind a folder of its own")


def _in_order(slices: list[_Slice], multi_frame: bool) -> tuple[list[_Slice], float, np.ndarray]:
    """Slices along their normal, the distance between two (mm), and the unit normal they advance along."""
    normal = np.cross(slices[0].orientation[:3], slices[0].orientation[3:])
    if abs(np.linalg.norm(normal) - 1) > 1e-2 or slices[0].spacing.min() <= 0:
        raise _Unfit("its orientation or pixel spacing is no possible one")
    normal = normal / np.linalg.norm(normal)
    heights = np.array([one.position @ normal for one in slices])
    order = np.argsort(heights, kind="stable")
    if multi_frame:  # ITK takes frames as they come
        if heights[-1] < heights[0]:
            order, normal, heights = order[::-1], -normal, -heights
        if (np.diff(heights) < 0).any():
            raise _Unfit("its frames are not stored in the order of their positions, which ITK would not notice")
    ordered, heights = [slices[i] for i in order], heights[order]
    step = (heights[-1] - heights[0]) / (len(slices) - 1)
    _refuse_repeated(heights, step)
    positions = np.array([one.position for one in ordered])
    _refuse_irregular(heights, step)
    _refuse_tilt(positions, normal, step, ordered[0].spacing.min())
    return ordered, float(step), normal


def _refuse_repeated(heights: np.ndarray, step: float) -> None:
    gaps = np.diff(heights)
    if repeated := int((gaps <= max(1e-3, TOLERANCE_VOXELS * step)).sum()):
        raise _Unfit(f"{repeated} of its {len(heights)} slices lie at the position of another one: copies, or several "
                     "time points or echoes, which must be told apart first")


def _refuse_irregular(heights: np.ndarray, step: float) -> None:
    gaps = np.diff(heights)
    usual = float(np.median(gaps))
    worst = int(np.argmax(np.abs(gaps - usual)))
    where = f"{gaps[worst]:.4g} mm between slices {worst + 1} and {worst + 2}, {usual:.4g} mm elsewhere"
    drift = np.abs(heights - heights[0] - step * np.arange(len(heights))).max()
    if max(drift / step, abs(gaps[worst] - usual) / usual) <= TOLERANCE_VOXELS:
        return
    missing = gaps[worst] / usual
    if missing > 1.5 and abs(missing - round(missing)) <= TOLERANCE_VOXELS:
        raise _Unfit(f"slices are missing ({where})")
    raise _Unfit(f"its slices are irregularly spaced ({where})")


def _refuse_tilt(positions: np.ndarray, normal: np.ndarray, step: float, pixel: float) -> None:
    advance = positions - positions[0]
    sideways = np.linalg.norm(advance - np.outer(advance @ normal, normal), axis=1).max()
    if sideways > TOLERANCE_VOXELS * pixel:
        angle = np.degrees(np.arctan2(sideways, step * (len(positions) - 1)))
        raise _Unfit(f"its slices are sheared by {angle:.3g} degrees, as by a tilted gantry ({sideways:.3g} mm "
                     "sideways); resample it to an upright grid")


def _refuse_odd_scaling(slices: list[_Slice], multi_frame: bool) -> None:
    """ITK takes the number type of the first slice for all of them, and in multi-frame files one scaling for all."""
    if len({one.rescale for one in slices}) == 1:
        return
    if multi_frame or all(value.is_integer() for value in slices[0].rescale):
        raise _Unfit("rescale slope or intercept differ between its slices in a way that ITK does not read right")
