"""DICOM SEG: written by dcmqi, read back by highdicom, and the other way round; read as labels."""

from __future__ import annotations

import subprocess
from pathlib import Path

import highdicom as hd
import nibabel as nib
import numpy as np
import pydicom
import pytest
from highdicom.seg import SegmentationTypeValues
from pydicom.sr.codedict import codes

from mnseg.cli import main
from mnseg.data import dicom_seg_write
from mnseg.data.dicom_seg_read import convert_segmentations
from mnseg.data.dicom_seg_write import EmptyMaskError, Origin, export_masks, write_dicom_seg
from mnseg.data.dicom_series import inspect_series
from mnseg.data.grids import label_onto_grid
from mnseg.data.segment_codes import ABNORMALITIES, STRUCTURES, code_of
from mnseg.errors import UserError

STORED = np.random.default_rng(0).integers(0, 2000, (8, 12, 10))
ROTATION = np.linalg.qr(np.array([[1.0, 0.2, -0.1], [-0.15, 1.0, 0.3], [0.1, -0.25, 1.0]]))[0]
NAMES = ["background", "liver", "left kidney", "thing"]
STAMP = "mn_cotraining 0.1.0; not for diagnosis"


@pytest.fixture(params=["upright", "oblique"])
def series(request, tmp_path, write_series):
    axes = np.eye(3) if request.param == "upright" else ROTATION
    normal = np.cross(axes[:, 0], axes[:, 1])
    return write_series(tmp_path / "scans" / "1.2.3", STORED, lambda k: np.array([5, 6, 7]) + 2 * k * normal,
                        axes[:, :2].T.ravel())


def label_for(series) -> np.ndarray:
    """Labels on the middle slices only, (columns, rows, slices); class 2 does not occur."""
    label = np.zeros(inspect_series(series).shape, np.uint8)
    label[1:4, 2:9, 2:5] = 1
    label[6:9, 3:5, 3:7] = 3
    return label


def save_mask(path, label, affine, stamp=STAMP):
    image = nib.Nifti1Image(label, affine)
    image.header["descrip"] = stamp
    nib.save(image, path)
    return path


def by_highdicom(file, series) -> np.ndarray:
    """Segment numbers on the grid of the series, (columns, rows, slices), matched by the source images' UIDs."""
    uids = [pydicom.dcmread(name).SOPInstanceUID for name in inspect_series(series).files]
    segmentation = hd.seg.segread(file)
    return segmentation.get_pixels_by_source_instance(
        uids, combine_segments=True, assert_missing_frames_are_empty=True
    ).transpose(2, 1, 0)


def by_position(file, series) -> dict[str, np.ndarray]:
    """Each segment on the grid of the series, by the position of its frames alone."""
    dataset, grid = pydicom.dcmread(file), inspect_series(series)
    names = {segment.SegmentNumber: segment.SegmentLabel for segment in dataset.SegmentSequence}
    volumes = {name: np.zeros(grid.shape, bool) for name in names.values()}
    for frame, groups in zip(dataset.pixel_array, dataset.PerFrameFunctionalGroupsSequence, strict=True):
        x, y, z = groups.PlanePositionSequence[0].ImagePositionPatient
        index = np.linalg.solve(grid.affine, [-x, -y, z, 1])[:3]
        assert np.abs(index[:2]).max() < 0.01  # frames begin at the first pixel
        number = groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        volumes[names[number]][:, :, round(index[2])] = frame.T
    return volumes


@pytest.mark.parametrize("flip", [(), (1,), (0, 2)], ids=["as is", "rows reversed", "two axes"])
def test_a_mask_comes_back_voxel_for_voxel_through_other_readers(series, tmp_path, flip):
    label, affine = label_for(series), inspect_series(series).affine.copy()
    stored = np.flip(label, flip)
    for axis in flip:  # the same voxels in space, stored in another order
        affine[:3, 3] += affine[:3, axis] * (label.shape[axis] - 1)
        affine[:3, axis] *= -1
    mask = save_mask(tmp_path / "mask.nii.gz", stored, affine)
    file = write_dicom_seg(series, mask, tmp_path / "out" / "seg.dcm", NAMES)
    expected = np.select([label == 1, label == 3], [1, 2])  # segments are numbered 1, 2
    np.testing.assert_array_equal(by_highdicom(file, series), expected)
    found = by_position(file, series)
    np.testing.assert_array_equal(found["liver"], label == 1)
    np.testing.assert_array_equal(found["thing"], label == 3)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["seg.dcm"]


