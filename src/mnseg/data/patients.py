"""Which patient a scan shows: from DICOM, from the scan's name, or from a table."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mnseg.data.case_table import read_case_table
from mnseg.data.splits import named, patients_of
from mnseg.errors import UserError

__all__ = ["dicom_patient", "group_by_patient"]


def group_by_patient(spec: str, images: Mapping[str, Path]) -> dict[str, str]:
    """Patient of each case.

    Args:
        spec: ``PatientID`` (the DICOM attribute), a CSV file with the columns case and patient, or a regular
            expression that finds the patient in the case id (its first group, or all that it matches).
        images: case id -> DICOM folder or image file.

    Raises:
        UserError: the patient of a case is not found, or all cases have the same.
    """
    if spec == "PatientID":
        patients = {case: dicom_patient(path) for case, path in images.items()}
    elif spec.lower().endswith(".csv"):
        patients = _from_table(spec, images)
    else:
        patients = patients_of(list(images), spec)
    if len(patients) > 1 and len(set(patients.values())) == 1:
        raise UserError(f"{spec} gives all {len(patients)} scans the patient {next(iter(patients.values()))!r}, so "
                        "that they cannot be split; group them by a pattern or a CSV file that tells patients apart.")
    return patients


def dicom_patient(path: str | Path) -> str:
    """PatientID of a DICOM file, or of the first one in a folder with the files of one series.

    Raises:
        UserError: not DICOM, or the identifier is missing or empty.
    """
    import pydicom  # here, so that commands without DICOM start quickly

    path = Path(path)
    files = sorted(file for file in path.iterdir() if file.is_file()) if path.is_dir() else [path]
    for file in files:
        try:
            header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=["PatientID"])
        except (pydicom.errors.InvalidDicomError, OSError):
            continue
        if patient := str(header.get("PatientID") or "").strip():
            return patient
        raise UserError(f"{file} has no PatientID (anonymized?); give --group-by a pattern or a CSV file instead.")
    raise UserError(f"{path} is not DICOM and has no PatientID; give --group-by a pattern or a CSV file instead.")


def _from_table(path: str, images: Mapping[str, Path]) -> dict[str, str]:
    rows = read_case_table(path, "patient")
    patients = dict(rows)
    if contradicted := sorted({case for case, patient in rows if patients[case] != patient}):
        raise UserError(f"table {path} gives {named(contradicted)} more than one patient.")
    if missing := [case for case in images if case not in patients]:
        raise UserError(f"table {path} names no patient for {named(missing)}.")
    return {case: patients[case] for case in images}
