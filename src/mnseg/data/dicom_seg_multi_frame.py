"""DICOM SEG of an enhanced multi-frame series by highdicom, since dcmqi does not read such series."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pydicom
from pydicom.sr.codedict import codes

from mnseg._version import __version__
from mnseg.data.dicom_series import DicomSeries, describe
from mnseg.data.segment_codes import Code, code_of
from mnseg.errors import UserError

__all__ = ["multi_frame_seg"]


def multi_frame_seg(
    series: DicomSeries,
    label: np.ndarray,
    names: Mapping[int, str],
    algorithm: str | None,
    notice: str,
    kind: str,
    author: str,
    title: str,
) -> Any:
    """A label as binary segments that refer to the frames of one multi-frame file, a dataset to be saved.

    Args:
        series: an enhanced multi-frame series.
        label: (columns, rows, frames), whole numbers; the frames in the order of the file.
        names: label value -> class name, of the values that occur.
        algorithm: "NAME VERSION" of the model, None where a person drew everything.
        notice: ends all descriptions.
        kind: DICOM's SegmentAlgorithmType.
        author: who is responsible.
        title: of the new series.

    Raises:
        UserError: highdicom is missing, or the series lacks what a DICOM SEG must repeat.
    """
    try:
        import highdicom as hd
    except ImportError as error:
        raise UserError("DICOM SEG of multi-frame series is written by highdicom, which is not installed: pip install "
                        "'mnseg[dicom]'.") from error
    made_by = algorithm or f"mnseg {__version__}"
    numbers = np.zeros(int(label.max()) + 1, np.uint8)
    numbers[list(names)] = np.arange(1, len(names) + 1)
    segments = [_segment(hd, number, name, algorithm, kind, notice) for number, name in enumerate(names.values(), 1)]
    try:
        return hd.seg.Segmentation(
            source_images=[pydicom.dcmread(series.files[0], stop_before_pixels=True)],
            pixel_array=numbers[label].transpose(2, 1, 0),
            segmentation_type="BINARY",
            segment_descriptions=segments,
            series_instance_uid=pydicom.uid.generate_uid(),
            series_number=300,
            sop_instance_uid=pydicom.uid.generate_uid(),
            instance_number=1,
            manufacturer="mnseg",
            manufacturer_model_name=made_by[:64],
            software_versions=[f"mnseg {__version__}", f"highdicom {hd.__version__}"],
            device_serial_number="none",
            content_creator_name=f"{author}^" if "^" not in author else author,
            content_label="SEGMENTATION",
            content_description=f"{made_by}; {notice}"[:64],
            series_description=title,
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"no DICOM SEG of {series.path}: its file lacks something that one must repeat "
                        f"({describe(error)}).") from error


def _segment(hd: Any, number: int, name: str, algorithm: str | None, kind: str, notice: str) -> Any:
    code = code_of(name)
    source = algorithm and hd.AlgorithmIdentificationSequence(
        algorithm[:64], codes.DCM.ArtificialIntelligence, algorithm.rpartition(" ")[2])
    segment = hd.seg.SegmentDescription(
        number, name[:64], _coded(hd, code.category), _coded(hd, code.kind), kind, source or None
    )
    segment.SegmentDescription = f"{name}, {notice}"
    if code.side:
        segment.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = [
            _coded(hd, code.side)
        ]
    return segment


def _coded(hd: Any, code: Code) -> Any:
    return hd.sr.CodedConcept(code.value, "SCT", code.meaning)