def test_a_segmentation_says_what_it_is(tmp_path, write_series):
    series = write_series(tmp_path / "s", STORED)
    label = label_for(series)
    label[0, 0, 0] = 2
    mask = save_mask(tmp_path / "mask.nii.gz", label, inspect_series(series).affine)
    dataset = pydicom.dcmread(write_dicom_seg(series, mask, tmp_path / "seg.dcm", NAMES))
    scan = pydicom.dcmread(series / "IM001")
    assert dataset.StudyInstanceUID == scan.StudyInstanceUID
    assert dataset.FrameOfReferenceUID == scan.FrameOfReferenceUID
    assert dataset.PatientID == scan.PatientID
    assert dataset.SeriesInstanceUID != scan.SeriesInstanceUID
    assert dataset.ReferencedSeriesSequence[0].SeriesInstanceUID == scan.SeriesInstanceUID
    assert "not for diagnosis" in dataset.SeriesDescription
    assert dataset.ContentDescription == STAMP
    assert dataset.SegmentationType == "BINARY"
    kidney = dataset.SegmentSequence[1]
    assert [segment.SegmentLabel for segment in dataset.SegmentSequence] == NAMES[1:]
    assert {segment.SegmentAlgorithmType for segment in dataset.SegmentSequence} == {"AUTOMATIC"}
    assert {segment.SegmentAlgorithmName for segment in dataset.SegmentSequence} == {"mn_cotraining 0.1.0"}
    assert kidney.SegmentedPropertyTypeCodeSequence[0].CodeValue == "64033007"
    side = kidney.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence[0]
    assert side.CodeMeaning == "Left"
    assert dataset.SegmentSequence[2].SegmentedPropertyTypeCodeSequence[0].CodeMeaning == "Tissue"


@pytest.mark.parametrize("heights", [2.0 * np.arange(8), -2.0 * np.arange(8)], ids=["up", "down"])
def test_a_multi_frame_series_gets_a_segmentation_of_its_frames(tmp_path, write_enhanced, heights):
    """Written by highdicom, read by dcmqi."""
    scan = write_enhanced(tmp_path / "e" / "IM", STORED, heights)
    grid = inspect_series(tmp_path / "e")
    label = label_for(tmp_path / "e")
    label[0, 0, 0] = 2
    label[4:6, 7:9, 5] = 0
    mask = save_mask(tmp_path / "mask.nii.gz", label, grid.affine)
    file = write_dicom_seg(tmp_path / "e", mask, tmp_path / "seg.dcm", NAMES)
    tool = Path(dicom_seg_write.require_dcmqi()).with_name("segimage2itkimage")
    subprocess.run([tool, "--inputDICOM", file, "--outputDirectory", tmp_path, "--outputType", "nii"], check=True,
                   capture_output=True)
    for value, name in enumerate(NAMES[1:], 1):
        found = nib.load(tmp_path / f"{value}.nii.gz")
        placed = label_onto_grid(np.asarray(found.dataobj), found.affine, grid.shape, grid.affine, name)
        np.testing.assert_array_equal(placed > 0, label == value)
    dataset, source = pydicom.dcmread(file), pydicom.dcmread(scan)
    assert dataset.ReferencedSeriesSequence[0].SeriesInstanceUID == source.SeriesInstanceUID
    assert (dataset.PatientID, dataset.FrameOfReferenceUID) == (source.PatientID, source.FrameOfReferenceUID)
    assert "not for diagnosis" in dataset.SeriesDescription and dataset.ContentDescription == STAMP
    for segment, name in zip(dataset.SegmentSequence, NAMES[1:], strict=True):
        assert (segment.SegmentLabel, segment.SegmentDescription) == (name, f"{name}, not for diagnosis")
        assert (segment.SegmentAlgorithmType, segment.SegmentAlgorithmName) == ("AUTOMATIC", "mn_cotraining 0.1.0")
    kidney = dataset.SegmentSequence[1].SegmentedPropertyTypeCodeSequence[0]
    assert kidney.CodeValue == "64033007"
    assert kidney.SegmentedPropertyTypeModifierCodeSequence[0].CodeMeaning == "Left"


