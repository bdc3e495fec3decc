"""Which patient a scan shows."""

from __future__ import annotations

from pathlib import Path

import pydicom
import pytest

from mnseg.data.build_datalist import build_datalist
from mnseg.data.patients import dicom_patient, group_by_patient
from mnseg.errors import UserError

IMAGES = {case: Path(f"{case}.nii.gz") for case in ("p1_a", "p1_b", "p2_a")}


def write_series(folder: Path, patient: str | None, slices: int = 2) -> Path:
    """A folder with a note and the headers of a small DICOM series."""
    folder.mkdir(parents=True)
    (folder / "README.txt").write_text("not DICOM")
    for number in range(slices):
        dataset = pydicom.Dataset()
        dataset.SOPClassUID, dataset.SOPInstanceUID = pydicom.uid.MRImageStorage, pydicom.uid.generate_uid()
        if patient is not None:
            dataset.PatientID = patient
        dataset.file_meta = pydicom.dataset.FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        dataset.save_as(folder / f"{number}.dcm", enforce_file_format=True)
    return folder


class TestDicom:
    def test_one_series_a_patient(self, tmp_path):
        images = {f"s{i}": write_series(tmp_path / f"s{i}", f" P{i // 2} ") for i in range(3)}
        assert group_by_patient("PatientID", images) == {"s0": "P0", "s1": "P0", "s2": "P1"}

    def test_a_single_file(self, tmp_path):
        assert dicom_patient(write_series(tmp_path / "s", "P7") / "0.dcm") == "P7"

    @pytest.mark.parametrize("patient", [None, "", " "])
    def test_anonymized(self, tmp_path, patient):
        with pytest.raises(UserError, match=r"0.dcm has no PatientID \(anonymized\?\)"):
            dicom_patient(write_series(tmp_path / "s", patient))

    def test_not_dicom(self, tmp_path):
        (tmp_path / "a.nii.gz").write_bytes(b"no DICOM")
        for path in (tmp_path, tmp_path / "a.nii.gz"):
            with pytest.raises(UserError, match=f"{path} is not DICOM.*a pattern or a CSV file"):
                group_by_patient("PatientID", {"a": path})

    def test_real_series(self, shared_dir):
        patients = {name: dicom_patient(shared_dir / "data/dicom" / name) for name in ("mr_hippocampus_crop",
                                                                                       "ct_abdomen")}
        assert all(patients.values()) and len(set(patients.values())) == 2


def test_pattern():
    assert group_by_patient(r"^(p\d)_", IMAGES) == {"p1_a": "p1", "p1_b": "p1", "p2_a": "p2"}
    with pytest.raises(UserError, match="does not match 3 cases"):
        group_by_patient("z", IMAGES)


class TestTable:
    def group(self, folder: Path, text: str) -> dict[str, str]:
        (folder / "patients.CSV").write_text(text, encoding="utf-8-sig")  # as Excel writes it
        return group_by_patient(str(folder / "patients.CSV"), IMAGES)

    def test_names_with_and_without_suffix_in_any_order(self, tmp_path):
        text = "patient,case\nA,p2_a.nii.gz\nB,p1_b\nA,p1_a\nC,elsewhere\n"
        assert self.group(tmp_path, text) == {"p1_a": "A", "p1_b": "B", "p2_a": "A"}

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("case,patient\np1_a,A\np1_b,A\n", r"names no patient for 1 case \(p2_a\)"),
            ("case,patient\np1_a,A\np1_a,B\np1_b,A\np2_a,C\n", r"gives 1 case \(p1_a\) more than one patient"),
            ("p1_a,A\np1_b,A\np2_a,B\n", 'first line must be "case,patient"'),
            ("case;patient\np1_a;A\n", "has no column case"),
            ("case,patient\np1_a,\n", "line without patient"),
        ],
    )
    def test_mistakes(self, tmp_path, text, message):
        with pytest.raises(UserError, match=message):
            self.group(tmp_path, text)


def test_one_patient_for_all_is_an_error():
    with pytest.raises(UserError, match="gives all 3 scans the patient 'p'"):
        group_by_patient("p", IMAGES)
    assert group_by_patient("p", {"p1": Path("p1.nii")}) == {"p1": "p"}


def test_a_patient_who_does_not_fit_is_cut_and_the_rest_left_out(tmp_path):
    """Numbers count scans: three validation scans from patients of two take one patient and a half."""
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
        for case in range(12):
            (tmp_path / name / f"p{case // 2}_{case}.nii.gz").touch()
    built = build_datalist(tmp_path / "images", tmp_path / "labels", validation="3", group_by=r"^p\d")
    chosen = [item["patient"] for item in built.datalist["validation"]]
    assert len(chosen) == 3 and len(set(chosen)) == 2
    assert len(built.datalist["labeled"]) == 8
    assert not {item["patient"] for item in built.datalist["labeled"]} & set(chosen)
    assert any("1 case (" in note and "other scans of validation or test patients" in note for note in built.notes)