def test_names_and_authors_in_any_script(tmp_path, write_series):
    """A class, an author and a patient whose names dcmqi cannot write, the last in another character set."""

    def edit(dataset, k):
        dataset.SpecificCharacterSet, dataset.PatientName = "ISO_IR 100", "Müller^Jörg"

    series = write_series(tmp_path / "1.2.3", STORED, edit=edit)
    mask = save_mask(tmp_path / "m.nii.gz", label_for(series), inspect_series(series).affine)
    write_dicom_seg(series, mask, tmp_path / "s.dcm", ["background", "Größe", "b", "肝臓"],
                    origin=Origin("SEMIAUTOMATIC", "Åsa\\=Ødegård", "label"))
    dataset = pydicom.dcmread(tmp_path / "s.dcm")
    assert dataset.PatientName == "Müller^Jörg" and dataset.ContentCreatorName == "Åsa Ødegård"
    assert [segment.SegmentLabel for segment in dataset.SegmentSequence] == ["Größe", "肝臓"]
    assert {segment.SegmentAlgorithmName for segment in dataset.SegmentSequence} == {"mn_cotraining 0.1.0"}
    assert dataset.SeriesDescription == "label, not for diagnosis"


@pytest.mark.parametrize("kind", ["single frames", "multi-frame"])
def test_a_drawn_segmentation_names_no_algorithm(tmp_path, write_series, write_enhanced, kind):
    if kind == "multi-frame":
        series = write_enhanced(tmp_path / "scan.dcm", STORED, heights=[2.0 * k for k in range(8)])
    else:
        series = write_series(tmp_path / "1.2.3", STORED)
    mask = save_mask(tmp_path / "m.nii.gz", label_for(series), inspect_series(series).affine, stamp="")
    write_dicom_seg(series, mask, tmp_path / "s.dcm", NAMES, origin=Origin("MANUAL", "Doe^Jane", "by hand"))
    dataset = pydicom.dcmread(tmp_path / "s.dcm")
    for segment in dataset.SegmentSequence:
        assert segment.SegmentAlgorithmType == "MANUAL" and "SegmentAlgorithmName" not in segment
    assert dataset.ContentCreatorName == "Doe^Jane" and dataset.Manufacturer == "mnseg"
    assert dataset.SeriesDescription == "by hand, not for diagnosis" and "not for" in dataset.ContentDescription


def test_what_cannot_be_written_is_said_and_leaves_nothing(tmp_path, write_series, write_enhanced, monkeypatch):
    series = write_series(tmp_path / "s", STORED)
    affine, label = inspect_series(series).affine, label_for(series)
    out = tmp_path / "out" / "seg.dcm"

    def refused(error, match, mask, scan=series, **options):
        with pytest.raises(error, match=match):
            write_dicom_seg(scan, mask, out, NAMES, **options)
        assert not out.parent.exists()

    refused(EmptyMaskError, "background only.*no file was written", save_mask(tmp_path / "0.nii", label * 0, affine))
    refused(UserError, "values 0 to 9, but class_names has 4", save_mask(tmp_path / "9.nii", label * 3, affine))
    refused(UserError, "does not say which model made it", save_mask(tmp_path / "u.nii", label, affine, stamp=""))
    half = affine.copy()
    half[2, 3] += 1
    refused(UserError, "does not lie on the voxels", save_mask(tmp_path / "h.nii", label, half))
    half[2, 3] += 15
    refused(UserError, "reaches beyond the scan", save_mask(tmp_path / "b.nii", label, half))
    good = save_mask(tmp_path / "g.nii", label, affine)
    bare = pydicom.dcmread(write_enhanced(tmp_path / "e" / "IM", STORED, 2.0 * np.arange(8)))
    del bare.FrameOfReferenceUID
    bare.save_as(tmp_path / "e" / "IM")
    refused(UserError, r"no DICOM SEG of .*e: its file lacks .*Frame ?Of ?Reference ?UID", good, scan=tmp_path / "e")
    monkeypatch.setattr(dicom_seg_write.shutil, "which", lambda *args, **kwargs: None)
    refused(UserError, r"not installed: pip install 'mnseg\[dicom\]'", good)


def test_export_goes_on_after_an_empty_mask_and_after_a_failure(tmp_path, write_series, caplog):
    out = tmp_path / "masks"
    out.mkdir()
    series = {name: write_series(tmp_path / name, STORED) for name in ("1.2", "1.3", "1.4")}
    for name, label in (("1.2", label_for(series["1.2"]) * 0), ("1.4", label_for(series["1.4"]))):
        save_mask(out / f"{name}_seg.nii.gz", label, inspect_series(series[name]).affine)
    with pytest.raises(UserError, match="no DICOM SEG for 1 of 3 series.*1.3_seg.nii.gz does not exist"):
        export_masks([*series.values(), tmp_path / "other.nii.gz"], out, NAMES)
    assert [path.name for path in out.glob("*.dcm")] == ["1.4_seg.dcm"]
    assert "1.2_seg.nii.gz has background only" in caplog.text


@pytest.mark.parametrize("code", {**STRUCTURES, **ABNORMALITIES}.values(), ids=lambda code: code.meaning)
def test_terms_are_those_of_the_dictionary_of_dicom(code):
    term = getattr(codes.SCT, code.meaning.title().replace(" ", ""))
    assert (term.value, term.meaning.lower()) == (code.value, code.meaning.lower())


def test_terms_by_name():
    assert code_of("Left_Atrium").kind.value == "82471001"  # a term of its own, without a side
    assert code_of("Left_Atrium").side is None
    assert code_of("kidneys").kind.meaning == "Kidney"
    assert (code_of("Lung right").kind.meaning, code_of("Lung right").side.meaning) == ("Lung", "Right")
    assert code_of("tumor").category.meaning == "Morphologically Abnormal Structure"
    assert code_of("anterior").kind.meaning == "Tissue"


def written_by_highdicom(series, path, label, names, kind=SegmentationTypeValues.BINARY, pixels=None, reverse=False):
    """A SEG of whole classes; ``reverse`` gives the source images, and so the frames, from the last to the first."""
    files = inspect_series(series).files[:: -1 if reverse else 1]
    algorithm = hd.AlgorithmIdentificationSequence("a", codes.DCM.ArtificialIntelligence, "1")
    segments = [hd.seg.SegmentDescription(number, name, codes.SCT.Tissue, codes.SCT.Liver, "AUTOMATIC", algorithm)
                for number, name in enumerate(names, 1)]
    if pixels is None:
        pixels = np.stack([label == value for value in range(1, len(names) + 1)], -1)
    pixels = pixels.transpose(2, 1, 0, 3)[:: -1 if reverse else 1]
    dataset = hd.seg.Segmentation(
        [pydicom.dcmread(file) for file in files], pixels, kind, segments, hd.UID(), 1, hd.UID(), 1, "m", "m", "1", "1"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path)
    return path


@pytest.mark.parametrize("reverse", [False, True])
def test_labels_are_on_the_grid_of_the_scan(series, tmp_path, reverse):
    label = np.where(label_for(series) == 3, 2, label_for(series))
    written_by_highdicom(series, tmp_path / "segs" / "x" / "any.dcm", label, ["Liver ", "left_kidney"], reverse=reverse)
    converted = convert_segmentations(series.parent, tmp_path / "segs", tmp_path / "labels",
                                      ["background", "left kidney", "liver"])
    image = nib.load(converted.files["1.2.3"])
    np.testing.assert_allclose(image.affine, inspect_series(series).affine, atol=1e-5)
    np.testing.assert_array_equal(np.asarray(image.dataobj), np.array([0, 2, 1])[label])
    assert converted.notes == ["1 case (1.2.3): Liver -> 2 (liver), left_kidney -> 1 (left kidney)."]


def test_the_background_that_a_label_map_lists_is_no_structure(tmp_path, write_series):
    series = write_series(tmp_path / "scans" / "s", STORED)
    label = np.where(label_for(series) == 3, 2, label_for(series))
    seg = written_by_highdicom(series, tmp_path / "segs" / "s.dcm", label, ["liver", "spleen"],
                               SegmentationTypeValues.LABELMAP)
    assert 0 in [segment.SegmentNumber for segment in pydicom.dcmread(seg).SegmentSequence]
    for names in (None, ["background", "liver", "spleen"], ["background", "one", "two"]):
        converted = convert_segmentations(series.parent, seg.parent, tmp_path / str(names), names)
        np.testing.assert_array_equal(np.asarray(nib.load(converted.files["s"]).dataobj), label)
        assert converted.class_names == (names or ["background", "liver", "spleen"])


def test_segments_become_classes_by_name_or_by_order(tmp_path, write_series, capsys):
    series = write_series(tmp_path / "scans" / "s", STORED)
    label = np.where(label_for(series) == 3, 2, label_for(series))
    segs = written_by_highdicom(series, tmp_path / "segs" / "s.dcm", label, ["Segment_1", "Segment_2"]).parent
    command = ["seg-to-nifti", "--images", str(tmp_path / "scans"), "--segs", str(segs), "-o"]
    assert main([*command, str(tmp_path / "a"), "--class-names", "background,liver,spleen"]) == 0
    assert "Segment_1 -> 1 (liver), Segment_2 -> 2 (spleen)" in capsys.readouterr().err
    np.testing.assert_array_equal(nib.load(tmp_path / "a" / "s.nii.gz").dataobj, label)
    assert main([*command, str(tmp_path / "b")]) == 0
    assert "--class-names background,Segment_1,Segment_2" in capsys.readouterr().out
    assert main([*command, str(tmp_path / "c"), "--class-names", "background,liver"]) == 1
    assert "2 segments (Segment_1, Segment_2) without a class of that name" in capsys.readouterr().err
    assert main([*command, str(tmp_path / "a")]) == 1
    assert "would be overwritten" in capsys.readouterr().err


def test_labels_that_cannot_be_made_are_said_and_leave_nothing(tmp_path, write_series):
    for name in ("a", "b"):
        write_series(tmp_path / "scans" / name, STORED)
    scans, segs, label = tmp_path / "scans", tmp_path / "segs", label_for(tmp_path / "scans" / "a")

    def refused(match, folder=segs, images=scans):
        with pytest.raises(UserError, match=match):
            convert_segmentations(images, folder, tmp_path / "labels")
        assert not list(tmp_path.glob("labels/*"))

    refused("is not a folder")
    segs.mkdir()
    refused("holds no DICOM SEG")
    written_by_highdicom(scans / "a", segs / "1.dcm", label, ["x"])
    both = np.stack([label > 0, label == 3], -1)
    written_by_highdicom(scans / "b", segs / "2.dcm", None, ["x", "y"], pixels=both)
    refused(f"2.dcm overlap in {(label == 3).sum()} voxels")
    written_by_highdicom(scans / "a", segs / "2.dcm", label, ["x"])
    refused("scan a has two segmentations")
    written_by_highdicom(scans / "b", segs / "2.dcm", None, ["x"], SegmentationTypeValues.FRACTIONAL,
                         pixels=(label[..., None] > 0) * 0.5)
    refused("is a fractional segmentation")
    write_series(tmp_path / "others" / "c", STORED)
    (segs / "2.dcm").unlink()
    refused("no scan belongs to 1 segmentation", images=tmp_path / "others")
    write_series(tmp_path / "moved" / "1", STORED, lambda k: (5, 6, 2.0 * k + 1))
    refused("does not lie on the voxels of the scan", images=tmp_path / "moved")  # by its name, 1
